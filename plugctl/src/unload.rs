//! `plugctl unload`: waits for users, tells the proof, or who is in the way.

use std::time::Duration;

use crate::args;
use crate::client::{Client, Replies};
use crate::failure::{BUSY, Failure, LINGERING, Outcome, holders};
use crate::hosts;
use crate::render::{Render, micros};
use plug_loader::control::messages::{
    UnloadCall, UnloadReply, UnloadUnusedCall, UnusedReply, UnusedRow,
};

/// Unloads each plugin; the first failure's code counts.
pub(crate) fn run(args: &args::Unload, host: Option<&str>, render: &Render) -> Outcome {
    let wait = Duration::from_secs_f64(args.wait);
    let mut client = hosts::connect(host)?;
    let mut done = Vec::new();
    let mut code = 0;
    for name in &args.names {
        let failure = match unload(&mut client, name, args.generation, wait, render) {
            Ok(reply) => {
                let left = lingering(&reply);
                done.push(reply);
                left
            }
            Err(failure) if &*failure.kind == "host_gone" => {
                render.unloaded(&done, args.names.len());
                return Err(failure);
            }
            Err(failure) => Some(failure.of(name)),
        };
        if let Some(failure) = failure {
            code = if code == 0 { failure.code } else { code };
            render.failure(&failure);
        }
    }
    let unused = match args.unused && code == 0 {
        true => {
            let (unused, failed) = unload_unused(&mut client, wait, render)?;
            code = failed;
            Some(unused)
        }
        false => None,
    };
    match unused {
        Some(unused) => render.unloaded_with_unused(&done, args.names.len(), &unused),
        None => render.unloaded(&done, args.names.len()),
    }
    Ok(code)
}

/// Unloads what nobody uses: what became of it, and the first failure's code.
fn unload_unused(
    client: &mut Client,
    wait: Duration,
    render: &Render,
) -> Result<(Vec<UnusedRow>, u8), Failure> {
    let wait_micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
    let reply: UnusedReply = client.call("UnloadUnused", &UnloadUnusedCall { wait_micros })?;
    let mut code = 0;
    for row in &reply.done {
        let reasons = row.reasons.join("; ");
        let (failed, message) = match row.verdict.as_str() {
            "unloaded" => continue,
            "refused" => (BUSY, reasons),
            "zombie" => {
                let message = format!(
                    "{} is closed but still mapped until its holders let go: {reasons}",
                    row.name
                );
                (LINGERING, message)
            }
            _ => {
                let message = format!(
                    "{} is closed but stays mapped for ever: {reasons}",
                    row.name
                );
                (LINGERING, message)
            }
        };
        code = if code == 0 { failed } else { code };
        render.failure(&Failure::new(failed, &row.verdict, message).of(&row.name));
    }
    Ok((reply.done, code))
}

fn unload(
    client: &mut Client,
    name: &str,
    generation: Option<u64>,
    wait: Duration,
    render: &Render,
) -> Result<UnloadReply, Failure> {
    let wait_micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
    let call = UnloadCall {
        name: name.to_owned(),
        generation,
        wait_micros,
    };
    client.send("Unload", &call, Replies::More, None)?;
    loop {
        let reply: UnloadReply = match client.reply() {
            Ok((reply, _)) => reply,
            Err(failure) => return Err(in_words(failure, name, wait)),
        };
        if reply.verdict != "waiting" {
            return Ok(reply);
        }
        let for_what = match reply.reasons.as_slice() {
            [] => holders(&reply.holders),
            reasons => reasons.join("; "),
        };
        render.waiting(name, &for_what);
    }
}

/// A refusal because of users, and how long they were waited for; the users follow as a table.
fn in_words(mut failure: Failure, name: &str, wait: Duration) -> Failure {
    if let Some(left) = &failure.lingering {
        let (ago, why) = (micros(left.closed_micros), left.reasons.join("; "));
        let until = match left.pinned {
            true => "and stays mapped for ever",
            false => "and is still mapped",
        };
        failure.message = format!("{name} was closed {ago} ago {until}: {why}").into();
    }
    if &*failure.kind == "deadline" && !failure.holders.is_empty() {
        failure.message = if wait.is_zero() {
            failure.code = BUSY;
            format!("{name} is in use").into()
        } else {
            let waited = micros(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
            format!("{name} is still in use after {waited}").into()
        };
    }
    failure
}

fn lingering(reply: &UnloadReply) -> Option<Failure> {
    let what = match reply.verdict.as_str() {
        "zombie" => "is closed but still mapped until its holders let go",
        "pinned" => "is closed but stays mapped for ever",
        _ => return None,
    };
    let message = format!("{} {what}: {}", reply.name, reply.reasons.join("; "));
    let mut failure = Failure::new(LINGERING, &reply.verdict, message).of(&reply.name);
    failure.holders.clone_from(&reply.holders);
    Some(failure)
}
