//! Plugins that were unloaded: what was where, for samples and crash reports that come late.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use plug_readside::departed;

use crate::plugin::{Plugin, Record};

/// A plugin that left the process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Departed {
    /// The load it was; its symbols still resolve.
    pub plugin: Plugin,
    /// How long ago it was unmapped.
    pub since: Duration,
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

    /// Adds a plugin that was unmapped just now, and tells readers of departed plugins.
    ///
    /// Returns a plugin that is not kept any longer. Readers may still be at its symbols: they are
    /// to be retired.
    #[must_use = "readers may still be at the symbols"]
    pub(crate) fn add(&self, record: Arc<Record>) -> Option<Arc<Record>> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // One at a time, by the lock.
        record.depart();
        ring.push_back((Instant::now(), record));
        if ring.len() <= self.kept {
            return None;
        }
        let (_, gone) = ring.pop_front()?;
        departed::forget_symbols(gone.generation);
        Some(gone)
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
