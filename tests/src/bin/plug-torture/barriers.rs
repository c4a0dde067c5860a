//! Barriers in every running thread, and how a process comes to have none.

use std::io;
use std::sync::atomic::{Ordering, fence};

use plug_readside::snapshot;
use plug_tests::confinement;

use crate::scenario::Barriers;

const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

fn membarrier(command: libc::c_int) -> io::Result<()> {
    // SAFETY: the call takes numbers and touches no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts the process into its mode, before any thread could rely on another one.
pub fn prepare(barriers: Barriers) {
    match barriers {
        Barriers::Membarrier => {
            membarrier(REGISTER_PRIVATE_EXPEDITED).expect("a kernel with membarrier");
        }
        // SAFETY: no thread of this process has registered yet.
        Barriers::Fences => unsafe { snapshot::sections().use_fences() },
        Barriers::Denied => {
            confinement::refuse(libc::SYS_membarrier, libc::EPERM);
            membarrier(REGISTER_PRIVATE_EXPEDITED).expect_err("denied");
        }
    }
}

/// A full barrier in every running thread, as an unload has it.
pub fn everywhere() -> io::Result<()> {
    if snapshot::sections().fences() {
        // SeqCst: the writer's half of the fences.
        fence(Ordering::SeqCst);
        return Ok(());
    }
    membarrier(PRIVATE_EXPEDITED)
}
