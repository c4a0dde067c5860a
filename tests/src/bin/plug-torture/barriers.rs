//! Barriers in every running thread, and how a process comes to have none.

use std::io;
use std::sync::atomic::{Ordering, fence};
use std::thread;

use plug_readside::{at_distance, snapshot, thread_pointer};
use plug_tests::{confinement, storm};

use crate::scenario::{Barriers, Part, Scenario};

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
pub fn prepare(scenario: &Scenario) {
    // The loader does so itself.
    if scenario.part != Part::Plugins {
        know_tids();
    }
    match scenario.barriers {
        Barriers::Membarrier | Barriers::Switch => {
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

/// Lets the table tell the dead from their successors.
fn know_tids() {
    /// What the C library knows about a thread is at its pointer on one processor, and right below
    /// it on the other.
    const WORDS: usize = 400;
    const FIRST: usize = if cfg!(target_arch = "aarch64") {
        (WORDS * 4).wrapping_neg()
    } else {
        0
    };
    let fitting = |places: Vec<usize>| -> Vec<usize> {
        let (thread, own) = (thread_pointer(), storm::tid().unsigned_abs());
        let holds = |at: &usize| {
            // SAFETY: inside of what the C library knows about the running thread.
            let found = unsafe { at_distance(thread, *at).read_volatile() };
            found == own
        };
        places.into_iter().filter(holds).collect()
    };
    let all = (0..WORDS).map(|n| FIRST.wrapping_add(n * 4)).collect();
    let own = fitting(all);
    let both = thread::spawn(move || fitting(own)).join();
    let both = both.expect("no panic");
    let [at] = both[..] else {
        panic!("the id is at one place, and not at {both:?}");
    };
    // SAFETY: right for two threads, and no thread of this process has registered yet.
    unsafe { snapshot::sections().know_tids(at) };
}

/// Gives membarrier up, whoever is inside of what.
pub fn give_up() {
    snapshot::sections()
        .switch_to_fences(|| membarrier(PRIVATE_EXPEDITED))
        .expect("the last barrier");
    assert!(!snapshot::sections().needs_barrier());
}

/// A full barrier in every running thread, as an unload has it.
pub fn everywhere() -> io::Result<()> {
    if snapshot::sections().needs_barrier() {
        return membarrier(PRIVATE_EXPEDITED);
    }
    // SeqCst: the writer's half of the fences.
    fence(Ordering::SeqCst);
    Ok(())
}
