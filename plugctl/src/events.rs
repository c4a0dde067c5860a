//! `plugctl events`: what happened to plugins.

use crate::client::{Client, Replies};
use crate::failure::{Failure, Outcome};
use crate::hosts;
use crate::render::Render;
use plug_loader::control::messages::{EventRow, EventsCall, EventsReply};

use crate::args;

/// Shows the events that the host remembers, then those to come if they are to be followed.
pub(crate) fn run(args: &args::Events, host: Option<&str>, render: &Render) -> Outcome {
    let mut client = hosts::connect(host)?;
    if !args.follow {
        let events = remembered(&mut client)?;
        render.events(&events);
        return Ok(0);
    }
    client.send("Events", &EventsCall { after: 0 }, Replies::More, None)?;
    loop {
        let (reply, continues): (EventsReply, bool) = client.reply()?;
        let unread = reply
            .events
            .iter()
            .any(|event| render.event(event).is_err());
        if unread || !continues {
            return Ok(0);
        }
    }
}

fn remembered(client: &mut Client) -> Result<Vec<EventRow>, Failure> {
    let mut all: Vec<EventRow> = Vec::new();
    loop {
        let after = all.last().map_or(0, |event| event.sequence);
        let reply: EventsReply = client.call("Events", &EventsCall { after })?;
        if reply.events.is_empty() {
            return Ok(all);
        }
        all.extend(reply.events);
    }
}
