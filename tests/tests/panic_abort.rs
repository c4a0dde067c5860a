//! The library in a host that panics cannot unwind.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use plug_tests::host::useful;
use plug_tests::standalone::{Scratch, repository, run};

#[test]
fn damaged_files_are_refused_where_a_panic_would_end_the_host() {
    let scratch = Scratch::new("damaged");
    let (loader, host) = (
        repository().join("loader"),
        repository().join("tests/hosts/damaged.rs"),
    );
    scratch.write(
        "Cargo.toml",
        &format!(
            "[package]\nname = \"damaged\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
             [[bin]]\nname = \"damaged\"\npath = {host:?}\n\n\
             [dependencies]\nplug-loader = {{ path = {loader:?} }}\n\n\
             [profile.dev]\npanic = \"abort\"\n\n[workspace]\n"
        ),
    );
    // The versions that everything else is built with, which are there.
    fs::copy(
        repository().join("Cargo.lock"),
        scratch.path().join("Cargo.lock"),
    )
    .unwrap();
    // Kept for the next time: all that the loader depends on is built anew for such a host.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("panic-abort");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--offline", "--quiet", "--target-dir"]);
    cargo.arg(&target).current_dir(scratch.path());
    for variable in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        cargo.env_remove(variable);
    }
    run(&mut cargo);
    let host = target.join("debug/damaged");
    let said = run(Command::new(host).arg(useful("base64")).arg(scratch.path()));
    assert!(
        said.starts_with("fine") && said.contains("panics abort: true"),
        "{said}"
    );
}
