//! `plugctl replace`: another version takes a plugin's place, and what became of the old one is told.

use std::time::Duration;

use crate::args;
use crate::client::Replies;
use crate::failure::{DEADLINE, FAILED, Failure, LINGERING, Outcome};
use crate::hosts;
use crate::load::{Wanted, account, fields};
use crate::render::{Render, micros};
use plug_loader::control::messages::{PluginRow, ReplaceCall, ReplaceReply, TrialRow, UnloadReply};

/// Opens the file and has it take the plugin's place.
pub(crate) fn run(args: &args::Replace, host: Option<&str>, render: &Render) -> Outcome {
    let wait = Duration::from_secs_f64(args.wait);
    let wanted = Wanted::open(&args.file)?;
    let times = (wait, args.roll_back_within);
    let reply = replace(&args.name, &wanted, &args.how, times, host, render)?;
    Ok(tell(&reply, wait, render))
}

/// Has it take the place of the plugin `name`, with so long a wait and so long a trial.
pub(crate) fn replace(
    name: &str,
    wanted: &Wanted,
    how: &args::Loading,
    (wait, trial): (Duration, Option<Duration>),
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
        with_providers: how.with_deps.then_some(true),
        params: fields(how),
        wait_micros: in_micros(wait),
        trial_micros: trial.map(in_micros),
    };
    let mut client = hosts::connect(host)?;
    client.send("Replace", &call, Replies::One, wanted.descriptor())?;
    client.long_reply(|seconds| {
        let what = match trial {
            None => format!("its replacement is in progress for {seconds} s"),
            Some(_) => format!("its replacement and trial are in progress for {seconds} s"),
        };
        render.waiting(name, &what);
    })
}

/// Tells what a replace did. It did what was asked for; what stays of the old version has its code, and
/// so has a new version that failed.
pub(crate) fn tell(reply: &ReplaceReply, wait: Duration, render: &Render) -> u8 {
    render.replaced(reply);
    let mut failures: Vec<Failure> = left(&reply.former, wait).into_iter().collect();
    if let Some(trial) = &reply.trial {
        failures.splice(0..0, failed(&reply.plugin, trial));
        let former = trial.former.as_ref();
        failures.extend(former.and_then(|former| left(former, wait)));
    }
    for failure in &failures {
        render.failure(failure);
    }
    failures.first().map_or(0, |failure| failure.code)
}

/// That the new version failed on trial, and what came of that.
fn failed(new: &PluginRow, trial: &TrialRow) -> Option<Failure> {
    let end = match trial.verdict.as_str() {
        "kept" => return None,
        "left" => {
            let message = format!(
                "{}, generation {}, was unloaded or replaced before its trial was over; none of its \
                 calls failed",
                new.name, new.generation
            );
            return Some(Failure::new(FAILED, "left", message).of(&new.name));
        }
        "rolled_back" => "it was rolled back".to_owned(),
        _ => format!("it stays, since it was not rolled back: {}", trial.why),
    };
    let (after, fault) = (micros(trial.after_micros), &trial.fault);
    let of = format!("{}, generation {},", new.name, new.generation);
    let message = format!("{of} was on trial for {after} when {fault}; {end}");
    Some(Failure::new(FAILED, &trial.verdict, message).of(&new.name))
}

/// What stays of a version that was replaced.
fn left(former: &UnloadReply, wait: Duration) -> Option<Failure> {
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
            let leaves = "it leaves when nobody is inside any more";
            (
                DEADLINE,
                format!("{of} is still in use after {waited}; {leaves}"),
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
