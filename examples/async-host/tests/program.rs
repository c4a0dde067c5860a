//! The example program, run as a user would.

use std::env;
use std::path::Path;
use std::process::Command;

#[test]
fn async_host_cancels_what_is_in_flight() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clockwork");
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "clockwork", "--target-dir"])
        .arg(&target)
        .status();
    assert!(built.expect("cargo is here").success());
    let output = Command::new(env!("CARGO_BIN_EXE_async-host"))
        .arg(target.join("debug/libclockwork.so"))
        .output()
        .expect("built by cargo");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "100 tasks slept 600 ms\n900 tasks were cancelled; clockwork is unloaded\n"
    );
}
