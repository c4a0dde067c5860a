//! The frames of a crashed thread, and whose code each is in.
//!
//! Async-signal-safe. Unwind tables come first, frame pointers where there are none, and where
//! both fail the stack is searched for the nearest word that follows a call: such a frame is a
//! guess and is marked as one.

#![forbid(unsafe_code)]

use plug_readside::departed::{self, Departed};
use plug_readside::{Resolved, SymbolReader};

use super::cfi::{self, Interrupted, Step};
use super::headers::Object;
use super::memory::Memory;
use super::registers::{FRAME, RETURN, Registers, STACK};
use crate::sys::objects;

/// Frames of a report; more are only said to be there.
pub(crate) const FRAMES: usize = 64;

/// Words of the stack that are searched for a return address.
const SEARCHED: usize = 512;

/// The longest frame that a frame pointer may span.
const LONGEST: usize = 16 << 20;

/// Whose code or memory an address is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// A plugin's that readers see.
    Plugin(Resolved),
    /// A plugin's that left; nothing is at the address any more.
    Departed(Departed, Resolved),
    /// Another object's; its first address.
    Object(usize),
    /// Nobody's that is known.
    Nowhere,
}

impl Place {
    /// Whose `address` is at this moment, or was.
    pub(crate) fn of(memory: &Memory, address: usize) -> Self {
        if let Some(resolved) = SymbolReader::new().resolve(address) {
            return Self::Plugin(resolved);
        }
        if let Some((start, _)) = objects::find(address) {
            return Self::Object(start);
        }
        // Who has the address since is no plugin, and nothing of the old one is there.
        match departed::find(address) {
            Some((departed, resolved)) if !memory.is_readable(address) => {
                Self::Departed(departed, resolved)
            }
            _ => Self::Nowhere,
        }
    }
}

/// How a frame was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is where the thread was interrupted, or a step from there that is certain.
    Surely,
    /// A word of the stack that follows a call: a guess.
    Searched,
}

/// One frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// The instruction, or the return address.
    pub(crate) pc: usize,
    pub(crate) found: Found,
    pub(crate) place: Place,
}

impl Frame {
    pub(crate) const NONE: Self = Self {
        pc: 0,
        found: Found::Surely,
        place: Place::Nowhere,
    };
}

/// Why there are no more frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A fault in the search for frames ended it.
    Fault,
    /// The outermost frame was reached.
    Outermost,
    /// There are more than [`FRAMES`].
    Deep,
    /// No caller was found.
    Lost,
    /// The stack pointer leads nowhere.
    Unreadable(usize),
}

/// Finds frames one by one, so that those found stay known whatever happens next.
#[derive(Debug)]
pub(crate) struct Walk<'m> {
    memory: &'m Memory,
    frame: Registers,
    interrupted: Interrupted,
    found: Found,
    /// The object of the last frame: the next one is often in the same.
    object: Option<Object>,
}

impl<'m> Walk<'m> {
    pub(crate) fn new(memory: &'m Memory, frame: Registers) -> Self {
        Self {
            memory,
            frame,
            interrupted: Interrupted::Yes,
            found: Found::Surely,
            object: None,
        }
    }

    /// The frame that the walk stands at.
    pub(crate) fn frame(&self) -> Frame {
        Frame {
            pc: self.frame.pc(),
            found: self.found,
            place: Place::of(self.memory, self.lookup()),
        }
    }

    /// An address inside the instruction that the frame is at: a return address may be the first
    /// one of the next function.
    fn lookup(&self) -> usize {
        match self.interrupted {
            Interrupted::Yes => self.frame.pc(),
            Interrupted::No => self.frame.pc().wrapping_sub(1),
        }
    }

    /// Goes to the caller.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn up(&mut self) -> Result<(), End> {
        let before = self.frame;
        let lookup = self.lookup();
        let object = self.code(lookup);
        if let Some(object) = object {
            match cfi::step(self.memory, &object, &before, lookup) {
                Some(Step::Outermost) => return Err(End::Outermost),
                Some(Step::Caller(caller, interrupted)) => {
                    // A signal may have changed stacks; a call only ever goes up.
                    let goes_up = caller.get(STACK) > before.get(STACK);
                    if goes_up || interrupted == Interrupted::Yes {
                        if caller.pc() == 0 {
                            return Err(End::Outermost);
                        }
                        self.frame = caller;
                        self.interrupted = interrupted;
                        self.found = Found::Surely;
                        return Ok(());
                    }
                }
                None => {}
            }
        } else if self.interrupted == Interrupted::Yes && self.called() {
            return Ok(());
        }
        if self.by_frame_pointer() || self.by_search() {
            return Ok(());
        }
        Err(match self.memory.word(before.get(STACK)) {
            Some(_) => End::Lost,
            None => End::Unreadable(before.get(STACK)),
        })
    }

    /// The object whose code covers `address`.
    fn code(&mut self, address: usize) -> Option<Object> {
        if let Some(object) = self.object.filter(|object| object.is_code(address)) {
            return Some(object);
        }
        let start = match SymbolReader::new().resolve(address) {
            Some(resolved) => resolved.plugin_start,
            None => objects::find(address)?.0,
        };
        let object = Object::at(self.memory, start)?;
        self.object = Some(object);
        object.is_code(address).then_some(object)
    }

    /// Takes a jump to where no code is for a call: the return address is on top of the stack.
    fn called(&mut self) -> bool {
        let top = self.frame.get(STACK);
        let Some(back) = self.memory.word(top) else {
            return false;
        };
        if !self.is_return(back) {
            return false;
        }
        self.return_to(back, top.wrapping_add(8), Found::Surely);
        true
    }

    fn by_frame_pointer(&mut self) -> bool {
        let (top, base) = (self.frame.get(STACK), self.frame.get(FRAME));
        let near = base >= top && base.wrapping_sub(top) < LONGEST && base.is_multiple_of(8);
        let saved = self.memory.word(base);
        let back = self.memory.word(base.wrapping_add(8));
        let (true, Some(saved), Some(back)) = (near, saved, back) else {
            return false;
        };
        if !self.is_return(back) {
            return false;
        }
        self.return_to(back, base.wrapping_add(16), Found::Surely);
        self.frame.set(FRAME, saved);
        true
    }

    fn by_search(&mut self) -> bool {
        let top = self.frame.get(STACK);
        if !top.is_multiple_of(8) {
            return false;
        }
        for n in 0..SEARCHED {
            let at = top.wrapping_add(n.wrapping_mul(8));
            let Some(word) = self.memory.word(at) else {
                return false;
            };
            if self.is_return(word) {
                self.return_to(word, at.wrapping_add(8), Found::Searched);
                return true;
            }
        }
        false
    }

    fn return_to(&mut self, back: usize, stack: usize, found: Found) {
        self.frame.set(STACK, stack);
        self.frame.set(RETURN, back);
        self.frame.set_pc(back);
        self.interrupted = Interrupted::No;
        self.found = found;
    }

    /// Whether `address` lies in code and follows a call.
    fn is_return(&mut self, address: usize) -> bool {
        let Some(before) = address.checked_sub(7) else {
            return false;
        };
        if self.code(address.wrapping_sub(1)).is_none() {
            return false;
        }
        self.memory
            .read(before)
            .is_some_and(|bytes| follows_call(&bytes))
    }
}

/// Whether the seven bytes before an address end with a call instruction.
///
/// # Source
/// Intel SDM volume 2, CALL: `E8` with four bytes, and `FF /2` with every form of address.
#[cfg(target_arch = "x86_64")]
pub(crate) fn follows_call(bytes: &[u8; 7]) -> bool {
    let [.., e8, _, _, _, _] = bytes;
    if *e8 == 0xe8 {
        return true;
    }
    // The second byte's mode and register or memory, by the length of the whole instruction.
    let indirect = |length: usize, fits: fn((u8, u8)) -> bool| {
        let instruction = bytes.len().checked_sub(length).and_then(|n| bytes.get(n..));
        matches!(instruction, Some([0xff, second, ..])
            if second & 0x38 == 0x10 && fits((second >> 6, second & 7)))
    };
    // Register, or memory without displacement.
    indirect(2, |form| matches!(form, (3, _) | (0, 0..=3 | 6..)))
        // One byte of displacement, or an index.
        || indirect(3, |form| matches!(form, (1, 0..=3 | 5..) | (0, 4)))
        // Both.
        || indirect(4, |form| matches!(form, (1, 4)))
        // Four bytes of displacement, or relative to the instruction.
        || indirect(6, |form| matches!(form, (2, 0..=3 | 5..) | (0, 5)))
        // Four bytes of displacement and an index.
        || indirect(7, |form| matches!(form, (2 | 0, 4)))
}

/// Whether the bytes before an address end with `BL` or `BLR`.
///
/// # Source
/// Arm Architecture Reference Manual, C6.2.
#[cfg(target_arch = "aarch64")]
pub(crate) fn follows_call(bytes: &[u8; 7]) -> bool {
    let [_, _, _, word @ ..] = bytes;
    let word = u32::from_le_bytes(*word);
    word & 0xfc00_0000 == 0x9400_0000 || word & 0xffff_fc1f == 0xd63f_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_form_of_a_call_is_recognised() {
        let calls: [&[u8]; 8] = [
            &[0xe8, 1, 2, 3, 4],
            &[0xff, 0xd0],
            &[0xff, 0x10],
            &[0xff, 0x14, 0xc5],
            &[0xff, 0x50, 8],
            &[0xff, 0x54, 0xc5, 8],
            &[0xff, 0x15, 1, 2, 3, 4],
            &[0xff, 0x94, 0xc5, 1, 2, 3, 4],
        ];
        for call in calls {
            let mut bytes = [0x90; 7];
            bytes[7 - call.len()..].copy_from_slice(call);
            assert!(follows_call(&bytes), "{call:x?}");
        }
        assert!(!follows_call(&[0x90; 7]));
        // A jump through a register is no call.
        assert!(!follows_call(&[0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xe0]));
    }
}
