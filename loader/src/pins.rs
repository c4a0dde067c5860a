//! Who took the pins of one load, and where: what an unload tells while it waits for them.
//!
//! The count that unloads wait for is in `plug_readside::gate`; this list is for reports. A pin
//! enters and leaves it through one of a few locks, chosen by the thread that takes the pin, so
//! that threads with objects of their own do not meet.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;

use crate::deadline::{Deadline, lock_until};
use crate::error::HolderKind;
use crate::sys::{clock, task};

/// Locks of one load: more than the cores that take pins at one moment are of no use, and each
/// costs 128 bytes a plugin.
const SHARDS: usize = 8;

/// Room that an empty list keeps, so that pins taken now and then allocate nothing.
const KEPT: usize = 64;

/// The pins of one load.
#[derive(Debug, Default)]
pub(crate) struct Pins([Shard; SHARDS]);

/// Two lines of its own, as processors fetch them, so that locks do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Slab<Taken>>);

/// One pin.
#[derive(Clone, Copy, Debug)]
struct Taken {
    kind: HolderKind,
    place: &'static Location<'static>,
    tid: u32,
    /// Nanoseconds of the coarse monotonic clock.
    at: u64,
}

/// Where a pin stands in the list.
#[derive(Debug)]
#[must_use = "the pin stays in the list"]
pub(crate) struct Ticket {
    shard: usize,
    key: usize,
}

/// Pins of one kind that one thread took at one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// Pins, tasks or wakers.
    pub(crate) kind: HolderKind,
    pub(crate) place: &'static Location<'static>,
    pub(crate) tid: u32,
    pub(crate) count: u64,
    /// Age of the oldest.
    pub(crate) oldest: Duration,
}

impl Pins {
    fn shard(&self, shard: usize) -> Option<MutexGuard<'_, Slab<Taken>>> {
        let shard = self.0.get(shard)?;
        Some(shard.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        let shards = self.0.iter().map(|shard| lock_until(&shard.0, deadline));
        shards.collect::<Option<Vec<_>>>()
    }

    /// Notes a pin that the running thread takes at `place`, for something of that kind.
    pub(crate) fn add(&self, kind: HolderKind, place: &'static Location<'static>) -> Ticket {
        let tid = task::remembered_id();
        let shard = tid as usize % SHARDS;
        let at = clock::coarse();
        let taken = Taken {
            kind,
            place,
            tid,
            at,
        };
        // The remainder is in range.
        let key = self.shard(shard).map_or(0, |mut pins| pins.insert(taken));
        Ticket { shard, key }
    }

    /// Tells what a pin was taken for.
    pub(crate) fn set_kind(&self, ticket: &Ticket, kind: HolderKind) {
        let mut pins = self.shard(ticket.shard);
        if let Some(taken) = pins.as_mut().and_then(|pins| pins.get_mut(ticket.key)) {
            taken.kind = kind;
        }
    }

    /// Forgets a pin that is given back.
    pub(crate) fn remove(&self, ticket: &Ticket) {
        if let Some(mut pins) = self.shard(ticket.shard) {
            let _taken = pins.try_remove(ticket.key);
            if pins.is_empty() && pins.capacity() > KEPT {
                *pins = Slab::new();
            }
        }
    }

    /// The pins held at this moment, the oldest first.
    pub(crate) fn groups(&self) -> Vec<Group> {
        /// Kind, file, line, column and thread.
        type Key = (&'static str, &'static str, u32, u32, u32);
        let mut groups: BTreeMap<Key, (Taken, u64)> = BTreeMap::new();
        for shard in 0..SHARDS {
            for (_, taken) in self.shard(shard).iter().flat_map(|pins| pins.iter()) {
                let place = taken.place;
                let key = (
                    taken.kind.name(),
                    place.file(),
                    place.line(),
                    place.column(),
                    taken.tid,
                );
                let (oldest, count) = groups.entry(key).or_insert((*taken, 0));
                oldest.at = oldest.at.min(taken.at);
                *count += 1;
            }
        }
        let now = clock::coarse();
        let mut groups: Vec<Group> = groups
            .into_values()
            .map(|(taken, count)| Group {
                kind: taken.kind,
                place: taken.place,
                tid: taken.tid,
                count,
                oldest: Duration::from_nanos(now.saturating_sub(taken.at)),
            })
            .collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.oldest));
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_by_place_and_thread_and_empty_in_the_end() {
        let pins = Pins::default();
        let here = Location::caller();
        let there = Location::caller();
        let mut tickets: Vec<Ticket> = (0..1000)
            .map(|_| pins.add(HolderKind::Pins, here))
            .collect();
        tickets.push(pins.add(HolderKind::Tasks, there));
        let elsewhere = std::thread::scope(|scope| {
            let other = scope.spawn(|| pins.add(HolderKind::Pins, here));
            other.join().expect("no panic")
        });
        let mut counts: Vec<u64> = pins.groups().iter().map(|group| group.count).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 1, 1000]);
        pins.remove(&elsewhere);
        tickets.iter().for_each(|ticket| pins.remove(ticket));
        assert!(pins.groups().is_empty());
        let kept = pins.0.iter().map(|shard| {
            let pins = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
            pins.capacity()
        });
        assert!(kept.max() <= Some(KEPT));
    }
}
