//! Loads and unloads, each on a thread of its own that ends with it, so that the server's thread
//! waits for nobody's constructors and nobody's calls.

#![forbid(unsafe_code)]

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::bell::Bell;
use super::rows;
use super::wire;

/// Jobs at work at once, those included whose client is gone.
const MOST: usize = 8;

/// Something that may take long; its result is the text to send.
pub(super) struct Job {
    /// What it is, for the thread's name.
    pub(super) name: &'static str,
    /// Does it.
    pub(super) work: Box<dyn FnOnce() -> Vec<u8> + Send>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job({})", self.name)
    }
}

/// A job that ended.
#[derive(Debug)]
pub(super) struct Done {
    /// The connection it was for, which may be gone.
    pub(super) connection: u64,
    pub(super) text: Vec<u8>,
}

/// Who works. Belongs to the server's thread.
#[derive(Debug)]
pub(super) struct Crew {
    bell: Arc<Bell>,
    running: usize,
    sender: Sender<Done>,
    receiver: Receiver<Done>,
}

impl Crew {
    /// A crew that rings `bell` when a job ended.
    pub(super) fn new(bell: Arc<Bell>) -> Self {
        let (sender, receiver) = channel();
        Self {
            bell,
            running: 0,
            sender,
            receiver,
        }
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.running < MOST
    }

    /// Starts a job. One that cannot be started ends at once, refused.
    pub(super) fn start(&mut self, connection: u64, job: Job) {
        let Job { name, work } = job;
        let (sender, bell) = (self.sender.clone(), Arc::clone(&self.bell));
        let run = move || {
            let text = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
                wire::error(&rows::refused(
                    "",
                    "control",
                    "the loader panicked".to_owned(),
                ))
            });
            // The server may have ended meanwhile; then nobody asks for the result.
            let _heard = sender.send(Done { connection, text });
            bell.ring();
        };
        self.running += 1;
        let started = thread::Builder::new()
            .name(format!("plug-{name}"))
            .spawn(run);
        if let Err(error) = started {
            let text = wire::error(&rows::refused("", "thread", format!("no thread: {error}")));
            let _heard = self.sender.send(Done { connection, text });
            self.bell.ring();
        }
    }

    /// The next job that ended.
    pub(super) fn ended(&mut self) -> Option<Done> {
        let done = self.receiver.try_recv().ok()?;
        self.running = self.running.saturating_sub(1);
        Some(done)
    }
}
