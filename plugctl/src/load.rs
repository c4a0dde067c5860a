//! `plugctl load`: the host loads the file that is opened here.

use std::fs::File;
use std::os::fd::AsFd;
use std::path;

use crate::args;
use crate::client::Replies;
use crate::failure::{Failure, Outcome};
use crate::hosts;
use crate::render::Render;
use plug_loader::authority::detached;
use plug_loader::control::messages::{Field, LoadCall, LoadReply, PlanCall, PlanReply};

/// Opens the file and has it loaded.
pub(crate) fn run(args: &args::Load, host: Option<&str>, render: &Render) -> Outcome {
    // A host without such a name says so; the file that is not here is nothing to speak of then.
    let (file, path) = match args::bare(&args.file) {
        Some(_) => (None, args.file.clone()),
        None => {
            let file = File::open(&args.file).map_err(|error| Failure::file(&args.file, &error))?;
            let path = path::absolute(&args.file).unwrap_or_else(|_| args.file.clone());
            (Some(file), path)
        }
    };
    if args.dry_run {
        let call = PlanCall {
            file: file.as_ref().map(|_| 0),
            path: path.display().to_string(),
            name: args.name.clone(),
        };
        let mut client = hosts::connect(host)?;
        client.send("Plan", &call, Replies::One, file.as_ref().map(AsFd::as_fd))?;
        let (reply, _): (PlanReply, _) = client.reply()?;
        render.plan(&reply.steps);
        return Ok(0);
    }
    let fields = args.params.iter().map(|(key, value)| Field {
        key: key.clone(),
        value: value.clone(),
    });
    let signature = match &file {
        Some(_) => detached(&path).map_err(|error| Failure::file_refused(&args.file, &error))?,
        None => None,
    };
    let signature = signature.map(|text| String::from_utf8_lossy(&text).into_owned());
    let call = LoadCall {
        file: file.as_ref().map(|_| 0),
        path: path.display().to_string(),
        name: args.name.clone(),
        permanent: args.permanent.then_some(true),
        force: args.force.then_some(true),
        signature,
        account: match (args.leaks, args.account) {
            (true, _) => Some("sites".to_owned()),
            (false, true) => Some("counts".to_owned()),
            (false, false) => None,
        },
        with_providers: args.with_deps.then_some(true),
        params: fields.collect(),
    };
    let mut client = hosts::connect(host)?;
    client.send("Load", &call, Replies::One, file.as_ref().map(AsFd::as_fd))?;
    let reply: LoadReply = client.long_reply(|seconds| {
        let what = format!("its load is in progress for {seconds} s");
        render.waiting(&args.file.display().to_string(), &what);
    })?;
    render.loaded(&reply);
    Ok(0)
}
