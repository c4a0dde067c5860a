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

use crate::error::{Holder, HolderKind};
use crate::plugin::Record;
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
    let address = here.or_else(|| outermost_in(&code, row.tid));
    address.map_or_else(Box::default, |address| record.symbol_at(address))
}

impl Presence {
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
    pub(crate) fn look(&self, workers: &Workers, records: &[Arc<Record>]) -> Vec<WorkerInfo> {
        let rows = workers.rows();
        let alive = |key: &(u64, u64)| {
            rows.iter().any(|row| row.serial == key.0)
                && records.iter().any(|record| record.generation == key.1)
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|key, _| alive(key));
        rows.iter()
            .map(|row| WorkerInfo {
                name: row.name.clone(),
                tid: row.tid,
                inside: records
                    .iter()
                    .filter_map(|record| {
                        Some(Inside {
                            since: self.since(row, record)?,
                            plugin: record.name.clone(),
                            function: function(row, record),
                        })
                    })
                    .collect(),
                calls: row.gate.calls(),
                quiescent: row.quiescent(),
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
        for row in workers.rows() {
            if let Some(since) = self.since(&row, record) {
                holders.push(Holder {
                    kind: HolderKind::Call,
                    thread: row.name.clone(),
                    tid: row.tid,
                    function: function(&row, record),
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
        let unregistered = gate::shared_inside(record.id);
        if unregistered > 0 {
            holders.push(nobody(HolderKind::UnregisteredCalls, unregistered));
        }
        let mut unplaced = gate::pinned(gate::pins(record.id));
        if unplaced > 0 {
            let rows = workers.rows();
            for group in record.pins.groups().into_iter().take(MOST_GROUPS) {
                let worker = rows.iter().find(|row| row.tid == group.tid);
                holders.push(Holder {
                    kind: HolderKind::Pins,
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
