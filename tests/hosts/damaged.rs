//! A host that is given damaged files and then a whole one. The test `panic_abort` builds it so that
//! any panic ends it.
//!
//! Takes a plugin and a folder; says `fine` when all went as it must.

use std::env;
use std::fs;
use std::path::PathBuf;

use mutation::{Random, STRUCTURES, Sample};
use plug_loader::image::{Check, damages};
use plug_loader::{Config, Deadline, ErrorKind, Loader, Params, Policy, Source, Trust, Unloaded};

#[path = "../src/mutation.rs"]
mod mutation;

fn main() {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let plugin = arguments.next().expect("a plugin");
    let folder = arguments.next().expect("a folder");
    let loader = Loader::new(Config::default()).expect("the first loader");
    // SAFETY: the plugin is this repository's own; what is damaged is refused, or its code is whole.
    let trust = unsafe { Trust::new(Policy::default()) };
    let load = |path: &PathBuf| loader.load(&trust, Source::path(path), &Params::new());
    let sample = Sample::new("plugin", fs::read(&plugin).expect("readable"));
    let path = folder.join("damaged.so");
    let mut refused = 0;
    for structure in sample.structures() {
        let is_checked = !matches!(
            STRUCTURES[structure],
            "code" | "data" | "page or sector" | "1-4 flips" | "init/fini_array" | "eh_frame"
        );
        for n in 0..if is_checked { 40 } else { 0 } {
            let mutant = sample.mutant(structure, n, &mut Random::new(n as u64));
            fs::write(&path, mutant).expect("written");
            let _told = Check::of_file(&path, &Policy::default(), false).map(|check| check.findings);
            // What no rule sees is not run here: its metadata and code may be another's.
            let bytes = fs::read(&path).expect("readable");
            if damages(&bytes).is_empty() {
                continue;
            }
            let error = load(&path).expect_err("damaged");
            let kinds = [ErrorKind::Damaged, ErrorKind::Open];
            assert!(kinds.contains(&error.kind()), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 200, "{refused}");
    let whole = load(&plugin).expect("whole");
    let gone = loader.unload(
        whole.name(),
        Deadline::after(std::time::Duration::from_secs(20)),
    );
    assert!(matches!(gone, Ok(Unloaded::Gone(_))), "{gone:?}");
    // A panic would be the end of this one when it is built for that.
    let aborts = cfg!(panic = "abort");
    println!("fine: {refused} refused, panics abort: {aborts}");
}
