//! Quiescent points: moments at which a worker says that no plugin's code is below it on its
//! stack, and how the loader asks for one.
//!
//! A worker that works passes them by itself. One that sleeps says so before, or gives the loader
//! a way to wake it.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Wakes a sleeping worker.
pub(crate) type Waker = Box<dyn Fn() + Send + Sync>;

/// One worker's quiescent points.
#[derive(Default)]
pub(crate) struct Points {
    /// Points passed. Written by the worker (Relaxed: a report), read for reports.
    passed: AtomicU64,
    /// Whether a point is wanted. Set by whoever asks, cleared by the worker (SeqCst: pairs with
    /// `asleep`, of which one always sees the other).
    wanted: AtomicBool,
    /// Points passed because one was wanted. Written by the worker (Release: all it did comes
    /// before), read by whoever asks (Acquire).
    answers: AtomicU64,
    /// Whether the worker sleeps at a point. Written by the worker (SeqCst), read by whoever asks
    /// (SeqCst).
    asleep: AtomicBool,
    /// Set once by the worker, before anybody could use it.
    waker: OnceLock<Waker>,
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Points")
            .field("passed", &self.passed)
            .field("wanted", &self.wanted)
            .field("asleep", &self.asleep)
            .finish_non_exhaustive()
    }
}

/// A point asked of one worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    answers: u64,
}

impl Points {
    /// Points passed.
    pub(crate) fn passed(&self) -> u64 {
        // Relaxed: shown in reports.
        self.passed.load(Ordering::Relaxed)
    }

    /// Sets the waker; false when there is one.
    pub(crate) fn set_waker(&self, waker: Waker) -> bool {
        self.waker.set(waker).is_ok()
    }

    /// The worker passes a point; whether one was wanted.
    #[inline]
    pub(crate) fn pass(&self) -> bool {
        // Relaxed, both: only the worker writes it.
        let passed = self.passed.load(Ordering::Relaxed);
        self.passed.store(passed.wrapping_add(1), Ordering::Relaxed);
        // Relaxed: who asks now is seen at the next point.
        self.wanted.load(Ordering::Relaxed) && self.answer()
    }

    /// Answers a wanted point.
    #[cold]
    fn answer(&self) -> bool {
        // SeqCst: whoever asks from here on asks for a later point.
        let wanted = self.wanted.swap(false, Ordering::SeqCst);
        if wanted {
            // Release: all that the worker did comes before; pairs with is_answered().
            self.answers.fetch_add(1, Ordering::Release);
        }
        wanted
    }

    /// The worker begins to sleep at a point; whether one was wanted.
    pub(crate) fn fall_asleep(&self) -> bool {
        // SeqCst: either whoever asks sees it, or the worker sees the wish.
        self.asleep.store(true, Ordering::SeqCst);
        // SeqCst: as above.
        self.wanted.load(Ordering::SeqCst) && self.answer()
    }

    /// The worker goes on.
    pub(crate) fn wake_up(&self) {
        // SeqCst: cold.
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Whether the worker sleeps at a point.
    pub(crate) fn is_asleep(&self) -> bool {
        // SeqCst: pairs with fall_asleep(); all that the worker did before it slept comes before.
        self.asleep.load(Ordering::SeqCst)
    }

    /// Asks for a point, and wakes the worker where nobody has asked already.
    pub(crate) fn ask(&self) -> Request {
        // Acquire: an answer from here on is to this request or one that came with it.
        let answers = self.answers.load(Ordering::Acquire);
        // SeqCst: pairs with fall_asleep().
        let is_first = !self.wanted.swap(true, Ordering::SeqCst);
        if is_first && let Some(waker) = self.waker.get() {
            waker();
        }
        Request { answers }
    }

    /// Whether a point has been passed since `request`.
    pub(crate) fn is_answered(&self, request: Request) -> bool {
        // Acquire: pairs with answer().
        self.answers.load(Ordering::Acquire) != request.answers
    }

    /// Whether the worker can be woken.
    pub(crate) fn has_waker(&self) -> bool {
        self.waker.get().is_some()
    }
}
