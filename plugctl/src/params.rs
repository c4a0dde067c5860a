//! `plugctl params`: the parameters of a file or a loaded plugin, and a new value for one.

use std::path::Path;
use std::time::Duration;

use plug_loader::control::messages::{NameCall, ParamRow, ParamsReply, SetParamCall};
use plug_loader::image::{Inspection, canonical_name};

use crate::args::{self, Target};
use crate::failure::{FAILED, Failure, Outcome, USAGE};
use crate::hosts;
use crate::render::Render;

/// Shows all parameters, or the value of one, or sets one.
pub(crate) fn run(args: &args::Params, host: Option<&str>, render: &Render) -> Outcome {
    let pair = args.param.as_deref().and_then(|text| text.split_once('='));
    let rows = match (Target::of(&args.target), pair) {
        (Target::File(path), None) => of_file(&path)?,
        (Target::File(_), Some(_)) => {
            let message = "a file's parameters cannot be set: expected a loaded plugin's name";
            return Err(Failure::new(USAGE, "usage", message));
        }
        (Target::Plugin(name), None) => {
            let name = name.to_owned();
            let reply: ParamsReply = hosts::connect(host)?.call("Params", &NameCall { name })?;
            reply.params
        }
        (Target::Plugin(name), Some((key, value))) => {
            let wait = Duration::from_secs_f64(args.wait);
            let call = SetParamCall {
                name: name.to_owned(),
                key: key.to_owned(),
                value: value.to_owned(),
                wait_micros: u64::try_from(wait.as_micros()).unwrap_or(u64::MAX),
            };
            let _now: ParamsReply = hosts::connect(host)?.call("SetParam", &call)?;
            return Ok(0);
        }
    };
    let Some(key) = &args.param else {
        render.params(&rows);
        return Ok(0);
    };
    let is_it = |row: &&ParamRow| canonical_name(&row.name) == canonical_name(key);
    match rows.iter().find(is_it) {
        Some(row) => {
            render.param(row);
            Ok(0)
        }
        None => {
            let message = format!("{} has no parameter {key}", args.target);
            Err(Failure::new(FAILED, "no_param", message))
        }
    }
}

fn of_file(path: &Path) -> Result<Vec<ParamRow>, Failure> {
    let seen = Inspection::of_file(path).map_err(|error| Failure::image(path, &error))?;
    let rows = seen.info.params().map(|param| ParamRow {
        kind: param.kind.to_string(),
        name: param.name,
        value: param.default.clone().unwrap_or_default(),
        has_default: param.default.is_some(),
        default: param.default.unwrap_or_default(),
        writable: param.is_writable,
        doc: param.doc,
    });
    Ok(rows.collect())
}
