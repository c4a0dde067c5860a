//! `plugctl list`: the plugins of a host.

use crate::client::Nothing;
use crate::failure::Outcome;
use crate::hosts;
use crate::render::Render;
use plug_loader::control::messages::ListReply;

/// Lists the plugins, lsmod's columns first.
pub(crate) fn run(host: Option<&str>, render: &Render) -> Outcome {
    let mut client = hosts::connect(host)?;
    let plugins = client.collect("List", &Nothing {}, |reply: ListReply| reply.plugins)?;
    render.plugins(&plugins);
    Ok(0)
}
