//! A report as programs read it: one JSON document on one line.
//!
//! Async-signal-safe.

#![forbid(unsafe_code)]

use plug_readside::{Resolved, SymbolReader, departed};

use super::backtrace::{End, Found, Place};
use super::out::Out;
use super::report::{Blame, Report};
use super::signal::CrashSignal;
use super::text::letters;
use super::watch;
use crate::taint::{self, Taints};

/// Text in quotes. Bytes that are not ASCII are written as the Latin-1 characters of that number.
fn quoted(out: &mut Out<'_>, text: &[u8]) {
    out.text("\"");
    for byte in text {
        match byte {
            b'"' => out.text("\\\""),
            b'\\' => out.text("\\\\"),
            0x20..0x7f => out.bytes(&[*byte]),
            _ => {
                out.text("\\u00");
                out.hex_bytes(&[*byte])
            }
        };
    }
    out.text("\"");
}

fn key<'o, 'fd>(out: &'o mut Out<'fd>, name: &str) -> &'o mut Out<'fd> {
    out.text(",\"").text(name).text("\":")
}

fn text(out: &mut Out<'_>, name: &str, value: &[u8]) {
    key(out, name);
    quoted(out, value);
}

/// Addresses are text, since many readers keep numbers in 53 bits.
fn address(out: &mut Out<'_>, name: &str, value: usize) {
    key(out, name).text("\"").hex(value as u64).text("\"");
}

fn bytes(out: &mut Out<'_>, name: &str, value: &[u8]) {
    key(out, name).text("\"").hex_bytes(value).text("\"");
}

/// The whole report and a line's end.
pub(crate) fn write(out: &mut Out<'_>, report: &Report, program: &[u8]) {
    out.text("{\"signal\":");
    quoted(out, report.signal.name().as_bytes());
    key(out, "number").number(u64::from(report.signal.number().unsigned_abs()));
    text(out, "reason", report.signal.reason(report.code).as_bytes());
    if let Some(fault) = report.address {
        address(out, "address", fault);
    }
    if let Some(sender) = report.sender {
        key(out, "sender").number(u64::from(sender));
    }
    key(out, "time").text("\"").time(report.time).text("\"");
    key(out, "pid").number(u64::from(report.pid));
    key(out, "tid").number(u64::from(report.tid));
    text(out, "thread", report.thread_name());
    address(out, "pc", report.pc());
    address(out, "sp", report.stack_pointer());
    address(out, "fp", report.frame_pointer());
    let (blame, plugin) = match report.blame() {
        Blame::Plugin(plugin) => ("plugin", Some(plugin)),
        Blame::CalledFrom(_, plugin) => ("called-from-plugin", Some(plugin)),
        Blame::Departed => ("unloaded-plugin", None),
        Blame::Running => ("running-plugin", None),
        Blame::Nobody => ("none", None),
    };
    text(out, "blame", blame.as_bytes());
    if let Some(plugin) = plugin {
        key(out, "plugin").text("{\"name\":");
        quoted(out, plugin.plugin.as_bytes());
        text(out, "version", plugin.version.as_bytes());
        bytes(out, "build_id", plugin.build_id());
        key(out, "generation").number(plugin.generation);
        text(out, "state", plugin.state().name().as_bytes());
        text(out, "phase", report.doing(plugin).name().as_bytes());
        out.text("}");
    }
    if let Some((generation, phase)) = report.running {
        key(out, "running")
            .text("{\"generation\":")
            .number(generation);
        text(out, "phase", phase.name().as_bytes());
        out.text("}");
    }
    key(out, "where").text("{\"pc\":\"").hex(report.pc() as u64);
    out.text("\"");
    place(out, report.pc(), &report.place, program);
    out.text("}");
    key(out, "backtrace").text("[");
    for (n, frame) in report.frames().iter().enumerate() {
        out.text(if n == 0 { "{\"pc\":\"" } else { ",{\"pc\":\"" });
        out.hex(frame.pc as u64).text("\"");
        key(out, "guess").text(match frame.found {
            Found::Surely => "false",
            Found::Searched => "true",
        });
        place(out, frame.pc, &frame.place, program);
        out.text("}");
    }
    out.text("]");
    let end = match report.end {
        End::Fault => "fault",
        End::Outermost => "outermost",
        End::Deep => "deep",
        End::Lost => "lost",
        End::Unreadable(_) => "unreadable-stack",
    };
    text(out, "backtrace_end", end.as_bytes());
    plugins(out, report);
    key(out, "microseconds").number(report.microseconds());
    out.text("}\n").flush();
}

fn symbol(out: &mut Out<'_>, pc: usize, resolved: &Resolved) {
    if !resolved.symbol.as_bytes().is_empty() {
        text(out, "symbol", resolved.symbol.as_bytes());
        key(out, "symbol_offset").number(pc.wrapping_sub(resolved.symbol_start) as u64);
    }
}

fn place(out: &mut Out<'_>, pc: usize, place: &Place, program: &[u8]) {
    let offset = |start: usize| pc.wrapping_sub(start) as u64;
    match place {
        Place::Plugin(resolved) => {
            text(out, "plugin", resolved.plugin.as_bytes());
            key(out, "generation").number(resolved.generation);
            key(out, "offset").number(offset(resolved.plugin_start));
            symbol(out, pc, resolved);
        }
        Place::Departed(departed, resolved) => {
            text(out, "unloaded", departed.name.as_bytes());
            text(out, "version", departed.version.as_bytes());
            bytes(out, "build_id", departed.build_id());
            key(out, "generation").number(departed.generation);
            key(out, "offset").number(offset(departed.start));
            symbol(out, pc, resolved);
        }
        Place::Object(start) => {
            if *start == watch::program() {
                text(out, "program", program);
            }
            address(out, "object", *start);
            key(out, "offset").number(offset(*start));
        }
        Place::Nowhere => {}
    }
}

/// Letters of sticky facts.
fn taints(out: &mut Out<'_>, taints: Taints) {
    key(out, "taints").text("\"");
    letters(out, taints);
    out.text("\"");
}

fn plugins(out: &mut Out<'_>, report: &Report) {
    key(out, "plugins").text("[");
    let mut first = true;
    SymbolReader::new().walk(|view| {
        out.text(if first { "{\"name\":" } else { ",{\"name\":" });
        first = false;
        quoted(out, view.name());
        text(out, "version", view.version());
        bytes(out, "build_id", view.build_id());
        key(out, "generation").number(view.generation());
        text(out, "state", view.state().name().as_bytes());
        taints(out, taint::of_slot(view.slot()));
        address(out, "start", view.range().0);
        out.text("}");
        true
    });
    out.text("]");
    taints(out, taint::of_process());
    if let Some(last) = departed::last() {
        key(out, "last_unloaded").text("{\"name\":");
        quoted(out, last.name.as_bytes());
        text(out, "version", last.version.as_bytes());
        bytes(out, "build_id", last.build_id());
        key(out, "generation").number(last.generation);
        let ago = report.began.saturating_sub(last.at) / 1_000_000;
        key(out, "milliseconds_ago").number(ago);
        out.text("}");
    }
    key(out, "replaced_handlers").text("[");
    let mut first = true;
    for signal in CrashSignal::ALL {
        if watch::replaced(signal).is_some() {
            out.text(if first { "" } else { "," });
            first = false;
            quoted(out, signal.name().as_bytes());
        }
    }
    out.text("]");
}
