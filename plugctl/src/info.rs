//! `plugctl info`: metadata of a file or a loaded plugin.

use std::path::Path;

use plug_loader::image::Inspection;

use crate::args::{self, Target};
use crate::failure::{FAILED, Failure, Outcome};
use crate::hosts;
use crate::render::{Render, hex};
use plug_loader::control::messages::{Field, InfoReply, NameCall};

/// Shows all fields, or the values of one.
pub(crate) fn run(args: &args::Info, host: Option<&str>, render: &Render) -> Outcome {
    let mut fields = match Target::of(&args.target) {
        Target::File(path) => of_file(&path)?,
        Target::Plugin(name) => of_plugin(name, host)?,
    };
    if let Some(field) = &args.field {
        fields.retain(|(key, _)| key == field);
        if fields.is_empty() {
            let message = format!("{} has no field {field}", args.target);
            return Err(Failure::new(FAILED, "no_field", message));
        }
    }
    render.info(&fields, args.field.is_some(), args.null);
    Ok(0)
}

fn of_file(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    let seen = Inspection::of_file(path).map_err(|error| Failure::image(path, &error))?;
    let mut fields = vec![("filename".to_owned(), path.display().to_string())];
    let told = seen.info.fields();
    fields.extend(first_things_first(
        told.map(|(key, value)| (key.to_owned(), value.to_owned())),
    ));
    if seen.info.name().is_none() {
        fields.push(("name".to_owned(), seen.name.clone()));
    }
    let facts = &seen.facts;
    let mut add = |key: &str, value: String| fields.push((key.to_owned(), value));
    add("depends", facts.needed.join(","));
    if let Some(soname) = &facts.soname {
        add("soname", soname.clone());
    }
    add(
        "build-id",
        hex(facts.build_id.as_deref().unwrap_or_default()),
    );
    add("sha256", seen.digest.to_string());
    add("size", facts.span.size.to_string());
    add("symbols", seen.symbols.len().to_string());
    Ok(fields)
}

/// The author's fields: what everybody asks for, then the others in their order.
fn first_things_first(fields: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    const FIRST: [&str; 4] = ["name", "version", "description", "license"];
    let mut fields: Vec<(String, String)> = fields.collect();
    fields.sort_by_key(|(key, _)| {
        FIRST
            .iter()
            .position(|first| first == key)
            .unwrap_or(FIRST.len())
    });
    fields
}

fn of_plugin(name: &str, host: Option<&str>) -> Result<Vec<(String, String)>, Failure> {
    let call = NameCall {
        name: name.to_owned(),
    };
    let reply: InfoReply = hosts::connect(host)?.call("Info", &call)?;
    let mut fields = vec![("filename".to_owned(), reply.filename)];
    let told = reply
        .fields
        .into_iter()
        .map(|Field { key, value }| (key, value));
    fields.extend(first_things_first(told));
    let plugin = reply.plugin;
    let declared = fields.iter().any(|(key, _)| key == "permanent");
    let mut add = |key: &str, value: String| fields.push((key.to_owned(), value));
    if !plugin.permanent.is_empty() && !declared {
        add("permanent", plugin.permanent);
    }
    add("build-id", plugin.build_id);
    add("sha256", reply.digest);
    add("ondisk", plugin.drift);
    add("size", plugin.size.to_string());
    add("base", plugin.base);
    add("state", plugin.state);
    add("generation", plugin.generation.to_string());
    add("calls", plugin.calls.to_string());
    if !plugin.taints.is_empty() {
        add("taint", plugin.taints);
    }
    for stage in reply.stages {
        add("loadtime", format!("{}={} us", stage.name, stage.micros));
    }
    Ok(fields)
}
