//! The validator against every library of the system, and against files made wrong on purpose.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plug_loader::image::{Facts, Finding, Severity, damages, validate};

fn shared_objects(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() {
            shared_objects(&path, found);
        } else if kind.is_file() && (name.ends_with(".so") || name.contains(".so.")) {
            found.push(path);
        }
    }
}

/// Every shared object under the system's library folders.
fn system_libraries() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let toolchains = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let folders = ["/usr/lib", "/usr/lib64", "/lib64", "/usr/local/lib", "/opt"].map(PathBuf::from);
    for folder in folders.into_iter().chain(toolchains) {
        shared_objects(&folder, &mut paths);
    }
    paths.sort();
    paths.dedup();
    paths
}

#[test]
fn no_intact_library_of_the_system_is_called_corrupt() {
    let (mut n_intact, mut n_bytes) = (0, 0);
    let mut refused = Vec::new();
    let mut corrupt = Vec::new();
    let (mut facts_time, mut rules_time) = (Duration::ZERO, Duration::ZERO);
    for path in system_libraries() {
        let Ok(bytes) = fs::read(&path) else { continue };
        let began = Instant::now();
        let facts = Facts::read(&bytes);
        facts_time += began.elapsed();
        if let Ok(facts) = &facts {
            let began = Instant::now();
            let checked = validate(facts, &bytes);
            rules_time += began.elapsed();
            if checked.is_ok() {
                n_intact += 1;
                n_bytes += bytes.len();
                continue;
            }
        }
        let findings = damages(&bytes);
        let worst = findings.iter().max_by_key(|finding| finding.severity);
        match worst.expect("a reason").severity {
            Severity::Corrupt => corrupt.push((path, findings)),
            _ => refused.push((path, bytes, findings)),
        }
    }
    println!(
        "{n_intact} intact, {n_bytes} bytes, {} refused; facts {facts_time:?}, rules {rules_time:?}",
        refused.len()
    );
    for (path, findings) in &corrupt {
        println!("{}: {}", path.display(), findings[0]);
    }
    assert!(corrupt.is_empty(), "{} called corrupt", corrupt.len());
    assert!(n_intact > 0);
    // What is refused is something else, and the reason says what.
    for (path, bytes, findings) in refused {
        let [
            Finding {
                expected, found, ..
            },
        ] = &findings[..]
        else {
            panic!("{path:?}: {findings:?}");
        };
        let is = |mark: &str| expected.contains(mark) || found.contains(mark);
        let right = match bytes.get(..20) {
            Some(start) if start.starts_with(b"\x7fELF") => {
                match (start[4], start[18], start[16]) {
                    (1, _, _) => is("32-bit"),
                    (_, 183, _) => is("aarch64"),
                    (_, 62, kind) => kind != 3 && is("ET_"),
                    _ => is("machine") || is("riscv") || is("ppc64") || is("s390"),
                }
            }
            _ => is("an ELF file"),
        };
        assert!(right, "{path:?}: {findings:?}");
    }
}
