//! `plugctl workers`: who is inside which plugin since when.

use crate::client::Nothing;
use crate::failure::Outcome;
use crate::hosts;
use crate::render::Render;
use plug_loader::control::messages::WorkersReply;

/// Lists the worker threads.
pub(crate) fn run(host: Option<&str>, render: &Render) -> Outcome {
    let mut client = hosts::connect(host)?;
    let workers = client.collect("Workers", &Nothing {}, |reply: WorkersReply| reply.workers)?;
    render.workers(&workers);
    Ok(0)
}
