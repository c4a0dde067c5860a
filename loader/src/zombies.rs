//! Plugins that are closed and still mapped: why, what they wait for, and their end.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use plug_readside::state::State;

use crate::deadline::Deadline;
use crate::farewell::Farewell;
use crate::footprint::ledger;
use crate::lingering::Lingering;
use crate::recheck::Recheck;
use crate::record::{Loaded, Record};
use crate::registry::Registry;
use crate::sys::dl;

/// A closed plugin that is still mapped.
#[derive(Debug)]
pub(crate) struct Zombie {
    pub(crate) lingering: Lingering,
    /// Its slot, given back when it is gone.
    pub(crate) id: u32,
    pub(crate) record: Arc<Record>,
    /// What it still owns, its staged file included; taken by whoever closes it.
    pub(crate) loaded: Option<Loaded>,
    /// What it is kept for, if it is to be closed afterwards.
    pub(crate) until: Option<Until>,
}

/// What a closed plugin that is still mapped waits for.
#[derive(Clone, Debug)]
pub(crate) enum Until {
    /// Its `exit` has not returned yet.
    Said(Arc<Farewell>),
    /// Threads owe it something, before or after its own destructors.
    Settled { destroyed: bool },
    /// Somebody is inside, or keeps a pointer into it, after its own destructors.
    Free(Recheck),
}

impl Registry {
    /// Keeps a closed plugin that is still mapped; its name is free, its slot is not.
    pub(crate) fn bury(&self, mut zombie: Zombie) {
        let record = Arc::clone(&zombie.record);
        self.advance(record.id, record.generation, State::Zombie);
        let mut writer = self.lock();
        let generation = record.generation;
        writer
            .entries
            .retain(|entry| entry.generation != generation);
        let mut before = writer.zombies.iter();
        if let Some(before) = before.find(|other| other.record.generation == generation) {
            zombie.lingering.since = before.lingering.since;
        }
        writer
            .zombies
            .retain(|other| other.record.generation != generation);
        writer.zombies.push(zombie);
        drop(writer);
        self.changed.notify_all();
        self.retired.notify_all();
    }

    /// Forgets zombies that have left the process meanwhile, and names them. Those that were given
    /// back to ld.so are looked at by it once more, unless they are pinned.
    pub(crate) fn collect_zombies(&self) -> Vec<Arc<Record>> {
        let mut collected = Vec::new();
        let waiting: Vec<u64> = self
            .lock()
            .zombies
            .iter()
            .map(|z| z.record.generation)
            .collect();
        for generation in waiting {
            let mut writer = self.lock();
            let Some(at) = writer
                .zombies
                .iter()
                .position(|z| z.record.generation == generation)
            else {
                continue;
            };
            let zombie = writer.zombies.get(at);
            let is_pinned = zombie.is_some_and(|zombie| zombie.lingering.is_pinned);
            let loaded = zombie.and_then(|zombie| zombie.loaded.as_ref());
            let of = |loaded: &Loaded| {
                let record = Arc::clone(&loaded.record);
                (record, loaded.names.clone(), loaded.mapped.is_none())
            };
            let named = loaded.map(of);
            drop(writer);
            // Asked without the lock: it takes ld.so's.
            let Some((record, names, is_closed)) = named else {
                continue;
            };
            let is_listed = |name: &&CStr| {
                if is_closed && !is_pinned {
                    // SAFETY: closed before, when nobody was inside or could enter any more.
                    unsafe { dl::look_again(name) }
                } else {
                    dl::look(name).is_listed
                }
            };
            let names: Vec<&CStr> = names.iter().map(CString::as_c_str).collect();
            let still: Vec<&CStr> = names.into_iter().filter(is_listed).collect();
            if !still.is_empty() {
                let shown = record.rows().count();
                record.note_gone(&still);
                if is_closed && record.rows().count() < shown {
                    // Somebody else may be mapped where a part was.
                    self.hide(generation);
                    self.show(&record);
                }
                continue;
            }
            self.hide(generation);
            writer = self.lock();
            let at = writer
                .zombies
                .iter()
                .position(|z| z.record.generation == generation);
            let zombie = at.map(|at| writer.zombies.swap_remove(at));
            drop(writer);
            if let Some(zombie) = zombie {
                self.release(zombie.id, generation);
                collected.push(Arc::clone(&zombie.record));
            }
        }
        collected
    }

    /// Takes what the zombies own for which what they waited for has happened. They stay in the list
    /// until they are gone or buried anew.
    pub(crate) fn take_returned(&self) -> Vec<(Loaded, Until)> {
        let of = |zombie: &Zombie| Some((zombie.record.generation, zombie.until.clone()?));
        let waiting: Vec<_> = self.lock().zombies.iter().filter_map(of).collect();
        // Asked without the lock: the kernel is, or every thread's record.
        let over = waiting
            .into_iter()
            .filter(|(generation, until)| match until {
                Until::Said(farewell) => farewell.is_over(),
                Until::Settled { .. } => ledger::debts(*generation).is_empty(),
                Until::Free(recheck) => recheck.holds(),
            });
        let take = |(generation, until)| {
            let mut writer = self.lock();
            let mut zombies = writer.zombies.iter_mut();
            let zombie = zombies.find(|zombie| zombie.record.generation == generation)?;
            Some((zombie.loaded.take()?, until))
        };
        over.filter_map(take).collect()
    }

    /// Forgets a zombie that is gone; its slot is free.
    pub(crate) fn release_zombie(&self, id: u32, generation: u64) {
        let mut writer = self.lock();
        writer
            .zombies
            .retain(|zombie| zombie.record.generation != generation);
        drop(writer);
        self.release(id, generation);
    }

    /// Zombies and why they were kept.
    pub(crate) fn zombies(&self) -> Vec<(Lingering, Arc<Record>)> {
        let of = |zombie: &Zombie| (zombie.lingering.clone(), Arc::clone(&zombie.record));
        self.lock().zombies.iter().map(of).collect()
    }

    /// Waits until no zombie has this name, in canonical form, but pinned ones, which never go: true
    /// then. False when the deadline passes.
    pub(crate) fn wait_for_zombies(&self, canonical: &str, deadline: Deadline) -> bool {
        let waits =
            |zombie: &Zombie| *zombie.record.canonical == *canonical && !zombie.lingering.is_pinned;
        let mut writer = self.lock();
        while writer.zombies.iter().any(waits) {
            if deadline.has_passed() {
                return false;
            }
            writer = self
                .changed
                .wait_timeout(writer, deadline.remaining())
                .map_or_else(|poison| poison.into_inner().0, |(writer, _)| writer);
        }
        true
    }
}
