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
use crate::plugin::Record;
use crate::worker::{WorkerRow, Workers};

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
    /// The function of the innermost call; empty where no exported symbol covers it.
    pub function: Box<str>,
    /// How long it has been seen there.
    pub since: Duration,
}

/// What was seen at the last look, by worker and plugin generation.
#[derive(Debug, Default)]
pub(crate) struct Presence(Mutex<HashMap<(u64, u64), (u64, Instant)>>);

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
        let mut inside_of = |row: &WorkerRow, record: &Arc<Record>| {
            let count = row.gate.count(record.id)?;
            if gate::inside(count) == 0 {
                return None;
            }
            let (key, calls) = ((row.serial, record.generation), gate::calls(count));
            let same = seen.get(&key).filter(|(before, _)| *before == calls);
            let since = same.map_or(now, |(_, since)| *since);
            still.insert(key, (calls, since));
            Some(Inside {
                since: now.saturating_duration_since(since),
                plugin: record.name.clone(),
                function: record.symbol_at(row.gate.current()),
            })
        };
        let infos = rows
            .iter()
            .map(|row| WorkerInfo {
                name: row.name.clone(),
                tid: row.tid(),
                inside: records
                    .iter()
                    .filter_map(|record| inside_of(row, record))
                    .collect(),
                calls: row.gate.calls(),
                quiescent: row.points.passed(),
                is_asleep: row.points.is_asleep(),
                has_line: row.has_line,
                is_dead: row.is_dead(),
            })
            .collect();
        *seen = still;
        infos
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
                    function: record.symbol_at(row.gate.current()),
                    count: row.gate.count(record.id).map_or(1, gate::inside),
                    since: since.max(waited),
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
        };
        let unregistered = gate::shared_inside(record.id);
        if unregistered > 0 {
            holders.push(nobody(HolderKind::UnregisteredCalls, unregistered));
        }
        let pins = gate::pinned(gate::pins(record.id));
        if pins > 0 {
            holders.push(nobody(HolderKind::Pins, pins));
        }
        holders
    }
}
