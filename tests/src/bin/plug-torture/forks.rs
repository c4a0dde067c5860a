//! Forks in the middle of everything: the child must work, and end.

use std::time::{Duration, Instant};

use plug_tests::storm;

use crate::pace;
use crate::tally::{self, Count, Fault};

/// Forks now and then until all stops. What the child does tells whether all was well there.
///
/// The child must neither allocate nor lock: it may have been forked from anything.
pub fn fork_often(pause: Duration, child: impl Fn() -> bool) {
    while pace::goes_on() {
        storm::nap(pause);
        // SAFETY: the child does what is allowed in one, and ends by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let status = if child() { 0 } else { 1 };
            // SAFETY: ends the child.
            unsafe { libc::_exit(status) };
        }
        assert!(pid > 0, "fork");
        if let Some(status) = wait(pid)
            && status != 0
        {
            tally::fault(Fault::Child, u64::from(status.unsigned_abs()));
        }
        tally::count(Count::Children);
    }
}

/// The child's wait status; kills one that does not end.
fn wait(pid: libc::pid_t) -> Option<i32> {
    let began = Instant::now();
    let mut status = 0;
    loop {
        // SAFETY: an own child and room for its status.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        if ended == pid {
            return Some(status);
        }
        if began.elapsed() > pace::PATIENCE {
            tally::fault(Fault::Stuck, u64::from(pid.unsigned_abs()));
            // SAFETY: an own child that was not waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            return None;
        }
        storm::nap(Duration::from_micros(200));
    }
}
