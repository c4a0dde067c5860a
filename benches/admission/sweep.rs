//! The system's own libraries: how many intact ones are called corrupt.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use benches::measure::Plan;
use plug_loader::image::{Facts, Severity, damages, validate};

fn libraries(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            libraries(&entry.path(), found);
        } else if kind.is_file() && (name.ends_with(".so") || name.contains(".so.")) {
            found.push(entry.path());
        }
    }
}

/// Shared objects of this machine that are refused as damaged.
pub fn false_refusals(plan: Plan) -> usize {
    let mut paths = Vec::new();
    for folder in ["/usr/lib", "/lib64", "/usr/local/lib", "/opt"] {
        libraries(Path::new(folder), &mut paths);
    }
    paths.sort();
    let (mut n, mut n_corrupt, mut spent) = (0, 0, Duration::ZERO);
    for path in paths.iter().step_by(plan.size(1, 20)) {
        let Ok(bytes) = fs::read(path) else { continue };
        let began = Instant::now();
        let checked = Facts::read(&bytes).and_then(|facts| validate(&facts, &bytes));
        spent += began.elapsed();
        n += 1;
        if checked.is_err() {
            let findings = damages(&bytes);
            let corrupt = findings
                .iter()
                .find(|finding| finding.severity == Severity::Corrupt);
            if let Some(finding) = corrupt {
                println!("  {}: {finding}", path.display());
                n_corrupt += 1;
            }
        }
    }
    println!("\nlibraries: {n} of this machine in {spent:?}, {n_corrupt} called corrupt");
    n_corrupt
}
