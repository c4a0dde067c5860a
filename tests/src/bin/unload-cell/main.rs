//! One cell of the matrix of true unload: a plugin acts on a thread and is unloaded, then all threads
//! end, then the process. Tells what it sees; see `plug_tests::matrix`.
//!
//! `unload-cell plug|plain COLUMN LIBRARY WHAT goes|lingers|stays [LIBRARY]`

mod aftermath;
mod crew;
mod plain;
mod plug;

use std::env;
use std::fmt::Display;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use plug_tests::matrix::{Column, MARK, Method};
use plug_tests::process;

/// What is to be done.
struct Cell {
    column: Column,
    library: PathBuf,
    what: u32,
    threads: Threads,
    /// Another plugin that comes and goes meanwhile.
    beside: Option<PathBuf>,
}

/// What becomes of threads that the plugin leaves running.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Threads {
    /// There are none, or they end by themselves.
    Go,
    /// They end when they are told.
    Linger,
    /// They never end.
    Stay,
}

/// What plugins write and read: how many destructors have run, and whether threads shall end.
static WORDS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

/// Tells the parent, at once.
fn say(word: &str, what: impl Display) {
    let mut out = stdout().lock();
    writeln!(out, "{MARK}{word} {what}").expect("a pipe");
    out.flush().expect("a pipe");
}

/// Objects of ld.so's that no system folder holds.
fn own_objects() -> Vec<String> {
    let is_own = |name: &String| {
        !["/lib", "/usr/lib", "linux-vdso"]
            .iter()
            .any(|s| name.starts_with(s))
    };
    process::objects().into_iter().filter(is_own).collect()
}

/// Whether anything of the plugin's is still there: mappings of its file or of a private copy, or
/// objects that were not there `before`.
fn is_anything_left(cell: &Cell, before: &[String]) -> bool {
    let is_its = |mapped: &process::Mapped| {
        mapped.path.contains("memfd:") || Path::new(&mapped.path) == cell.library
    };
    own_objects() != before || process::maps().iter().any(is_its)
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [method, column, library, what, threads, beside @ ..] = &arguments[..] else {
        panic!("expected five arguments or more: {arguments:?}");
    };
    // A crash is what some cells are for: no file of it.
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid record.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    let named = |candidate: &Column| candidate.name() == column;
    let cell = Cell {
        column: Column::ALL.into_iter().find(named).expect("a column"),
        library: PathBuf::from(library),
        what: what.parse().expect("a number"),
        threads: match threads.as_str() {
            "lingers" => Threads::Linger,
            "stays" => Threads::Stay,
            _ => Threads::Go,
        },
        beside: beside.first().map(PathBuf::from),
    };
    if method == Method::Plug.name() {
        plug::run(&cell);
    } else {
        plain::run(&cell);
    }
    say("destroyed", WORDS[0].load(Ordering::SeqCst));
}
