//! `plugctl load`: the host loads the file that is opened here.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{self, Path};

use crate::args;
use crate::client::Replies;
use crate::failure::{Failure, Outcome};
use crate::hosts;
use crate::render::Render;
use plug_loader::authority::detached;
use plug_loader::control::messages::{Field, LoadCall, LoadReply, PlanCall, PlanReply};

/// Opens the file and has it loaded.
pub(crate) fn run(args: &args::Load, host: Option<&str>, render: &Render) -> Outcome {
    let wanted = Wanted::open(&args.file)?;
    if args.dry_run {
        return plan(&wanted, args.name.clone(), host, render);
    }
    let reply = load(&wanted, args.name.clone(), &args.how, host, render)?;
    render.loaded(&reply);
    Ok(0)
}

/// Prints what would be loaded.
fn plan(wanted: &Wanted, name: Option<String>, host: Option<&str>, render: &Render) -> Outcome {
    let call = PlanCall {
        file: wanted.index(),
        path: wanted.path.clone(),
        name,
    };
    let mut client = hosts::connect(host)?;
    client.send("Plan", &call, Replies::One, wanted.descriptor())?;
    let (reply, _): (PlanReply, _) = client.reply()?;
    render.plan(&reply.steps);
    Ok(0)
}

/// Has it loaded, under `name` if that is given.
pub(crate) fn load(
    wanted: &Wanted,
    name: Option<String>,
    how: &args::Loading,
    host: Option<&str>,
    render: &Render,
) -> Result<LoadReply, Failure> {
    let call = LoadCall {
        file: wanted.index(),
        path: wanted.path.clone(),
        name,
        permanent: how.permanent.then_some(true),
        force: how.force.then_some(true),
        signature: wanted.signature.clone(),
        account: account(how),
        with_providers: how.with_deps.then_some(true),
        params: fields(how),
    };
    let mut client = hosts::connect(host)?;
    client.send("Load", &call, Replies::One, wanted.descriptor())?;
    client.long_reply(|seconds| {
        let what = format!("its load is in progress for {seconds} s");
        render.waiting(&wanted.shown, &what);
    })
}

/// What a host is to load.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// None for a name that the host's directives tell the file of.
    file: Option<File>,
    pub(crate) path: String,
    /// The file as it was given.
    shown: String,
    pub(crate) signature: Option<String>,
}

impl Wanted {
    /// Opens the file, and reads the signature beside it.
    pub(crate) fn open(file: &Path) -> Result<Self, Failure> {
        let shown = file.display().to_string();
        // A host without such a name says so; the file that is not here is nothing to speak of then.
        if args::bare(file).is_some() {
            return Ok(Self {
                file: None,
                path: shown.clone(),
                shown,
                signature: None,
            });
        }
        let opened = File::open(file).map_err(|error| Failure::file(file, &error))?;
        let path = path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let signature = detached(&path).map_err(|error| Failure::file_refused(file, &error))?;
        Ok(Self {
            file: Some(opened),
            path: path.display().to_string(),
            shown,
            signature: signature.map(|text| String::from_utf8_lossy(&text).into_owned()),
        })
    }

    /// Where it is among the descriptors that are sent.
    pub(crate) fn index(&self) -> Option<u32> {
        self.file.as_ref().map(|_| 0)
    }

    /// What is sent.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }
}

/// What is to be counted of it.
pub(crate) fn account(how: &args::Loading) -> Option<String> {
    match (how.leaks, how.account) {
        (true, _) => Some("sites".to_owned()),
        (false, true) => Some("counts".to_owned()),
        (false, false) => None,
    }
}

/// The parameters as they are sent.
pub(crate) fn fields(how: &args::Loading) -> Vec<Field> {
    let fields = how.params.iter().map(|(key, value)| Field {
        key: key.clone(),
        value: value.clone(),
    });
    fields.collect()
}
