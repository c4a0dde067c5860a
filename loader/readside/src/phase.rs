//! Which call into a plugin the loader itself is making, thread by thread: what a crash report
//! says about a fault while that call lasts, wherever the fault is.

use crate::sync::{AtomicU64, AtomicUsize, Ordering};
use crate::thread_pointer::ThreadPointer;

/// What the loader makes a plugin do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// One of its constructors.
    Constructor = 1,
    /// Its `init`.
    Init = 2,
    /// Its `exit`.
    Exit = 3,
    /// One of its destructors.
    Destructor = 4,
}

impl Phase {
    /// The phase in one word. Async-signal-safe.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constructor => "constructor",
            Self::Init => "init",
            Self::Exit => "exit",
            Self::Destructor => "destructor",
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Constructor),
            2 => Some(Self::Init),
            3 => Some(Self::Exit),
            4 => Some(Self::Destructor),
            _ => None,
        }
    }
}

/// How many such calls are noted at a time. One more goes on unnoted; half as many would be few
/// for a host that loads a hundred plugins at once.
const LINES: usize = 256;

/// One call in progress.
struct Line {
    /// The thread that makes it, 0 for nobody. Claimed and given back by that thread (SeqCst:
    /// cold); a handler looks only for the thread it interrupted, whose own stores it sees.
    thread: AtomicUsize,
    /// `generation << 8 | phase`. Written by the thread between claim and release, with the same
    /// reader (SeqCst: cold).
    work: AtomicU64,
}

static TABLE: [Line; LINES] = [const {
    Line {
        thread: AtomicUsize::new(0),
        work: AtomicU64::new(0),
    }
}; LINES];

/// The running thread is in a phase of a plugin's until this is dropped.
#[derive(Debug)]
#[must_use = "the phase ends when this is dropped"]
pub struct Entered {
    line: Option<usize>,
    /// What the thread was in before; 0 when the line was free.
    before: u64,
}

/// Notes that `thread`, the running one, calls into the load `generation`.
///
/// Thread context; neither waits nor allocates.
pub fn enter(thread: ThreadPointer, generation: u64, phase: Phase) -> Entered {
    let work = generation << 8 | u64::from(phase as u8);
    let own = |line: &Line| line.thread.load(Ordering::SeqCst) == thread.address();
    if let Some(line) = TABLE.iter().position(own) {
        let before = TABLE
            .get(line)
            .map_or(0, |line| line.work.swap(work, Ordering::SeqCst));
        return Entered {
            line: Some(line),
            before,
        };
    }
    let claimed = TABLE.iter().position(|line| {
        line.thread
            .compare_exchange(0, thread.address(), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    });
    if let Some(line) = claimed.and_then(|line| TABLE.get(line)) {
        line.work.store(work, Ordering::SeqCst);
    }
    Entered {
        line: claimed,
        before: 0,
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(line) = self.line.and_then(|line| TABLE.get(line)) {
            line.work.store(self.before, Ordering::SeqCst);
            if self.before == 0 {
                line.thread.store(0, Ordering::SeqCst);
            }
        }
    }
}

/// Forgets the phases of all threads but `thread`, in a forked child, where no other one exists.
///
/// Async-signal-safe.
pub fn reset_after_fork(thread: ThreadPointer) {
    for line in &TABLE {
        if line.thread.load(Ordering::SeqCst) != thread.address() {
            line.work.store(0, Ordering::SeqCst);
            line.thread.store(0, Ordering::SeqCst);
        }
    }
}

/// The load that `thread` works on, and its phase.
///
/// Async-signal-safe, if `thread` is the running one.
#[must_use]
pub fn of(thread: ThreadPointer) -> Option<(u64, Phase)> {
    let line = TABLE
        .iter()
        .find(|line| line.thread.load(Ordering::SeqCst) == thread.address())?;
    let work = line.work.load(Ordering::SeqCst);
    let phase = Phase::from_byte((work & 0xff) as u8)?;
    Some((work >> 8, phase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thread_pointer::thread_pointer;

    #[test]
    fn phases_of_one_thread_nest() {
        let me = thread_pointer();
        assert_eq!(of(me), None);
        let outer = enter(me, 7, Phase::Init);
        let inner = enter(me, 8, Phase::Constructor);
        assert_eq!(of(me), Some((8, Phase::Constructor)));
        drop(inner);
        assert_eq!(of(me), Some((7, Phase::Init)));
        drop(outer);
        assert_eq!(of(me), None);
    }
}
