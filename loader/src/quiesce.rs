//! Proof that nobody is inside a plugin: pins drained, gates drained, readers drained.

#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use plug_readside::section::Incomplete;
use plug_readside::{gate, snapshot};
use rustix::io;

use crate::deadline::{Deadline, Patience};
use crate::error::{Error, ErrorKind, Holder, HolderKind};
use crate::presence::Presence;
use crate::reaper;
use crate::record::Record;
use crate::sys::{clock, membarrier};
use crate::worker::{WorkerRow, Workers};

/// How a worker was proved outside a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof {
    /// It was not inside when the gates had closed.
    Idle,
    /// It was inside and left.
    Drained,
    /// Its thread died inside.
    Reaped,
}

/// One worker's proof.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerProof {
    /// The worker's name.
    pub name: Box<str>,
    /// Its thread id.
    pub tid: u32,
    /// How it was proved outside.
    pub proof: Proof,
    /// How long after the gates had closed.
    pub after: Duration,
}

/// A full barrier in every running thread, or the writer's fence where readers fence.
fn barrier() -> Result<(), Error> {
    let crossed = snapshot::sections().cross(membarrier::expedited);
    crossed.map_err(barrier_error)
}

/// Lets readers and callers fence from now on, and writers do without membarrier.
///
/// # Errors
/// [`ErrorKind::Barrier`] when the last one fails.
pub(crate) fn give_membarrier_up() -> Result<(), Error> {
    let sections = snapshot::sections();
    if !sections.needs_barrier() {
        return Ok(());
    }
    sections
        .switch_to_fences(membarrier::expedited)
        .map_err(barrier_error)
}

fn barrier_error(error: io::Errno) -> Error {
    Error::new(
        ErrorKind::Barrier,
        "the membarrier system call failed, though it worked at start: nobody can be proved \
         outside; call assume_seccomp before a filter is installed",
    )
    .because(error)
}

/// Why somebody may still be inside.
#[derive(Debug)]
pub(crate) enum Undrained {
    /// The barrier failed.
    Barrier(Error),
    /// The deadline passed; who holds the plugin.
    Held(Vec<Holder>),
    /// `watch` said that nobody waits any more.
    Unwanted,
}

/// Waits until no pin and no call of `record`'s plugin is left, given that its state word has
/// changed away from Live and its own threads have been told to stop.
///
/// `watch` is told between looks how long it has been, and may end the wait.
///
/// # Errors
/// Why somebody may still be inside.
pub(crate) fn drain(
    workers: &Workers,
    presence: &Presence,
    record: &Record,
    deadline: Deadline,
    mut watch: impl FnMut(Duration) -> ControlFlow<()>,
) -> Result<Vec<WorkerProof>, Undrained> {
    barrier().map_err(Undrained::Barrier)?;
    let closed = Instant::now();
    let rows = workers.rows();
    let mut proofs: Vec<Option<WorkerProof>> = vec![None; rows.len()];
    let mut patience = Patience::until(deadline);
    let mut first_look = true;
    let mut roll_call = RollCall::from(closed);
    loop {
        let look_for_dead = roll_call.is_due();
        for (row, proof) in rows.iter().zip(&mut proofs) {
            if proof.is_some() {
                continue;
            }
            let how = if inside(row, record) == 0 {
                if first_look {
                    Proof::Idle
                } else {
                    Proof::Drained
                }
            } else if row.is_dead() || look_for_dead && row.look_whether_dead() {
                Proof::Reaped
            } else {
                continue;
            };
            *proof = Some(WorkerProof {
                name: row.name.clone(),
                tid: row.tid(),
                proof: how,
                after: closed.elapsed(),
            });
        }
        first_look = false;
        if look_for_dead {
            rows.iter().for_each(|row| row.tell_death());
        }
        // The plugin's own threads before all: what they hold they hold no longer once they ended.
        let threads_ended = record.context.threads().have_ended();
        // Pins first: a pin's holder may still enter, and only then come the gates.
        let pins = gate::pinned(gate::pins(record.id));
        let all_out = proofs.iter().all(Option::is_some);
        if threads_ended && pins == 0 && all_out && gate::shared_inside(record.id) == 0 {
            // While a pin was held, its holder could enter behind a gate already seen empty.
            let is_out = |row: &WorkerRow| row.is_dead() || inside(row, record) == 0;
            if rows.iter().all(|row| is_out(row)) {
                for row in rows.iter().filter(|row| inside(row, record) > 0) {
                    workers.bury(row, record.id);
                }
                return Ok(proofs.into_iter().flatten().collect());
            }
            proofs.fill(None);
        }
        if watch(closed.elapsed()).is_break() {
            return Err(Undrained::Unwanted);
        }
        if !patience.pause() {
            let holders = presence.holders(workers, record, closed.elapsed());
            if !holders.is_empty() {
                return Err(Undrained::Held(holders));
            }
            // Whoever held it has left since; a look or two later that is seen.
            clock::nap(Duration::from_micros(50));
        }
    }
}

/// When a wait looks for threads that died inside: soon, and then now and then, since each look is
/// a system call a thread.
struct RollCall(Instant);

impl RollCall {
    const SOON: Duration = Duration::from_millis(2);
    const LATER: Duration = Duration::from_millis(50);

    fn from(began: Instant) -> Self {
        Self(began + Self::SOON)
    }

    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = now >= self.0;
        if is_due {
            self.0 = now + Self::LATER;
        }
        is_due
    }
}

fn inside(row: &WorkerRow, record: &Record) -> u64 {
    row.gate.count(record.id).map_or(0, gate::inside)
}

/// Waits until every reader's section that could see what was unpublished has ended.
///
/// # Errors
/// [`ErrorKind::Deadline`] with the reader, [`ErrorKind::Barrier`].
pub(crate) fn grace(deadline: Deadline) -> Result<(), Error> {
    grace_by(membarrier::expedited, deadline)
}

/// As [`grace`], without interrupting anybody.
///
/// # Errors
/// As [`grace`].
pub(crate) fn patient_grace(deadline: Deadline) -> Result<(), Error> {
    grace_by(membarrier::patient, deadline)
}

fn grace_by(barrier: fn() -> io::Result<()>, deadline: Deadline) -> Result<(), Error> {
    let mut patience = Patience::until(deadline);
    let began = Instant::now();
    let mut roll_call = RollCall::from(began);
    snapshot::sections()
        .synchronize(barrier, |_| {
            if roll_call.is_due() {
                reaper::reap_sections();
            }
            patience.pause()
        })
        .map_err(|error| match error {
            Incomplete::Barrier(error) => barrier_error(error),
            Incomplete::Stalled(stall) => {
                Error::new(ErrorKind::Deadline, "a reader stayed inside its section").holders(vec![
                    Holder {
                        kind: HolderKind::Section,
                        thread: Box::default(),
                        tid: stall.tid,
                        function: Box::default(),
                        count: 1,
                        since: began.elapsed(),
                        place: None,
                    },
                ])
            }
        })
}
