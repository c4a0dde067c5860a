//! What wakes the server's thread: rung by events, by jobs that end and by the server's end.
//!
//! Ringing never waits, and any thread may ring.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::Wake;

use rustix::event::{EventfdFlags, eventfd};

/// A counter in the kernel that the server's thread polls.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Arc::new(Self(eventfd(0, flags)?)))
    }

    pub(super) fn ring(&self) {
        // Fails only when the counter is full, and then it rings already.
        let _rung = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Is silent again until the next ring.
    pub(super) fn hush(&self) {
        // Fails only when nobody has rung.
        let _silent = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
