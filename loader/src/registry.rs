//! The writer's truth: which plugins there are, and the one place that publishes them.
//!
//! One mutex orders all writers. It is never held while a plugin's code, ld.so or a grace period
//! is waited for. Lock order: flights, then the writer, then the workers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use plug_readside::snapshot::Row;
use plug_readside::state::{self, MAX_PLUGINS, State, StateWord};

use crate::checkpoint;
use crate::deadline::{Deadline, lock_until};
use crate::error::{Error, ErrorKind, Stage};
use crate::index::OwnedIndex;
use crate::lineage::Place;
use crate::record::{Loaded, Record};
use crate::retired::Retired;
use crate::snapshot::Snapshot;
use crate::zombies::Zombie;

/// Fresh bytes for which the drainer does not wait out its second: as much as the 256 snapshots of
/// 1,600 plugins. Half of it would have it run more often, twice as much would be held for longer.
const MUCH: usize = 16 << 20;

/// How long it may take to see who uses whom before plugins are ended.
const LOOK: Duration = Duration::from_millis(200);

/// Names to plugins, and the snapshot made of them.
#[derive(Debug)]
pub(crate) struct Registry {
    writer: Mutex<Writer>,
    /// An entry changed its state or left.
    pub(crate) changed: Condvar,
    /// Something was retired, or a zombie was made.
    pub(crate) retired: Condvar,
    /// The current snapshot for thread context; handlers reach the same object by raw pointer.
    current: ArcSwap<Snapshot>,
}

/// What the lock protects.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Claimed names, in order of load. A zombie has given its name up.
    pub(crate) entries: Vec<Entry>,
    rows: Rows,
    /// Owners of the indexes that `rows` point at, by generation.
    indexes: Vec<(u64, Arc<OwnedIndex>)>,
    free: VecDeque<u32>,
    next_id: u32,
    next_generation: u64,
    sequence: u64,
    retired: Retired,
    pub(crate) zombies: Vec<Zombie>,
    /// Loads that wait for a plugin that they import functions of: canonical names.
    pub(crate) waits: Vec<(Box<str>, Box<str>)>,
    shut_down: bool,
}

/// The rows of the next snapshot, sorted by address.
#[derive(Debug, Default)]
struct Rows(Vec<Row>);

// SAFETY: the pointers in the rows point at indexes that `Writer::indexes` owns beside them.
unsafe impl Send for Rows {}

/// One claimed name.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) canonical: Box<str>,
    standing: Standing,
    pub(crate) id: u32,
    pub(crate) generation: u64,
    /// Set when the plugin is described; handles share it.
    pub(crate) record: Option<Arc<Record>>,
    /// What an unload takes; present from Live on.
    loaded: Option<Loaded>,
}

/// Whom a name means, of several versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// This one.
    Named,
    /// Another one, which this one is about to replace.
    Heir,
    /// Another one, which has replaced this one.
    Former,
}

/// A reserved name with its slot and generation, given back when dropped unless kept.
#[derive(Debug)]
#[must_use = "the name is free again when the claim is dropped"]
pub(crate) struct Claim {
    registry: &'static Registry,
    pub(crate) id: u32,
    pub(crate) generation: u64,
    kept: bool,
}

/// A plugin on its way out: nobody else can take it.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) loaded: Loaded,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let registry = Self {
            writer: Mutex::new(Writer {
                entries: Vec::new(),
                rows: Rows::default(),
                indexes: Vec::new(),
                free: VecDeque::new(),
                next_id: 0,
                next_generation: 1,
                sequence: 0,
                retired: Retired::default(),
                zombies: Vec::new(),
                waits: Vec::new(),
                shut_down: false,
            }),
            changed: Condvar::new(),
            retired: Condvar::new(),
            current: ArcSwap::new(Snapshot::new(&[], 0)),
        };
        let mut writer = registry.lock();
        registry.publish(&mut writer);
        drop(writer);
        registry
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps all writers out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<MutexGuard<'_, Writer>> {
        lock_until(&self.writer, deadline)
    }

    /// The current snapshot, to keep.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Reserves `name`, waiting for a load of the same name to finish.
    ///
    /// As the kernel does: a plugin that is Live refuses at once, one that is Going refuses as
    /// busy at once, and one that is Coming is waited for and then refuses either way, so that a
    /// storm of loads does not become a queue of loads.
    ///
    /// One that is to replace the load `beside` finds that Live, and stands beside it.
    ///
    /// # Source
    /// `module_patient_check_exists` in kernel/module/main.c.
    pub(crate) fn claim(
        &'static self,
        name: &str,
        beside: Option<u64>,
        deadline: Deadline,
    ) -> Result<Claim, Error> {
        let canonical = canonical(name);
        let mut writer = self.lock();
        let mut waited_for = None;
        loop {
            if writer.shut_down {
                return Err(Error::new(ErrorKind::ShutDown, "the loader was shut down"));
            }
            if beside.is_some() && writer.heir(&canonical).is_some() {
                let message = "it is being replaced; try again when that is done";
                return Err(Error::new(ErrorKind::Busy, message));
            }
            let Some(entry) = writer.find(&canonical) else {
                break;
            };
            let word = state::word(entry.id);
            match word.state() {
                State::Live if Some(entry.generation) == beside => break,
                State::Live => {
                    return Err(Error::new(
                        ErrorKind::AlreadyLoaded,
                        "a plugin of this name is Live; unload it first or load under another name",
                    ));
                }
                State::Unformed | State::Coming if !deadline.has_passed() => {
                    waited_for = Some(entry.generation);
                    writer = self
                        .changed
                        .wait_timeout(writer, deadline.remaining().min(Duration::from_secs(1)))
                        .map_or_else(|poison| poison.into_inner().0, |(writer, _)| writer);
                }
                busy => {
                    let busy = busy.name();
                    return Err(Error::new(
                        ErrorKind::Busy,
                        format!("a plugin of this name is {busy}; try again when it is done"),
                    ));
                }
            }
        }
        if waited_for.is_some() {
            return Err(Error::new(
                ErrorKind::Busy,
                "another load of this name was waited for and failed; try again",
            ));
        }
        let id = match writer.free.pop_front() {
            Some(id) => id,
            None if (writer.next_id as usize) < MAX_PLUGINS => {
                writer.next_id += 1;
                writer.next_id - 1
            }
            None => {
                return Err(Error::new(
                    ErrorKind::TooManyPlugins,
                    format!("expected at most {MAX_PLUGINS} plugins, found as many; unload some"),
                ));
            }
        };
        let generation = writer.next_generation;
        writer.next_generation += 1;
        writer.entries.push(Entry {
            canonical,
            standing: match beside {
                None => Standing::Named,
                Some(_) => Standing::Heir,
            },
            id,
            generation,
            record: None,
            loaded: None,
        });
        set(id, generation, State::Unformed);
        Ok(Claim {
            registry: self,
            id,
            generation,
            kept: false,
        })
    }

    /// Moves a plugin from one state to the next, for everybody to see.
    pub(crate) fn advance(&self, id: u32, generation: u64, to: State) {
        let writer = self.lock();
        set(id, generation, to);
        drop(writer);
        self.changed.notify_all();
    }

    /// Makes a plugin Live, and `arrive` gives what an unload takes of it and tells that it is Live,
    /// before anybody can take it: nobody hears that it goes first. `arrive` takes no lock but the
    /// events'.
    pub(crate) fn go_live(&self, id: u32, generation: u64, arrive: impl FnOnce() -> Loaded) {
        let mut writer = self.lock();
        set(id, generation, State::Live);
        writer.settle(arrive());
        drop(writer);
        self.changed.notify_all();
    }

    /// Makes a plugin visible to readers. Never waits.
    pub(crate) fn show(&self, record: &Arc<Record>) {
        let mut writer = self.lock();
        if let Some(entry) = writer
            .entries
            .iter_mut()
            .find(|entry| entry.generation == record.generation)
        {
            entry.record = Some(Arc::clone(record));
        }
        for row in record.rows() {
            // ld.so gave the range to this plugin: whoever was shown there is gone, though the
            // drainer has not noticed yet.
            writer
                .rows
                .0
                .retain(|other| other.end <= row.start || other.start >= row.end);
            let place = writer
                .rows
                .0
                .partition_point(|other| other.start < row.start);
            writer.rows.0.insert(place, row);
        }
        let indexes = record.parts.iter().map(|part| Arc::clone(&part.index));
        writer
            .indexes
            .extend(indexes.map(|index| (record.generation, index)));
        self.publish(&mut writer);
    }

    /// Makes a plugin invisible to readers that come from now on. Never waits.
    pub(crate) fn hide(&self, generation: u64) {
        let mut writer = self.lock();
        let of = |(of, _): &&(u64, Arc<OwnedIndex>)| *of == generation;
        let indexes = writer.indexes.iter().filter(of);
        let indexes: Vec<Arc<OwnedIndex>> = indexes.map(|(_, index)| Arc::clone(index)).collect();
        drop(writer);
        for index in indexes {
            index.detach();
        }
        writer = self.lock();
        writer.rows.0.retain(|row| row.generation != generation);
        self.publish(&mut writer);
        let sequence = writer.sequence;
        while let Some(at) = writer.indexes.iter().position(|(of, _)| *of == generation) {
            let (_, index) = writer.indexes.swap_remove(at);
            writer.retired.index(sequence, index);
        }
        drop(writer);
        self.retired.notify_all();
    }

    /// Keeps symbols that the history gave up until no reader is at them.
    pub(crate) fn retire(&self, index: &Arc<OwnedIndex>) {
        let mut writer = self.lock();
        // No snapshot shows them, but a section may be open over the departed plugins; those that
        // take from here on find nothing.
        let sequence = writer.sequence.wrapping_add(1);
        writer.sequence = sequence;
        writer.retired.index(sequence, Arc::clone(index));
        drop(writer);
        self.retired.notify_all();
    }

    /// Publishes the present rows once more.
    #[cfg(feature = "measuring")]
    pub(crate) fn republish(&self) {
        self.publish(&mut self.lock());
    }

    /// Puts the present rows in force: handlers first, then thread context.
    ///
    /// No wait, no membarrier, and nothing that readers could see is freed.
    fn publish(&self, writer: &mut Writer) {
        writer.sequence += 1;
        let snapshot = Snapshot::new(&writer.rows.0, writer.sequence);
        checkpoint::note("publish.built");
        // SAFETY: the snapshot is kept by `current` and then by `writer.retired`, which frees it
        // only after a grace period; its rows are sorted and their indexes are owned by
        // `writer.indexes` and then by `writer.retired`.
        unsafe { plug_readside::snapshot::publish(snapshot.view()) };
        checkpoint::note("publish.head");
        let old = self.current.swap(snapshot);
        checkpoint::note("publish.swapped");
        let replaced = writer.sequence;
        let before = writer.retired.fresh_bytes();
        let was_empty = writer.retired.is_empty();
        writer.retired.snapshot(replaced, old);
        checkpoint::note("publish.retired");
        // The drainer is woken for what it waits for, and not for every publication.
        if was_empty || (before < MUCH && writer.retired.fresh_bytes() >= MUCH) {
            self.retired.notify_all();
        }
    }

    /// Takes a Live plugin: it is Going from here on, and calls and pins refuse.
    pub(crate) fn take(&self, name: &str, generation: Option<u64>) -> Result<Leaving, Error> {
        let canonical = canonical(name);
        let mut writer = self.lock();
        let Some(entry) = writer.find(&canonical) else {
            let zombie = writer
                .zombies
                .iter()
                .find(|z| z.record.canonical == canonical)
                .map(|z| z.lingering.clone());
            return Err(match zombie {
                Some(lingering) => {
                    Error::new(ErrorKind::Busy, lingering.to_string()).lingering_as(Some(lingering))
                }
                None => Error::new(ErrorKind::NotFound, "no plugin of this name"),
            });
        };
        if let Some(wanted) = generation.filter(|wanted| *wanted != entry.generation) {
            let found = entry.generation;
            return Err(Error::new(
                ErrorKind::Gone,
                format!("expected generation {wanted}, found {found}: another load has its name"),
            ));
        }
        let permanent = entry
            .record
            .as_ref()
            .and_then(|record| record.permanent.clone());
        if let Some(reason) = permanent {
            return Err(Error::new(
                ErrorKind::Permanent,
                format!("it is permanent: {reason}; it stays until the process ends"),
            ));
        }
        let now = state::word(entry.id).state();
        if now != State::Live {
            let now = now.name();
            return Err(Error::new(
                ErrorKind::Busy,
                format!("the plugin is {now}, not Live"),
            ));
        }
        let (id, generation, users) = (entry.id, entry.generation, writer.users(entry));
        if !users.is_empty() {
            let mut names: Vec<String> = users.iter().map(|user| writer.told(user)).collect();
            names.dedup();
            let message = format!("it is used by {}; unload that first", names.join(", "));
            return Err(Error::new(ErrorKind::InUse, message));
        }
        let mut entries = writer.entries.iter_mut();
        let entry = entries.find(|entry| entry.generation == generation);
        let Some(loaded) = entry.and_then(|entry| entry.loaded.take()) else {
            return Err(Error::new(ErrorKind::Busy, "the plugin is not settled yet"));
        };
        set(id, generation, State::Going);
        drop(writer);
        self.changed.notify_all();
        Ok(Leaving { loaded })
    }

    /// Puts `heir` in the place of `old` in one step: its name and all handles lead there, and calls
    /// that `old` refuses from here on find it. In the same step `arrive` does what it does in
    /// [`Registry::go_live`]. None, and nothing is done, where `places` are not those of what is asked
    /// for by now: see [`Lineage::switch`](crate::lineage::Lineage::switch).
    ///
    /// # Errors
    /// As [`Registry::take`]; nothing is done.
    pub(crate) fn succeed(
        &self,
        old: &Record,
        heir: &Record,
        places: (u64, &[Place]),
        arrive: impl FnOnce() -> Loaded,
    ) -> Result<Option<Leaving>, Error> {
        let mut writer = self.lock();
        if writer.shut_down {
            let message = "the loader was shut down meanwhile";
            return Err(Error::new(ErrorKind::ShutDown, message));
        }
        let left = || {
            let message = "the version to be replaced is not Live any more";
            Error::new(ErrorKind::Gone, message)
        };
        let mut entries = writer.entries.iter_mut();
        let entry = entries
            .find(|entry| entry.generation == old.generation)
            .ok_or_else(left)?;
        if state::word(old.id).0 != old.live_word() || entry.loaded.is_none() {
            return Err(left());
        }
        // Live, and reached by nobody before the other one refuses.
        set(heir.id, heir.generation, State::Live);
        let close = || set(old.id, old.generation, State::Going);
        if !old.lineage.switch(heir.generation, places, close) {
            set(heir.id, heir.generation, State::Coming);
            return Ok(None);
        }
        entry.standing = Standing::Former;
        let loaded = entry.loaded.take();
        let mut entries = writer.entries.iter_mut();
        if let Some(entry) = entries.find(|entry| entry.generation == heir.generation) {
            entry.standing = Standing::Named;
        }
        writer.settle(arrive());
        drop(writer);
        self.changed.notify_all();
        Ok(loaded.map(|loaded| Leaving { loaded }))
    }

    /// Puts a plugin back that could not leave: it is Live again.
    pub(crate) fn put_back(&self, leaving: Leaving) {
        let (id, generation) = (leaving.loaded.record.id, leaving.loaded.record.generation);
        let mut writer = self.lock();
        if let Some(entry) = writer
            .entries
            .iter_mut()
            .find(|e| e.generation == generation)
        {
            entry.loaded = Some(leaving.loaded);
        }
        set(id, generation, State::Live);
        drop(writer);
        self.changed.notify_all();
    }

    /// Forgets a plugin that is gone; its name and slot are free.
    pub(crate) fn release(&self, id: u32, generation: u64) {
        let mut writer = self.lock();
        writer
            .entries
            .retain(|entry| entry.generation != generation);
        set(id, generation, State::Empty);
        writer.free.push_back(id);
        drop(writer);
        self.changed.notify_all();
    }

    /// Gives a claim's name and slot back, unless what it was for became a zombie.
    fn give_back(&self, id: u32, generation: u64) {
        let writer = self.lock();
        let is_claimed = writer
            .entries
            .iter()
            .any(|entry| entry.generation == generation);
        drop(writer);
        // Only the owner of the claim ends it, so that nothing changes in between.
        if is_claimed {
            self.release(id, generation);
        }
    }

    /// Plugins that readers may see, in order of load, then zombies.
    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        let writer = self.lock();
        let zombies = writer.zombies.iter().map(|zombie| &zombie.record);
        writer
            .entries
            .iter()
            .filter_map(|e| e.record.as_ref())
            .chain(zombies)
            .cloned()
            .collect()
    }

    /// The plugin of this name, if readers may see it.
    pub(crate) fn record(&self, name: &str) -> Option<Arc<Record>> {
        self.lock()
            .find(&canonical(name))
            .and_then(|entry| entry.record.clone())
    }

    /// The load with this number, zombies included.
    pub(crate) fn load(&self, generation: u64) -> Option<Arc<Record>> {
        let mut records = self.records().into_iter();
        records.find(|record| record.generation == generation)
    }

    /// Whether loads are refused.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.lock().shut_down
    }

    /// Refuses loads from now on, and names the plugins to unload, last loaded first, but none before
    /// those that import functions of it.
    pub(crate) fn shut_down(&self) -> Vec<Box<str>> {
        let mut writer = self.lock();
        writer.shut_down = true;
        let order = writer.users_first(Deadline::after(LOOK));
        let entries = order.iter().filter_map(|at| writer.entries.get(*at));
        entries
            .filter(|entry| entry.standing == Standing::Named)
            .map(|entry| entry.canonical.clone())
            .collect()
    }

    /// Refuses loads from now on, and tells the loads that are to end with the process, in the order of
    /// [`Registry::shut_down`]; none if the lock is not to be had, since whoever holds it may never let
    /// go.
    pub(crate) fn shut_down_at_exit(&self) -> Vec<u64> {
        let Some(mut writer) = self.lock_at_exit() else {
            return Vec::new();
        };
        writer.shut_down = true;
        let order = writer.users_first(Deadline::after(LOOK));
        let entries = order.iter().filter_map(|at| writer.entries.get(*at));
        entries.map(|entry| entry.generation).collect()
    }

    /// Takes one of those if it is Live: one after the other, so that what a plugin imports is there
    /// while it ends.
    pub(crate) fn take_at_exit(&self, generation: u64) -> Option<Leaving> {
        let mut writer = self.lock_at_exit()?;
        let mut entries = writer.entries.iter_mut();
        let entry = entries.find(|entry| entry.generation == generation)?;
        if state::word(entry.id).state() != State::Live {
            return None;
        }
        let loaded = entry.loaded.take()?;
        set(entry.id, entry.generation, State::Going);
        Some(Leaving { loaded })
    }

    fn lock_at_exit(&self) -> Option<MutexGuard<'_, Writer>> {
        self.hold(Deadline::after(Duration::from_millis(200)))
    }

    /// Waits until something is retired or a zombie lingers, then up to a second more unless much
    /// is retired; for the drainer.
    pub(crate) fn wait_for_retired(&self, meanwhile: impl Fn()) {
        /// What zombies wait for tells nobody: it is looked for as often as this.
        const AWAITED: Duration = Duration::from_millis(20);
        let mut writer = self.lock();
        while writer.retired.is_empty() && writer.zombies.is_empty() {
            writer = self
                .retired
                .wait(writer)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let second = Deadline::after(Duration::from_secs(1));
        while writer.retired.fresh_bytes() < MUCH && !second.has_passed() {
            let is_awaited = writer.zombies.iter().any(|zombie| zombie.until.is_some());
            let most = if is_awaited { AWAITED } else { Duration::MAX };
            writer = self
                .retired
                .wait_timeout(writer, second.remaining().min(most))
                .map_or_else(|poison| poison.into_inner().0, |(writer, _)| writer);
            if is_awaited {
                drop(writer);
                meanwhile();
                writer = self.lock();
            }
        }
    }

    /// Frees what was retired and is seen by nobody any more.
    ///
    /// `grace` must complete one grace period; what was retired before it began may go. Returns
    /// the zombies that have left the process meanwhile.
    pub(crate) fn reclaim(&self, grace: impl FnOnce() -> bool) -> Vec<Arc<Record>> {
        let upto = self.lock().sequence;
        checkpoint::note("reclaim.taken");
        if grace() {
            checkpoint::note("reclaim.grace");
            let garbage = self.lock().retired.take(upto);
            checkpoint::note("reclaim.free");
            drop(garbage);
        }
        self.collect_zombies()
    }

    /// Bytes retired and not yet freed.
    pub(crate) fn retired_bytes(&self) -> usize {
        self.lock().retired.bytes()
    }
}

impl Writer {
    /// Keeps what became Live for whoever unloads it one day.
    fn settle(&mut self, loaded: Loaded) {
        let generation = loaded.record.generation;
        let mut entries = self.entries.iter_mut();
        if let Some(entry) = entries.find(|entry| entry.generation == generation) {
            entry.loaded = Some(loaded);
        }
    }

    /// Gives up, in a forked child, the plugins whose load or unload was under way on a thread
    /// that is not there: they refuse all calls and stay mapped, and their names are free.
    ///
    /// Returns how many slots there are.
    pub(crate) fn give_up_after_fork(&mut self) -> u32 {
        self.entries.retain(|entry| {
            let is_whole = entry.loaded.is_some() && state::word(entry.id).state() == State::Live;
            if !is_whole {
                set(entry.id, entry.generation, State::Zombie);
            }
            is_whole
        });
        self.waits.clear();
        self.next_id
    }

    /// Whatever is mapped.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = Arc<Record>> {
        let entries = self
            .entries
            .iter()
            .filter_map(|entry| entry.record.as_ref());
        let zombies = self.zombies.iter().map(|zombie| &zombie.record);
        entries.chain(zombies).map(Arc::clone)
    }

    pub(crate) fn find(&self, canonical: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is(canonical))
    }

    /// What is about to replace the plugin of this name.
    fn heir(&self, canonical: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.standing == Standing::Heir && &*entry.canonical == canonical)
    }
}

impl Entry {
    /// Whether another version has its place.
    pub(crate) fn is_former(&self) -> bool {
        self.standing == Standing::Former
    }

    /// Whether this is the one that a name means.
    fn is(&self, canonical: &str) -> bool {
        self.standing == Standing::Named && &*self.canonical == canonical
    }
}

impl Claim {
    /// The name stays taken.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            self.registry.give_back(self.id, self.generation);
        }
    }
}

impl Leaving {
    /// The record of the plugin that leaves.
    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.loaded.record
    }
}

/// Stores a state word; only ever called with the writer's lock held.
fn set(id: u32, generation: u64, to: State) {
    // SeqCst: precedes, in the one total order, the barrier and the scan of the gates that
    // follow a change to Going; pairs with the loads in plug_readside::gate.
    state::cell(id).store(
        StateWord::new(generation, to).0,
        std::sync::atomic::Ordering::SeqCst,
    );
}

/// Names are compared with `-` and `_` taken for the same.
pub(crate) fn canonical(name: &str) -> Box<str> {
    name.replace('-', "_").into()
}

/// An error of stage Claim for `name`.
pub(crate) fn claim_error(error: Error, name: &str) -> Error {
    error.at(Stage::Claim).plugin(name)
}

const _: () = assert!(size_of::<Row>() == 64);
