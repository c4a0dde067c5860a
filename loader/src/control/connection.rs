//! One client: its bytes in both directions, what is being done for it, and its patience.
//!
//! Belongs to the server's thread. Everything a client can make it keep is bounded.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::guard::Guard;
use super::jobs::Job;
use super::listing::Listing;
use super::methods::{Answer, Host, Waiting};
use super::rows;
use super::socket::{self, MAX_DESCRIPTORS};
use super::wire::{self, Call};

/// Bytes of one message, its NUL included.
const MAX_MESSAGE: usize = 64 * 1024;
/// Unsent bytes below which more is made.
const LOW: usize = 64 * 1024;
/// Unsent bytes above which the client is given up.
const HIGH: usize = 1 << 21;
/// From the first byte of a message to its last.
const MESSAGE_TIME: Duration = Duration::from_secs(5);
/// Without a message, an answer or anything to wait for.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// Without a byte read while there is one to read.
const STALL_TIME: Duration = Duration::from_secs(30);
/// Until a job is begun.
const QUEUE_TIME: Duration = Duration::from_secs(10);
/// Between two replies of an unload that waits.
const WAITING_PERIOD: Duration = Duration::from_secs(1);

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    /// Never reused, other than the descriptor.
    pub(super) id: u64,
    socket: OwnedFd,
    input: Input,
    output: Output,
    doing: Doing,
    /// The client has sent its last byte.
    ended: bool,
    /// When something last happened.
    last: Instant,
}

/// What is being done for a client. It gets no second thing before the first is over.
#[derive(Debug)]
enum Doing {
    Nothing,
    Listing(Listing),
    Events {
        after: u64,
        /// Asked for as long as this is here.
        _guard: Option<Guard>,
    },
    Job {
        /// None once it was begun.
        queued: Option<Job>,
        asked: Instant,
        told: Instant,
        waiting: Option<Waiting>,
        oneway: bool,
    },
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// The client went.
    Gone,
    /// It sent something else than messages, or more than a message may have.
    Malformed,
    /// It took too long.
    Late,
}

impl Connection {
    pub(super) fn new(id: u64, socket: OwnedFd) -> Self {
        let now = Instant::now();
        Self {
            id,
            socket,
            input: Input::default(),
            output: Output::new(now),
            doing: Doing::Nothing,
            ended: false,
            last: now,
        }
    }

    /// What to poll for. That the client went is always told.
    pub(super) fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, self.wants_input());
        interest.set(PollFlags::OUT, self.output.unsent() > 0);
        interest
    }

    fn wants_input(&self) -> bool {
        !self.ended && !self.is_busy() && !self.input.has_message() && self.output.unsent() < LOW
    }

    fn is_busy(&self) -> bool {
        !matches!(self.doing, Doing::Nothing)
    }

    /// Whether there is something to do that no poll will tell about.
    pub(super) fn is_due(&self) -> bool {
        let room = self.output.unsent() < LOW;
        match self.doing {
            Doing::Nothing => self.input.has_message() && room,
            Doing::Listing(_) => room,
            Doing::Events { .. } | Doing::Job { .. } => false,
        }
    }

    /// How long nothing at all has been going on with it; none where something is.
    pub(super) fn idle(&self, now: Instant) -> Option<Duration> {
        let idle = !self.is_busy() && self.input.is_empty() && self.output.unsent() == 0;
        idle.then(|| now.saturating_duration_since(self.last))
    }

    /// When the job was asked for that waits to be begun.
    pub(super) fn queued_since(&self) -> Option<Instant> {
        match &self.doing {
            Doing::Job {
                queued: Some(_),
                asked,
                ..
            } => Some(*asked),
            _ => None,
        }
    }

    /// Takes the job that waits to be begun.
    pub(super) fn begin(&mut self) -> Option<Job> {
        match &mut self.doing {
            Doing::Job { queued, .. } => queued.take(),
            _ => None,
        }
    }

    /// The job that was begun has ended.
    pub(super) fn job_ended(&mut self, text: Vec<u8>, now: Instant) {
        if let Doing::Job { oneway, .. } = self.doing {
            if !oneway {
                self.output.add(text, now);
            }
            self.rest(now);
        }
    }

    fn rest(&mut self, now: Instant) {
        self.doing = Doing::Nothing;
        self.last = now;
    }

    /// Everything there is to do for the client at this moment, given what the poll said.
    pub(super) fn turn(
        &mut self,
        ready: PollFlags,
        host: &Arc<Host>,
        scratch: &mut [u8],
        now: Instant,
    ) -> Result<(), Closed> {
        if ready.intersects(PollFlags::ERR | PollFlags::NVAL) {
            return Err(Closed::Gone);
        }
        if ready.contains(PollFlags::HUP) && !self.wants_input() && !self.is_due() {
            return Err(Closed::Gone);
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP) && self.wants_input() {
            self.read(scratch, now)?;
        }
        if !self.is_busy() && self.output.unsent() < LOW {
            self.handle(host, now)?;
        }
        self.produce(host, now);
        if self.output.send(&self.socket, now)? {
            self.last = now;
        }
        self.judge(now)
    }

    fn read(&mut self, scratch: &mut [u8], now: Instant) -> Result<(), Closed> {
        let room = MAX_MESSAGE.saturating_sub(self.input.bytes.len()).max(1);
        let buffer = scratch.get_mut(..room).unwrap_or_default();
        let mut came = Vec::new();
        match socket::receive(&self.socket, buffer, &mut came) {
            Ok(0) => self.ended = true,
            Ok(n) => {
                self.last = now;
                self.input.add(buffer.get(..n).unwrap_or_default(), came);
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(Errno::MSGSIZE) => return Err(Closed::Malformed),
            Err(_) => return Err(Closed::Gone),
        }
        if self.input.bytes.len() >= MAX_MESSAGE && !self.input.has_message() {
            return Err(Closed::Malformed);
        }
        Ok(())
    }

    /// Begins to answer the next message, if it has come whole.
    fn handle(&mut self, host: &Arc<Host>, now: Instant) -> Result<(), Closed> {
        let Some((message, descriptors)) = self.input.message() else {
            return Ok(());
        };
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Closed::Malformed);
        }
        let call = Call::parse(&message).ok_or(Closed::Malformed)?;
        let oneway = call.oneway;
        self.last = now;
        let job = |job, waiting| Doing::Job {
            queued: Some(job),
            asked: now,
            told: now,
            waiting,
            oneway,
        };
        match host.answer(call, descriptors) {
            Ok(Answer::Job(work)) => self.doing = job(work, None),
            Ok(Answer::Unload(work, waiting)) => self.doing = job(work, Some(waiting)),
            _ if oneway => {}
            Ok(Answer::Reply(text)) => self.output.add(text, now),
            Ok(Answer::Listing(listing)) => self.doing = Doing::Listing(listing),
            Ok(Answer::Events(after, guard)) => {
                self.doing = Doing::Events {
                    after,
                    _guard: guard,
                };
            }
            Err(fault) => self.output.add(wire::error(&fault), now),
        }
        Ok(())
    }

    /// Makes what the client can be told, as long as it reads.
    fn produce(&mut self, host: &Arc<Host>, now: Instant) {
        if self.output.unsent() >= LOW {
            return;
        }
        match &mut self.doing {
            Doing::Nothing => {}
            Doing::Listing(listing) => {
                let (text, last) = listing.next();
                self.output.add(text, now);
                if last {
                    self.rest(now);
                }
            }
            Doing::Events { after, .. } => {
                let (text, last) = host.events(*after, true);
                if last != *after {
                    *after = last;
                    self.output.add(text, now);
                }
            }
            Doing::Job {
                queued,
                asked,
                told,
                waiting,
                oneway,
            } => {
                if queued.is_some() && now.saturating_duration_since(*asked) > QUEUE_TIME {
                    let message = "too many loads and unloads are in progress; try again later";
                    let text = wire::error(&rows::refused("", "busy", message.to_owned()));
                    self.job_ended(text, now);
                } else if let Some(waiting) = waiting
                    && !*oneway
                    && self.output.unsent() == 0
                    && now.saturating_duration_since(*told) >= WAITING_PERIOD
                {
                    *told += WAITING_PERIOD;
                    self.output.add(waiting.reply(host), now);
                }
            }
        }
    }

    /// Closes it when it is over or took too long.
    fn judge(&mut self, now: Instant) -> Result<(), Closed> {
        let unsent = self.output.unsent();
        let whole = self.input.has_message();
        self.input.watch(!self.is_busy() && unsent < LOW, now);
        if self.ended && !self.is_busy() && !whole && unsent == 0 {
            return Err(Closed::Gone);
        }
        let late = self
            .input
            .began
            .is_some_and(|began| now.saturating_duration_since(began) > MESSAGE_TIME)
            || self.idle(now).is_some_and(|idle| idle > IDLE_TIME)
            || (unsent > 0 && now.saturating_duration_since(self.output.progress) > STALL_TIME)
            || unsent > HIGH;
        if late { Err(Closed::Late) } else { Ok(()) }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What came and was not used yet: less than a message, or the messages of one read.
#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    /// Bytes in front that were used.
    used: usize,
    /// Where the next message's NUL is, if it has come.
    end: Option<usize>,
    /// Bytes before here have no NUL behind `used`.
    scanned: usize,
    /// Descriptors and the place of the last byte that came with them.
    descriptors: Vec<(usize, OwnedFd)>,
    /// When the first byte of a message came that is not whole yet.
    began: Option<Instant>,
}

impl Input {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn has_message(&self) -> bool {
        self.end.is_some()
    }

    fn add(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        self.bytes.extend_from_slice(bytes);
        let last = self.bytes.len().saturating_sub(1);
        let placed = descriptors.into_iter().map(|descriptor| (last, descriptor));
        self.descriptors.extend(placed);
        self.scan();
    }

    fn scan(&mut self) {
        let from = self.scanned.max(self.used);
        let rest = self.bytes.get(from..).unwrap_or_default();
        self.end = rest.iter().position(|byte| *byte == 0).map(|at| from + at);
        self.scanned = self.end.unwrap_or(self.bytes.len());
    }

    /// Takes the next message without its NUL, and the descriptors that came with it.
    fn message(&mut self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let end = self.end?;
        let message = self.bytes.get(self.used..end).unwrap_or_default().to_vec();
        let (own, later) = std::mem::take(&mut self.descriptors)
            .into_iter()
            .partition(|(at, _)| *at <= end);
        self.descriptors = later;
        self.used = end + 1;
        self.scanned = self.used;
        self.began = None;
        self.scan();
        if self.end.is_none() {
            // Only a part of a message is left: it moves to the front, in memory of its own size.
            self.bytes = self.bytes.split_off(self.used.min(self.bytes.len()));
            for (at, _) in &mut self.descriptors {
                *at = at.saturating_sub(self.used);
            }
            (self.used, self.scanned) = (0, self.bytes.len());
        }
        let own: Vec<(usize, OwnedFd)> = own;
        Some((
            message,
            own.into_iter().map(|(_, descriptor)| descriptor).collect(),
        ))
    }

    /// Notes since when a part of a message waits for the rest, if the client is `heard`.
    fn watch(&mut self, heard: bool, now: Instant) {
        if self.is_empty() || self.has_message() || !heard {
            self.began = None;
        } else {
            self.began.get_or_insert(now);
        }
    }
}

/// What the client has not been sent yet.
#[derive(Debug)]
struct Output {
    bytes: Vec<u8>,
    sent: usize,
    /// When a byte last left, or came while there was none.
    progress: Instant,
}

impl Output {
    fn new(now: Instant) -> Self {
        Self {
            bytes: Vec::new(),
            sent: 0,
            progress: now,
        }
    }

    fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn add(&mut self, text: Vec<u8>, now: Instant) {
        if self.unsent() == 0 {
            (self.bytes, self.sent, self.progress) = (text, 0, now);
        } else {
            self.bytes.extend_from_slice(&text);
        }
    }

    /// Sends what the kernel takes; whether it took anything.
    fn send(&mut self, socket: &OwnedFd, now: Instant) -> Result<bool, Closed> {
        let mut progress = false;
        while self.unsent() > 0 {
            match socket::send(socket, self.bytes.get(self.sent..).unwrap_or_default()) {
                Ok(n) => {
                    self.sent += n;
                    progress = true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => break,
                Err(_) => return Err(Closed::Gone),
            }
        }
        if progress {
            self.progress = now;
        }
        if self.unsent() == 0 {
            (self.bytes, self.sent) = (Vec::new(), 0);
        } else if self.sent >= LOW {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        Ok(progress)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn input_gives_descriptors_to_the_message_of_the_last_byte_read() {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let mut input = Input::default();
        input.add(b"one\0two\0thr", vec![null()]);
        let (message, descriptors) = input.message().unwrap();
        assert_eq!(
            (message.as_slice(), descriptors.len()),
            (b"one".as_slice(), 0)
        );
        let (message, descriptors) = input.message().unwrap();
        assert_eq!(
            (message.as_slice(), descriptors.len()),
            (b"two".as_slice(), 0)
        );
        assert!(input.message().is_none());
        assert!(!input.is_empty());
        input.add(b"ee\0", vec![null(), null()]);
        let (message, descriptors) = input.message().unwrap();
        assert_eq!(
            (message.as_slice(), descriptors.len()),
            (b"three".as_slice(), 3)
        );
        assert!(input.is_empty() && input.descriptors.is_empty());
    }
}
