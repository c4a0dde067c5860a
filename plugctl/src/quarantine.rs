//! `plugctl quarantine`: plugins that are refused because they crashed a host or a probe.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use plug_loader::{Digest, Quarantine};

use crate::args;
use crate::failure::{Failure, NOT_FOUND, Outcome, USAGE};
use crate::render::Render;

/// The variable that names the state folder where the command line does not.
const VARIABLE: &str = "PLUG_STATE";

/// Lists or clears.
pub(crate) fn run(state: Option<&Path>, command: &args::Quarantine, render: &Render) -> Outcome {
    let state = state.map(PathBuf::from);
    let Some(state) = state.or_else(|| env::var_os(VARIABLE).map(PathBuf::from)) else {
        let message = format!("which state folder? Name it by --state or {VARIABLE}");
        return Err(Failure::new(USAGE, "usage", message));
    };
    let refused = |error| Failure::loader(&error);
    let quarantine = Quarantine::open(&state).map_err(refused)?;
    // Hosts that ended in the middle of a load and have no successor yet.
    quarantine.sweep().map_err(refused)?;
    match command {
        args::Quarantine::List => {
            render.quarantine(&quarantine.list().map_err(refused)?);
            Ok(0)
        }
        args::Quarantine::Clear { plugins } => {
            let mut code = 0;
            for plugin in plugins {
                let digest = digest(plugin)?;
                if !quarantine.clear(&digest).map_err(refused)? {
                    let message = format!("{plugin} is not in quarantine");
                    render.failure(&Failure::new(NOT_FOUND, "not_found", message));
                    code = NOT_FOUND;
                }
            }
            Ok(code)
        }
    }
}

/// A digest as it is written, or a file's.
fn digest(text: &str) -> Result<Digest, Failure> {
    if let Ok(digest) = text.parse() {
        return Ok(digest);
    }
    let path = Path::new(text);
    let bytes = fs::read(path).map_err(|error| Failure::file(path, &error))?;
    Ok(Digest::of(&bytes))
}
