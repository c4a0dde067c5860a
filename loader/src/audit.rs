//! Who is inside a plugin without a call through the loader: what the stacks of threads tell.
//!
//! Sound because nobody comes in any more: gates are closed, so that who was seen outside stays
//! there, and who is made by somebody inside is made while that one is seen. What was let out of a
//! call, a bare function pointer above all, is beyond that: who still has one may call it after the
//! look, as the safety rules of the loader forbid.
//!
//! Sleeping threads are read from outside ([`thread`]); those that compute without a pause are asked
//! by a signal ([`signal`]). A word that looks like a return into the plugin is no proof, since
//! former calls leave such: the frames are followed then ([`frames`]), and where that cannot be
//! done to the end, the thread is not told to be outside.

mod frames;
mod mappings;
mod prologue;
mod signal;
mod thread;

use std::collections::{HashMap, HashSet};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::config::{Audit, Config};
use crate::crash::headers::Object;
use crate::crash::memory::Memory;
use crate::crash::registers::Registers;
use crate::deadline::{Deadline, Patience};
use crate::error::{Doubt, Holder, HolderKind};
use crate::footprint::{ledger, remains};
use crate::record::Record;
use crate::sys::actions::{self, Action};
use crate::sys::task;
use crate::worker::Workers;

use frames::Outcome;
use thread::{Look, Outside, Status};

/// Processor time without a pause after which a thread is taken to compute, and is asked.
const COMPUTING: Duration = Duration::from_millis(1);

/// What threads that run always get to come to rest or to answer, whatever the deadline.
const AT_LEAST: Duration = Duration::from_millis(500);

/// How often a thread that pauses may be met running, each time after so much of its own time, until
/// it is asked like one that does not: its pauses are too short to be met.
const RESTLESS: u32 = 8;

/// How long answers are waited for before the thread is looked at again.
const ANSWER: Duration = Duration::from_millis(100);

/// A thread that was running whenever it was looked at.
#[derive(Clone, Copy, Debug)]
struct Runner {
    /// What it had had of a processor at the first look, and how often it had paused by then.
    processor: u64,
    pauses: Option<u64>,
    /// How often it had paused again since, and was met running nevertheless.
    restless: u32,
    doubt: Doubt,
}

/// Whose stacks are to be looked at for `record`, where the host wants `wanted`.
///
/// All, where its code is called on any thread without passing a gate: handlers of signals that the
/// kernel knows by its own addresses, and what was given to `aio_*`, `mq_notify` and the like.
fn level(wanted: Audit, record: &Record, actions: &[Action]) -> Audit {
    let handles = |action: &Action| record.part_at(action.handler).is_some();
    let is_uncovered = || !remains::uncovered(record.generation).is_empty();
    if wanted == Audit::Unregistered && (is_uncovered() || actions.iter().any(handles)) {
        return Audit::All;
    }
    wanted
}

/// Looks at threads until none is inside `record`'s plugin, and returns those that are when the
/// deadline has passed or `watch` says that nobody waits.
///
/// Thread context. About 10 us for each thread that sleeps; one that computes gets a signal after a
/// millisecond of its own time. Threads that run get half a second whatever the deadline.
pub(crate) fn wait_until_outside(
    config: &Config,
    workers: &Workers,
    record: &Record,
    deadline: Deadline,
    mut watch: impl FnMut(Duration) -> ControlFlow<()>,
) -> Vec<Holder> {
    if config.audit == Audit::Off {
        return Vec::new();
    }
    let actions: Vec<Action> = (1..=actions::SIGNALS).filter_map(actions::of).collect();
    let level = level(config.audit, record, &actions);
    // One after the other: who was outside of one part can only enter it from another, and then has
    // left both once that other is left.
    for part in record.ranges() {
        let inside = wait_for_part(
            (config, level, &actions),
            workers,
            (record, part),
            deadline,
            &mut watch,
        );
        if !inside.is_empty() {
            return inside;
        }
    }
    Vec::new()
}

/// As [`wait_until_outside`], for one part of the load.
fn wait_for_part(
    (config, level, actions): (&Config, Audit, &[Action]),
    workers: &Workers,
    (record, part): (&Record, Range<usize>),
    deadline: Deadline,
    mut watch: impl FnMut(Duration) -> ControlFlow<()>,
) -> Vec<Holder> {
    let began = Instant::now();
    let mut round = match Round::begin(config, actions, part) {
        Ok(round) => round,
        Err(doubt) => {
            let kind = HolderKind::PerhapsStack(doubt);
            return vec![holder(record, task::id(), kind, 0, Duration::ZERO)];
        }
    };
    let at_least = Deadline::after(deadline.remaining().max(AT_LEAST));
    let mut patience = Patience::until(at_least);
    loop {
        let mut skipped: HashSet<u32> = match level {
            Audit::All => HashSet::new(),
            _ => workers.rows().iter().map(|row| row.tid()).collect(),
        };
        // Threads that the plugin started may be inside until its `exit` has told them to end; they
        // are waited for after that, by their records.
        let debts = ledger::debts(record.generation);
        let own = debts.iter().filter(|debt| debt.start.is_some());
        skipped.extend(own.map(|debt| debt.tid));
        let inside = round.look(&skipped);
        if round.is_complete() {
            return Vec::new();
        }
        let waited = began.elapsed();
        let is_surely_inside = inside.iter().any(|found| found.1 == HolderKind::Stack);
        let is_late = deadline.has_passed() && is_surely_inside;
        let is_over =
            is_late || watch(waited).is_break() || !inside.is_empty() && !patience.pause();
        if is_over && !inside.is_empty() {
            let holders = inside.into_iter();
            return holders
                .map(|(tid, kind, address)| holder(record, tid, kind, address, waited))
                .collect();
        }
        if is_over {
            // Nobody is known to be inside, and nobody waits for the rest.
            return Vec::new();
        }
    }
}

fn holder(record: &Record, tid: u32, kind: HolderKind, address: usize, since: Duration) -> Holder {
    let inside = record.part_at(address).is_some();
    Holder {
        kind,
        thread: task::name_of(tid),
        tid,
        function: match inside {
            true => record.symbol_at(address),
            false => Box::default(),
        },
        count: 1,
        since,
        place: None,
    }
}

/// The code of a mapped object.
fn code_of(mapped: Range<usize>) -> Range<usize> {
    let object = Object::at(&Memory::copied(), mapped.start);
    object.map_or(mapped, |object| object.code())
}

/// How far from its thread pointer each thread has its id; 0 where that is not known. Written at the
/// start, before there is a plugin (SeqCst: cold).
static ID_AT: AtomicUsize = AtomicUsize::new(0);

/// Lets audits know threads' control blocks by the ids in them, `at` bytes from their thread
/// pointers. Without it no thread but the first is told to be outside.
pub(crate) fn know_ids(at: usize) {
    ID_AT.store(at, Ordering::SeqCst);
}

fn id_at() -> Option<usize> {
    Some(ID_AT.load(Ordering::SeqCst)).filter(|at| *at != 0)
}

/// One audit.
struct Round {
    outside: Outside,
    wanted_signal: Option<i32>,
    clear: HashSet<u32>,
    runners: HashMap<u32, Runner>,
    /// What kept a thread from being told outside when it was last seen at rest, and where: whoever
    /// happens to run at the last look is named by what is known of it.
    doubts: HashMap<u32, (Doubt, usize)>,
    /// Looks in a row that found nobody new.
    quiet: u32,
}

impl Round {
    fn begin(config: &Config, actions: &[Action], part: Range<usize>) -> Result<Self, Doubt> {
        let mut restorers: Vec<usize> = actions
            .iter()
            .map(|action| action.restorer)
            .filter(|restorer| *restorer != 0)
            .collect();
        restorers.sort_unstable();
        restorers.dedup();
        let outside = Outside::new(code_of(part), restorers, id_at());
        Ok(Self {
            outside: outside.map_err(|_| Doubt::Unreadable)?,
            wanted_signal: config.audit_signal,
            clear: HashSet::new(),
            runners: HashMap::new(),
            doubts: HashMap::new(),
            quiet: 0,
        })
    }

    /// Whether nobody is inside: two lists of threads in a row held only such that are outside, since
    /// one list may miss a thread that is made while others end.
    fn is_complete(&self) -> bool {
        self.quiet >= 2
    }

    /// Looks at all threads that were not seen outside before; returns those that are or may be
    /// inside, and where.
    fn look(&mut self, skipped: &HashSet<u32>) -> Vec<(u32, HolderKind, usize)> {
        let own = task::id();
        let clear_before = self.clear.len();
        let mut inside = Vec::new();
        let mut computing = Vec::new();
        let Ok(threads) = self.outside.threads() else {
            self.quiet = 0;
            return vec![(own, HolderKind::PerhapsStack(Doubt::Unreadable), 0)];
        };
        for tid in threads {
            if self.clear.contains(&tid) || skipped.contains(&tid) {
                continue;
            }
            let outcome = match tid == own {
                true => self.look_here(),
                false => match self.outside.look(tid) {
                    Look::Gone => {
                        self.forget(tid);
                        continue;
                    }
                    Look::Blocked(outcome) => outcome,
                    // The first thread stays in the list after its end, and some kernels say of
                    // those that end that they run.
                    Look::Running(_) if task::is_dead(tid) => {
                        self.forget(tid);
                        continue;
                    }
                    Look::Running(processor) => {
                        let doubt = self.runs(tid, processor, &mut computing);
                        let (doubt, address) = match self.doubts.get(&tid) {
                            Some(known) if doubt == Doubt::Runs => *known,
                            _ => (doubt, 0),
                        };
                        inside.push((tid, HolderKind::PerhapsStack(doubt), address));
                        continue;
                    }
                },
            };
            self.note(tid, outcome, &mut inside);
        }
        if !computing.is_empty() {
            self.ask(&computing, &mut inside);
        }
        let is_quiet = inside.is_empty() && self.clear.len() == clear_before;
        self.quiet = match is_quiet {
            true => self.quiet.saturating_add(1),
            false => 0,
        };
        inside
    }

    /// Notes what the stack of a thread told.
    fn note(&mut self, tid: u32, outcome: Outcome, inside: &mut Vec<(u32, HolderKind, usize)>) {
        match outcome {
            Outcome::Outside => {
                self.clear.insert(tid);
                self.runners.remove(&tid);
            }
            Outcome::Inside(address) => {
                self.doubts.remove(&tid);
                inside.push((tid, HolderKind::Stack, address));
            }
            Outcome::Unclear(doubt, address) => {
                let _former = self.doubts.insert(tid, (doubt, address));
                inside.push((tid, HolderKind::PerhapsStack(doubt), address));
            }
        }
    }

    /// Forgets what was known of a thread that is no more: its number may be another's soon.
    fn forget(&mut self, tid: u32) {
        self.runners.remove(&tid);
        self.doubts.remove(&tid);
    }

    /// The running thread's own frames.
    fn look_here(&self) -> Outcome {
        match Registers::here() {
            Some(registers) => {
                let first_stack = self.outside.first_stack();
                signal::here(registers, &self.outside.code, first_stack)
            }
            None => Outcome::Unclear(Doubt::Runs, 0),
        }
    }

    /// Notes a thread that runs, and that it is to be asked if it has not paused for long.
    fn runs(&mut self, tid: u32, processor: u64, computing: &mut Vec<u32>) -> Doubt {
        let status = || Status::of(tid);
        let runner = self.runners.entry(tid).or_insert_with(|| Runner {
            processor,
            pauses: status().map(|status| status.pauses),
            restless: 0,
            doubt: Doubt::Runs,
        });
        let had = Duration::from_nanos(processor.saturating_sub(runner.processor));
        if had < COMPUTING {
            return runner.doubt;
        }
        let Some(status) = status() else {
            return runner.doubt;
        };
        if runner.pauses != Some(status.pauses) && runner.restless < RESTLESS {
            // It pauses now and then: some look will meet it asleep.
            runner.restless += 1;
            runner.processor = processor;
            runner.pauses = Some(status.pauses);
            return runner.doubt;
        }
        // The handler makes a few harmless system calls. Whoever may make fewer than the auditor does
        // could be killed for them.
        let own = Status::of(task::id()).map(|own| own.confinement);
        if own != Some(status.confinement) {
            runner.doubt = Doubt::Confined;
            return runner.doubt;
        }
        match signal::number(self.wanted_signal) {
            Some(signal) if status.blocked >> (signal - 1) & 1 == 0 => computing.push(tid),
            Some(_) => runner.doubt = Doubt::BlocksSignal,
            None => {}
        }
        runner.doubt
    }

    /// Asks threads that compute; they stand among those inside until they have answered.
    fn ask(&mut self, computing: &[u32], inside: &mut Vec<(u32, HolderKind, usize)>) {
        let Some(signal) = signal::number(self.wanted_signal) else {
            return;
        };
        for tids in computing.chunks(signal::SLOTS) {
            let deadline = Deadline::after(ANSWER);
            let (code, first) = (&self.outside.code, self.outside.first_stack());
            let answers = signal::ask(signal, tids, code, first, deadline);
            for (tid, answer) in tids.iter().zip(answers) {
                let Some(outcome) = answer else { continue };
                inside.retain(|(other, ..)| other != tid);
                self.note(*tid, outcome, inside);
            }
        }
    }
}
