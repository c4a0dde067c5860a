//! `plugctl resolve`: addresses to plugins and symbols.

use crate::args;
use crate::failure::{FAILED, Outcome};
use crate::hosts;
use crate::render::Render;
use plug_loader::control::messages::{ResolveCall, ResolveReply};

/// Addresses asked for in one message, which may have 64 KiB.
const AT_ONCE: usize = 1024;

/// Resolves every address; a failure only where none belongs to a plugin.
pub(crate) fn run(args: &args::Resolve, host: Option<&str>, render: &Render) -> Outcome {
    let mut client = hosts::connect(host)?;
    let mut resolved = Vec::new();
    for some in args.addresses.chunks(AT_ONCE) {
        let addresses = some.iter().map(|address| format!("{address:#x}")).collect();
        let call = ResolveCall {
            addresses,
            at: args.at,
        };
        resolved.extend(client.collect("Resolve", &call, |reply: ResolveReply| reply.resolved)?);
    }
    render.resolved(&resolved);
    let found = resolved.iter().any(|row| !row.plugin.is_empty());
    Ok(if found { 0 } else { FAILED })
}
