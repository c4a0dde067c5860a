//! `plugctl completions`: a completion script.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::args::Cli;
use crate::failure::Outcome;
use crate::render::Render;

/// Prints the script for `shell`.
pub(crate) fn run(shell: Shell, render: &Render) -> Outcome {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "plugctl", &mut script);
    render.raw(&script);
    Ok(0)
}
