//! The guards of a load that has mapped something: what undoes its steps, in reverse, unless it is kept.

use std::cell::RefCell;
use std::ffi::CString;
use std::mem::{self, ManuallyDrop};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use plug_readside::state::State;

use crate::deadline::Deadline;
use crate::events::{EventKind, Told};
use crate::executor::{self, Ending};
use crate::footprint::account;
use crate::footprint::{self, Owner};
use crate::image::StageLink;
use crate::imports::References;
use crate::lingering::{Lingering, Why};
use crate::process::Process;
use crate::quiesce;
use crate::record::{Destructors, Loaded, Record};
use crate::remains;
use crate::settlement;
use crate::sys::dl;
use crate::unload;
use crate::zombies::{Until, Zombie};

/// Time that threads which ran a plugin's code get to end before it stays mapped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Hides the plugin from readers, unless kept.
pub(crate) struct Shown {
    pub(crate) process: &'static Process,
    pub(crate) generation: u64,
    pub(crate) kept: bool,
}

impl Shown {
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if !self.kept {
            self.process.registry.hide(self.generation);
        }
    }
}

/// Has those told that the plugin goes who were told that it comes, before it is gone, unless kept.
pub(crate) struct Announced<'a> {
    pub(crate) process: &'static Process,
    pub(crate) record: &'a Record,
    pub(crate) told: Option<Told>,
}

impl Announced<'_> {
    pub(crate) fn keep(mut self) {
        self.told = None;
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if let Some(told) = self.told.take() {
            let (process, record) = (self.process, self.record);
            let (id, generation) = (record.id, record.generation);
            process.registry.advance(id, generation, State::Going);
            let patience = process.config.subscriber_patience;
            process.events.retract(told, patience);
        }
    }
}

/// Has threads end that ran the plugin's code, and destroy what is theirs, before readers no longer
/// see it; unless kept.
pub(crate) struct Settled<'a> {
    pub(crate) process: &'static Process,
    pub(crate) record: &'a Arc<Record>,
    /// Threads of the loader's that ran its code.
    pub(crate) threads: &'a RefCell<Vec<Ending>>,
    /// One of them that has not ended in time.
    pub(crate) running: RefCell<Option<String>>,
    pub(crate) owed: &'a RefCell<Option<(Why, Option<Until>)>>,
}

impl Settled<'_> {
    /// The threads are the unload's to wait for.
    pub(crate) fn keep(self) {
        let _kept = ManuallyDrop::new(self);
    }

    /// Has whoever may run the plugin's code stop, before its destructors: its threads, its handlers,
    /// and what threads destroy for it. Whether all of that has ended.
    pub(crate) fn silence(&self) -> bool {
        self.wait_for_threads() && self.settle().is_none()
    }

    /// Whether the loader's threads that ran its code have ended.
    fn wait_for_threads(&self) -> bool {
        if let Err(reason) = executor::wait_all(self.threads.take(), LAST_WORDS) {
            self.running.borrow_mut().get_or_insert(reason);
        }
        self.running.borrow().is_none()
    }

    /// Has threads destroy what is theirs, and waits for whoever is inside: why the plugin stays,
    /// if it does, and what it waits for.
    fn settle(&self) -> Option<(Why, Option<Until>)> {
        let record = self.record;
        let has_callbacks = footprint::has_callbacks(record.generation);
        let for_ever = settlement::withdraw(record);
        if !for_ever.is_empty() {
            return Some((Why::for_ever(for_ever), None));
        }
        if has_callbacks {
            // They could enter until it was Going, before the first of its constructors was undone.
            let soon = Deadline::after(LAST_WORDS);
            let go_on = |_| ControlFlow::Continue(());
            let (workers, presence) = (&self.process.workers, &self.process.presence);
            if quiesce::drain(workers, presence, record, soon, go_on).is_err() {
                let reason = "a handler of its own has not returned";
                return Some((Why::from(reason.to_owned()), None));
            }
        }
        let soon = Deadline::after(LAST_WORDS);
        let settled = settlement::settle(self.process, record, soon);
        // What was to be undone is undone.
        let until = Until::Settled { destroyed: true };
        settled.err().map(|owed| (Why::owed(owed), Some(until)))
    }
}

impl Drop for Settled<'_> {
    fn drop(&mut self) {
        self.record.context.threads().stop();
        let mut owed = match self.wait_for_threads() {
            true => self.settle(),
            // Its code may still run: it stays, and for ever.
            false => self.running.take().map(|reason| (Why::from(reason), None)),
        };
        if owed.is_none() {
            let held = unload::held(self.process, self.record, Deadline::after(LAST_WORDS));
            owed = held.err().map(|held| (held.0, Some(held.1)));
        }
        if owed.is_none() {
            settlement::release(self.record);
        }
        self.owed.replace(owed);
    }
}

/// What is left of a mapping that is kept.
pub(crate) type Kept = (
    Option<dl::Mapped>,
    Option<account::Open>,
    Option<References>,
    Vec<CString>,
    Vec<Arc<StageLink>>,
);

/// Gives the mapping back to ld.so, unless kept, and reports what stays.
///
/// What stays is a zombie as after an unload: readers see it, and it is collected when it goes.
pub(crate) struct Mapping<'a> {
    pub(crate) process: &'static Process,
    pub(crate) owner: Owner,
    pub(crate) mapped: Option<dl::Mapped>,
    /// Outlives the mapping, whose imports lead to it.
    pub(crate) account: Option<account::Open>,
    /// What it imports stays as long as it is mapped.
    pub(crate) references: Option<References>,
    /// Why it may not be given back, and what it waits for: threads still run its code, or owe it
    /// something.
    pub(crate) owed: &'a RefCell<Option<(Why, Option<Until>)>>,
    pub(crate) names: Vec<CString>,
    pub(crate) links: Vec<Arc<StageLink>>,
    pub(crate) left: &'a mut Option<Lingering>,
    pub(crate) pinned_because: Vec<String>,
    /// Known once the plugin is described.
    pub(crate) record: Option<Arc<Record>>,
}

impl Mapping<'_> {
    pub(crate) fn keep(&mut self) -> Kept {
        let (names, links) = (mem::take(&mut self.names), mem::take(&mut self.links));
        let references = self.references.take();
        let (mapped, account) = (self.mapped.take(), self.account.take());
        (mapped, account, references, names, links)
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        let Some(mapped) = self.mapped.take() else {
            return;
        };
        if self.record.is_none() {
            // Nothing has run that could be settled.
            footprint::release(self.owner);
        }
        let (mapped, why, until) = match self.owed.take() {
            Some((why, until)) => (Some(mapped), why, until),
            // SAFETY: the plugin never was Live, so nobody has called it or holds a pointer into
            // it; what its constructors and init left behind was undone, and threads that ran its
            // code have ended and owe it nothing.
            None => match unsafe { mapped.close() } {
                Ok(()) => match remains::of(self.record.as_deref(), &self.names) {
                    reasons if reasons.is_empty() => return,
                    reasons => (None, Why::for_ever(reasons), None),
                },
                Err(refusal) => (None, refusal.to_string().into(), None),
            },
        };
        if until.is_none() {
            // As in an unload: none of its code is expected to run any more.
            drop(self.references.take());
        }
        let pinned_because = mem::take(&mut self.pinned_because);
        let is_pinned = mapped.is_some() && until.is_none() || !pinned_because.is_empty();
        let Some(record) = self.record.take() else {
            *self.left = Some(why.lingering("", 0, &pinned_because, is_pinned));
            // Its imports lead there for ever.
            let _open = ManuallyDrop::new((self.account.take(), self.references.take()));
            return;
        };
        let generation = record.generation;
        let lingering = why.lingering(&record.name, generation, &pinned_because, is_pinned);
        self.process.registry.show(&record);
        self.process.registry.bury(Zombie {
            lingering: lingering.clone(),
            id: record.id,
            record: Arc::clone(&record),
            loaded: Some(Loaded {
                record,
                mapped,
                _account: self.account.take(),
                names: mem::take(&mut self.names),
                _links: mem::take(&mut self.links),
                descriptor: None,
                destructors: Destructors::default(),
                threads: Vec::new(),
                references: self.references.take(),
            }),
            until,
        });
        let reasons = lingering.reasons.clone();
        let kind = if is_pinned {
            EventKind::Pinned(reasons)
        } else {
            EventKind::Zombie(reasons)
        };
        self.process
            .events
            .push(&lingering.plugin, generation, kind);
        *self.left = Some(lingering);
    }
}
