//! The library in a host that panics cannot unwind.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use plug_tests::host::useful;
use plug_tests::standalone::{Scratch, repository, run};

/// Runs the host on damaged files; returns what it said.
fn host(program: &PathBuf) -> String {
    let scratch = Scratch::new("damaged");
    run(Command::new(program)
        .arg(useful("base64"))
        .arg(scratch.path()))
}

#[test]
fn damaged_files_are_refused_where_a_panic_would_end_the_host() {
    let said = host(&env!("CARGO_BIN_EXE_damaged-host").into());
    assert!(said.contains("panics abort: false"), "{said}");

    // Only the program itself is built anew: what it links was built to unwind, and does not get to.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("panic-abort");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["rustc", "--offline", "--quiet", "--package", "plug-tests"]);
    cargo
        .args(["--bin", "damaged-host", "--target-dir"])
        .arg(&target);
    cargo.args(["--", "-C", "panic=abort"]);
    cargo.current_dir(repository());
    run(&mut cargo);
    let said = host(&target.join("debug/damaged-host"));
    assert!(said.contains("panics abort: true"), "{said}");
}
