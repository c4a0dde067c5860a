//! The stack of another thread, as far as that is blocked in the kernel.
//!
//! Nothing is sent to the thread and none of its system calls is interrupted: the kernel tells where
//! it is blocked, and copies what is read. A thread that runs has no stack that could be read, and
//! is said to run.

#![forbid(unsafe_code)]

use std::fs;
use std::ops::Range;

use crate::crash::backtrace::{FRAMES, Found, Frame, Walk};
use crate::crash::memory::{Memory, copy_readable};
use crate::crash::registers::{Registers, STACK};

/// What a thread is doing.
#[derive(Debug)]
pub(crate) enum Activity {
    /// It is there no more, or the kernel does not tell.
    Unknown,
    /// It runs, or it moved while it was looked at.
    Running,
    /// It is blocked. The frames, the innermost first.
    Blocked(Vec<Frame>),
}

impl Activity {
    /// What the thread `tid` is doing. Neither waits nor wakes it.
    pub(crate) fn of(tid: u32) -> Self {
        let Some(before) = syscall(tid) else {
            return Self::Unknown;
        };
        let Some(registers) = registers(&before) else {
            return Self::Running;
        };
        let memory = Memory::by_kernel();
        let mut walk = Walk::new(&memory, registers);
        let mut frames = vec![walk.frame()];
        while frames.len() < FRAMES && walk.up().is_ok() {
            frames.push(walk.frame());
        }
        // What was read belongs together only if the thread did not run meanwhile.
        match syscall(tid) {
            Some(after) if after == before => Self::Blocked(frames),
            Some(_) => Self::Running,
            None => Self::Unknown,
        }
    }
}

/// The outermost frame of the thread `tid` in `code`, as an address inside its instruction; none
/// where the thread runs, or where the way up to it would be a guess.
///
/// Tens of microseconds for a thread that has no such address on its stack, a millisecond or two for
/// one that has.
pub(crate) fn outermost_in(code: &Range<usize>, tid: u32) -> Option<usize> {
    /// More than threads use of their stacks but rarely.
    const SEARCHED: usize = 256 << 10;
    let registers = registers(&syscall(tid)?)?;
    let mut bytes = vec![0; SEARCHED];
    let readable = copy_readable(registers.get(STACK), &mut bytes);
    let (words, _) = bytes.get(..readable)?.as_chunks();
    let mut addresses = words.iter().map(|word| usize::from_ne_bytes(*word));
    if !code.contains(&registers.pc()) && !addresses.any(|address| code.contains(&address)) {
        return None;
    }
    let Activity::Blocked(frames) = Activity::of(tid) else {
        return None;
    };
    // Behind a guess the stack may be what former calls left on it.
    let sure = frames.iter().take_while(|f| f.found == Found::Surely);
    let last = sure.filter(|frame| code.contains(&frame.pc)).last()?;
    Some(last.pc.wrapping_sub(1))
}

/// What the kernel says about the system call that a thread is in.
fn syscall(tid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).ok()
}

/// The last two words, stack pointer and program counter; none for a thread that runs.
///
/// # Source
/// proc(5), `/proc/pid/syscall`.
fn registers(syscall: &str) -> Option<Registers> {
    let mut words = syscall.split_ascii_whitespace().rev();
    let mut number = || {
        let digits = words.next()?.strip_prefix("0x")?;
        usize::from_str_radix(digits, 16).ok()
    };
    let (pc, stack) = (number()?, number()?);
    Some(Registers::at(pc, stack))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::sys::{objects, task};

    #[inline(never)]
    fn waits_here(stopped: &mpsc::Receiver<()>) -> bool {
        stopped.recv().is_err()
    }

    #[test]
    fn a_blocked_thread_is_walked_to_its_start_and_a_running_one_is_said_to_run() {
        assert!(objects::prepare());
        let (stop, stopped) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(task::id()).expect("asked for");
            waits_here(&stopped)
        });
        let tid = told.recv().expect("told");
        let here = waits_here as fn(&_) -> _ as usize;
        let frames = loop {
            match Activity::of(tid) {
                // Before it gets there it may be blocked elsewhere.
                Activity::Blocked(frames)
                    if frames.iter().any(|f| f.pc.wrapping_sub(here) < 256) =>
                {
                    break frames;
                }
                _ => std::thread::yield_now(),
            }
        };
        assert!(frames.len() > 4, "{frames:?}");
        drop(stop);
        assert!(thread.join().expect("no panic"));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let done = &done;
            scope.spawn(move || {
                tell.send(task::id()).expect("asked for");
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let tid = told.recv().expect("told");
            // One of the looks meets it while it has a processor or waits for one.
            while !matches!(Activity::of(tid), Activity::Running) {
                std::thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(matches!(Activity::of(u32::MAX), Activity::Unknown));
    }
}
