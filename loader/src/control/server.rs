//! The server's one thread: polls the bell, the listener and the clients, and waits for nothing
//! else.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::bell::Bell;
use super::connection::{Closed, Connection};
use super::jobs::Crew;
use super::methods::Host;
use super::socket;
use crate::sys::clock;

/// Clients at a time.
const MAX_CONNECTIONS: usize = 16;

/// Time between looks at workers and clocks while there is a client.
const TICK: Duration = Duration::from_millis(200);

/// How long a client must have been idle to be replaced by one that waits for a place.
const REPLACEABLE: Duration = Duration::from_secs(1);

/// A window of time, and how much of it the thread may work: whatever clients do, workers lose at
/// most a quarter of one processor to it.
const WINDOW: Duration = Duration::from_millis(100);
const SHARE: Duration = Duration::from_millis(25);

/// What the thread owns.
#[derive(Debug)]
pub(super) struct Serving {
    host: Arc<Host>,
    listener: OwnedFd,
    bell: Arc<Bell>,
    stop: Arc<AtomicBool>,
    crew: Crew,
    connections: Vec<Connection>,
    next_id: u64,
    scratch: Vec<u8>,
    looked: Instant,
    /// Nobody is accepted before, since the process is short of something.
    deaf_until: Instant,
    budget: Budget,
}

impl Serving {
    pub(super) fn new(
        host: Arc<Host>,
        listener: OwnedFd,
        bell: Arc<Bell>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            host,
            listener,
            crew: Crew::new(Arc::clone(&bell)),
            bell,
            stop,
            connections: Vec::new(),
            next_id: 0,
            scratch: vec![0; 64 * 1024],
            looked: now,
            deaf_until: now,
            budget: Budget::new(now),
        }
    }

    /// Serves until told to stop.
    pub(super) fn run(mut self) {
        // SeqCst: a flag beside the bell, which orders it; cold.
        while !self.stop.load(Ordering::SeqCst) {
            let ready = self.wait();
            let now = Instant::now();
            self.turn(&ready, now);
            if let Some(rest) = self.budget.spend(now, Instant::now()) {
                clock::nap(rest);
            }
        }
    }

    /// Waits until there is something to do; what of the bell, the listener and each client is
    /// ready.
    fn wait(&mut self) -> Vec<PollFlags> {
        let now = Instant::now();
        let deaf = now < self.deaf_until;
        let accepts = !deaf && (self.has_place() || self.replaceable(now).is_some());
        let listening = if accepts {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let due = self.connections.iter().any(Connection::is_due);
        let timeout = match self.connections.is_empty() && !deaf {
            true => None,
            false if due => Some(Duration::ZERO),
            false => Some(TICK.saturating_sub(now.saturating_duration_since(self.looked))),
        };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut polled = vec![
            PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), listening),
        ];
        polled.extend(
            self.connections
                .iter()
                .map(|c| PollFd::from_borrowed_fd(c.as_fd(), c.interest())),
        );
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => polled.iter().map(PollFd::revents).collect(),
            // Short of memory or interrupted: look again soon.
            Err(_) => vec![PollFlags::empty(); polled.len()],
        }
    }

    fn turn(&mut self, ready: &[PollFlags], now: Instant) {
        let mut ready = ready.iter().copied();
        let bell = ready.next().unwrap_or(PollFlags::empty());
        let listener = ready.next().unwrap_or(PollFlags::empty());
        if bell.contains(PollFlags::IN) {
            self.bell.hush();
        }
        while let Some(done) = self.crew.ended() {
            let asked = self
                .connections
                .iter_mut()
                .find(|c| c.id == done.connection);
            if let Some(connection) = asked {
                connection.job_ended(done.text, now);
            }
        }
        let (host, scratch) = (&self.host, &mut self.scratch);
        self.connections.retain_mut(|connection| {
            let ready = ready.next().unwrap_or(PollFlags::empty());
            let turn = connection.turn(ready, host, scratch, now);
            if let Err(why @ (Closed::Malformed | Closed::Late)) = turn {
                tracing::debug!(target: "plug::control", ?why, "client closed");
            }
            turn.is_ok()
        });
        self.begin_jobs();
        if listener.contains(PollFlags::IN) {
            self.accept(now);
        }
        if !self.connections.is_empty() && now.saturating_duration_since(self.looked) >= TICK {
            // Remembers who is where, so that "since" is fresh for whoever asks next.
            let _seen = self.host.loader.workers();
            self.looked = now;
        }
    }

    /// Begins jobs as far as there is room, first come first served.
    fn begin_jobs(&mut self) {
        while self.crew.has_room() {
            let waiting = self
                .connections
                .iter_mut()
                .filter(|c| c.queued_since().is_some());
            let Some(first) = waiting.min_by_key(|c| c.queued_since()) else {
                return;
            };
            let id = first.id;
            if let Some(job) = first.begin() {
                self.crew.start(id, job);
            }
        }
    }

    fn has_place(&self) -> bool {
        self.connections.len() < MAX_CONNECTIONS
    }

    /// The client that has been idle longest, if it has been for long enough.
    fn replaceable(&self, now: Instant) -> Option<usize> {
        let idle = self.connections.iter().enumerate();
        let idle = idle.filter_map(|(at, c)| Some((c.idle(now)?, at)));
        let (longest, at) = idle.max()?;
        (longest > REPLACEABLE).then_some(at)
    }

    /// Lets the next client in, in the place of an idle one if need be. Without a place it waits
    /// in the kernel.
    fn accept(&mut self, now: Instant) {
        if !self.has_place() && self.replaceable(now).is_none() {
            return;
        }
        match socket::accept(&self.listener) {
            Ok(socket) => {
                if !self.has_place()
                    && let Some(at) = self.replaceable(now)
                {
                    drop(self.connections.remove(at));
                }
                if self.connections.is_empty() {
                    self.looked = now;
                }
                self.connections.push(Connection::new(self.next_id, socket));
                self.next_id += 1;
            }
            Err(Errno::WOULDBLOCK | Errno::INTR | Errno::CONNABORTED | Errno::PERM) => {}
            Err(error) => {
                tracing::warn!(target: "plug::control", %error, "nobody can be let in for now");
                self.deaf_until = now + WINDOW;
            }
        }
    }
}

/// How much of the present window was worked.
#[derive(Debug)]
struct Budget {
    since: Instant,
    used: Duration,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            used: Duration::ZERO,
        }
    }

    /// Counts work; how long to rest if it was too much.
    fn spend(&mut self, from: Instant, to: Instant) -> Option<Duration> {
        if from.saturating_duration_since(self.since) >= WINDOW {
            *self = Self::new(from);
        }
        self.used += to.saturating_duration_since(from);
        let spent = self.used >= SHARE;
        spent.then(|| (self.since + WINDOW).saturating_duration_since(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_rests_for_the_rest_of_a_window_that_is_spent() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut budget = Budget::new(start);
        assert_eq!(budget.spend(at(0), at(20)), None);
        assert_eq!(
            budget.spend(at(50), at(60)),
            Some(Duration::from_millis(40))
        );
        assert_eq!(budget.spend(at(100), at(110)), None);
    }
}
