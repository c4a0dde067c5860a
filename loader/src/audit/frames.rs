//! The frames of a thread by unwind tables alone: no guess is taken for a step.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::ops::Range;

use super::prologue;
use crate::crash::backtrace::follows_call;
use crate::crash::cfi::{self, Interrupted, Step};
use crate::crash::headers::Object;
use crate::crash::memory::Memory;
use crate::crash::registers::{FRAME, Registers, STACK};
use crate::error::Doubt;
use crate::sys::objects;

/// Frames that are followed one after the other; deeper stacks are not told to be outside.
const DEEPEST: usize = 4096;

/// Frames that are looked at on all ways that a stack might lead.
const MOST: usize = 4 << 10;

/// One frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) registers: Registers,
    interrupted: Interrupted,
}

/// What is above a frame.
enum Above {
    Caller(At),
    /// Nothing: the thread began here.
    Nobody,
    /// The tables do not tell.
    Unknown,
}

/// How a chain of frames ended.
#[derive(Debug)]
pub(super) enum Chain {
    /// At a frame in the code, at this address.
    Inside(usize),
    /// At the thread's first frame, with this stack pointer.
    Ended(usize),
    /// At a frame whose caller the tables do not tell.
    Lost(Registers),
}

/// What a stack tells about a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is outside.
    Outside,
    /// It is inside, at this address.
    Inside(usize),
    /// It cannot be told, because of what is at this address; 0 for nothing in particular.
    Unclear(Doubt, usize),
}

impl At {
    /// Where a thread was interrupted, or is blocked in the kernel.
    pub(super) fn start(registers: Registers) -> Self {
        Self {
            registers,
            interrupted: Interrupted::Yes,
        }
    }

    /// An address inside the frame's instruction: a return address may be the first one of what
    /// follows.
    fn lookup(&self) -> usize {
        match self.interrupted {
            Interrupted::Yes => self.registers.pc(),
            Interrupted::No => self.registers.pc().wrapping_sub(1),
        }
    }
}

/// Steps from frame to frame, and keeps the object of the last.
struct Steps<'m> {
    memory: &'m Memory,
    object: Option<Object>,
}

impl Steps<'_> {
    /// The object whose code covers `address`.
    fn code(&mut self, address: usize) -> Option<Object> {
        if self.object.is_none_or(|object| !object.is_code(address)) {
            let (start, _) = objects::find(address)?;
            self.object = Some(Object::at(self.memory, start)?);
        }
        self.object.filter(|object| object.is_code(address))
    }

    fn above(&mut self, at: &At) -> Above {
        let lookup = at.lookup();
        let Some(object) = self.code(lookup) else {
            return Above::Unknown;
        };
        match cfi::step(self.memory, &object, &at.registers, lookup) {
            Some(Step::Outermost) => Above::Nobody,
            Some(Step::Caller(caller, _)) if caller.pc() == 0 => Above::Nobody,
            Some(Step::Caller(registers, interrupted)) => {
                // A signal may have changed stacks; a call only ever goes up, and not at all where the
                // return address is kept in a register, as vfork does.
                let goes_up = registers.get(STACK) >= at.registers.get(STACK);
                if !goes_up && interrupted == Interrupted::No {
                    return Above::Unknown;
                }
                Above::Caller(At {
                    registers,
                    interrupted,
                })
            }
            None => Above::Unknown,
        }
    }

    /// How far a frame's stack pointer is below its frame pointer, if its code tells.
    fn depth(&mut self, at: &At) -> Option<usize> {
        /// Bytes of a function; longer ones are not read.
        const LONGEST: usize = 64 << 10;
        let lookup = at.lookup();
        let object = self.code(lookup)?;
        let range = cfi::function(self.memory, &object, lookup)?;
        let mut function = vec![0; range.len().min(LONGEST + 1)];
        if function.len() > LONGEST {
            return None;
        }
        self.memory.copy(range.start, &mut function)?;
        prologue::depth(&function, at.registers.pc().wrapping_sub(range.start))
    }

    /// Whether `address` lies in code and follows a call.
    fn is_return(&mut self, address: usize) -> bool {
        let Some(before) = address.checked_sub(7) else {
            return false;
        };
        if self.code(address.wrapping_sub(1)).is_none() {
            return false;
        }
        let bytes = self.memory.read(before);
        bytes.is_some_and(|bytes| follows_call(&bytes))
    }
}

/// Follows the frames above one of which all registers are known. Async-signal-safe.
///
/// Whoever is interrupted there keeps the objects of all its frames mapped, so that their tables
/// may be read.
pub(super) fn follow(memory: &Memory, start: Registers, code: &Range<usize>) -> Chain {
    let mut steps = Steps {
        memory,
        object: None,
    };
    let mut at = At::start(start);
    for _ in 0..DEEPEST {
        if code.contains(&at.lookup()) {
            return Chain::Inside(at.lookup());
        }
        match steps.above(&at) {
            Above::Caller(caller) => at = caller,
            Above::Nobody => return Chain::Ended(at.registers.get(STACK)),
            Above::Unknown => return Chain::Lost(at.registers),
        }
    }
    Chain::Lost(at.registers)
}

/// Whether a word of the stack looks like a return into the code. Async-signal-safe.
pub(super) fn is_candidate(memory: &Memory, word: usize, code: &Range<usize>) -> bool {
    let inside = word.wrapping_sub(1);
    if !code.contains(&inside) {
        return false;
    }
    match word.checked_sub(7).and_then(|before| memory.read(before)) {
        Some(bytes) => follows_call(&bytes),
        // Nothing says that it does not.
        None => true,
    }
}

/// The first word from `from` on up to `end` that looks like a return into the code; an error where
/// not all can be read. Async-signal-safe.
pub(super) fn candidate(
    memory: &Memory,
    from: usize,
    end: usize,
    code: &Range<usize>,
) -> Result<Option<usize>, ()> {
    let mut at = from.next_multiple_of(8);
    while at < end {
        let word = memory.word(at).ok_or(())?;
        if is_candidate(memory, word, code) {
            return Ok(Some(word));
        }
        at = at.wrapping_add(8);
    }
    Ok(None)
}

/// Follows the frames above one of which only the program counter and the stack pointer are known,
/// on all ways that they might lead; `stack` is what of the thread's own stack is in use. Thread
/// context.
///
/// The frame pointer is missing, which a function may need for finding its caller. It is then one of
/// the places above the stack pointer with a return address behind it. All are tried, since a
/// former call may have left what looks like one: outside is who is outside on every way.
pub(super) fn explore(
    memory: &Memory,
    start: Registers,
    code: &Range<usize>,
    stack: &Range<usize>,
) -> Outcome {
    let mut steps = Steps {
        memory,
        object: None,
    };
    let mut ways = vec![(At::start(start), true)];
    let mut seen = HashSet::new();
    let mut is_ended = false;
    while let Some((at, is_sure)) = ways.pop() {
        let registers = &at.registers;
        let (pc, top) = (registers.pc(), registers.get(STACK));
        if !seen.insert((pc, top, registers.get(FRAME))) {
            continue;
        }
        if seen.len() > MOST {
            return Outcome::Unclear(Doubt::UnclearFrames, pc);
        }
        let lookup = at.lookup();
        if code.contains(&lookup) {
            return match is_sure {
                true => Outcome::Inside(lookup),
                false => Outcome::Unclear(Doubt::UnclearFrames, lookup),
            };
        }
        match steps.above(&at) {
            Above::Caller(caller) => ways.push((caller, is_sure)),
            Above::Nobody if stack.contains(&top) => is_ended = true,
            // The end of somebody else's stack.
            Above::Nobody if is_sure => return Outcome::Unclear(Doubt::ForeignStack, pc),
            Above::Nobody => {}
            Above::Unknown => {
                let before = ways.len();
                if registers.get(FRAME) == Registers::UNKNOWN && stack.contains(&top) {
                    guess(&mut steps, (&at, is_sure), stack, &mut ways);
                }
                if ways.len() > before {
                    continue;
                }
                if !stack.contains(&top) {
                    if is_sure {
                        return Outcome::Unclear(Doubt::ForeignStack, pc);
                    }
                    continue;
                }
                // Above here any word that looks like a return may be one.
                match candidate(memory, top, stack.end, code) {
                    Ok(None) => is_ended = true,
                    Ok(Some(word)) => return Outcome::Unclear(Doubt::UnclearFrames, word),
                    Err(()) => return Outcome::Unclear(Doubt::Unreadable, 0),
                }
            }
        }
    }
    match is_ended {
        true => Outcome::Outside,
        false => Outcome::Unclear(Doubt::UnclearFrames, 0),
    }
}

/// Adds the ways that a frame leads whose frame pointer is any of the places above; only those that
/// the function's code allows, where that tells.
fn guess(
    steps: &mut Steps<'_>,
    (at, was_sure): (&At, bool),
    stack: &Range<usize>,
    ways: &mut Vec<(At, bool)>,
) {
    let top = at.registers.get(STACK);
    let before = ways.len();
    if let Some(depth) = steps.depth(at) {
        let place = top.wrapping_add(depth);
        guess_in(
            steps,
            at,
            place..place.wrapping_add(16).min(stack.end),
            ways,
        );
        // That is no guess.
        if let Some((_, is_sure)) = ways.get_mut(before) {
            *is_sure = was_sure;
            return;
        }
    }
    guess_in(steps, at, top..stack.end, ways);
}

/// As [`guess`], for places in `range`.
fn guess_in(steps: &mut Steps<'_>, at: &At, range: Range<usize>, ways: &mut Vec<(At, bool)>) {
    let mut place = range.start.next_multiple_of(8);
    while place.wrapping_add(16) <= range.end {
        let back = steps.memory.word(place.wrapping_add(8));
        if back.is_some_and(|back| steps.is_return(back)) {
            let mut guessed = *at;
            guessed.registers.set(FRAME, place);
            if let Above::Caller(caller) = steps.above(&guessed) {
                ways.push((caller, false));
            }
        }
        place = place.wrapping_add(8);
    }
}
