//! The side of a probe that starts it, listens to it and ends it.
//!
//! Nothing that the probe does is trusted to end: it may close the pipe, hold it open by a child,
//! fill it, or never return. What decides is how its process ended, and when.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, read};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, waitid,
};

use super::plan::Probe;
use super::report::{Exit, MAX_REPORT, Report};
use super::request::{Limits, Request};
use super::{FILE, REPORT, REQUEST, VARIABLE};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::image::sealed;
use crate::sys::clock;
use crate::sys::spawn::spawn;

/// How long the pipe is listened to before the process is looked at: a child of the probe's may hold
/// it open.
const LOOK: Duration = Duration::from_millis(5);

/// Has `bytes` probed.
///
/// # Errors
/// [`ErrorKind::Probe`] when no probe could be made; what it found is in the report.
pub(crate) fn run(plan: &Probe, bytes: &[u8], request: &Request) -> Result<Report, Error> {
    let began = Instant::now();
    let failed = |what: &str, error: io::Error| {
        let message = format!("probe: {what}: {error}");
        Error::new(ErrorKind::Probe, message).because(error)
    };
    let file = sealed("plug-probe", bytes).map_err(|error| failed("copy the file", error))?;
    let text = request.write(Limits::of(plan));
    let request =
        sealed("plug-probe", &text).map_err(|error| failed("write the request", error))?;
    let (said, tell) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed("make a pipe", error.into()))?;
    fcntl_setfl(&said, OFlags::NONBLOCK).map_err(|error| failed("make a pipe", error.into()))?;
    // In this order, from descriptor 3 on.
    const { assert!(FILE == 3 && REPORT == 4 && REQUEST == 5) };
    let descriptors = [file.as_fd(), tell.as_fd(), request.as_fd()];
    let child = start(&plan.program, &descriptors).map_err(|error| {
        let what = format!("start {}", plan.program.display());
        failed(&what, error)
    })?;
    drop((file, tell, request));
    let (heard, exit) = child.watch(&said, plan.deadline);
    Ok(Report::read(&heard, exit, began.elapsed()))
}

fn start(program: &Path, descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<Child> {
    let mut environment = Vec::new();
    for (key, value) in env::vars_os().filter(|(key, _)| key != VARIABLE) {
        let mut entry = key.into_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        environment.push(CString::new(entry)?);
    }
    let own = rustix::process::getpid().as_raw_nonzero();
    environment.push(CString::new(format!("{VARIABLE}={own}"))?);
    let name = CString::new(program.as_os_str().as_bytes())?;
    let pid = spawn(
        &name,
        &[c"plug-probe".to_owned()],
        &environment,
        descriptors,
    )?;
    Ok(Child { pid })
}

/// A process that was started and not yet waited for.
struct Child {
    pid: Pid,
}

impl Child {
    /// Listens until the process has ended or its time is over, and sees to it that it, and what it
    /// left in its process group, has ended.
    fn watch(self, said: &OwnedFd, time: Duration) -> (Vec<u8>, Exit) {
        let deadline = Deadline::after(time);
        let mut heard = Vec::new();
        let mut nap = Duration::from_micros(20);
        let mut is_open = true;
        let exit = loop {
            if is_open {
                await_word(said, LOOK.min(deadline.remaining()));
                is_open = listen(said, &mut heard);
            } else {
                // The pipe closes moments before the process has ended.
                clock::nap(nap.min(deadline.remaining()));
                nap = (nap * 2).min(LOOK);
            }
            if let Some(exit) = self.ended() {
                break exit;
            }
            if deadline.has_passed() {
                break Exit::Late(time);
            }
            if heard.len() > MAX_REPORT {
                break Exit::Verbose;
            }
        };
        // While it is not waited for, nobody else can have its number.
        if exit != Exit::Lost {
            let _gone = kill_process_group(self.pid, Signal::KILL);
            while self.reap() == Err(Errno::INTR) {}
        }
        if is_open {
            // What it said last. A child that it left may hold the pipe, but no longer writes.
            listen(said, &mut heard);
        }
        (heard, exit)
    }

    /// How the process ended, if it has. It stays to be waited for.
    fn ended(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(None) | Err(Errno::INTR) => None,
            Ok(Some(status)) => Some(exit(&status)),
            // The host waits for all its children, or ignores SIGCHLD.
            Err(_) => Some(Exit::Lost),
        }
    }

    fn reap(&self) -> Result<(), Errno> {
        waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED).map(drop)
    }
}

fn exit(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => Exit::Status(status),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Lost,
    }
}

/// Waits until there is something to read, or the pipe is closed, for at most `time`.
fn await_word(said: &OwnedFd, time: Duration) {
    let mut wanted = [PollFd::new(said, PollFlags::IN)];
    let time = Timespec::try_from(time).ok();
    // Whatever comes of it, the caller looks.
    let _ready = poll(&mut wanted, time.as_ref());
}

/// Reads what is there; false when nothing will come any more.
fn listen(said: &OwnedFd, heard: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    while heard.len() <= MAX_REPORT {
        match read(said, &mut buffer) {
            Ok(0) => return false,
            Ok(n) => heard.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}
