//! plugctl: operates the plugins of running hosts from outside, and runs a host.
//!
//! One file a command; `client` speaks varlink, `hosts` finds sockets, `render` is the only file
//! that prints.

mod args;
mod check;
mod client;
mod completions;
mod config;
mod demangle;
mod events;
mod failure;
mod history;
mod hosts;
mod info;
mod keygen;
mod list;
mod load;
mod man;
mod new;
mod params;
mod probe;
mod quarantine;
mod render;
mod replace;
mod resolve;
mod secret;
mod serve;
mod sign;
mod symbols;
mod unload;
mod verify;
mod watch;
mod workers;

use std::process::ExitCode;

use clap::Parser;
use plug_loader::{Policy, Trust, probe as rehearsal};

use args::{Cli, Command};
use failure::Outcome;
use render::Render;

fn main() -> ExitCode {
    // SAFETY: whoever starts a probe, a host of the same user, vouches for the file that it is given.
    let trust = unsafe { Trust::new(Policy::default()) };
    if let Some(code) = rehearsal::serve(&trust) {
        return code;
    }
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
        Command::Replace(args) => replace::run(args, host, render),
        Command::Watch(args) => watch::run(args, host, render),
        Command::Unload(args) => unload::run(args, host, render),
        Command::Check(args) => check::run(args, render),
        Command::Config(args) => config::run(args, render),
        Command::New(args) => new::run(args, render),
        Command::Keygen(args) => keygen::run(args, render),
        Command::Sign(args) => sign::run(args, render),
        Command::Verify(args) => verify::run(args, render),
        Command::Quarantine { state, command } => {
            quarantine::run(state.as_deref(), command, render)
        }
        Command::List => list::run(host, render),
        Command::Info(args) => info::run(args, host, render),
        Command::Params(args) => params::run(args, host, render),
        Command::Symbols(args) => symbols::run(args, host, render),
        Command::Resolve(args) => resolve::run(args, host, render),
        Command::Workers => workers::run(host, render),
        Command::Events(args) => events::run(args, host, render),
        Command::History => history::run(host, render),
        Command::Completions { shell } => completions::run(*shell, render),
        Command::Man { dir } => man::run(dir, render),
    }
}
