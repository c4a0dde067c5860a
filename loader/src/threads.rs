//! Threads that plugins have the loader start: workers that are told to stop when their plugin
//! leaves, and are joined before its `exit`.
//!
//! They hold it as calls do: while one runs, the unload waits, names it at the deadline and goes
//! back, and those that still run are not told to stop any more.

use std::cell::Cell;
use std::ffi::{CString, c_int, c_void};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plug_api::abi::STATUS_OK;
use plug_api::threads::{SPAWN_GOING, SPAWN_NO_THREAD};
use plug_readside::state::{self, State};
use rustix::event::{EventfdFlags, eventfd};

use crate::calls;
use crate::deadline::{Deadline, lock_until};
use crate::events::{EventKind, Events};
use crate::footprint::ledger::{self, Owner};
use crate::sys::task;
use crate::sys::thread::Thread;
use crate::worker::{Worker, Workers};

/// What a plugin's thread runs.
pub(crate) type Run = unsafe extern "C-unwind" fn(*mut c_void);

/// The threads of one load.
#[derive(Debug)]
pub(crate) struct PluginThreads(Arc<Shared>);

/// What a load's threads share with whoever stops them.
#[derive(Debug)]
struct Shared {
    plugin: Box<str>,
    owner: Owner,
    workers: &'static Workers,
    events: &'static Events,
    inner: Mutex<Inner>,
    /// They are told to stop, or a worker among them is wanted at a quiescent point.
    told: Condvar,
    /// Whether they are told to stop. Written under the lock (Relaxed: a wish, which is seen soon;
    /// what comes with it has the lock), read by whoever asks.
    is_stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    threads: Vec<PluginThread>,
    /// Since when they are told to stop.
    stopping: Option<Instant>,
    /// How often one of them was wanted at a quiescent point.
    wishes: u64,
    /// Readable while they are told to stop; made for the first one that asks.
    stop_fd: Option<OwnedFd>,
}

/// One thread.
#[derive(Debug)]
struct PluginThread {
    name: Box<str>,
    /// 0 until it began. Written once by the thread (Relaxed: a number for reports).
    tid: Arc<AtomicU32>,
    /// The plugin's function that it runs.
    start: usize,
    /// The process that it is a thread of: in one forked from that it does not exist.
    process: u32,
    thread: ManuallyDrop<Thread>,
}

/// A thread that has not ended.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) name: Box<str>,
    pub(crate) tid: u32,
    pub(crate) start: usize,
    /// How long ago it was told to stop; none while it is not.
    pub(crate) told: Option<Duration>,
}

impl PluginThread {
    fn has_ended(&mut self) -> bool {
        self.process != task::process() || self.thread.has_ended()
    }
}

/// The running thread as one of a plugin's.
#[derive(Debug)]
struct Own {
    worker: Worker,
    start: usize,
}

thread_local! {
    /// The running thread's own, while it is a plugin's and runs its function; else null. Without a
    /// destructor or a first use that would register one.
    static OWN: Cell<*const Own> = const { Cell::new(ptr::null()) };
}

/// What is due when the plugin's function has returned, or was left by `pthread_exit`.
struct Leave<'a> {
    shared: &'a Shared,
    name: &'a str,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        OWN.with(|own| own.set(ptr::null()));
        let Some(message) = calls::take_raised() else {
            return;
        };
        let (plugin, thread, tid) = (&*self.shared.plugin, self.name, task::id());
        tracing::error!(target: "plug::plugin", plugin, thread, tid, "its thread failed: {message}");
        let text = format!("its thread {thread} (tid {tid}): {message}");
        let kind = EventKind::ThreadFailed(text.into());
        let generation = self.shared.owner.generation;
        self.shared.events.push(plugin, generation, kind);
    }
}

impl PluginThreads {
    pub(crate) fn new(
        plugin: &str,
        owner: Owner,
        workers: &'static Workers,
        events: &'static Events,
    ) -> Self {
        Self(Arc::new(Shared {
            plugin: plugin.into(),
            owner,
            workers,
            events,
            inner: Mutex::default(),
            told: Condvar::new(),
            is_stopping: AtomicBool::new(false),
        }))
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        lock_until(&self.0.inner, deadline)
    }

    /// Starts a thread that runs `run(data)`; a status of [`plug_api::threads`].
    ///
    /// # Safety
    /// - `run` is the plugin's own function, and may be called with `data` once, on any thread.
    pub(crate) unsafe fn spawn(&self, name: &str, run: Run, data: *mut c_void) -> i32 {
        struct Data(*mut c_void);
        // SAFETY: the caller gives it to the thread.
        unsafe impl Send for Data {}

        let (owner, start) = (self.0.owner, run as usize);
        let tid = Arc::new(AtomicU32::new(0));
        // Counted from here on, so that the plugin stays mapped until the thread has ended. Before
        // the lock, since a fork takes the ledger's first.
        ledger::starting(owner, start);
        let uncounted = |status| {
            ledger::started(owner, start, false);
            status
        };
        let mut inner = self.0.lock();
        // Under the lock: whoever tells threads to stop later finds this one.
        if inner.stopping.is_some() || !is_usable(owner) {
            drop(inner);
            return uncounted(SPAWN_GOING);
        }
        inner.threads.retain_mut(|thread| !thread.has_ended());
        let main = {
            let (shared, tid, data) = (Arc::clone(&self.0), Arc::clone(&tid), Data(data));
            let name: Box<str> = name.into();
            move || {
                // The whole of it moves here, as it is Send and its field is not.
                let Data(data) = { data };
                // Relaxed: see the field.
                tid.store(task::id(), Ordering::Relaxed);
                ledger::started(owner, start, true);
                // SAFETY: our caller's word; the plugin stays mapped while this thread is counted.
                unsafe { shared.run(&name, run, data) };
            }
        };
        let thread = match Thread::start(thread_name(name), main) {
            Ok(thread) => thread,
            Err(error) => {
                drop(inner);
                let plugin = &*self.0.plugin;
                tracing::warn!(target: "plug::plugin", plugin, name, %error, "no thread");
                return uncounted(SPAWN_NO_THREAD);
            }
        };
        inner.threads.push(PluginThread {
            name: name.into(),
            tid,
            start,
            process: task::process(),
            thread: ManuallyDrop::new(thread),
        });
        STATUS_OK
    }

    /// Whether threads are told to stop.
    pub(crate) fn should_stop(&self) -> bool {
        // Relaxed: see the field.
        self.0.is_stopping.load(Ordering::Relaxed)
    }

    /// Sleeps until threads are told to stop, which is told, or the time is over.
    ///
    /// A thread of the plugin's that is in no other plugin's call is at a quiescent point
    /// meanwhile: what others that leave have left on it is destroyed.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now().checked_add(time);
        // SAFETY: set by run() on this thread, and cleared before it goes.
        let own = unsafe { OWN.with(Cell::get).as_ref() };
        let stepped_out = own.and_then(|own| {
            calls::stepped_out_of(own.start, || {
                let _asleep = own.worker.asleep();
                self.0.sleep(end, Some(&own.worker))
            })
        });
        stepped_out.unwrap_or_else(|| self.0.sleep(end, None))
    }

    /// The descriptor that is readable while threads are told to stop, or -1.
    pub(crate) fn stop_fd(&self) -> c_int {
        let mut inner = self.0.lock();
        if inner.stop_fd.is_none() {
            let count = u32::from(inner.stopping.is_some());
            inner.stop_fd = eventfd(count, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
        }
        inner.stop_fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Tells threads to stop, and starts no more.
    pub(crate) fn stop(&self) {
        let mut inner = self.0.lock();
        if inner.stopping.is_some() {
            return;
        }
        inner.stopping = Some(Instant::now());
        self.0.is_stopping.store(true, Ordering::Relaxed);
        if let Some(fd) = &inner.stop_fd {
            // It cannot be full.
            let _written = rustix::io::write(fd, &1_u64.to_ne_bytes());
        }
        drop(inner);
        self.0.told.notify_all();
    }

    /// The plugin stays: threads that still run go on, and new ones are started again.
    pub(crate) fn go_on(&self) {
        let mut inner = self.0.lock();
        inner.stopping = None;
        self.0.is_stopping.store(false, Ordering::Relaxed);
        if let Some(fd) = &inner.stop_fd {
            // Nobody else reads it, and it does not block where it is empty.
            let _read = rustix::io::read(fd, &mut [0; 8]);
        }
    }

    /// Whether all have ended, thread-locals included.
    pub(crate) fn have_ended(&self) -> bool {
        let mut inner = self.0.lock();
        inner.threads.retain_mut(|thread| !thread.has_ended());
        inner.threads.is_empty()
    }

    /// Those that have not ended.
    pub(crate) fn running(&self) -> Vec<Running> {
        let mut inner = self.0.lock();
        inner.threads.retain_mut(|thread| !thread.has_ended());
        let told = inner.stopping.map(|since| since.elapsed());
        let running = inner.threads.iter().map(|thread| Running {
            name: thread.name.clone(),
            tid: thread.tid.load(Ordering::Relaxed),
            start: thread.start,
            told,
        });
        running.collect()
    }

    /// Gives back what the threads of a plugin that is gone had of the process.
    pub(crate) fn close(&self) {
        self.0.lock().stop_fd = None;
    }
}

impl Drop for PluginThread {
    fn drop(&mut self) {
        // One that belongs to another process is neither joined nor detached.
        if self.process == task::process() {
            // SAFETY: dropped here only.
            unsafe { ManuallyDrop::drop(&mut self.thread) };
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a plugin's function as a worker. It may be left by an unwinding of libc's.
    ///
    /// # Safety
    /// - As [`PluginThreads::spawn`], on a thread of its own that the ledger counts.
    unsafe fn run(self: Arc<Self>, name: &str, run: Run, data: *mut c_void) {
        let woken = Arc::clone(&self);
        let worker = Worker::register(self.workers, name).waker(move || {
            woken.lock().wishes += 1;
            woken.told.notify_all();
        });
        let start = run as usize;
        let own = Own { worker, start };
        OWN.with(|place| place.set(&raw const own));
        let _leave = Leave {
            shared: &self,
            name,
        };
        // SAFETY: our caller's word.
        calls::inside_of(start, || unsafe { run(data) });
    }

    fn sleep(&self, end: Option<Instant>, worker: Option<&Worker>) -> bool {
        let mut inner = self.lock();
        loop {
            let wishes = inner.wishes;
            if let Some(worker) = worker {
                // Without the lock: it may run destructors.
                drop(inner);
                worker.quiescent();
                inner = self.lock();
            }
            if inner.stopping.is_some() {
                return true;
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return false;
            }
            if inner.wishes != wishes {
                continue;
            }
            inner = match left {
                Some(left) => self
                    .told
                    .wait_timeout(inner, left)
                    .map_or_else(|poison| poison.into_inner().0, |(inner, _)| inner),
                None => self
                    .told
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// Whether the load is neither on its way out nor gone.
fn is_usable(owner: Owner) -> bool {
    let word = state::word(owner.id);
    let state = word.state();
    word.generation() == owner.generation && matches!(state, State::Coming | State::Live)
}

/// The name as the kernel takes it: 15 bytes, and no zero.
fn thread_name(name: &str) -> CString {
    let bytes = name.bytes().filter(|byte| *byte != 0).take(15);
    CString::new(bytes.collect::<Vec<_>>()).unwrap_or_default()
}
