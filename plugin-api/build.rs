//! Hands the compiler's version and target to the crate, which writes them into every plugin's
//! metadata. Without cargo the crate falls back to what it knows at compile time.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    if let Ok(target) = env::var("TARGET") {
        println!("cargo::rustc-env=PLUG_API_TARGET={target}");
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Ok(output) = Command::new(rustc).arg("--version").output() else {
        return;
    };
    if let Ok(version) = String::from_utf8(output.stdout) {
        println!("cargo::rustc-env=PLUG_API_TOOLCHAIN={}", version.trim());
    }
}
