//! Symbols as the loader reads them, through segments only, against what nm reads through section
//! headers: names, versions, addresses, sizes and letters, on every example plugin and over the
//! system's libraries.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;
use plug_example_plugins::{HOSTILE, USEFUL, USERS};
use plug_loader::image::{ImageError, Inspection, SymbolKind};
use plug_loader::{Config, Deadline, Loader, Params, Policy, Source, Trust, Unloaded};
use plug_tests::libraries;
use plug_tests::standalone::Scratch;

/// One symbol in nm's words: name with version, address, size, letter.
type Row = (String, u64, u64, char);

/// What `nm -D --defined-only -S` says, in its order of names; none for a file it cannot read.
fn nm(path: &Path) -> Option<Vec<Row>> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only", "-S"])
        .arg(path)
        .output()
        .expect("nm");
    if !output.status.success() {
        return None;
    }
    let hex = |word: &str| u64::from_str_radix(word, 16).expect("hexadecimal");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut rows: Vec<Row> = text
        .lines()
        .map(|line| {
            // Names may hold spaces; the columns before them do not.
            let (value, rest) = line.split_once(' ').expect("an address");
            let (size, rest) = match rest.split_once(' ') {
                Some((size, rest)) if size.len() == 16 => (hex(size), rest),
                _ => (0, rest),
            };
            let (letter, name) = rest.split_once(' ').expect("a letter");
            let letter = letter.chars().next().expect("a letter");
            (name.to_owned(), hex(value), size, letter)
        })
        .collect();
    rows.sort();
    Some(rows)
}

fn own(seen: &Inspection) -> Vec<Row> {
    let mut rows: Vec<Row> = seen
        .symbols
        .iter()
        .filter(|symbol| symbol.kind != SymbolKind::Other)
        .map(|symbol| {
            let at = match (symbol.version.as_str(), symbol.is_default) {
                ("", _) => "",
                (_, true) => "@@",
                (_, false) => "@",
            };
            let name = format!("{}{at}{}", symbol.name, symbol.version);
            (name, symbol.value, symbol.size, symbol.letter)
        })
        .collect();
    rows.sort();
    rows
}

/// A copy of `path` without its section headers: neither the table nor a word of it is left.
fn without_sections(path: &Path, copy: &Path) {
    let mut bytes = fs::read(path).expect("library");
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let table = usize::try_from(word(0x28)).expect("offset");
    let end = table + 64 * usize::from(u16::from_le_bytes([bytes[0x3c], bytes[0x3d]]));
    bytes[0x28..0x30].fill(0);
    bytes[0x3a..0x40].fill(0);
    if end >= bytes.len() {
        bytes.truncate(table);
    } else {
        bytes[table..end].fill(0);
    }
    fs::write(copy, bytes).expect("copy");
}

/// What differs, one line a symbol.
fn differences(path: &Path, expected: &[Row], found: &[Row]) -> Vec<String> {
    let (nm, own): (BTreeSet<&Row>, BTreeSet<&Row>) =
        (expected.iter().collect(), found.iter().collect());
    let mut lines: Vec<String> = nm
        .difference(&own)
        .map(|row| format!("{}: nm {row:x?}", path.display()))
        .chain(
            own.difference(&nm)
                .map(|row| format!("{}: own {row:x?}", path.display())),
        )
        .collect();
    if lines.is_empty() && expected.len() != found.len() {
        lines.push(format!(
            "{}: nm {} rows, own {}",
            path.display(),
            expected.len(),
            found.len()
        ));
    }
    lines
}

/// Compares the file and its copy without section headers with nm; none where either cannot be
/// read. The differences of both, and how many symbols were compared.
fn compare(path: &Path, copy: &Path) -> Option<(Vec<String>, usize)> {
    let expected = nm(path)?;
    let seen = match Inspection::of_file(path) {
        Ok(seen) => seen,
        Err(ImageError::Metadata(_)) => return None,
        Err(error) => return Some((vec![format!("{}: {error}", path.display())], 0)),
    };
    let mut lines = differences(path, &expected, &own(&seen));
    without_sections(path, copy);
    let cut = Inspection::of_file(copy).expect("a copy without section headers is no damage");
    if own(&cut) != own(&seen) {
        lines.push(format!(
            "{}: differs without section headers",
            path.display()
        ));
    }
    Some((lines, expected.len()))
}

#[test]
fn symbols_of_every_example_plugin_equal_nm() {
    let scratch = Scratch::new("symbols");
    let copy = scratch.path().join("cut.so");
    let users = USERS.iter().map(|(name, _)| name);
    let useful = USEFUL
        .iter()
        .chain(users)
        .map(|name| (name, plug_example_plugins::path(name)));
    let hostile = HOSTILE
        .iter()
        .map(|name| (name, plug_example_plugins::hostile(name)));
    for (name, path) in useful.chain(hostile) {
        let path = path.unwrap_or_else(|| panic!("{name} was not built"));
        let (lines, compared) = compare(&path, &copy).expect("nm reads it");
        assert!(lines.is_empty(), "{}", lines.join("\n"));
        assert!(compared > 0, "{name}");
    }
}

#[test]
fn symbols_of_system_libraries_equal_nm() {
    let all = libraries::all();
    let step = if libraries::are_all_wanted() {
        1
    } else {
        // Every tenth, but at least 150 where there are as many.
        (all.len() / 150).clamp(1, 10)
    };
    let scratch = Scratch::new("sweep");
    let copy = scratch.path().join("cut.so");
    let (mut files, mut symbols, mut lines) = (0, 0, Vec::new());
    for path in all.iter().step_by(step) {
        if let Some((differing, compared)) = compare(path, &copy) {
            files += 1;
            symbols += compared;
            lines.extend(differing);
        }
    }
    println!(
        "{files} of {} libraries, {symbols} symbols, {} differences",
        all.len(),
        lines.len()
    );
    assert!(
        lines.is_empty(),
        "{} differences:\n{}",
        lines.len(),
        lines.join("\n")
    );
    assert!(files >= 150.min(all.len()), "only {files} libraries");
}

const EVERY_KIND: &str = r#"
int data_word = 42;
int zeroes[40];
const char table[300] = "x";
_Thread_local int per_thread = 3;
_Thread_local int per_thread_zero;
__attribute__((weak)) int weak_one(int x) { return x + 1; }
__attribute__((weak)) int weak_data = 7;
int first(int x) { return x; }
int second(int x) { return x + 2; }
__asm__(".symver first, add@V1\n.symver second, add@@V2");
static int chosen(int x) { return x * 2; }
static int (*pick(void))(int) { return chosen; }
int twice(int) __attribute__((ifunc("pick")));
__asm__(".globl a_number\n.set a_number, 4711\n");
"#;

fn compile(scratch: &Scratch, name: &str, flags: &[&str]) -> PathBuf {
    let source = scratch.write("every-kind.c", EVERY_KIND);
    let map = scratch.write("map", "V1 { global: *; }; V2 { } V1;\n");
    let out = scratch.path().join(name);
    let output = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&out)
        .arg(&source)
        .arg(format!("-Wl,--version-script={}", map.display()))
        .args(flags)
        .output()
        .expect("gcc");
    assert!(output.status.success(), "{output:?}");
    out
}

#[test]
fn symbols_of_every_kind_equal_nm_whatever_the_linker_and_layout() {
    let scratch = Scratch::new("kinds");
    let copy = scratch.path().join("cut.so");
    for (name, flags) in [
        ("plain.so", [].as_slice()),
        ("one-segment.so", &["-Wl,-z,noseparate-code"]),
        ("gold.so", &["-fuse-ld=gold"]),
        ("no-relro.so", &["-Wl,-z,norelro"]),
        ("sysv.so", &["-Wl,--hash-style=sysv"]),
    ] {
        let path = compile(&scratch, name, flags);
        let (lines, compared) = compare(&path, &copy).expect("nm reads it");
        assert!(lines.is_empty(), "{}", lines.join("\n"));
        assert!(compared >= 13, "{name}: {compared}");
    }
}

#[test]
fn symbol_table_of_a_loaded_plugin_is_nm_at_run_time_addresses() {
    let scratch = Scratch::new("loaded");
    let path = compile(&scratch, "loaded.so", &[]);
    let loader = Loader::new(Config::default()).expect("loader");
    // SAFETY: the library above; nothing of it is called.
    let trust = unsafe { Trust::new(Policy::default()) };
    let plugin = loader
        .load(&trust, Source::path(&path), &Params::new())
        .expect("load");
    let bias = plugin.range().0 as u64;
    let mut found: Vec<Row> = plugin
        .symbol_table()
        .into_iter()
        .map(|row| {
            let at = match (row.version.as_str(), row.is_default) {
                ("", _) => "",
                (_, true) => "@@",
                (_, false) => "@",
            };
            let name = format!("{}{at}{}", row.name, row.version);
            let bias = if row.kind == 'A' || row.name.starts_with("per_thread") {
                0
            } else {
                bias
            };
            (name, row.address - bias, row.size, row.kind)
        })
        .collect();
    found.sort();
    assert_eq!(found, nm(&path).expect("nm"));
    let gone = loader.unload(plugin.name(), Deadline::after(Duration::from_secs(1)));
    assert!(matches!(gone, Ok(Unloaded::Gone(_))), "{gone:?}");
    // What is left is the exports without their versions.
    let left = plugin.symbol_table();
    assert!(!left.is_empty());
    for row in left {
        let known = |found: &Row| found.0.split('@').next() == Some(row.name.as_str());
        assert!(found.iter().any(known), "{row:?}");
    }
}

#[test]
fn symbols_of_damaged_libraries_are_refused_or_read_without_a_panic() {
    let scratch = Scratch::new("damaged");
    let intact = fs::read(compile(&scratch, "intact.so", &[])).expect("library");
    let mutant = scratch.path().join("mutant.so");
    // What lies before the code holds headers, symbols and versions.
    let mut random = Rng::with_seed(1);
    let mut random = |below: usize| random.usize(..below);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..1500 {
        let mut bytes = intact.clone();
        for _ in 0..=random(3) {
            let at = 0x40 + random(0x1000 - 0x40);
            bytes[at] = [0, 1, 0x7f, 0xff, bytes[at] ^ 1][random(5)];
        }
        fs::write(&mutant, bytes).expect("mutant");
        match Inspection::of_file(&mutant) {
            Ok(seen) => {
                read += 1;
                let letters = seen.symbols.iter().map(|symbol| symbol.letter);
                assert!(letters.clone().all(|c| c.is_ascii_alphabetic() || c == '?'));
            }
            Err(_) => refused += 1,
        }
    }
    assert!(
        read > 100 && refused > 100,
        "{read} read, {refused} refused"
    );
}
