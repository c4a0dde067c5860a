//! A report as people read it, in the kernel's manner.
//!
//! Async-signal-safe.

#![forbid(unsafe_code)]

use plug_readside::state::State;
use plug_readside::{Resolved, SymbolReader, departed};

use super::backtrace::{End, FRAMES, Found, Frame, Place};
use super::out::Out;
use super::report::{Blame, Doing, Report, with_plugin};
use super::signal::CrashSignal;
use super::watch;
use crate::taint::{self, Taints};

/// What every line begins with.
const MARK: &str = "plug: ";

/// The first lines: what happened, on which thread, and whose code it is in.
pub(crate) fn head(out: &mut Out<'_>, report: &Report) {
    let signal = report.signal;
    out.text(MARK).text(signal.name()).text(": ");
    out.text(signal.reason(report.code));
    if let Some(address) = report.address {
        out.text(", at ").hex(address as u64);
    }
    if let Some(sender) = report.sender {
        out.text(", by process ").number(u64::from(sender));
    }
    out.text("\n").flush();
    out.text(MARK).text("thread ").bytes(report.thread_name());
    out.text(" (tid ").number(u64::from(report.tid));
    out.text(") of process ").number(u64::from(report.pid));
    out.text(", ").time(report.time).text("\n").flush();
    out.text(MARK).text("pc ").address(report.pc());
    out.text(" sp ").address(report.stack_pointer());
    out.text(" fp ").address(report.frame_pointer());
    out.text("\n").flush();
}

/// Whose fault it may be. Needs the frames.
pub(crate) fn blame(out: &mut Out<'_>, report: &Report, program: &[u8]) {
    let blame = report.blame();
    let mut plugin = None;
    out.text(MARK);
    match blame {
        Blame::Plugin(resolved) => {
            out.text("in plugin ");
            identity(out, report, resolved);
            plugin = Some(resolved);
        }
        Blame::CalledFrom(_, resolved) => {
            out.text(match report.place {
                Place::Object(start) if start == watch::program() => "in host code called from",
                Place::Object(_) => "in another object's code called from",
                _ => "where no code is, coming from",
            });
            out.text(" plugin ");
            identity(out, report, resolved);
            plugin = Some(resolved);
        }
        Blame::Departed => {
            out.text("in ");
            gone(out, report, &report.place);
        }
        Blame::Running => {
            out.text("in no plugin's code");
        }
        Blame::Nobody => {
            out.text("in no plugin");
        }
    }
    out.text("\n").flush();
    if let Some((generation, phase)) = report.running_other(plugin) {
        out.text(MARK).text("while the loader runs the ");
        out.text(phase.name()).text(" of ");
        load(out, generation);
        out.text("\n").flush();
    }
    out.text(MARK).text("at ");
    place(out, report.pc(), &report.place, program);
    if let Blame::CalledFrom(frame, _) = blame {
        out.text(", called from ");
        place(out, frame.pc, &frame.place, program);
    }
    out.text("\n").flush();
}

fn load(out: &mut Out<'_>, generation: u64) {
    let mut seen = false;
    with_plugin(generation, |name, version| {
        seen = true;
        named(out, name, version);
    });
    if !seen {
        out.text("load ").number(generation);
    }
}

fn named(out: &mut Out<'_>, name: &[u8], version: &[u8]) {
    out.bytes(name);
    if !version.is_empty() {
        out.text(" ").bytes(version);
    }
}

fn identity(out: &mut Out<'_>, report: &Report, plugin: &Resolved) {
    named(out, plugin.plugin.as_bytes(), plugin.version.as_bytes());
    out.text(" (build-id ");
    build_id(out, plugin.build_id());
    out.text(", generation ").number(plugin.generation);
    out.text(", ").text(plugin.state().name()).text("), ");
    match report.doing(plugin) {
        Doing::Phase(phase) => out.text("in its ").text(phase.name()),
        Doing::Call => out.text("in a call"),
        Doing::Unasked => out.text("on a thread of its own"),
    };
}

fn build_id(out: &mut Out<'_>, id: &[u8]) {
    if id.is_empty() {
        out.text("none");
    } else {
        out.hex_bytes(id);
    }
}

fn gone(out: &mut Out<'_>, report: &Report, place: &Place) {
    let Place::Departed(departed, _) = place else {
        return;
    };
    named(out, departed.name.as_bytes(), departed.version.as_bytes());
    out.text(" (unloaded ");
    out.ago(report.began.saturating_sub(departed.at));
    out.text("; build-id ");
    build_id(out, departed.build_id());
    out.text(", generation ").number(departed.generation);
    out.text(")");
}

/// `codec+0x1234 encode+0x14`, as far as it is known.
fn place(out: &mut Out<'_>, pc: usize, place: &Place, program: &[u8]) {
    let offset = |start: usize| pc.wrapping_sub(start) as u64;
    let symbol = |out: &mut Out<'_>, resolved: &Resolved| {
        if !resolved.symbol.as_bytes().is_empty() {
            out.text(" ").bytes(resolved.symbol.as_bytes());
            out.text("+").hex(offset(resolved.symbol_start));
        }
    };
    match place {
        Place::Plugin(resolved) => {
            out.bytes(resolved.plugin.as_bytes()).text("+");
            out.hex(offset(resolved.plugin_start));
            symbol(out, resolved);
        }
        Place::Departed(departed, resolved) => {
            out.bytes(departed.name.as_bytes()).text("+");
            out.hex(offset(departed.start));
            symbol(out, resolved);
            out.text(" (unloaded)");
        }
        Place::Object(start) if *start == watch::program() => {
            out.bytes(program).text("+").hex(offset(*start));
        }
        Place::Object(start) => {
            out.text("object at ").hex(*start as u64);
            out.text("+").hex(offset(*start));
        }
        Place::Nowhere => {
            out.hex(pc as u64).text(", which is nobody's");
        }
    }
}

/// The plugins there are, and the one that left last.
pub(crate) fn plugins(out: &mut Out<'_>, report: &Report) {
    out.text(MARK).text("plugins linked in:");
    SymbolReader::new().walk(|view| {
        out.text(" ").bytes(view.name());
        marks(out, taint::of_slot(view.slot()), view.state());
        true
    });
    if let Some(last) = departed::last() {
        out.text(" [last unloaded: ");
        named(out, last.name.as_bytes(), last.version.as_bytes());
        out.text(" (").ago(report.began.saturating_sub(last.at));
        out.text(")]");
    }
    out.text("\n").flush();
    let tainted = taint::of_process();
    if !tainted.is_empty() {
        out.text(MARK).text("tainted: ");
        letters(out, tainted);
        out.text("\n").flush();
    }
    for signal in CrashSignal::ALL {
        if let Some(after) = watch::replaced(signal) {
            out.text(MARK).text("the handler for ").text(signal.name());
            out.text(" was replaced");
            if after != 0 {
                out.text(", found after the load of ");
                load(out, after);
            }
            out.text("\n").flush();
        }
    }
}

/// As the kernel marks modules: letters of sticky facts, then one of the state.
fn marks(out: &mut Out<'_>, taints: Taints, state: State) {
    let state = state_mark(state);
    if taints.is_empty() && state.is_empty() {
        return;
    }
    out.text("(");
    letters(out, taints);
    out.text(state).text(")");
}

/// The letters of `taints`.
pub(crate) fn letters(out: &mut Out<'_>, taints: Taints) {
    for letter in taints.letters() {
        out.text(letter.encode_utf8(&mut [0; 4]));
    }
}

const fn state_mark(state: State) -> &'static str {
    match state {
        State::Unformed | State::Coming => "+",
        State::Going => "-",
        State::Zombie => "Z",
        State::Live | State::Empty => "",
    }
}

/// The frames.
pub(crate) fn backtrace(out: &mut Out<'_>, report: &Report, program: &[u8]) {
    out.text(MARK)
        .text("backtrace (? marks a guess):\n")
        .flush();
    for (n, frame) in report.frames().iter().enumerate() {
        let Frame { pc, found, .. } = *frame;
        out.text(MARK).text("#").number(n as u64);
        out.text(match found {
            Found::Surely => "   ",
            Found::Searched => " ? ",
        });
        out.address(pc).text(" ");
        place(out, pc, &frame.place, program);
        out.text("\n").flush();
    }
    match report.end {
        End::Outermost => {}
        End::Fault => {
            out.text(MARK)
                .text("the search for frames met a fault itself\n");
        }
        End::Deep => {
            out.text(MARK).text("more than ").number(FRAMES as u64);
            out.text(" frames\n");
        }
        End::Lost => {
            out.text(MARK).text("no further caller found\n");
        }
        End::Unreadable(stack) => {
            out.text(MARK).text("the stack at ").hex(stack as u64);
            out.text(" cannot be read\n");
        }
    }
    out.flush();
}

/// How long it took.
pub(crate) fn foot(out: &mut Out<'_>, microseconds: u64) {
    out.text(MARK).text("report made in ").number(microseconds);
    out.text(" us\n").flush();
}
