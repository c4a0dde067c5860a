//! `plugctl history`: plugins that left.

use crate::client::Nothing;
use crate::failure::Outcome;
use crate::hosts;
use crate::render::Render;
use plug_loader::control::messages::HistoryReply;

/// Lists the plugins that left, the last one first.
pub(crate) fn run(host: Option<&str>, render: &Render) -> Outcome {
    let mut client = hosts::connect(host)?;
    let departed = client.collect("History", &Nothing {}, |reply: HistoryReply| reply.departed)?;
    render.history(&departed);
    Ok(0)
}
