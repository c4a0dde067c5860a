//! The first dlopen of a process.

use std::env;
use std::ffi::CString;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The argument that makes a process the one that is measured.
pub const CHILD: &str = "--cold-dlopen";

/// Microseconds of the first dlopen of a fresh process.
pub fn dlopen(path: &Path) -> f64 {
    let program = env::current_exe().expect("own program");
    let output = Command::new(program)
        .arg(CHILD)
        .arg(path)
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .unwrap_or_else(|_| panic!("the child said {text:?}"))
}

/// Opens the library and says how long that took.
pub fn child(path: &str) {
    let path = CString::new(path).expect("no zero byte");
    let began = Instant::now();
    // SAFETY: a library that this benchmark made.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    let took = began.elapsed();
    assert!(!handle.is_null(), "dlopen");
    println!("{}", took.as_nanos() as f64 / 1e3);
}
