//! Worker threads: the threads that announce themselves, call plugins through cheap gates, and
//! can be named when they hold one.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plug_readside::gate::{self, CHUNK, Chunk, GateRow};
use plug_readside::{snapshot, thread_pointer};

use crate::calls;
use crate::deadline::{Deadline, lock_until};
use crate::footprint::ledger;
use crate::points::{Points, Request};
use crate::reaper;
use crate::sys::alternate_stack::{self, AlternateStack};
use crate::sys::task;

/// What the loader knows about one worker.
#[derive(Debug)]
pub(crate) struct WorkerRow {
    /// Never reused, other than the thread id.
    pub(crate) serial: u64,
    /// Who is inside what. Counted by the worker, scanned by unloads.
    pub(crate) gate: GateRow,
    pub(crate) name: Box<str>,
    pub(crate) points: Points,
    /// Whether it reads through a line of its own.
    pub(crate) has_line: bool,
    /// The thread's id. Written at registration and in a forked child; read by reports and by
    /// whoever asks whether the thread is alive (Relaxed: a number).
    tid: AtomicU32,
    /// Whether the thread is known to be dead, which it then stays (Relaxed: the kernel said so).
    dead: AtomicBool,
    /// Whether that has been logged (Relaxed: a flag for a log).
    told: AtomicBool,
}

impl WorkerRow {
    /// Asks the worker for a quiescent point, and wakes it if it sleeps and can be woken; whether one
    /// is to be expected.
    pub(crate) fn ask_to_pass(&self) -> bool {
        let _request = self.points.ask();
        !self.points.is_asleep() || self.points.has_waker()
    }

    /// The thread's id.
    pub(crate) fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// Whether the thread was found dead: nobody writes its counters any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Asks the kernel whether the thread is dead. Says nothing to anybody: see
    /// [`WorkerRow::tell_death`].
    pub(crate) fn look_whether_dead(&self) -> bool {
        if !self.is_dead() && task::is_dead(self.tid()) {
            self.dead.store(true, Ordering::Relaxed);
        }
        self.is_dead()
    }

    /// Logs once that the thread is dead; with no lock held, since a log may come back here.
    pub(crate) fn tell_death(&self) {
        if self.is_dead() && !self.told.swap(true, Ordering::Relaxed) {
            let (worker, tid, calls) = (&*self.name, self.tid(), self.gate.depth());
            tracing::warn!(
                target: "plug::workers", worker, tid, calls,
                "a worker's thread ended without giving the worker back"
            );
        }
    }
}

impl Drop for WorkerRow {
    fn drop(&mut self) {
        for chunk in self.gate.chunks() {
            // SAFETY: every chunk was made by Box::into_raw in Workers::grow() and belongs to
            // this row alone.
            drop(unsafe { Box::from_raw(chunk) });
        }
    }
}

/// All workers of the process.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    inner: Mutex<Inner>,
    /// Held while somebody looks who has passed a point that was asked for.
    answering: Mutex<()>,
    /// A point that was asked for has been passed.
    answered: Condvar,
}

/// What the lock protects.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    rows: Vec<Arc<WorkerRow>>,
    /// Chunks of gate counters that rows must have: one past the highest slot in use.
    chunks: usize,
    serial: u64,
    /// How many rows there must be for the next look for dead ones.
    sweep_at: usize,
}

/// What a worker said to the wish for a quiescent point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// It passed a point after it was asked.
    Passed,
    /// It sleeps at a point (see [`Worker::asleep`]).
    Asleep,
    /// Nothing until the deadline: it is inside a plugin, or sleeps without having said so.
    Silent,
    /// Its thread has ended.
    Dead,
}

/// One worker's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerAnswer {
    /// The worker's name.
    pub name: Box<str>,
    /// Its thread id.
    pub tid: u32,
    /// What it said.
    pub answer: Answer,
}

impl Workers {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<(MutexGuard<'_, Inner>, impl Sized)> {
        Some((
            lock_until(&self.inner, deadline)?,
            lock_until(&self.answering, deadline)?,
        ))
    }

    /// Gives every row, present and future, a counter for slot `id`.
    ///
    /// Allocates when a slot of a new chunk comes into use: once per 64 plugins and worker.
    pub(crate) fn grow(&self, id: u32) {
        let mut inner = self.lock();
        let needed = id as usize / CHUNK + 1;
        if needed > inner.chunks {
            inner.chunks = needed;
            for row in &inner.rows {
                grow_row(row, needed);
            }
        }
    }

    /// The rows at this moment.
    pub(crate) fn rows(&self) -> Vec<Arc<WorkerRow>> {
        self.lock().rows.clone()
    }

    fn next_serial(&self) -> u64 {
        let mut inner = self.lock();
        inner.serial += 1;
        inner.serial
    }

    /// `is_new` says that the thread has no other worker and never had one.
    fn add(&self, row: &Arc<WorkerRow>, is_new: bool) {
        const SEVERAL: usize = 64;
        let mut inner = self.lock();
        // The kernel gave the thread the id of one that is no more.
        for other in &inner.rows {
            if is_new && other.tid() == row.tid() {
                other.dead.store(true, Ordering::Relaxed);
            }
        }
        let mut dead = Vec::new();
        // One system call a row, whenever there are twice as many as were alive the last time.
        if inner.rows.len() >= inner.sweep_at {
            dead.extend(
                inner
                    .rows
                    .iter()
                    .filter(|row| row.look_whether_dead())
                    .cloned(),
            );
            inner.sweep();
            inner.sweep_at = (inner.rows.len() * 2).max(SEVERAL);
        }
        grow_row(row, inner.chunks);
        inner.rows.push(Arc::clone(row));
        drop(inner);
        dead.iter().for_each(|row| row.tell_death());
    }

    /// Forgets rows of threads that a fork left behind.
    pub(crate) fn sweep(&self) {
        self.lock().sweep();
    }

    fn remove(&self, row: &Arc<WorkerRow>) {
        if row.gate.depth() == 0 {
            let mut inner = self.lock();
            inner.rows.retain(|other| !Arc::ptr_eq(row, other));
            inner.inherit(row);
        }
    }

    /// Forgets the calls of slot `id` that `row`'s thread died in, and the row if that was all.
    pub(crate) fn bury(&self, row: &WorkerRow, id: u32) {
        if let Some(count) = row.gate.count(id).filter(|_| row.is_dead()) {
            reaper::count_calls(gate::inside(count));
            gate::forget(count);
        }
        self.lock().sweep();
    }

    /// Asks every worker for a quiescent point, wakes those that can be woken, and waits for their
    /// answers.
    pub(crate) fn ask(&self, deadline: Deadline) -> Vec<WorkerAnswer> {
        let rows = self.rows();
        let mut answers: Vec<_> = rows.iter().map(|_| Answer::Silent).collect();
        // The running thread is at a point itself, unless a plugin is below.
        let is_own = |row: &WorkerRow| row.tid() == task::id();
        let requests: Vec<Option<Request>> = rows
            .iter()
            .map(|row| (!is_own(row)).then(|| row.points.ask()))
            .collect();
        let mut answering = self
            .answering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            let is_last = deadline.has_passed();
            for ((row, request), answer) in rows.iter().zip(&requests).zip(&mut answers) {
                *answer = match request {
                    None if row.gate.depth() == 0 && !calls::is_inside() => Answer::Passed,
                    None => Answer::Silent,
                    Some(request) if row.points.is_answered(*request) => Answer::Passed,
                    Some(_) if row.look_whether_dead() => Answer::Dead,
                    Some(_) if !row.points.is_asleep() || row.gate.depth() > 0 => Answer::Silent,
                    // One that can be woken is waited for: it was asked to come.
                    Some(_) if row.points.has_waker() && !is_last => Answer::Silent,
                    Some(_) => Answer::Asleep,
                };
            }
            let is_waiting = requests
                .iter()
                .zip(&answers)
                .any(|(request, answer)| request.is_some() && *answer == Answer::Silent);
            if is_last || !is_waiting {
                break;
            }
            // A thread that dies tells nobody: looked for now and then.
            let nap = deadline.remaining().min(Duration::from_millis(100));
            answering = self
                .answered
                .wait_timeout(answering, nap)
                .map_or_else(|poison| poison.into_inner().0, |(guard, _)| guard);
        }
        drop(answering);
        rows.iter().for_each(|row| row.tell_death());
        rows.iter()
            .zip(answers)
            .map(|(row, answer)| WorkerAnswer {
                name: row.name.clone(),
                tid: row.tid(),
                answer,
            })
            .collect()
    }

    /// Tells who waits that a point has been passed.
    fn tell(&self) {
        let answering = self
            .answering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(answering);
        self.answered.notify_all();
    }

    /// Calls of slot `id` since the process began, whichever plugins had it.
    pub(crate) fn calls(&self, id: u32) -> u64 {
        let inner = self.lock();
        let rows = inner.rows.iter().filter_map(|row| row.gate.count(id));
        rows.map(gate::calls)
            .fold(gate::shared_calls(id), u64::saturating_add)
    }
}

impl Inner {
    /// Empties, in a forked child, the rows of all threads but the one that forked, whose id was
    /// `before` and is `now`.
    pub(crate) fn reset_after_fork(&mut self, before: u32, now: u32) {
        for row in &self.rows {
            // Relaxed, both: the child has one thread.
            if row.tid() == before && !row.is_dead() {
                row.tid.store(now, Ordering::Relaxed);
            } else {
                // Not told: it lives on in the parent.
                row.told.store(true, Ordering::Relaxed);
                row.dead.store(true, Ordering::Relaxed);
                row.gate.forget_all();
            }
        }
        // What those rows own goes later and not here.
    }

    /// Forgets rows that nobody writes any more and nobody is inside by.
    fn sweep(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        for row in rows {
            // A worker that was dropped inside a call leaves its row to be given up when that is
            // over; a dead one's stays as long as a plugin's unload has not seen it.
            let is_used = !row.is_dead() && Arc::strong_count(&row) > 1;
            if is_used || row.gate.depth() > 0 {
                self.rows.push(row);
            } else {
                self.inherit(&row);
            }
        }
    }

    /// Keeps what a row counted.
    fn inherit(&self, row: &WorkerRow) {
        for id in 0..u32::try_from(self.chunks * CHUNK).unwrap_or(0) {
            let calls = row.gate.count(id).map_or(0, gate::calls);
            if calls > 0 {
                gate::inherit(gate::shared(id, thread_pointer()), calls);
            }
        }
    }
}

/// Makes sure that the first `chunks` chunks of `row` exist.
fn grow_row(row: &WorkerRow, chunks: usize) {
    for chunk in 0..chunks {
        let id = u32::try_from(chunk * CHUNK).unwrap_or(u32::MAX);
        if row.gate.count(id).is_none() {
            let chunk = Box::into_raw(Box::new(Chunk::new()));
            // SAFETY: the chunk is leaked to the row, which frees it in its Drop; the caller
            // holds the lock over the workers.
            if let Some(unused) = unsafe { row.gate.grow(id, chunk) } {
                // SAFETY: made two lines above and not taken.
                drop(unsafe { Box::from_raw(unused) });
            }
        }
    }
}

/// The running thread as a worker; it stops being one when this is dropped.
///
/// Not `Send`: its counters belong to the thread that made it.
pub struct Worker {
    row: Arc<WorkerRow>,
    workers: &'static Workers,
    /// For crash reports, and for the handlers that the host had before.
    _stack: Option<AlternateStack>,
    _not_send: PhantomData<*mut ()>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.row.name)
            .field("tid", &self.row.tid())
            .finish()
    }
}

impl Worker {
    pub(crate) fn register(workers: &'static Workers, name: &str) -> Self {
        let tid = task::id();
        // Of several workers of one thread the first stands for the thread, whatever the order in
        // which they are dropped.
        let is_first = calls::row().is_null();
        let sections = snapshot::sections();
        let has_line = sections.is_registered(thread_pointer())
            || is_first
                && (sections.register(thread_pointer(), tid) || {
                    // A thread whose lines are all owned by the living goes on unregistered:
                    // slower, not wrong.
                    reaper::reap_for_a_line();
                    sections.register(thread_pointer(), tid)
                });
        let row = Arc::new(WorkerRow {
            serial: workers.next_serial(),
            gate: GateRow::new(),
            name: name.into(),
            points: Points::default(),
            has_line,
            tid: AtomicU32::new(tid),
            dead: AtomicBool::new(false),
            told: AtomicBool::new(false),
        });
        workers.add(&row, calls::is_first_registration());
        if is_first {
            calls::set_row(&raw const row.gate);
        }
        Self {
            row,
            workers,
            _stack: AlternateStack::unless_at_least(alternate_stack::SIZE),
            _not_send: PhantomData,
        }
    }

    /// Lets the loader wake this worker when it wants a quiescent point: `wake` must make a sleep
    /// of the worker's end, so that it soon calls [`Worker::quiescent`]; write to an eventfd,
    /// unpark the thread, send a message.
    ///
    /// It is called on any thread, once for each wish, and must not wait. The first one stays.
    #[must_use]
    pub fn waker(self, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let _is_first = self.row.points.set_waker(Box::new(wake));
        self
    }

    pub(crate) fn gate(&self) -> &GateRow {
        &self.row.gate
    }

    /// The name it was registered under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.row.name
    }

    /// Its thread id.
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.row.tid()
    }

    /// Tells the loader that no plugin code is below this point of the stack: call it at the top
    /// of the worker's loop. Runs what plugins that leave left on this thread: destructors of their
    /// thread-locals. From inside a plugin's code it says nothing.
    ///
    /// # Contexts
    /// Thread context. Costs one plain store and one plain load where nothing waits for this
    /// worker.
    #[inline]
    pub fn quiescent(&self) {
        if ledger::is_any_leaving() && !calls::is_inside() {
            ledger::settle_all();
        }
        if !calls::is_inside() && self.row.points.pass() {
            self.workers.tell();
        }
    }

    /// Tells the loader that this worker stays at a quiescent point until the value is dropped:
    /// around a sleep that nothing can end. From inside a plugin's code it says nothing.
    ///
    /// # Contexts
    /// Thread context. No plugin may be called before the value is dropped.
    pub fn asleep(&self) -> Asleep<'_> {
        if !calls::is_inside() {
            ledger::settle_all();
            if self.row.points.fall_asleep() {
                self.workers.tell();
            }
        }
        Asleep { worker: self }
    }
}

/// A worker that stays at a quiescent point; see [`Worker::asleep`].
#[derive(Debug)]
#[must_use = "the worker is awake again when it is dropped"]
pub struct Asleep<'a> {
    worker: &'a Worker,
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.worker.row.points.wake_up();
        if ledger::is_any_leaving() && !calls::is_inside() {
            ledger::settle_all();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::ptr::eq(calls::row(), &raw const self.row.gate) {
            calls::set_row(std::ptr::null());
            snapshot::sections().unregister(thread_pointer());
        }
        self.workers.remove(&self.row);
    }
}
