//! Compiles liburcu's inline readers for the benchmark `quiescence`, where its headers are there.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Flavours of liburcu, each in a file of its own: they define the same names.
const FLAVOURS: [&str; 3] = ["memb", "bp", "qsbr"];

fn main() {
    println!("cargo:rerun-if-changed=quiescence/urcu.c");
    println!("cargo:rustc-check-cfg=cfg(has_urcu)");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    if let Err(reason) = compile(&out) {
        let reason = reason.lines().next().unwrap_or_default().replace('"', "'");
        println!("cargo:rustc-env=NO_URCU={reason}");
    }
}

/// Compiles one object a flavour and has benchmarks linked with them.
fn compile(out: &Path) -> Result<(), String> {
    // A look at the headers first: without them there is no archive to link.
    for flavour in FLAVOURS {
        let probe = out.join(format!("probe-{flavour}.c"));
        let text = format!("#include <urcu/urcu-{flavour}.h>\n");
        fs::write(&probe, text).map_err(|error| error.to_string())?;
        let found = cc::Build::new()
            .cargo_metadata(false)
            .cargo_warnings(false)
            .file(&probe)
            .try_compile(&format!("probe_{flavour}"));
        if found.is_err() {
            return Err(format!(
                "urcu/urcu-{flavour}.h is not there; install liburcu-dev"
            ));
        }
    }
    for flavour in FLAVOURS {
        let name = format!("bench_urcu_{flavour}");
        cc::Build::new()
            .cargo_metadata(false)
            .file("quiescence/urcu.c")
            .define("FLAVOUR", flavour)
            .define(&format!("FLAVOUR_{}", flavour.to_uppercase()), None)
            .opt_level(3)
            .try_compile(&name)
            .map_err(|error| error.to_string())?;
        let archive = out.join(format!("lib{name}.a"));
        println!("cargo:rustc-link-arg-benches={}", archive.display());
        println!("cargo:rustc-link-arg-benches=-lurcu-{flavour}");
    }
    println!("cargo:rustc-cfg=has_urcu");
    Ok(())
}
