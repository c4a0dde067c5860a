//! Everything that plugctl prints: the only file that knows formats and terminals.
//!
//! Results go to stdout, refusals and progress to stderr. A reader that went away, such as
//! `head`, ends the printing but not the work.

use std::borrow::Cow;
use std::env;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::check::FileReport;
use crate::demangle::demangle;
use crate::failure::{Failure, LINGERING};
use crate::hosts::LiveHost;
use plug_loader::control::messages::{
    AccountRow, DepartedRow, EventRow, LoadReply, ParamRow, PlannedRow, PluginRow, ReplaceReply,
    ResolvedRow, StageTime, SymbolRow, TrialRow, UnloadReply, UnusedRow, WorkerRow,
};
use plug_loader::{Directives, Quarantined};

const HEAD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const WAITING: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const PLAIN: Style = Style::new();

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Render {
    json: bool,
    /// Whether stdout gets colours.
    colour: bool,
    /// Whether names of symbols are shown as files have them.
    mangled: bool,
}

/// One cell of a table.
struct Cell {
    text: String,
    style: Style,
    right: bool,
}

/// A cell that is never empty, so that columns can be counted.
fn cell(text: impl Into<String>) -> Cell {
    let text = text.into();
    Cell {
        text: if text.is_empty() { "-".into() } else { text },
        style: PLAIN,
        right: false,
    }
}

fn number(value: u64) -> Cell {
    Cell {
        right: true,
        ..cell(value.to_string())
    }
}

fn right(text: String) -> Cell {
    Cell {
        right: true,
        ..cell(text)
    }
}

fn state(text: &str) -> Cell {
    let style = match text {
        "Live" | "live" => GOOD,
        "Zombie" | "Pinned" | "zombie" | "pinned" | "failed" | "stayed" | "stalled" => BAD,
        "Coming" | "Going" | "Unformed" | "coming" | "going" => WAITING,
        _ => PLAIN,
    };
    Cell {
        style,
        ..cell(text)
    }
}

impl Render {
    pub(crate) fn new(json: bool, mangled: bool) -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            json,
            mangled,
            colour: io::stdout().is_terminal() && !refused && !dumb,
        }
    }

    /// A symbol's name for people.
    fn name(self, name: &str) -> Cow<'_, str> {
        if self.mangled {
            name.into()
        } else {
            demangle(name)
        }
    }

    /// Bytes as they are. A reader that has seen enough is no failure of ours.
    pub(crate) fn raw(self, bytes: &[u8]) {
        let _seen = self.write(bytes);
    }

    fn write(self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    fn line(self, text: &str) {
        self.raw(format!("{text}\n").as_bytes());
    }

    fn note(self, text: &str) {
        let mut stderr = io::stderr().lock();
        let _seen = stderr.write_all(format!("{text}\n").as_bytes());
    }

    fn value(self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => self.line(&text),
            Err(error) => self.note(&format!("plugctl: {error}")),
        }
    }

    /// Lines of text, or one array.
    pub(crate) fn lines(self, lines: &[String]) {
        if self.json {
            return self.value(&lines);
        }
        self.raw(
            lines
                .iter()
                .map(|line| line.clone() + "\n")
                .collect::<String>()
                .as_bytes(),
        );
    }

    /// Why a command failed, and who stood in the way.
    pub(crate) fn failure(self, failure: &Failure) {
        match serde_json::to_string(failure) {
            Ok(text) if self.json => return self.note(&text),
            _ => self.note(&format!("plugctl: {failure}")),
        }
        // Those of a closed plugin are in the message.
        if failure.holders.is_empty() || failure.code == LINGERING {
            return;
        }
        let rows = failure.holders.iter().map(|holder| {
            let kind = match holder.kind.as_str() {
                "unregistered_calls" => "call",
                "pins" => "pin",
                "tasks" => "task",
                "wakers" => "waker",
                "perhaps_stack" => "stack?",
                kind => kind,
            };
            let tid = match holder.tid {
                0 => String::new(),
                tid => tid.to_string(),
            };
            vec![
                cell(kind),
                cell(holder.thread.as_str()),
                right(tid),
                number(holder.count),
                right(micros(holder.micros)),
                match holder.place.as_str() {
                    "" => cell(self.name(&holder.function)),
                    place => cell(place),
                },
            ]
        });
        let heads = ["Holder", "Thread", "TID", "Count", "Since", "Where"];
        let table = Self {
            colour: false,
            ..self
        };
        self.note(table.table_text(&heads, rows.collect()).trim_end());
    }

    /// Something that went wrong while a host goes on.
    pub(crate) fn warning(self, text: &str) {
        self.note(&format!("plugctl: {text}"));
    }

    /// Who is waited for.
    pub(crate) fn waiting(self, name: &str, holders: &str) {
        let holders = if holders.is_empty() {
            "its exit"
        } else {
            holders
        };
        self.note(&format!("plugctl: waiting for {name}: {holders}"));
    }

    /// A host that clients can reach.
    pub(crate) fn ready(self, socket: &str) {
        if self.json {
            return self.value(&serde_json::json!({ "ready": socket }));
        }
        self.line(&format!("ready {socket}"));
    }

    /// A file whose changes are taken up from now on.
    pub(crate) fn watching(self, file: &str) {
        if self.json {
            return self.value(&serde_json::json!({ "watching": file }));
        }
        self.line(&format!("watching {file}"));
    }

    pub(crate) fn hosts(self, hosts: &[LiveHost]) {
        if self.json {
            return self.value(&hosts);
        }
        let rows = hosts.iter().map(|host| {
            vec![
                cell(host.name.as_str()),
                number(host.pid.into()),
                cell(host.version.as_str()),
                number(host.workers),
                number(host.plugins),
                cell(if host.membarrier {
                    "membarrier"
                } else {
                    "fences"
                }),
                cell(host.socket.as_str()),
            ]
        });
        let heads = [
            "Host", "PID", "Version", "Workers", "Plugins", "Barrier", "Socket",
        ];
        self.table(&heads, rows.collect());
    }

    /// lsmod's columns first, in its layout.
    pub(crate) fn plugins(self, plugins: &[PluginRow]) {
        if self.json {
            return self.value(&plugins);
        }
        // Columns that only some plugins have are not shown for none.
        let is_counted = plugins.iter().any(|plugin| plugin.account.is_some());
        let rows = plugins.iter().map(|plugin| {
            // As lsmod marks them.
            let permanent = (!plugin.permanent.is_empty()).then(|| "[permanent]".to_owned());
            let users: Vec<String> = permanent.into_iter().chain(plugin.users.clone()).collect();
            let users = users.join(",");
            let mut row = vec![
                Cell {
                    text: format!("{:<19}", plugin.name),
                    ..cell("")
                },
                Cell {
                    text: format!("{:>8}", plugin.size),
                    ..number(0)
                },
                cell(format!("{} {users}", plugin.refs).trim_end()),
                state(&plugin.state),
                cell(plugin.version.as_str()),
                number(plugin.calls),
                cell(marks(&plugin.taints, &plugin.drift)),
            ];
            if is_counted {
                let count = |of: fn(&AccountRow) -> u64| {
                    let count = plugin.account.as_ref().map(of);
                    right(count.map_or_else(String::new, |count| count.to_string()))
                };
                row.extend([
                    count(|account| account.heap_bytes),
                    count(|account| account.heap_blocks),
                    count(|account| account.mapped_bytes),
                    count(|account| account.descriptors),
                ]);
            }
            row
        });
        let mut heads = vec![
            "Plugin             ",
            "    Size",
            "Used by",
            "State",
            "Version",
            "Calls",
            "Taints",
        ];
        if is_counted {
            heads.extend(["Heap", "Blocks", "Mapped", "FDs"]);
        }
        self.table(&heads, rows.collect());
    }

    /// A file a line, and what there is to say about it below.
    pub(crate) fn quarantine(self, entries: &[Quarantined]) {
        if self.json {
            let rows = entries.iter().map(|entry| {
                serde_json::json!({
                    "digest": entry.digest.to_string(),
                    "plugin": entry.plugin,
                    "path": entry.path,
                    "why": entry.why,
                })
            });
            return self.value(&rows.collect::<Vec<_>>());
        }
        for entry in entries {
            let Quarantined {
                digest,
                plugin,
                path,
                why,
                ..
            } = entry;
            self.line(&format!("{digest} {plugin}: {why} ({path})"));
        }
    }

    pub(crate) fn loaded(self, reply: &LoadReply) {
        if self.json {
            return self.value(reply);
        }
        for provider in &reply.providers {
            let (name, by) = (&provider.name, provider.used_by.join(", "));
            let version = spaced(&provider.version);
            self.line(&format!(
                "{name}{version} is {}, used by {by}",
                provider.state
            ));
        }
        let plugin = &reply.plugin;
        self.line(&format!(
            "{} is {} at {}: {} bytes, generation {}, in {}",
            versioned(&plugin.name, &plugin.version),
            plugin.state,
            plugin.base,
            plugin.size,
            plugin.generation,
            micros(total(&reply.stages))
        ));
    }

    /// What would be loaded, a line each in the order of the loads.
    pub(crate) fn plan(self, steps: &[PlannedRow]) {
        if self.json {
            return self.value(&steps);
        }
        for step in steps {
            let (name, version, path) = (&step.name, spaced(&step.version), &step.path);
            let by = match step.used_by.is_empty() {
                true => String::new(),
                false => format!(", used by {}", step.used_by.join(", ")),
            };
            self.line(&match step.loaded {
                true => format!("loaded  {name}{version} from {path}{by}"),
                false => format!("load    {name}{version} from {path}{by}"),
            });
        }
    }

    /// What unloads saw, and which plugins left because nobody used them; one object.
    pub(crate) fn unloaded_with_unused(
        self,
        replies: &[UnloadReply],
        asked: usize,
        unused: &[UnusedRow],
    ) {
        if self.json {
            return self.value(&serde_json::json!({"unloaded": replies, "unused": unused}));
        }
        self.unloaded(replies, asked);
        for row in unused.iter().filter(|row| row.verdict == "unloaded") {
            self.line(&format!("{} was unused and is unloaded", row.name));
        }
    }

    /// A version that took the place of another one, and how that left, if it did.
    pub(crate) fn replaced(self, reply: &ReplaceReply) {
        if self.json {
            return self.value(reply);
        }
        let (new, old) = (&reply.plugin, &*reply.old_version);
        self.succession(new, &reply.stages, old, &reply.former);
        match &reply.trial {
            Some(trial) if trial.verdict == "kept" => {
                self.line(&format!(
                    "generation {}: none of its calls failed: it is kept",
                    new.generation
                ));
            }
            Some(TrialRow {
                plugin: Some(back),
                former: Some(former),
                stages,
                ..
            }) => self.succession(back, stages, &new.version, former),
            _ => {}
        }
    }

    /// One version in the place of another one, of which this became.
    fn succession(self, new: &PluginRow, stages: &[StageTime], old: &str, former: &UnloadReply) {
        self.line(&format!(
            "{}, generation {}, is {} in the place of {}, generation {}; in {}",
            versioned(&new.name, &new.version),
            new.generation,
            new.state,
            versioned(&former.name, old),
            former.generation,
            micros(total(stages))
        ));
        if former.verdict == "unloaded" {
            self.departed(former, &format!("generation {}: ", former.generation));
        }
    }

    /// What unloads saw; one object where one was asked for, else an array.
    pub(crate) fn unloaded(self, replies: &[UnloadReply], asked: usize) {
        if self.json {
            match replies {
                [reply] if asked == 1 => self.value(reply),
                [] if asked == 1 => {}
                replies => self.value(&replies),
            }
            return;
        }
        for reply in replies.iter().filter(|reply| reply.verdict == "collected") {
            self.line(&format!("{} has left: what held it has ended", reply.name));
        }
        for reply in replies.iter().filter(|reply| reply.verdict == "unloaded") {
            let name = if asked == 1 {
                String::new()
            } else {
                format!("{}: ", reply.name)
            };
            self.departed(reply, &name);
        }
    }

    /// How nobody was inside of a plugin that was unloaded, and what it left behind; each line begins
    /// with `name`.
    fn departed(self, reply: &UnloadReply, name: &str) {
        let of = |proof: &str| reply.workers.iter().filter(|w| w.proof == proof).count();
        let drain = reply.stages.iter().find(|stage| stage.name == "drain");
        self.line(&format!(
            "{name}quiesced {} in {}: {} idle, {} drained",
            plural(reply.workers.len() as u64, "worker"),
            micros(drain.map_or(0, |stage| stage.micros)),
            of("idle"),
            of("drained")
        ));
        for warning in &reply.warnings {
            self.line(&format!("{name}a pointer stays behind: {warning}"));
        }
        if let Some(leaks) = &reply.leaks {
            self.line(&format!("{name}left {}", holds(&leaks.account)));
            for site in &leaks.sites {
                let (blocks, bytes) = (plural(site.blocks, "block"), site.bytes);
                let by = match site.symbol.as_str() {
                    "" => "an unknown function".into(),
                    symbol => self.name(symbol),
                };
                self.line(&format!("  {blocks} of {bytes} bytes by {by}"));
            }
        }
    }

    /// Whether JSON is printed.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// modinfo's layout, or bare values.
    pub(crate) fn info(self, fields: &[(String, String)], bare: bool, null: bool) {
        if self.json {
            // A key that comes several times has an array.
            let mut object = serde_json::Map::new();
            for (key, value) in fields {
                let value = serde_json::Value::from(value.as_str());
                match object.get_mut(key) {
                    None => drop(object.insert(key.clone(), value)),
                    Some(serde_json::Value::Array(values)) => values.push(value),
                    Some(first) => *first = vec![first.clone(), value].into(),
                }
            }
            return self.value(&object);
        }
        let end = if null { '\0' } else { '\n' };
        let texts = fields.iter().map(|(key, value)| {
            if bare {
                return format!("{value}{end}");
            }
            let key = format!("{key}:");
            if null {
                return format!("{key}{value}{end}");
            }
            let padded = format!("{key:<16}");
            format!("{}{value}{end}", self.styled(&padded, HEAD))
        });
        self.raw(texts.collect::<String>().as_bytes());
    }

    /// What was found of one file: an object, or a line each.
    pub(crate) fn checked(self, report: &FileReport) {
        if self.json {
            return self.value(report);
        }
        let style = match report.verdict {
            "ok" | "foreign" => GOOD,
            _ => BAD,
        };
        let mut text = format!("{}: {}\n", report.file, self.styled(report.verdict, style));
        text += &match report.unloadable {
            true => "  unloadable: yes\n".to_owned(),
            false => format!("  unloadable: no, because {}\n", report.because.join("; ")),
        };
        for finding in &report.findings {
            let style = match finding.severity {
                "note" => PLAIN,
                "taint" => WAITING,
                _ => BAD,
            };
            let place = finding.offset.map(|at| format!(" at {at:#x}"));
            text += &format!(
                "  {} {}: {}{}: expected {}, found {}\n",
                self.styled(finding.severity, style),
                finding.code,
                finding.structure,
                place.unwrap_or_default(),
                finding.expected,
                self.name(&finding.found),
            );
        }
        if let Some(probe) = &report.probe {
            for call in &probe.calls {
                let became = match (call.returned, &call.caught) {
                    (false, _) => "ended the probe",
                    (true, Some(_)) => "caught a panic or an exception",
                    (true, None) => "returned",
                };
                text += &format!("  called {}: {became}\n", self.name(&call.function));
            }
            let stages = probe.stages.iter();
            let stages: Vec<String> = stages
                .map(|stage| format!("{} {}", stage.name, micros(stage.micros)))
                .collect();
            let took = micros(probe.micros);
            text += &format!("  probed in {took}: {}\n", stages.join(", "));
        }
        self.raw(text.as_bytes());
    }

    /// nm's columns.
    pub(crate) fn symbols(self, symbols: &[SymbolRow]) {
        if self.json {
            return self.value(&symbols);
        }
        let texts = symbols.iter().map(|symbol| {
            let at = match (symbol.version.is_empty(), symbol.default) {
                (true, _) => "",
                (_, true) => "@@",
                (_, false) => "@",
            };
            let address = symbol.address.trim_start_matches("0x");
            let size = match symbol.size {
                0 => String::new(),
                size => format!("{size:016x} "),
            };
            let (kind, version) = (&symbol.kind, &symbol.version);
            let name = self.name(&symbol.name);
            format!("{address:0>16} {size}{kind} {name}{at}{version}\n")
        });
        self.raw(texts.collect::<String>().as_bytes());
    }

    pub(crate) fn resolved(self, rows: &[ResolvedRow]) {
        if self.json {
            return self.value(&rows);
        }
        let rows = rows.iter().map(|row| {
            let symbol = match (row.plugin.as_str(), row.symbol.as_str()) {
                ("", _) => String::new(),
                (_, symbol) => format!("{}+{:#x}", self.name(symbol), row.offset),
            };
            let generation = match row.generation {
                0 => String::new(),
                generation => generation.to_string(),
            };
            vec![
                cell(row.address.as_str()),
                cell(row.plugin.as_str()),
                cell(symbol),
                right(generation),
                match row.left_micros {
                    Some(left) => cell(format!("{} {} ago", row.state, micros(left))),
                    None => state(&row.state),
                },
            ]
        });
        let heads = ["Address", "Plugin", "Symbol", "Generation", "State"];
        self.table(&heads, rows.collect());
    }

    pub(crate) fn workers(self, workers: &[WorkerRow]) {
        if self.json {
            return self.value(&workers);
        }
        let rows = workers.iter().map(|worker| {
            let inside = worker.inside.iter().map(|inside| {
                let function = match inside.function.as_str() {
                    "" => String::new(),
                    function => format!(" in {}", self.name(function)),
                };
                format!(
                    "{}{function} since {}",
                    inside.plugin,
                    micros(inside.micros)
                )
            });
            let inside: Vec<String> = inside.collect();
            vec![
                cell(worker.thread.as_str()),
                number(worker.tid.into()),
                number(worker.calls),
                number(worker.quiescent),
                cell(inside.join(", ")),
            ]
        });
        let heads = ["Worker", "TID", "Calls", "Quiescent", "Inside"];
        self.table(&heads, rows.collect());
    }

    pub(crate) fn params(self, params: &[ParamRow]) {
        if self.json {
            return self.value(&params);
        }
        let rows = params.iter().map(|row| {
            let default = match row.has_default {
                true => row.default.as_str(),
                false => "(must be given)",
            };
            vec![
                cell(row.name.as_str()),
                cell(row.value.as_str()),
                cell(row.kind.as_str()),
                cell(default),
                cell(if row.writable { "rw" } else { "r" }),
                cell(row.doc.as_str()),
            ]
        });
        let heads = ["Parameter", "Value", "Type", "Default", "Mode", "What"];
        self.table(&heads, rows.collect());
    }

    /// One parameter: its value alone.
    pub(crate) fn param(self, row: &ParamRow) {
        if self.json {
            return self.value(row);
        }
        self.line(&row.value);
    }

    /// What is in effect, and which files do not count.
    pub(crate) fn directives(self, directives: &Directives) {
        #[derive(Serialize)]
        struct File {
            path: String,
            replaced_by: Option<String>,
        }
        #[derive(Serialize)]
        struct Row {
            kind: &'static str,
            name: String,
            key: String,
            value: String,
            file: String,
            line: usize,
        }
        #[derive(Serialize)]
        struct Shown {
            files: Vec<File>,
            directives: Vec<Row>,
        }
        let files = directives.files().iter().map(|file| File {
            path: file.path.display().to_string(),
            replaced_by: file
                .replaced_by
                .as_ref()
                .map(|other| other.display().to_string()),
        });
        let rows = directives.all().into_iter().map(|directive| Row {
            kind: directive.kind.name(),
            file: directive.place.file.display().to_string(),
            line: directive.place.line,
            name: directive.name,
            key: directive.key,
            value: directive.value,
        });
        let shown = Shown {
            files: files.collect(),
            directives: rows.collect(),
        };
        if self.json {
            return self.value(&shown);
        }
        let rows = shown.directives.into_iter().map(|row| {
            let place = format!("{}:{}", row.file, row.line);
            [row.kind.to_owned(), row.name, row.key, row.value, place]
        });
        let replaced = shown.files.into_iter().filter_map(|file| {
            let by = file.replaced_by?;
            let nothing = String::new();
            Some([
                "replaced".to_owned(),
                nothing.clone(),
                nothing,
                by,
                file.path,
            ])
        });
        let rows = rows.chain(replaced).map(|row| Vec::from(row.map(cell)));
        let heads = ["Directive", "Name", "Key", "Value", "Where"];
        self.table(&heads, rows.collect());
    }

    pub(crate) fn history(self, departed: &[DepartedRow]) {
        if self.json {
            return self.value(&departed);
        }
        let rows = departed.iter().map(|row| {
            vec![
                cell(row.name.as_str()),
                cell(row.version.as_str()),
                number(row.generation),
                cell(row.base.as_str()),
                number(row.size),
                right(format!("{} ago", micros(row.micros))),
                cell(row.build_id.as_str()),
            ]
        });
        let heads = [
            "Plugin",
            "Version",
            "Generation",
            "Base",
            "Size",
            "Left",
            "Build-id",
        ];
        self.table(&heads, rows.collect());
    }

    pub(crate) fn events(self, events: &[EventRow]) {
        if self.json {
            return self.value(&events);
        }
        let texts = events.iter().map(|event| self.event_text(event));
        self.raw(texts.collect::<String>().as_bytes());
    }

    /// One event on a line of its own.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn event(self, event: &EventRow) -> io::Result<()> {
        let text = if self.json {
            serde_json::to_string(event)? + "\n"
        } else {
            self.event_text(event)
        };
        self.write(text.as_bytes())
    }

    fn event_text(self, event: &EventRow) -> String {
        let generation = match event.generation {
            0 => String::new(),
            generation => format!(" generation {generation}"),
        };
        // At others it is what the load took long before.
        let is_end = matches!(&*event.kind, "live" | "failed" | "unloaded");
        let took = match total(&event.stages) {
            took if took == 0 || !is_end => String::new(),
            took => format!(" in {}", micros(took)),
        };
        let why = match event.message.as_str() {
            "" => String::new(),
            // A stall's has a line for each holder and frame.
            message => {
                let lines: Vec<&str> = message.lines().map(str::trim).collect();
                format!(": {}", lines.join("; "))
            }
        };
        let kind = state(&event.kind);
        format!(
            "{} {} {} {}{generation}{took}{why}\n",
            event.sequence,
            time_of_day(event.unix_micros),
            self.styled(&kind.text, kind.style),
            event.plugin,
        )
    }

    fn styled(self, text: &str, style: Style) -> String {
        if self.colour && style != PLAIN {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    fn table(self, heads: &[&str], rows: Vec<Vec<Cell>>) {
        self.raw(self.table_text(heads, rows).as_bytes());
    }

    /// Aligned columns, two spaces apart; the last one is not padded.
    fn table_text(self, heads: &[&str], rows: Vec<Vec<Cell>>) -> String {
        let head = |(n, head): (usize, &&str)| Cell {
            text: (*head).to_owned(),
            style: HEAD,
            right: rows
                .first()
                .and_then(|row| row.get(n))
                .is_some_and(|c| c.right),
        };
        let head: Vec<Cell> = heads.iter().enumerate().map(head).collect();
        let widths: Vec<usize> = (0..heads.len())
            .map(|n| {
                let cells = rows.iter().chain([&head]).filter_map(|row| row.get(n));
                cells
                    .map(|cell| cell.text.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in [&head].into_iter().chain(&rows) {
            for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let last = n + 1 == row.len();
                let padded = match (cell.right, last) {
                    (true, _) => format!("{:>width$}", cell.text),
                    (false, true) => cell.text.trim_end().to_owned(),
                    (false, false) => format!("{:<width$}", cell.text),
                };
                text.push_str(if n == 0 { "" } else { "  " });
                text.push_str(&self.styled(&padded, cell.style));
            }
            text.push('\n');
        }
        text
    }
}

/// Letters of sticky facts, and what became of the file where it is not what was loaded.
fn marks(taints: &str, drift: &str) -> String {
    let drift = match drift {
        "changed" => "(file changed)",
        "gone" => "(file gone)",
        _ => "",
    };
    let parts = [taints, drift].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

/// A plugin's name with its version, if it declares one.
fn versioned(name: &str, version: &str) -> String {
    match version {
        "" => name.to_owned(),
        version => format!("{name} {version}"),
    }
}

fn total(stages: &[StageTime]) -> u64 {
    stages.iter().map(|stage| stage.micros).sum()
}

/// What a plugin holds.
pub(crate) fn holds(account: &AccountRow) -> String {
    format!(
        "{} of {} bytes, {} of {} bytes, {}",
        plural(account.heap_blocks, "block"),
        account.heap_bytes,
        plural(account.mappings, "mapping"),
        account.mapped_bytes,
        plural(account.descriptors, "descriptor")
    )
}

/// A version behind a name.
fn spaced(version: &str) -> String {
    match version {
        "" => String::new(),
        version => format!(" {version}"),
    }
}

/// `1 worker`, `2 workers`.
pub(crate) fn plural(n: u64, word: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {word}{s}")
}

/// A duration with one digit after the point, in the unit that fits.
pub(crate) fn micros(micros: u64) -> String {
    let tenths = |unit: u64, name: &str| {
        let tenths = micros.saturating_mul(10).saturating_add(unit / 2) / unit;
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    };
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => tenths(1_000, "ms"),
        _ => tenths(1_000_000, "s"),
    }
}

/// Universal time of day with microseconds.
fn time_of_day(unix_micros: u64) -> String {
    let seconds = unix_micros / 1_000_000;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!(
        "{hour:02}:{minute:02}:{second:02}.{:06}Z",
        unix_micros % 1_000_000
    )
}

/// Bytes in lowercase hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micros_chooses_the_unit() {
        assert_eq!(micros(0), "0 µs");
        assert_eq!(micros(999), "999 µs");
        assert_eq!(micros(1_250), "1.3 ms");
        assert_eq!(micros(2_100_000), "2.1 s");
        assert_eq!(micros(u64::MAX).split(' ').nth(1), Some("s"));
    }

    #[test]
    fn time_of_day_is_universal() {
        assert_eq!(time_of_day(86_399_000_001), "23:59:59.000001Z");
    }
}
