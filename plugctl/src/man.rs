//! `plugctl man`: the manual pages.

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use crate::args::Cli;
use crate::failure::{Failure, Outcome};
use crate::render::Render;

/// Writes a page for plugctl and one for each command into `dir`, and tells their names.
pub(crate) fn run(dir: &Path, render: &Render) -> Outcome {
    let failed = |error| Failure::file(dir, &error);
    fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    let mut pages: Vec<String> = fs::read_dir(dir)
        .map_err(failed)?
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .filter(|page| page.ends_with(".1"))
        .collect();
    pages.sort();
    render.lines(&pages);
    Ok(0)
}
