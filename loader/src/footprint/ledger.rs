//! What plugins leave on threads: destructors of thread-locals and of keys' values, and threads of
//! their own.
//!
//! Each thread has a record of its own for as long as it lives; it is never found by the thread's
//! number or pointer, which the next thread may have. What stands in it is run on that thread
//! only: at a quiescent point while the plugin leaves, or at the thread's end. An entry goes after
//! its destructor has returned, so that a plugin without entries has no code running for them.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plug_readside::phase::{self, Phase};
use plug_readside::thread_pointer;

use crate::deadline::{Deadline, lock_until};

use super::forks;
use super::keys::{self, KEYS};
use super::stacks;
use crate::calls;
use crate::error::{Error, ErrorKind};
use crate::sys::task;
use crate::sys::thread_exit::{self, ROUNDS};

/// Which load of a plugin something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) id: u32,
    pub(crate) generation: u64,
}

/// What a plugin left on a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A destructor and the object that it destroys.
    Destructor { function: usize, object: usize },
    /// A value of the key with this number in [`keys`].
    Value { key: usize },
    /// The thread itself, which runs this function of the plugin's.
    Thread { start: usize },
}

#[derive(Debug)]
struct Entry {
    number: u64,
    owner: Owner,
    what: What,
    is_running: bool,
}

/// One thread's record.
#[derive(Debug)]
pub(crate) struct ThreadRecord {
    /// Written when it is made, and in a forked child (Relaxed: shown in reports, and compared with
    /// those of workers).
    tid: AtomicU32,
    /// Whether glibc will call [`at_thread_exit`] for this thread. Read and written by the thread
    /// itself (Relaxed).
    is_armed: AtomicBool,
    /// Places of keys whose values are written down, a bit each. Read and written by the thread
    /// itself (Relaxed), and cleared by who deletes a key (Relaxed: the entry goes as well).
    values: [AtomicU64; KEYS / 64],
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<Entry>,
    next: u64,
    /// Rounds of key destructors that have begun.
    rounds: u32,
}

/// Records of all threads that plugins left something on. Lock order: leaves; the list before a
/// record.
static THREADS: Mutex<Vec<Arc<ThreadRecord>>> = Mutex::new(Vec::new());

/// Threads of plugins that were asked for and have no record yet, with their start functions.
static STARTING: Mutex<Vec<(Owner, usize)>> = Mutex::new(Vec::new());

/// Loads that leave: at their next quiescent point, threads run what those left on them.
static LEAVING: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// Whether there are any. Written under the lock of [`LEAVING`], read at quiescent points.
static ANY_LEAVING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The running thread's record: an `Arc` of its own, or null, or [`CLOSED`].
    ///
    /// Without a destructor or a first use that would register one.
    static OWN: Cell<*const ThreadRecord> = const { Cell::new(ptr::null()) };
}

/// Stands for the record of a thread whose last destructors have run.
const CLOSED: *const ThreadRecord = ptr::dangling();

/// How many destructors one settling runs at most: one that registers itself anew has no end.
const ENOUGH: usize = 100_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running thread's record, if it has one and is not as good as gone.
fn known() -> Option<&'static ThreadRecord> {
    let known = OWN.with(Cell::get);
    if known == CLOSED {
        return None;
    }
    // SAFETY: OWN holds an `Arc` until at_round() takes it back on this very thread and leaves
    // CLOSED; no caller keeps the reference beyond what it does here.
    unsafe { known.as_ref() }
}

/// The running thread's record, made if need be; none on a thread that is as good as gone.
fn own() -> Option<&'static ThreadRecord> {
    if OWN.with(Cell::get).is_null() {
        let key = thread_exit::own_key(at_round)?;
        let record = Arc::new(ThreadRecord {
            tid: AtomicU32::new(task::id()),
            is_armed: AtomicBool::new(false),
            values: [const { AtomicU64::new(0) }; KEYS / 64],
            inner: Mutex::default(),
        });
        lock(&THREADS).push(Arc::clone(&record));
        let record = Arc::into_raw(record);
        OWN.with(|own| own.set(record));
        thread_exit::set_value(key, record.cast());
    }
    known()
}

impl ThreadRecord {
    fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }

    fn owes(&self, generation: u64) -> bool {
        let inner = lock(&self.inner);
        inner
            .entries
            .iter()
            .any(|entry| entry.owner.generation == generation)
    }

    /// Has glibc call for what stands here when the thread ends. No lock of the ledger's may be
    /// held: glibc takes one of ld.so's.
    fn arm(&self) {
        if !self.is_armed.load(Ordering::Relaxed) {
            let record = ptr::from_ref(self).cast_mut().cast();
            // SAFETY: the record lives until the thread's last round of keys, which follows.
            let status = unsafe { thread_exit::own_at_thread_exit(at_thread_exit, record) };
            self.is_armed.store(status == 0, Ordering::Relaxed);
        }
    }

    /// The bit of a key's place, in its word.
    fn value(&self, key: usize) -> Option<(&AtomicU64, u64)> {
        Some((self.values.get(key / 64)?, 1 << (key % 64)))
    }

    fn has_value(&self, key: usize) -> bool {
        self.value(key)
            .is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn set_value(&self, key: usize, is_set: bool) {
        if let Some((word, bit)) = self.value(key) {
            if is_set {
                word.fetch_or(bit, Ordering::Relaxed);
            } else {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }

    /// Runs what is `meant`, the last first, until nothing is left of it; destructors may add to it.
    ///
    /// To be called on the record's own thread only.
    fn run(&self, meant: impl Fn(&Entry) -> bool) {
        for _ in 0..ENOUGH {
            let mut inner = lock(&self.inner);
            let next = inner
                .entries
                .iter_mut()
                .rev()
                .find(|entry| !entry.is_running && meant(entry));
            let Some(entry) = next else {
                return;
            };
            entry.is_running = true;
            let (number, owner, what) = (entry.number, entry.owner, entry.what);
            drop(inner);
            let _gone = Gone {
                record: self,
                number,
            };
            in_plugin(owner, || match what {
                // SAFETY: registered by the plugin for this thread, and the plugin stays mapped
                // while the entry is there.
                What::Destructor { function, object } => unsafe {
                    thread_exit::run(function, object);
                },
                What::Value { key } => {
                    self.set_value(key, false);
                    keys::destroy_value(key);
                }
                What::Thread { .. } => {}
            });
        }
    }
}

/// Takes an entry out when its destructor has returned, or was left by an exception.
struct Gone<'a> {
    record: &'a ThreadRecord,
    number: u64,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let mut inner = lock(&self.record.inner);
        inner.entries.retain(|entry| entry.number != self.number);
    }
}

/// Runs a destructor of a plugin's: the thread counts as inside of it, so that it is at no
/// quiescent point and an unload that it asks for is refused; and crash reports know.
pub(super) fn in_plugin(owner: Owner, destructor: impl FnOnce()) {
    let _phase = phase::enter(thread_pointer(), owner.generation, Phase::Destructor);
    if let Some(message) = calls::inside_apart(destructor) {
        let generation = owner.generation;
        tracing::warn!(target: "plug::plugin", generation, "a destructor of a thread's failed: {message}");
    }
}

/// Writes down what `owner` leaves on the running thread; false on a thread that is as good as gone.
pub(crate) fn note(owner: Owner, what: What) -> bool {
    let Some(record) = own() else {
        return false;
    };
    if let What::Value { key } = what {
        if record.has_value(key) {
            return true;
        }
        record.set_value(key, true);
    } else {
        record.arm();
    }
    let mut inner = lock(&record.inner);
    let number = inner.next;
    inner.next = number.wrapping_add(1);
    inner.entries.push(Entry {
        number,
        owner,
        what,
        is_running: false,
    });
    true
}

/// Marks the running thread's entry for a value of a key while glibc has the value destroyed.
#[derive(Debug)]
pub(crate) struct Destroying {
    key: usize,
}

/// glibc destroys the running thread's value of a key: its entry stays until this is dropped.
pub(crate) fn destroying(key: usize) -> Destroying {
    if let Some(record) = known() {
        record.set_value(key, false);
        let what = What::Value { key };
        for entry in &mut lock(&record.inner).entries {
            entry.is_running |= entry.what == what;
        }
    }
    Destroying { key }
}

impl Drop for Destroying {
    fn drop(&mut self) {
        // A value that the destructor set anew has an entry of its own.
        if let Some(record) = known() {
            let what = What::Value { key: self.key };
            let mut inner = lock(&record.inner);
            inner
                .entries
                .retain(|entry| entry.what != what || !entry.is_running);
        }
    }
}

/// Forgets the running thread's value of a key: it was set to nothing.
pub(crate) fn forget_value(key: usize) {
    if let Some(record) = known()
        && record.has_value(key)
    {
        record.set_value(key, false);
        let what = What::Value { key };
        let mut inner = lock(&record.inner);
        inner
            .entries
            .retain(|entry| entry.what != what || entry.is_running);
    }
}

/// Forgets all threads' values of a key that was deleted: as for any key, nobody destroys them.
pub(crate) fn forget_key(key: usize) {
    for record in &*lock(&THREADS) {
        record.set_value(key, false);
        let what = What::Value { key };
        let mut inner = lock(&record.inner);
        inner
            .entries
            .retain(|entry| entry.what != what || entry.is_running);
    }
}

/// Runs what the load `generation` left on the running thread, which is outside of all plugins'
/// code.
pub(crate) fn settle(generation: u64) {
    stacks::settle(generation);
    if let Some(record) = known() {
        record.run(|entry| entry.owner.generation == generation && !is_thread(entry));
    }
}

/// The load `generation` leaves from now on, or has left.
pub(crate) fn set_leaving(generation: u64, is_leaving: bool) {
    let mut leaving = lock(&LEAVING);
    leaving.retain(|other| *other != generation);
    if is_leaving {
        leaving.push(generation);
    }
    // Relaxed: a worker that misses it sees it at its next quiescent point; the list has a lock.
    ANY_LEAVING.store(!leaving.is_empty(), Ordering::Relaxed);
}

/// Whether a quiescent point is worth [`settle_all`].
#[inline]
pub(crate) fn is_any_leaving() -> bool {
    // Relaxed: see set_leaving().
    ANY_LEAVING.load(Ordering::Relaxed)
}

/// Runs what loads that leave left on the running thread, which is at a quiescent point.
pub(crate) fn settle_all() {
    if known().is_none() && !stacks::is_any() {
        return;
    }
    let leaving = lock(&LEAVING).clone();
    leaving.into_iter().for_each(settle);
}

fn is_thread(entry: &Entry) -> bool {
    matches!(entry.what, What::Thread { .. })
}

/// glibc calls this where the thread-locals of an ending thread are destroyed.
unsafe extern "C-unwind" fn at_thread_exit(record: *mut c_void) {
    // SAFETY: the record was registered by arm() for this thread, and lives until the last round.
    let record = unsafe { &*record.cast::<ThreadRecord>() };
    record.is_armed.store(false, Ordering::Relaxed);
    // Values are glibc's to destroy, in the rounds that follow.
    record.run(|entry| matches!(entry.what, What::Destructor { .. }));
}

/// glibc calls this in every round of key destructors.
unsafe extern "C-unwind" fn at_round(record: *mut c_void) {
    let known: *const ThreadRecord = record.cast();
    // SAFETY: the value that own() set, an `Arc` that is taken back below.
    let record = unsafe { &*known };
    // Thread-locals that key destructors registered: glibc no longer runs those.
    record.run(|entry| matches!(entry.what, What::Destructor { .. }));
    let rounds = {
        let mut inner = lock(&record.inner);
        inner.rounds = inner.rounds.saturating_add(1);
        inner.rounds
    };
    if rounds < ROUNDS
        && let Some(key) = thread_exit::own_key(at_round)
    {
        thread_exit::set_value(key, known.cast());
        return;
    }
    OWN.with(|own| own.set(CLOSED));
    lock(&THREADS).retain(|other| !ptr::eq(Arc::as_ptr(other), known));
    // SAFETY: made by Arc::into_raw() in own() for this thread, and taken back once: from here on
    // OWN is CLOSED and the key has no value.
    drop(unsafe { Arc::from_raw(known) });
}

/// What a thread still owes a plugin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Debt {
    /// The thread; 0 for one that is only beginning, or is not known.
    pub(crate) tid: u32,
    /// Destructors of thread-locals and values of keys.
    pub(crate) destructors: usize,
    /// The plugin's function that the thread runs, if the plugin made it.
    pub(crate) start: Option<usize>,
    /// Whether its alternate signal stack is the plugin's.
    pub(crate) has_stack: bool,
    /// Whether it is among the plugin's handlers around a fork.
    pub(crate) is_forking: bool,
}

/// What threads still owe the load `generation`.
pub(crate) fn debts(generation: u64) -> Vec<Debt> {
    let mut debts: Vec<Debt> = lock(&STARTING)
        .iter()
        .filter(|(owner, _)| owner.generation == generation)
        .map(|(_, start)| Debt {
            start: Some(*start),
            ..Debt::default()
        })
        .collect();
    debts.extend(stacks::debts(generation));
    debts.extend(forks::debts(generation));
    let mut threads = lock(&THREADS);
    // A record made in the last rounds of a thread's keys is not closed by the thread itself.
    threads.retain(|record| !record.owes(generation) || !task::is_dead(record.tid()));
    for record in &*threads {
        let inner = lock(&record.inner);
        let mut debt = Debt {
            tid: record.tid(),
            ..Debt::default()
        };
        let mut is_any = false;
        for entry in inner
            .entries
            .iter()
            .filter(|e| e.owner.generation == generation)
        {
            is_any = true;
            match entry.what {
                What::Thread { start } => debt.start = Some(start),
                _ => debt.destructors += 1,
            }
        }
        debts.extend(is_any.then_some(debt));
    }
    debts
}

/// Destructors of thread-locals, values of keys, and threads of the load, beginning ones included.
pub(super) fn counts(generation: u64) -> (usize, usize, usize) {
    let starting = lock(&STARTING);
    let of = |(owner, _): &&(Owner, usize)| owner.generation == generation;
    let mut counts = (0, 0, starting.iter().filter(of).count());
    drop(starting);
    for record in &*lock(&THREADS) {
        let inner = lock(&record.inner);
        let entries = inner.entries.iter();
        for entry in entries.filter(|entry| entry.owner.generation == generation) {
            match entry.what {
                What::Destructor { .. } => counts.0 += 1,
                What::Value { .. } => counts.1 += 1,
                What::Thread { .. } => counts.2 += 1,
            }
        }
    }
    counts
}

/// Gets what the ledger cannot do without.
///
/// # Errors
/// [`ErrorKind::Thread`] where the process has no key left.
pub(crate) fn prepare() -> Result<(), Error> {
    match thread_exit::own_key(at_round) {
        Some(_) => Ok(()),
        None => Err(Error::new(
            ErrorKind::Thread,
            "keys for thread-specific data: expected one to be left, found none",
        )),
    }
}

/// A thread of `owner`'s was asked for, which will run `start`.
pub(crate) fn starting(owner: Owner, start: usize) {
    lock(&STARTING).push((owner, start));
}

/// It has begun, on the running thread, or could not be made.
pub(crate) fn started(owner: Owner, start: usize, has_begun: bool) {
    // One that cannot be written down counts as beginning for ever.
    if has_begun && !note(owner, What::Thread { start }) {
        return;
    }
    let mut starting = lock(&STARTING);
    if let Some(at) = starting.iter().position(|other| *other == (owner, start)) {
        starting.swap_remove(at);
    }
}

/// The ledger's locks, for a fork.
pub(crate) struct Held {
    _leaving: MutexGuard<'static, Vec<u64>>,
    starting: MutexGuard<'static, Vec<(Owner, usize)>>,
    threads: MutexGuard<'static, Vec<Arc<ThreadRecord>>>,
}

/// Takes the locks; none where they are not to be had in time.
pub(crate) fn hold(deadline: Deadline) -> Option<Held> {
    Some(Held {
        _leaving: lock_until(&LEAVING, deadline)?,
        starting: lock_until(&STARTING, deadline)?,
        threads: lock_until(&THREADS, deadline)?,
    })
}

impl Held {
    /// Forgets all threads but the forking one, whose number is `now` in the child.
    pub(crate) fn reset_after_fork(&mut self, now: u32) {
        let own = OWN.with(Cell::get);
        keys::reset_after_fork();
        self.starting.clear();
        self.threads
            .retain(|record| ptr::eq(Arc::as_ptr(record), own));
        for record in &*self.threads {
            record.tid.store(now, Ordering::Relaxed);
        }
    }
}
