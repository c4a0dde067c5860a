//! Memory that readers may still see: kept in order of retirement until they cannot.
//!
//! A snapshot goes when a grace period has passed since it was replaced and nobody holds its
//! `Arc`. An index goes when a grace period has passed and no snapshot older than its retirement
//! is left, since only those can show it. The counts of a retired snapshot's `Arc` are exact: it is
//! reachable only through the `Arc`s already given out, and arc-swap pays its debts when it is
//! replaced.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use crate::index::OwnedIndex;
use crate::snapshot::Snapshot;

/// What was retired and not yet freed.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    /// With the sequence at which another one took its place.
    snapshots: VecDeque<(u64, Arc<Snapshot>)>,
    /// With the sequence of the first snapshot that does not show the index.
    indexes: VecDeque<(u64, Arc<OwnedIndex>)>,
    bytes: usize,
    /// What the last round could not free.
    left_over: usize,
}

/// What may be freed: dropped outside the writer's lock.
#[derive(Debug)]
pub(crate) struct Garbage {
    _snapshots: Vec<Arc<Snapshot>>,
    _indexes: Vec<Arc<OwnedIndex>>,
}

impl Retired {
    pub(crate) fn snapshot(&mut self, replaced: u64, snapshot: Arc<Snapshot>) {
        self.bytes += snapshot.bytes();
        self.snapshots.push_back((replaced, snapshot));
    }

    pub(crate) fn index(&mut self, sequence: u64, index: Arc<OwnedIndex>) {
        self.bytes += index.bytes();
        self.indexes.push_back((sequence, index));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.indexes.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes retired since the last round.
    pub(crate) fn fresh_bytes(&self) -> usize {
        self.bytes.saturating_sub(self.left_over)
    }

    /// Takes out what may go, given that a grace period began after snapshot `upto` was current
    /// and has ended.
    pub(crate) fn take(&mut self, upto: u64) -> Garbage {
        let mut snapshots = Vec::new();
        let mut kept = VecDeque::new();
        for (replaced, mut snapshot) in self.snapshots.drain(..) {
            // Past the grace period nobody reaches it by raw pointer; alone for good, since a `Weak`
            // could bring back a snapshot whose indexes are gone; and after the last access of
            // whoever held it.
            if replaced <= upto && Arc::get_mut(&mut snapshot).is_some() {
                snapshots.push(snapshot);
            } else {
                kept.push_back((replaced, snapshot));
            }
        }
        self.snapshots = kept;
        let oldest = self
            .snapshots
            .front()
            .map_or(u64::MAX, |(_, snapshot)| snapshot.sequence());
        let mut indexes = Vec::new();
        let mut kept = VecDeque::new();
        for (sequence, index) in self.indexes.drain(..) {
            if sequence <= upto && sequence <= oldest {
                indexes.push(index);
            } else {
                kept.push_back((sequence, index));
            }
        }
        self.indexes = kept;
        self.bytes = self
            .snapshots
            .iter()
            .map(|(_, snapshot)| snapshot.bytes())
            .sum::<usize>()
            + self
                .indexes
                .iter()
                .map(|(_, index)| index.bytes())
                .sum::<usize>();
        self.left_over = self.bytes;
        Garbage {
            _snapshots: snapshots,
            _indexes: indexes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Arc<OwnedIndex> {
        Arc::new(OwnedIndex::empty())
    }

    #[test]
    fn take_held_snapshot_keeps_it_and_later_indexes() {
        let mut retired = Retired::default();
        let held = Snapshot::new(&[], 1);
        retired.snapshot(2, Arc::clone(&held));
        retired.snapshot(3, Snapshot::new(&[], 2));
        let shown_by_both = index();
        retired.index(3, Arc::clone(&shown_by_both));
        drop(retired.take(3));
        assert_eq!(retired.snapshots.len(), 1);
        assert_eq!(Arc::strong_count(&shown_by_both), 2);
        drop(held);
        drop(retired.take(3));
        assert!(retired.is_empty());
        assert_eq!(Arc::strong_count(&shown_by_both), 1);
        assert_eq!(retired.bytes(), 0);
    }

    #[test]
    fn take_snapshot_with_a_weak_reference_keeps_what_it_shows() {
        let mut retired = Retired::default();
        let weak = {
            let snapshot = Snapshot::new(&[], 1);
            let weak = Arc::downgrade(&snapshot);
            retired.snapshot(2, snapshot);
            weak
        };
        let shown = index();
        retired.index(2, Arc::clone(&shown));
        let garbage = retired.take(2);
        let brought_back = weak.upgrade();
        drop(garbage);
        assert!(brought_back.is_none() || Arc::strong_count(&shown) == 2);
        drop(brought_back);
        drop(weak);
        drop(retired.take(2));
        assert!(retired.is_empty());
    }

    #[test]
    fn take_index_retired_before_the_held_snapshot_frees_it() {
        let mut retired = Retired::default();
        let old = index();
        retired.index(1, Arc::clone(&old));
        let held = Snapshot::new(&[], 1);
        retired.snapshot(2, Arc::clone(&held));
        drop(retired.take(2));
        assert_eq!(Arc::strong_count(&old), 1);
        assert_eq!(held.sequence(), 1);
    }

    #[test]
    fn take_up_to_an_unpublished_sequence_keeps_what_was_current_then() {
        let mut retired = Retired::default();
        // Snapshot 5 was current while an index was retired at 6; 7 replaced it afterwards.
        retired.index(6, index());
        retired.snapshot(7, Snapshot::new(&[], 5));
        drop(retired.take(6));
        assert_eq!(retired.snapshots.len(), 1);
        drop(retired.take(7));
        assert!(retired.is_empty());
    }

    #[test]
    fn take_before_the_grace_period_covers_it_keeps_it() {
        let mut retired = Retired::default();
        retired.snapshot(6, Snapshot::new(&[], 5));
        retired.index(6, index());
        drop(retired.take(5));
        assert!(!retired.is_empty());
        drop(retired.take(6));
        assert!(retired.is_empty());
    }
}
