//! `plugctl info`: metadata of a file or a loaded plugin.

use std::path::Path;

use plug_loader::image::Inspection;

use crate::args::{self, Target};
use crate::failure::{FAILED, Failure, Outcome};
use crate::hosts;
use crate::render::{Render, hex, holds, micros};
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
    // Thousands of them say little to people who did not ask.
    if !render.is_json() && args.field.is_none() {
        fields.retain(|(key, _)| key != "edit");
    }
    render.info(&fields, args.field.is_some(), args.null);
    Ok(0)
}

/// A dependency in one line: name, whether private, by which rule, and the file.
fn dependency(name: &str, is_private: bool, found_by: &str, path: &str) -> String {
    let whose = if is_private { "private" } else { "shared" };
    let text = format!("{name} {whose} ({found_by}) {path}");
    text.trim_end().to_owned()
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
    for of in &seen.dependencies {
        let path = of
            .path
            .as_deref()
            .map_or_else(String::new, |p| p.display().to_string());
        let by = of.found_by.name();
        add("dependency", dependency(&of.name, of.is_private, by, &path));
    }
    if let Some(why) = &seen.incomplete {
        add("incomplete", why.clone());
    }
    if facts.nodelete() {
        add("pinned", "the file is marked DF_1_NODELETE".to_owned());
    }
    if let Some(entry) = facts.strange {
        add("unedited", entry.to_owned());
    }
    add("edits", seen.edits.len().to_string());
    for edit in &seen.edits {
        add("edit", edit.to_string());
    }
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
    add("sha256", reply.sha256);
    add("ondisk", plugin.drift.clone());
    add("size", plugin.size.to_string());
    add("base", plugin.base);
    add("state", plugin.state);
    if let Some(left) = plugin.lingering {
        add("closed", format!("{} ago", micros(left.closed_micros)));
        left.reasons
            .into_iter()
            .for_each(|reason| add("held-by", reason));
    }
    for user in &plugin.used_by {
        add("used-by", user.clone());
    }
    if plugin.automatic {
        add(
            "automatic",
            "loaded because others import functions of it".to_owned(),
        );
    }
    add("generation", plugin.generation.to_string());
    add("calls", plugin.calls.to_string());
    if let Some(account) = &plugin.account {
        add("account", holds(account));
    }
    if !plugin.taints.is_empty() {
        add("taint", plugin.taints);
    }
    for of in reply.dependencies {
        let text = dependency(&of.name, of.private, &of.found_by, &of.path);
        add("dependency", text);
    }
    for why in reply.pinned {
        add("pinned", why);
    }
    for why in reply.unedited {
        add("unedited", why);
    }
    add("edits", reply.edits.len().to_string());
    for edit in reply.edits {
        let (object, structure, offset) = (edit.object, edit.structure, edit.offset);
        let (what, why) = (edit.what, edit.why);
        add(
            "edit",
            format!("{object}: {structure} at {offset:#x}: {what}; {why}"),
        );
    }
    for stage in reply.stages {
        add("loadtime", format!("{}={} us", stage.name, stage.micros));
    }
    Ok(fields)
}
