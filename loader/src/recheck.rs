//! A question that is asked again until the answer is yes, but not too often.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Asked again after this at the earliest.
const PAUSE: Duration = Duration::from_millis(200);

/// How many times longer the pause is than the answer took.
const SHARE: u32 = 100;

type Question = dyn Fn() -> bool + Send + Sync;

/// The question, and when it may be asked next.
#[derive(Clone)]
pub(crate) struct Recheck {
    question: Arc<Question>,
    next: Arc<Mutex<Instant>>,
}

impl fmt::Debug for Recheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recheck")
    }
}

impl Recheck {
    pub(crate) fn new(question: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self {
            question: Arc::new(question),
            next: Arc::new(Mutex::new(Instant::now() + PAUSE)),
        }
    }

    /// Whether the answer is yes by now; no, without asking, where it was asked just before.
    pub(crate) fn holds(&self) -> bool {
        // Held by somebody who asks just now, or, in a forked child, by nobody who is there.
        let Ok(mut next) = self.next.try_lock() else {
            return false;
        };
        let began = Instant::now();
        if began < *next {
            return false;
        }
        let holds = (self.question)();
        let took = began.elapsed();
        *next = Instant::now() + PAUSE.max(took.saturating_mul(SHARE));
        holds
    }
}
