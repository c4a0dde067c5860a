//! Plugins leave while the threads that used them live on: the matrix of `docs/unload-matrix.md`.
//!
//! Rows are what the plugin does, columns are the threads that have it do so, and each cell is a
//! process. `PLUG_WRITE_MATRIX=1` writes the page; without it the page must be what was seen.

use std::ffi::CStr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use plug_tests::matrix::cells::{self, Cell, Ending};
use plug_tests::matrix::{Column, Expected, Language, Libraries, Method, ROWS, Row, page};
use plug_tests::standalone::{self, repository};

#[test]
fn every_cell_ends_as_its_row_says() {
    let program = Path::new(env!("CARGO_BIN_EXE_unload-cell"));
    let began = Instant::now();
    let libraries = Libraries::build(|library| {
        ROWS.iter()
            .any(|row| row.library == library || row.beside == Some(library))
    });
    println!("built after {:.1?}", began.elapsed());
    let mut all = cells::run_all(program, &libraries, Method::Plug, |_| true);
    println!("Plug's cells after {:.1?}", began.elapsed());
    all.extend(cells::run_all(program, &libraries, Method::Plain, |_| true));
    println!("all cells after {:.1?}\n", began.elapsed());
    show(&all);
    let wrong: Vec<_> = of(&all, Method::Plug).filter_map(Cell::wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    provokes(&all);
    let file = repository().join(page::FILE);
    if env::var_os("PLUG_WRITE_MATRIX").is_some() {
        fs::write(&file, page::page(&machine(), &all)).expect("writable");
    }
    let shown = fs::read_to_string(&file).expect("page");
    for language in Language::ALL {
        let heading = page::heading(language, Method::Plug);
        let section = shown.split(&heading).nth(1).unwrap_or_default();
        let section = section.split("\n## ").next().unwrap_or_default();
        let seen = page::table(&all, language, Method::Plug);
        assert_eq!(
            comparable(section),
            comparable(&seen),
            "{} is not what was seen; PLUG_WRITE_MATRIX=1 writes it anew",
            page::FILE
        );
    }
}

/// The lines of a table, without what is the standard library's affair.
fn comparable(table: &str) -> Vec<&str> {
    let lines = table.lines().filter(|line| line.starts_with('|'));
    let is_by_std = |line: &str| {
        let is = |row: &Row| {
            row.expected[4] == Expected::UnloadedOrAfterItsThread
                && line.starts_with(&format!("| {} |", row.name))
        };
        ROWS.iter().any(is)
    };
    let without_last = |line: &'_ str| line.trim_end_matches('|').rfind('|');
    lines
        .map(|line| match without_last(line) {
            Some(at) if is_by_std(line) => &line[..at],
            _ => line,
        })
        .collect()
}

fn of(cells: &[Cell], method: Method) -> impl Iterator<Item = &Cell> {
    cells.iter().filter(move |cell| cell.method == method)
}

fn show(cells: &[Cell]) {
    for language in Language::ALL {
        for method in [Method::Plug, Method::Plain] {
            let (heading, table) = (
                page::heading(language, method),
                page::table(cells, language, method),
            );
            println!("{heading}\n{table}");
        }
    }
    let mut slowest = None;
    for cell in of(cells, Method::Plug) {
        if let Ending::Later(_, took) = cell.ending {
            slowest = slowest.max(Some(took));
        }
        if cell.attempts > 1 {
            let (name, column) = (ROWS[cell.row].name, cell.column.name());
            println!(
                "{name} on {column}: late for want of a processor, run {} times",
                cell.attempts
            );
        }
    }
    if let Some(slowest) = slowest {
        println!("zombies left at most {slowest:.1?} after their threads' end");
    }
}

/// The rows are what plain `dlclose` fails at: where something is owed on a living thread, it keeps the
/// plugin, loses a destructor, or crashes.
fn provokes(cells: &[Cell]) {
    let foreign = of(cells, Method::Plain).filter(|cell| cell.column == Column::Foreign);
    for cell in foreign {
        let row = &ROWS[cell.row];
        let is_harmless = matches!(
            row.expected[4],
            Expected::AfterItsThread | Expected::WhileRunning
        ) && cell.ending == Ending::Unloaded;
        assert!(!is_harmless, "{} does no harm to dlclose", row.name);
    }
}

fn machine() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    // SAFETY: a string of libc's that stays.
    let glibc = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    let (rustc, gcc) = (version("rustc"), version("gcc"));
    format!(
        "Linux {}, glibc {}, {rustc}, {gcc}",
        release.trim(),
        glibc.to_string_lossy()
    )
}

fn version(program: &str) -> String {
    let mut command = Command::new(program);
    let text = standalone::run(command.arg("--version"));
    text.lines().next().unwrap_or_default().to_owned()
}
