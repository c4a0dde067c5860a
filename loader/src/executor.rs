//! Threads of the loader's own on which plugins' constructors, `init`, `exit` and destructors
//! run, so that no caller's thread is left owning a plugin's thread-locals.
//!
//! Each job gets a fresh thread, made ahead where its making can pass unnoticed. A thread that has
//! answered runs its thread-local destructors, the plugin's among them, and ends; until it has, the
//! plugin stays mapped ([`Ending`]).

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::Duration;

use crate::calls;
use crate::deadline::{Deadline, Patience};
use crate::error::{Error, ErrorKind};
use crate::sys::alternate_stack::AlternateStack;
use crate::sys::task;
use crate::sys::thread::Thread;

/// Any alternate stack will do for the crash handler, which goes on to a stack of its own.
const ANY: usize = 1;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that waits for its one job; without one it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Executor {
    job: Option<SyncSender<Job>>,
    ending: Option<Ending>,
}

/// A thread that has had its job, and ends by itself.
#[derive(Debug)]
#[must_use = "the thread may run destructors of the plugin's"]
pub(crate) struct Ending {
    /// The process that it is a thread of. In one forked from that it is not there, and the C
    /// library has given its stack to whatever thread came next.
    process: u32,
    /// Stored once by the thread, before it takes its job (Release); 0 before. Read by whoever
    /// waits for its end (Acquire).
    tid: Arc<AtomicU32>,
    /// None once it was joined.
    thread: Option<Thread>,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) enum Outcome<R> {
    /// It answered.
    Done(R),
    /// The plugin ended the thread in the middle of its job.
    Vanished,
    /// The deadline passed; the job goes on by itself.
    Late,
}

impl Executor {
    /// Starts a thread. The kernel shows 15 bytes of its name.
    ///
    /// # Errors
    /// [`ErrorKind::Thread`] when no thread could be started.
    pub(crate) fn start(name: &'static CStr) -> Result<Self, Error> {
        let (job, jobs) = mpsc::sync_channel::<Job>(1);
        let tid = Arc::new(AtomicU32::new(0));
        let own = Arc::clone(&tid);
        let thread = Thread::start(name, move || {
            let _stack = AlternateStack::unless_at_least(ANY);
            // Release: pairs with the load in Ending::tid().
            own.store(task::id(), Ordering::Release);
            if let Ok(job) = jobs.recv() {
                job();
            }
        });
        let thread = thread.map_err(|error| {
            Error::new(ErrorKind::Thread, "no thread to run the plugin's code on").because(error)
        })?;
        Ok(Self {
            job: Some(job),
            ending: Some(Ending {
                process: task::process(),
                tid,
                thread: Some(thread),
            }),
        })
    }

    /// Runs `job` and waits for its answer, up to the deadline if there is one. The thread ends
    /// afterwards, by and by.
    ///
    /// # Errors
    /// [`ErrorKind::Thread`] when the thread is not there.
    pub(crate) fn run<R: Send + 'static>(
        self,
        deadline: Option<Deadline>,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<(Outcome<R>, Ending), Error> {
        self.run_on(deadline, job, || {})
    }

    /// As [`Executor::run`]; the thread goes on with `rest` once `job` has answered, whether or not
    /// somebody still waits for that, and ends after it.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub(crate) fn run_on<R: Send + 'static>(
        mut self,
        deadline: Option<Deadline>,
        job: impl FnOnce() -> R + Send + 'static,
        rest: impl FnOnce() + Send + 'static,
    ) -> Result<(Outcome<R>, Ending), Error> {
        let (tell, told) = mpsc::sync_channel(1);
        let job = Box::new(move || {
            let result = calls::inside(job);
            // The waiter may have gone away after its deadline.
            let _told = tell.send(result);
            calls::inside(rest);
        });
        let gone = || {
            Error::new(
                ErrorKind::Thread,
                "the thread for the plugin's code is gone",
            )
        };
        let jobs = self.job.take().ok_or_else(gone)?;
        let ending = self.ending.take().ok_or_else(gone)?;
        jobs.send(job).map_err(|_| gone())?;
        let answer = match deadline {
            Some(deadline) => told.recv_timeout(deadline.remaining()),
            None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let outcome = match answer {
            Ok(result) => Outcome::Done(result),
            Err(RecvTimeoutError::Disconnected) => Outcome::Vanished,
            Err(RecvTimeoutError::Timeout) => Outcome::Late,
        };
        Ok((outcome, ending))
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.job = None;
        if let Some(ending) = self.ending.take() {
            // It has had no job, so there is nothing to hear of it.
            ending.join();
        }
    }
}

impl Ending {
    /// The thread's number; 0 while it has not begun.
    pub(crate) fn tid(&self) -> u32 {
        // Acquire: pairs with the store in Executor::start().
        self.tid.load(Ordering::Acquire)
    }

    /// Whether the thread has ended, its thread-local destructors included.
    ///
    /// It leaves the process after the last of them, which joining would wait for without a
    /// deadline.
    pub(crate) fn has_ended(&self) -> bool {
        !self.is_here() || self.tid() != 0 && task::is_dead(self.tid())
    }

    /// Whether the thread is one of the running process's, and not of one that this was forked from.
    pub(crate) fn is_here(&self) -> bool {
        self.process == task::process()
    }

    fn join(mut self) {
        if self.is_here()
            && let Some(thread) = self.thread.take()
        {
            thread.join();
        }
    }

    /// Waits until the thread has ended.
    ///
    /// # Errors
    /// The thread, if it has not ended when the deadline passes.
    pub(crate) fn wait(mut self, deadline: Deadline) -> Result<(), Self> {
        // Told by the kernel first: a thread that ends takes longer than looks are worth, and less
        // than a nap. It stays in the kernel's list for some microseconds more.
        if self.is_here()
            && let Some(thread) = &mut self.thread
            && thread.join_until(deadline.remaining())
        {
            self.thread = None;
        }
        let mut patience = Patience::until(deadline);
        while !self.has_ended() {
            if !patience.pause() {
                return Err(self);
            }
        }
        self.join();
        Ok(())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.is_here() {
            // Neither joined nor detached.
            let _left = ManuallyDrop::new(self.thread.take());
        }
    }
}

/// Waits until all of `threads` have ended.
///
/// # Errors
/// Why they have not when the time is over; they end by themselves.
pub(crate) fn wait_all(threads: Vec<Ending>, time: Duration) -> Result<(), String> {
    let deadline = Deadline::after(time);
    for thread in threads {
        thread.wait(deadline).map_err(|thread| {
            let tid = thread.tid();
            format!("the loader's thread {tid}, which ran the plugin's code, has not ended")
        })?;
    }
    Ok(())
}
