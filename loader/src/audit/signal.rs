//! Asking threads that run where they are, by a signal.
//!
//! The handler follows the frames of the thread that it interrupts, on a stack of the auditor's, so
//! that a small alternate stack suffices. An answer that is given up stays without effect: it is
//! known by a ticket that is never used again.

use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use plug_readside::thread_pointer;

use super::frames::{self, Chain, Outcome};
use super::thread::start;
use crate::crash::attempt;
use crate::crash::memory::Memory;
use crate::crash::registers::{Registers, STACK};
use crate::deadline::Deadline;
use crate::error::Doubt;
use crate::sys::actions;
use crate::sys::alternate_stack::StackMemory;
use crate::sys::clock;
use crate::sys::task;

/// Threads that are asked at once.
pub(super) const SLOTS: usize = 32;

/// Size of the stacks that handlers run on: the unwinder keeps its state in arrays.
const STACK_SIZE: usize = 256 << 10;

/// Bytes between a thread's first frame and its control block, where its static thread-locals are;
/// more than that is no thread's own stack.
const LOCALS: usize = 4 << 20;

const FREE: u64 = 0;
/// Somebody fills the slot in.
const TAKEN: u64 = 1;
/// The handler works.
const BUSY: u64 = 2;
/// There is an answer.
const DONE: u64 = 3;
/// The handler works, and nobody waits.
const LEFT: u64 = 4;
/// From here on the word is the ticket of a question.
const FIRST_TICKET: u64 = 1 << 8;

/// One question and its answer.
struct Slot {
    /// Whose turn it is. Changed by compare-exchange from what the changer owns; all others are
    /// written by the owner in between (SeqCst, all: cold).
    state: AtomicU64,
    /// The process that has it: a forked child takes what its parent had.
    process: AtomicU32,
    tid: AtomicU32,
    code: [AtomicUsize; 2],
    /// Where the first thread's stack is.
    first_stack: [AtomicUsize; 2],
    /// Top of the stack that the handler runs on; 0 until there is one, which then stays.
    top: AtomicUsize,
    /// The answer: which, and an address.
    answer: [AtomicUsize; 2],
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        state: AtomicU64::new(FREE),
        process: AtomicU32::new(0),
        tid: AtomicU32::new(0),
        code: [const { AtomicUsize::new(0) }; 2],
        first_stack: [const { AtomicUsize::new(0) }; 2],
        top: AtomicUsize::new(0),
        answer: [const { AtomicUsize::new(0) }; 2],
    }
}; SLOTS];

/// The signal; 0 until one was chosen. Written once (SeqCst: cold).
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Tickets given out (SeqCst: cold).
static TICKETS: AtomicU64 = AtomicU64::new(0);

/// The signal in use: `wanted`, or the highest real-time one that nobody handles. None where there
/// is none, or somebody has replaced the handler.
pub(super) fn number(wanted: Option<i32>) -> Option<c_int> {
    let present = SIGNAL.load(Ordering::SeqCst);
    if present != 0 {
        return is_ours(present).then_some(present);
    }
    let highest = libc::SIGRTMAX();
    let mut free = (libc::SIGRTMIN()..=highest).rev().filter(|signal| {
        let action = actions::of(*signal);
        action.is_some_and(|action| action.handler == libc::SIG_DFL)
    });
    let signal = wanted.or_else(|| free.next())?;
    // SAFETY: the handler keeps to what is allowed in one, and the loader stays mapped. Nobody
    // handles the signal, or the host gave it away.
    if !unsafe { actions::install(signal, on_signal) } {
        return None;
    }
    // Whoever was here first chose the same, or leaves one more signal with a harmless handler.
    match SIGNAL.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => Some(signal),
        Err(other) => Some(other),
    }
}

fn is_ours(signal: c_int) -> bool {
    let ours = on_signal as *const () as usize;
    actions::of(signal).is_some_and(|action| action.handler == ours)
}

/// Asks the threads `tids`, at most [`SLOTS`], where they are, and waits for the answers until
/// `deadline`. None for one that gave none.
pub(super) fn ask(
    signal: c_int,
    tids: &[u32],
    code: &Range<usize>,
    first_stack: &Range<usize>,
    deadline: Deadline,
) -> Vec<Option<Outcome>> {
    let asked: Vec<_> = tids
        .iter()
        .map(|tid| Question::ask(signal, *tid, code, first_stack))
        .collect();
    let is_open = |question: &Option<Question>| {
        let slot = question.as_ref().map(|question| question.slot);
        slot.is_some_and(|slot| slot.state.load(Ordering::SeqCst) != DONE)
    };
    while asked.iter().any(is_open) && !deadline.has_passed() {
        clock::nap(Duration::from_micros(50));
    }
    asked.into_iter().map(|question| question?.end()).collect()
}

/// A question that was sent.
struct Question {
    slot: &'static Slot,
    ticket: u64,
}

impl Question {
    fn ask(
        signal: c_int,
        tid: u32,
        code: &Range<usize>,
        first_stack: &Range<usize>,
    ) -> Option<Self> {
        let own = task::process();
        let take = |slot: &Slot| {
            let state = slot.state.load(Ordering::SeqCst);
            let is_free = state == FREE || slot.process.load(Ordering::SeqCst) != own;
            let taken = is_free
                && slot
                    .state
                    .compare_exchange(state, TAKEN, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok();
            if taken {
                slot.process.store(own, Ordering::SeqCst);
            }
            taken
        };
        let (n, slot) = TABLE.iter().enumerate().find(|(_, slot)| take(slot))?;
        if slot.top.load(Ordering::SeqCst) == 0 {
            let Some(memory) = StackMemory::new(STACK_SIZE) else {
                slot.state.store(FREE, Ordering::SeqCst);
                return None;
            };
            // Immortal, with its slot: a handler may come to it late.
            let memory = ManuallyDrop::new(memory);
            slot.top.store(memory.top(), Ordering::SeqCst);
        }
        slot.tid.store(tid, Ordering::SeqCst);
        let ranges = [(&slot.code, code), (&slot.first_stack, first_stack)];
        for ([start, end], range) in ranges {
            start.store(range.start, Ordering::SeqCst);
            end.store(range.end, Ordering::SeqCst);
        }
        let serial = TICKETS.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        let ticket = serial.wrapping_mul(FIRST_TICKET) | n as u64;
        slot.state.store(ticket, Ordering::SeqCst);
        let question = Self { slot, ticket };
        let value = usize::try_from(ticket).unwrap_or(0);
        // A handler that was reset since would let the signal end the process.
        if !is_ours(signal) || !actions::send(tid, signal, value) {
            question.end();
            return None;
        }
        Some(question)
    }

    /// The answer, if there is one; the slot is free again, or will be when the handler is done.
    fn end(self) -> Option<Outcome> {
        let state = &self.slot.state;
        let change = |from, to| {
            state
                .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        };
        if change(self.ticket, FREE) || change(BUSY, LEFT) {
            return None;
        }
        let [which, address] = &self.slot.answer;
        let address = address.load(Ordering::SeqCst);
        let outcome = match which.load(Ordering::SeqCst) {
            OUTSIDE => Outcome::Outside,
            INSIDE => Outcome::Inside(address),
            FOREIGN => Outcome::Unclear(Doubt::ForeignStack, address),
            _ => Outcome::Unclear(Doubt::UnclearFrames, address),
        };
        state.store(FREE, Ordering::SeqCst);
        Some(outcome)
    }
}

const OUTSIDE: usize = 1;
const INSIDE: usize = 2;
const FOREIGN: usize = 3;
const UNCLEAR: usize = 4;

extern "C" fn on_signal(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = task::errno();
    // SAFETY: the record that the kernel passed to this handler.
    let value = unsafe { actions::value(info) };
    if let Some(value) = value {
        answer(value as u64, context);
    }
    task::set_errno(errno);
}

/// What the handler's other stack needs.
struct Asked {
    slot: &'static Slot,
    context: *const c_void,
}

fn answer(ticket: u64, context: *const c_void) {
    let slot = usize::try_from(ticket & (FIRST_TICKET - 1));
    let Some(slot) = slot.ok().and_then(|n| TABLE.get(n)) else {
        return;
    };
    let change = |from, to| {
        slot.state
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    };
    if ticket < FIRST_TICKET || !change(ticket, BUSY) {
        return;
    }
    let asked = Asked { slot, context };
    let argument = ptr::from_ref(&asked).cast_mut().cast();
    let top = slot.top.load(Ordering::SeqCst);
    // SAFETY: the slot's stack, which this thread alone has while the slot is BUSY; the record
    // outlives the call.
    unsafe { attempt::on_stack(top, follow, argument) };
    if !change(BUSY, DONE) {
        slot.state.store(FREE, Ordering::SeqCst);
    }
}

unsafe extern "C" fn follow(asked: *mut c_void) {
    // SAFETY: answer() passes its own record.
    let asked = unsafe { &*asked.cast::<Asked>() };
    // SAFETY: the context that the kernel gave with the signal.
    let registers = unsafe { Registers::of(asked.context) };
    let slot = asked.slot;
    let range =
        |[start, end]: &[AtomicUsize; 2]| start.load(Ordering::SeqCst)..end.load(Ordering::SeqCst);
    let (code, first_stack) = (range(&slot.code), range(&slot.first_stack));
    let (which, address) = match here(registers, &code, &first_stack) {
        Outcome::Outside => (OUTSIDE, 0),
        Outcome::Inside(address) => (INSIDE, address),
        Outcome::Unclear(Doubt::ForeignStack, address) => (FOREIGN, address),
        Outcome::Unclear(_, address) => (UNCLEAR, address),
    };
    let [answer, at] = &slot.answer;
    at.store(address, Ordering::SeqCst);
    answer.store(which, Ordering::SeqCst);
}

/// What the running thread's own stack tells, from the frame with these registers on.
/// Async-signal-safe.
pub(super) fn here(
    registers: Registers,
    code: &Range<usize>,
    first_stack: &Range<usize>,
) -> Outcome {
    // Pages are asked of the kernel before they are read; what the frames of the running thread are
    // in stays mapped meanwhile.
    let memory = Memory::new();
    let block = thread_pointer().address();
    // In a forked child the first thread is on the stack of the one that forked.
    let is_first = task::process() == task::id() && first_stack.contains(&registers.get(STACK));
    // One that has not begun yet holds what it will begin with.
    if !is_first && let Some(address) = start(&memory, block, code) {
        return Outcome::Inside(address);
    }
    let end = if is_first { first_stack.end } else { block };
    let is_own = |stack: usize| {
        stack < end
            && match is_first {
                true => first_stack.contains(&stack),
                // Nothing unmapped in between, where a stack's guard would be.
                false => {
                    end.wrapping_sub(stack) < LOCALS
                        && (stack..end)
                            .step_by(4096)
                            .all(|page| memory.is_readable(page))
                }
            }
    };
    match frames::follow(&memory, registers, code) {
        Chain::Inside(address) => Outcome::Inside(address),
        Chain::Ended(stack) if is_own(stack) => Outcome::Outside,
        Chain::Ended(stack) => Outcome::Unclear(Doubt::ForeignStack, stack),
        Chain::Lost(frame) => {
            let stack = frame.get(STACK);
            if !is_own(stack) {
                return Outcome::Unclear(Doubt::ForeignStack, frame.pc());
            }
            // Above here any word that looks like a return may be one.
            match frames::candidate(&memory, stack, end, code) {
                Ok(None) => Outcome::Outside,
                Ok(Some(word)) => Outcome::Unclear(Doubt::UnclearFrames, word),
                Err(()) => Outcome::Unclear(Doubt::Unreadable, stack),
            }
        }
    }
}
