//! Worker threads: the threads that announce themselves, call plugins through cheap gates, and
//! can be named when they hold one.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plug_readside::gate::{self, CHUNK, Chunk, GateRow};
use plug_readside::{snapshot, thread_pointer};

use crate::calls;
use crate::footprint::ledger;
use crate::sys::alternate_stack::{self, AlternateStack};

/// What the loader knows about one worker.
#[derive(Debug)]
pub(crate) struct WorkerRow {
    /// Never reused, other than the thread id.
    pub(crate) serial: u64,
    /// Who is inside what. Counted by the worker, scanned by unloads.
    pub(crate) gate: GateRow,
    pub(crate) name: Box<str>,
    pub(crate) tid: u32,
    /// Quiescent points passed. Written by the worker (Relaxed: a report), read for reports.
    quiescent: AtomicU64,
}

impl WorkerRow {
    /// Quiescent points passed.
    pub(crate) fn quiescent(&self) -> u64 {
        // Relaxed: shown in reports.
        self.quiescent.load(Ordering::Relaxed)
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
}

#[derive(Debug, Default)]
struct Inner {
    rows: Vec<Arc<WorkerRow>>,
    /// Chunks of gate counters that rows must have: one past the highest slot in use.
    chunks: usize,
    serial: u64,
}

impl Workers {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn add(&self, row: &Arc<WorkerRow>) {
        let mut inner = self.lock();
        // Rows of workers that left while still inside a call are given up here.
        inner
            .rows
            .retain(|row| Arc::strong_count(row) > 1 || row.gate.depth() > 0);
        grow_row(row, inner.chunks);
        inner.rows.push(Arc::clone(row));
    }

    fn remove(&self, row: &Arc<WorkerRow>) {
        if row.gate.depth() == 0 {
            let mut inner = self.lock();
            inner.rows.retain(|other| !Arc::ptr_eq(row, other));
            // What the row counted stays counted.
            for id in 0..u32::try_from(inner.chunks * CHUNK).unwrap_or(0) {
                let calls = row.gate.count(id).map_or(0, gate::calls);
                if calls > 0 {
                    gate::inherit(gate::shared(id, thread_pointer()), calls);
                }
            }
        }
    }

    /// Calls of slot `id` since the process began, whichever plugins had it.
    pub(crate) fn calls(&self, id: u32) -> u64 {
        let inner = self.lock();
        let rows = inner.rows.iter().filter_map(|row| row.gate.count(id));
        rows.map(gate::calls)
            .fold(gate::shared_calls(id), u64::saturating_add)
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
            .field("tid", &self.row.tid)
            .finish()
    }
}

impl Worker {
    pub(crate) fn register(workers: &'static Workers, name: &str) -> Self {
        let tid = rustix::thread::gettid()
            .as_raw_nonzero()
            .get()
            .unsigned_abs();
        let row = Arc::new(WorkerRow {
            serial: workers.next_serial(),
            gate: GateRow::new(),
            name: name.into(),
            tid,
            quiescent: AtomicU64::new(0),
        });
        workers.add(&row);
        // Of several workers of one thread the first stands for the thread, whatever the order in
        // which they are dropped.
        if calls::row().is_null() {
            // A thread whose lines are all owned goes on unregistered: slower, not wrong.
            let _has_line = snapshot::sections().register(thread_pointer(), tid);
            calls::set_row(&raw const row.gate);
        }
        Self {
            row,
            workers,
            _stack: AlternateStack::unless_at_least(alternate_stack::SIZE),
            _not_send: PhantomData,
        }
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
        self.row.tid
    }

    /// Tells the loader that no plugin code is below this point of the stack: call it at the top
    /// of the worker's loop. Runs what plugins that leave left on this thread: destructors of their
    /// thread-locals.
    ///
    /// # Contexts
    /// Thread context. Costs one plain store where nothing waits for this worker.
    pub fn quiescent(&self) {
        // Relaxed: only this thread writes it; shown in reports.
        let passed = self.row.quiescent.load(Ordering::Relaxed);
        self.row
            .quiescent
            .store(passed.wrapping_add(1), Ordering::Relaxed);
        if ledger::is_any_leaving() && calls::is_outside() {
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
