//! plugctl: operates the plugins of running hosts from outside, and runs a host.
//!
//! One file a command; `client` speaks varlink, `hosts` finds sockets, `render` is the only file
//! that prints.

mod args;
mod check;
mod client;
mod completions;
mod demangle;
mod events;
mod failure;
mod history;
mod hosts;
mod info;
mod list;
mod load;
mod man;
mod render;
mod resolve;
mod serve;
mod symbols;
mod unload;
mod workers;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::Outcome;
use render::Render;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let render = Render::new(cli.json, cli.no_demangle);
    match run(&cli, &render) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            render.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: &Cli, render: &Render) -> Outcome {
    let host = cli.host.as_deref();
    match &cli.command {
        Command::Serve(args) => serve::run(args, render),
        Command::Hosts => hosts::run(render),
        Command::Load(args) => load::run(args, host, render),
        Command::Unload(args) => unload::run(args, host, render),
        Command::List => list::run(host, render),
        Command::Info(args) => info::run(args, host, render),
        Command::Check(args) => check::run(args, render),
        Command::Symbols(args) => symbols::run(args, host, render),
        Command::Resolve(args) => resolve::run(args, host, render),
        Command::Workers => workers::run(host, render),
        Command::Events(args) => events::run(args, host, render),
        Command::History => history::run(host, render),
        Command::Completions { shell } => completions::run(*shell, render),
        Command::Man { dir } => man::run(dir, render),
    }
}
