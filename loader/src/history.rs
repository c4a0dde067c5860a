//! Plugins that were unloaded: what was where, for samples and crash reports that come late.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use plug_readside::departed;

use crate::checkpoint;
use crate::deadline::{Deadline, lock_until};
use crate::plugin::Plugin;
use crate::record::Record;

/// A plugin that left the process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Departed {
    /// The load it was; its symbols still resolve.
    pub plugin: Plugin,
    /// How long ago it was unmapped.
    pub since: Duration,
}

/// What an address was to one load of a plugin, whether or not that is still in the process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attribution {
    /// The load.
    pub plugin: Plugin,
    /// The symbol as a reader names it, however long; empty where there is none.
    pub symbol: String,
    /// Bytes from the symbol's start, or from the plugin's where there is no symbol.
    pub offset: u64,
    /// How long ago the plugin was unmapped; none while it is in the process.
    pub since: Option<Duration>,
}

impl Attribution {
    /// What `address` was to `record`, if it was inside.
    pub(crate) fn of(record: Arc<Record>, since: Option<Duration>, address: usize) -> Option<Self> {
        let part = record.part_at(address)?;
        let index = part.index.view();
        let svma = address.wrapping_sub(part.bias) as u64;
        let (symbol, start) = match (index.find(svma), index.find_unnamed(svma)) {
            (Some(symbol), _) => (
                String::from_utf8_lossy(symbol.name).into_owned(),
                symbol.svma,
            ),
            (None, Some((start, _))) => (format!("fn@+{start:#x}"), start),
            (None, None) => (String::new(), part.start.wrapping_sub(part.bias) as u64),
        };
        Some(Self {
            plugin: Plugin::new(record),
            symbol,
            offset: svma.wrapping_sub(start),
            since,
        })
    }
}

/// The last plugins that left.
#[derive(Debug)]
pub(crate) struct History {
    kept: usize,
    ring: Mutex<VecDeque<(Instant, Arc<Record>)>>,
}

impl History {
    /// A history of at most `kept` plugins.
    pub(crate) fn new(kept: usize) -> Self {
        Self {
            kept,
            ring: Mutex::default(),
        }
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        lock_until(&self.ring, deadline)
    }

    /// Adds a plugin that was unmapped just now, and tells readers of departed plugins.
    ///
    /// Returns a plugin that is not kept any longer. Readers may still be at its symbols: they are
    /// to be retired.
    #[must_use = "readers may still be at the symbols"]
    pub(crate) fn add(&self, record: Arc<Record>) -> Option<Arc<Record>> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint::note("history.add");
        // One at a time, by the lock.
        record.depart();
        checkpoint::note("history.departed");
        ring.push_back((Instant::now(), record));
        if ring.len() <= self.kept {
            return None;
        }
        let (_, gone) = ring.pop_front()?;
        departed::forget_symbols(gone.generation);
        Some(gone)
    }

    /// The load with this number and how long ago it left, if it is kept.
    pub(crate) fn find(&self, generation: u64) -> Option<(Arc<Record>, Duration)> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter()
            .find(|(_, record)| record.generation == generation)
            .map(|(at, record)| (Arc::clone(record), at.elapsed()))
    }

    /// The plugins that left, the last one first.
    pub(crate) fn list(&self) -> Vec<Departed> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter()
            .rev()
            .map(|(at, record)| Departed {
                plugin: Plugin::new(Arc::clone(record)),
                since: at.elapsed(),
            })
            .collect()
    }
}
