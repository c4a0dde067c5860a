//! Threads of the loader's own on which plugins' constructors, `init`, `exit` and destructors
//! run, so that no caller's thread is left owning a plugin's thread-locals.
//!
//! Each job gets a fresh thread that is joined before the loader goes on: joining waits for the
//! thread's own thread-local destructors as well, so nothing of the plugin is left on it.

#![forbid(unsafe_code)]

use std::sync::mpsc;
use std::thread::Builder;

use crate::calls;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::sys::alternate_stack::AlternateStack;

/// Any alternate stack will do for the crash handler, which goes on to a stack of its own.
const ANY: usize = 1;

/// Runs `job` on a thread of its own and waits for that thread's end.
///
/// # Errors
/// [`ErrorKind::Thread`] when no thread could be started. A panic in `job` goes on here.
pub(crate) fn run<R: Send>(name: &str, job: impl FnOnce() -> R + Send) -> Result<R, Error> {
    std::thread::scope(|scope| {
        let thread = builder(name)
            .spawn_scoped(scope, || {
                let _stack = AlternateStack::unless_at_least(ANY);
                calls::inside(job)
            })
            .map_err(no_thread)?;
        match thread.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What became of a job with a deadline.
#[derive(Debug)]
pub(crate) enum Outcome<R> {
    /// It ended, and so did its thread.
    Done(R),
    /// The deadline passed; the job goes on by itself.
    Late,
}

/// Runs `job` on a thread of its own, but does not wait for it past the deadline.
///
/// # Errors
/// [`ErrorKind::Thread`] when no thread could be started.
pub(crate) fn run_until<R: Send + 'static>(
    name: &str,
    deadline: Deadline,
    job: impl FnOnce() -> R + Send + 'static,
) -> Result<Outcome<R>, Error> {
    let (tell, told) = mpsc::sync_channel(1);
    let thread = builder(name)
        .spawn(move || {
            let _stack = AlternateStack::unless_at_least(ANY);
            let result = calls::inside(job);
            // The waiter may have gone away after its deadline.
            let _told = tell.send(result);
        })
        .map_err(no_thread)?;
    match told.recv_timeout(deadline.remaining()) {
        Ok(result) => match thread.join() {
            Ok(()) => Ok(Outcome::Done(result)),
            Err(panic) => std::panic::resume_unwind(panic),
        },
        Err(mpsc::RecvTimeoutError::Timeout) => Ok(Outcome::Late),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => Ok(Outcome::Late),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

fn builder(name: &str) -> Builder {
    // The kernel shows 15 bytes of it.
    Builder::new().name(format!("plug-{name}"))
}

fn no_thread(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Thread, "no thread to run the plugin's code on").because(error)
}
