//! The warning about an unload that waits long: who holds the plugin, and what their threads are
//! doing.
//!
//! # Source
//! `print_other_cpu_stall` in `kernel/rcu/tree_stall.h`: who stalls, for how long, and the stack.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::Duration;

use crate::crash::backtrace::{Found, Frame, Place};
use crate::error::{Holder, HolderKind};
use crate::record::Record;
use crate::stack::{Activity, outermost_in};
use crate::sys::task;

/// Threads whose stacks a warning shows.
const SHOWN: usize = 8;

/// Threads that are looked at for one that is inside without being a worker, at tens of
/// microseconds each.
const LOOKED_AT: usize = 256;

/// When to warn next.
#[derive(Debug)]
pub(crate) struct Stall {
    /// None for never.
    next: Option<Duration>,
}

impl Stall {
    /// Warns after `first`, and again whenever the wait has doubled.
    pub(crate) fn new(first: Option<Duration>) -> Self {
        Self { next: first }
    }

    /// The warning, if the unload of `record` has `waited` long enough for one.
    pub(crate) fn look(
        &mut self,
        waited: Duration,
        record: &Record,
        holders: impl FnOnce() -> Vec<Holder>,
    ) -> Option<String> {
        let next = self.next.filter(|next| waited >= *next)?;
        // At least a millisecond, so that a wait of none does not warn at every look.
        self.next = Some(
            next.max(waited)
                .max(Duration::from_millis(1))
                .saturating_mul(2),
        );
        let mut holders = holders();
        name_callers(&mut holders, record);
        Some(report(waited, &holders))
    }
}

/// The holders, each with the stack of a thread that is inside.
fn report(waited: Duration, holders: &[Holder]) -> String {
    let objects = Objects::read();
    let mut text = format!("the unload has waited for {waited:.1?}");
    let mut shown = 0;
    for holder in holders {
        let _written = write!(text, "\n{holder}");
        if holder.kind.is_promise() || holder.tid == 0 || shown == SHOWN {
            continue;
        }
        shown += 1;
        match Activity::of(holder.tid) {
            Activity::Unknown => {}
            Activity::Running => text.push_str("\n    it runs: no stack to be read"),
            Activity::Blocked(frames) => {
                for (n, frame) in frames.iter().enumerate() {
                    let guess = match frame.found {
                        Found::Surely => "",
                        Found::Searched => "? ",
                    };
                    let _written = write!(text, "\n    #{n} {guess}{}", objects.name(frame));
                }
            }
        }
    }
    text
}

/// Finds the threads behind calls that nobody is known to make: those that are blocked with the
/// plugin's code on their stacks.
pub(crate) fn name_callers(holders: &mut Vec<Holder>, record: &Record) {
    let unnamed = |holder: &Holder| holder.kind == HolderKind::UnregisteredCalls;
    let Some(at) = holders.iter().position(unnamed) else {
        return;
    };
    let known: Vec<u32> = holders.iter().map(|holder| holder.tid).collect();
    let tids = fs::read_dir("/proc/self/task").into_iter().flatten();
    let tids = tids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut found = Vec::new();
    for tid in tids.filter(|tid| !known.contains(tid)).take(LOOKED_AT) {
        if let Some(address) = outermost_in(&(record.start..record.end), tid) {
            found.push((tid, record.symbol_at(address)));
        }
    }
    let Some(all) = holders.get_mut(at) else {
        return;
    };
    let since = all.since;
    let mut left = all.count;
    let mut named = Vec::new();
    for (tid, function) in found {
        if left == 0 {
            break;
        }
        left -= 1;
        named.push(Holder {
            kind: HolderKind::UnregisteredCalls,
            thread: task::name_of(tid),
            tid,
            function,
            count: 1,
            since,
            place: None,
        });
    }
    all.count = left;
    if left == 0 {
        holders.remove(at);
    }
    holders.splice(at..at, named);
}

/// Names of what is mapped where, by first address.
struct Objects(BTreeMap<usize, String>);

impl Objects {
    fn read() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let line = |line: &str| {
            let start = usize::from_str_radix(line.split('-').next()?, 16).ok()?;
            let (_, file) = line.rsplit_once('/')?;
            Some((start, file.to_owned()))
        };
        Self(maps.lines().filter_map(line).collect())
    }

    /// A frame in words: plugin and symbol, or object and offset.
    fn name(&self, frame: &Frame) -> String {
        match &frame.place {
            Place::Plugin(at) => {
                let (plugin, symbol) = (at.plugin.as_str(), at.symbol.as_str());
                format!("{plugin}: {symbol}+{:#x}", at.offset)
            }
            Place::Departed(_, at) => format!("{}, which left", at.plugin.as_str()),
            Place::Object(start) => match self.0.get(start) {
                Some(file) => format!("{file}+{:#x}", frame.pc.wrapping_sub(*start)),
                None => format!("{:#x}", frame.pc),
            },
            Place::Nowhere => format!("{:#x}", frame.pc),
        }
    }
}
