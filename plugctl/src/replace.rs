//! `plugctl replace`: another version takes a plugin's place, and what became of the old one is told.

use std::time::Duration;

use crate::args;
use crate::client::Replies;
use crate::failure::{DEADLINE, Failure, LINGERING, Outcome};
use crate::hosts;
use crate::load::{Wanted, account, fields};
use crate::render::{Render, micros};
use plug_loader::control::messages::{ReplaceCall, ReplaceReply};

/// Opens the file and has it take the plugin's place.
pub(crate) fn run(args: &args::Replace, host: Option<&str>, render: &Render) -> Outcome {
    let wait = Duration::from_secs_f64(args.wait);
    let wanted = Wanted::open(&args.file)?;
    let reply = replace(&args.name, &wanted, &args.how, wait, host, render)?;
    Ok(tell(&reply, wait, render))
}

/// Has it take the place of the plugin `name`.
pub(crate) fn replace(
    name: &str,
    wanted: &Wanted,
    how: &args::Loading,
    wait: Duration,
    host: Option<&str>,
    render: &Render,
) -> Result<ReplaceReply, Failure> {
    let call = ReplaceCall {
        name: name.to_owned(),
        file: wanted.index(),
        path: wanted.path.clone(),
        permanent: how.permanent.then_some(true),
        force: how.force.then_some(true),
        signature: wanted.signature.clone(),
        account: account(how),
        params: fields(how),
        wait_micros: in_micros(wait),
    };
    let mut client = hosts::connect(host)?;
    client.send("Replace", &call, Replies::One, wanted.descriptor())?;
    client.long_reply(|seconds| {
        let what = format!("its replacement is in progress for {seconds} s");
        render.waiting(name, &what);
    })
}

/// Tells what a replace did. It did what was asked for; what stays of the old version has its code.
pub(crate) fn tell(reply: &ReplaceReply, wait: Duration, render: &Render) -> u8 {
    render.replaced(reply);
    let Some(failure) = left(reply, wait) else {
        return 0;
    };
    render.failure(&failure);
    failure.code
}

/// What stays of the old version.
fn left(reply: &ReplaceReply, wait: Duration) -> Option<Failure> {
    let former = &reply.former;
    let of = format!("{}, generation {},", former.name, former.generation);
    let why = former.reasons.join("; ");
    let (code, message) = match former.verdict.as_str() {
        "unloaded" => return None,
        "zombie" => (
            LINGERING,
            format!("{of} is closed but still mapped until its holders let go: {why}"),
        ),
        "pinned" => (
            LINGERING,
            format!("{of} is closed but stays mapped for ever: {why}"),
        ),
        "in_use" if !former.holders.is_empty() => {
            let waited = micros(in_micros(wait));
            (
                DEADLINE,
                format!(
                    "{of} is still in use after {waited}; it leaves when nobody is inside any more"
                ),
            )
        }
        _ => (DEADLINE, why),
    };
    let mut failure = Failure::new(code, &former.verdict, message).of(&former.name);
    failure.holders.clone_from(&former.holders);
    Some(failure)
}

fn in_micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
