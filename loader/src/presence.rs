//! Who is inside which plugin, and since when it has been seen there.
//!
//! Workers note no time: whoever asks compares with what was seen before. A counter that has not
//! moved since then means the same call, so that "since" is never longer than the truth and at
//! most one look shorter.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use plug_readside::gate;

use crate::deadline::{Deadline, lock_until};
use crate::error::{Holder, HolderKind};
use crate::record::Record;
use crate::stack::outermost_in;
use crate::sys::task;
use crate::worker::{WorkerRow, Workers};

/// Places and threads that hold pins and are told apart; of the others only the number is told.
const MOST_GROUPS: usize = 32;

/// A worker thread at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// The worker's name.
    pub name: Box<str>,
    /// Its thread id.
    pub tid: u32,
    /// The plugins it is inside of.
    pub inside: Vec<Inside>,
    /// Calls of plugins it has made.
    pub calls: u64,
    /// Quiescent points it has passed.
    pub quiescent: u64,
    /// Whether it sleeps at a quiescent point.
    pub is_asleep: bool,
    /// Whether it reads through a line of its own; otherwise by claims.
    pub has_line: bool,
    /// Whether its thread ended without giving the worker back.
    pub is_dead: bool,
}

/// A plugin that a worker is inside of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inside {
    /// The plugin's name.
    pub plugin: Box<str>,
    /// The function it is in; empty where no exported symbol covers it, or where it is not known.
    pub function: Box<str>,
    /// How long it has been seen there.
    pub since: Duration,
}

/// What was seen at the last look, by worker and plugin generation.
#[derive(Debug, Default)]
pub(crate) struct Presence(Mutex<HashMap<(u64, u64), (u64, Instant)>>);

/// The function of `record`'s plugin that a worker is in.
///
/// The row tells the innermost call of all. Where that is of another plugin, into which this one
/// led, the stack tells, if the worker is blocked.
fn function(row: &WorkerRow, record: &Record) -> Box<str> {
    let (current, code) = (row.gate.current(), record.start..record.end);
    let here = code.contains(&current).then_some(current);
    let address = here.or_else(|| outermost_in(&code, row.tid()));
    address.map_or_else(Box::default, |address| record.symbol_at(address))
}

impl Presence {
    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        lock_until(&self.0, deadline)
    }

    /// How long `row` has been seen in its present call of `record`'s plugin; none outside.
    fn since(&self, row: &WorkerRow, record: &Record) -> Option<Duration> {
        let count = row.gate.count(record.id)?;
        let key = (row.serial, record.generation);
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if gate::inside(count) == 0 {
            seen.remove(&key);
            return None;
        }
        let calls = gate::calls(count);
        let now = Instant::now();
        let entry = seen.entry(key).or_insert((calls, now));
        if entry.0 != calls {
            *entry = (calls, now);
        }
        Some(now.saturating_duration_since(entry.1))
    }

    /// All workers and where they are; to be called now and then so that "since" is fresh.
    ///
    /// A load a worker and plugin, and little more: most are outside of most.
    pub(crate) fn look(&self, workers: &Workers, records: &[Arc<Record>]) -> Vec<WorkerInfo> {
        let rows = workers.rows();
        for row in &rows {
            row.look_whether_dead();
            row.tell_death();
        }
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut still = HashMap::new();
        let mut since = |row: &WorkerRow, record: &Record| {
            let count = row.gate.count(record.id)?;
            if gate::inside(count) == 0 {
                return None;
            }
            let (key, calls) = ((row.serial, record.generation), gate::calls(count));
            let same = seen.get(&key).filter(|(before, _)| *before == calls);
            let since = same.map_or(now, |(_, since)| *since);
            still.insert(key, (calls, since));
            Some(now.saturating_duration_since(since))
        };
        let mut of = |row: &WorkerRow| -> Vec<(&Arc<Record>, Duration)> {
            let inside = records
                .iter()
                .filter_map(|record| Some((record, since(row, record)?)));
            inside.collect()
        };
        let places: Vec<_> = rows.iter().map(|row| of(row)).collect();
        *seen = still;
        drop(seen);
        // With no lock held, since stacks are looked at.
        let inside = |row: &WorkerRow, (record, since): (&Arc<Record>, Duration)| Inside {
            since,
            plugin: record.name.clone(),
            function: function(row, record),
        };
        rows.iter()
            .zip(places)
            .map(|(row, places)| WorkerInfo {
                name: row.name.clone(),
                tid: row.tid(),
                inside: places.into_iter().map(|place| inside(row, place)).collect(),
                calls: row.gate.calls(),
                quiescent: row.points.passed(),
                is_asleep: row.points.is_asleep(),
                has_line: row.has_line,
                is_dead: row.is_dead(),
            })
            .collect()
    }

    /// Everybody who holds `record`'s plugin. `waited` is how long the caller has seen those
    /// that nobody can name.
    pub(crate) fn holders(
        &self,
        workers: &Workers,
        record: &Record,
        waited: Duration,
    ) -> Vec<Holder> {
        let mut holders = Vec::new();
        // The dead hold nothing: what they never left is forgotten by the unload.
        for row in workers.rows().iter().filter(|row| !row.is_dead()) {
            if let Some(since) = self.since(row, record) {
                holders.push(Holder {
                    kind: HolderKind::Call,
                    thread: row.name.clone(),
                    tid: row.tid(),
                    function: function(row, record),
                    count: row.gate.count(record.id).map_or(1, gate::inside),
                    since: since.max(waited),
                    place: None,
                });
            }
        }
        let nobody = |kind, count| Holder {
            kind,
            thread: Box::default(),
            tid: 0,
            function: Box::default(),
            count,
            since: waited,
            place: None,
        };
        let threads = record.context.threads().running().into_iter();
        holders.extend(threads.map(|thread| Holder {
            kind: HolderKind::Thread,
            thread: thread.name,
            tid: thread.tid,
            function: record.function_at(thread.start),
            count: 1,
            since: thread.told.unwrap_or_default(),
            place: None,
        }));
        let unregistered = gate::shared_inside(record.id);
        if unregistered > 0 {
            holders.push(nobody(HolderKind::UnregisteredCalls, unregistered));
        }
        let mut unplaced = gate::pinned(gate::pins(record.id));
        if unplaced > 0 {
            let rows = workers.rows();
            for group in record.pins.groups().into_iter().take(MOST_GROUPS) {
                let worker = rows.iter().find(|row| row.tid() == group.tid);
                holders.push(Holder {
                    kind: group.kind,
                    thread: worker.map_or_else(|| task::name_of(group.tid), |row| row.name.clone()),
                    tid: group.tid,
                    function: Box::default(),
                    count: group.count,
                    since: group.oldest.max(waited),
                    place: Some(group.place),
                });
                unplaced = unplaced.saturating_sub(group.count);
            }
        }
        // Those of many more places, and those that are being taken or given back right now.
        if unplaced > 0 {
            holders.push(nobody(HolderKind::Pins, unplaced));
        }
        holders
    }
}
