//! One step from a frame to its caller by the unwind tables of the frame's object.
//!
//! Async-signal-safe. The tables are read where they are mapped, through [`Memory`], so that
//! nothing is prepared when a plugin is loaded, nothing is to be retired when it leaves, and
//! damaged tables end the step and not the process. gimli keeps its state in arrays here.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ops::Range;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, Evaluation, EvaluationResult, EvaluationStorage,
    Expression, Location, Reader, ReaderOffsetId, Register, RegisterRule, RunTimeEndian,
    UnwindContext, UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow, Value,
};

use super::headers::Object;
use super::memory::Memory;
use super::registers::{RETURN, Registers, STACK};

/// Bytes of memory, as gimli reads them.
#[derive(Clone, Copy, Debug)]
struct Window<'m> {
    memory: &'m Memory,
    start: usize,
    len: usize,
}

type Result<T> = gimli::Result<T>;

impl Window<'_> {
    fn short(&self) -> gimli::Error {
        gimli::Error::UnexpectedEof(self.offset_id())
    }
}

impl Reader for Window<'_> {
    type Endian = RunTimeEndian;
    type Offset = usize;

    fn endian(&self) -> RunTimeEndian {
        RunTimeEndian::Little
    }

    fn len(&self) -> usize {
        self.len
    }

    fn empty(&mut self) {
        self.len = 0;
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        if len > self.len {
            return Err(self.short());
        }
        self.len = len;
        Ok(())
    }

    fn offset_from(&self, base: &Self) -> usize {
        self.start.wrapping_sub(base.start)
    }

    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.start as u64)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        let offset = usize::try_from(id.0).ok()?.checked_sub(self.start)?;
        (offset <= self.len).then_some(offset)
    }

    fn find(&self, byte: u8) -> Result<usize> {
        let mut rest = *self;
        while rest.len > 0 {
            if rest.read_u8()? == byte {
                return Ok(rest.start.wrapping_sub(self.start).wrapping_sub(1));
            }
        }
        Err(self.short())
    }

    fn skip(&mut self, len: usize) -> Result<()> {
        self.split(len).map(|_| ())
    }

    fn split(&mut self, len: usize) -> Result<Self> {
        let rest = self.len.checked_sub(len).ok_or_else(|| self.short())?;
        let first = Self { len, ..*self };
        self.start = self.start.wrapping_add(len);
        self.len = rest;
        Ok(first)
    }

    // The next three are for readers of names and never called here.
    fn to_slice(&self) -> Result<Cow<'_, [u8]>> {
        Err(self.short())
    }

    fn to_string(&self) -> Result<Cow<'_, str>> {
        Err(self.short())
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>> {
        Err(self.short())
    }

    fn read_slice(&mut self, to: &mut [u8]) -> Result<()> {
        let from = self.split(to.len())?;
        self.memory.copy(from.start, to).ok_or_else(|| from.short())
    }
}

/// Arrays instead of an allocator's memory.
#[derive(Debug)]
struct InPlace;

/// Rules of one row: the registers that there are, twice over, is more than any compiler writes.
const RULES: usize = 40;

impl UnwindContextStorage<usize> for InPlace {
    type Rules = [(Register, RegisterRule<usize>); RULES];
    type Stack = [UnwindTableRow<usize, Self>; 4];
}

impl<R: Reader> EvaluationStorage<R> for InPlace {
    type Stack = [Value; 16];
    type ExpressionStack = [(R, R); 2];
    type Result = [gimli::Piece<R>; 1];
}

/// What a step found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// The registers of the caller; whether a signal interrupted it, so that its program counter
    /// is no return address.
    Caller(Registers, Interrupted),
    /// The tables say that there is no caller.
    Outermost,
}

/// Whether a frame was left by a call or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// By a call: its program counter is a return address.
    No,
    /// By a signal or a fault: its program counter is the instruction itself.
    Yes,
}

/// Where the function that covers `lookup` begins and ends, if tables describe it.
pub(crate) fn function(memory: &Memory, object: &Object, lookup: usize) -> Option<Range<usize>> {
    let (section, bases, table) = tables(memory, object)?;
    let table = EhFrameHdr::from(table);
    let parsed = table.parse(&bases, 8).ok()?;
    let entry = parsed
        .table()?
        .fde_for_address(&section, &bases, lookup as u64, EhFrame::cie_from_offset)
        .ok()?;
    let start = usize::try_from(entry.initial_address()).ok()?;
    let end = start.checked_add(usize::try_from(entry.len()).ok()?)?;
    (start..end).contains(&lookup).then_some(start..end)
}

/// The unwind table of an object, what its addresses are relative to, and the sorted table of
/// functions.
fn tables<'m>(
    memory: &'m Memory,
    object: &Object,
) -> Option<(EhFrame<Window<'m>>, BaseAddresses, Window<'m>)> {
    let header = object.eh_frame_hdr;
    let window = |start: usize| Window {
        memory,
        start,
        len: object.rest(start),
    };
    let bases = BaseAddresses::default().set_eh_frame_hdr(header as u64);
    let parsed = EhFrameHdr::from(window(header)).parse(&bases, 8).ok()?;
    let start = usize::try_from(parsed.eh_frame_ptr().direct().ok()?).ok()?;
    let bases = bases.set_eh_frame(start as u64);
    let mut section = EhFrame::from(window(start));
    section.set_address_size(8);
    Some((section, bases, window(header)))
}

/// The caller of the frame whose registers are `frame`; none where the tables do not cover
/// `lookup`, an address in the frame's function, or lead to memory that cannot be read.
pub(crate) fn step(
    memory: &Memory,
    object: &Object,
    frame: &Registers,
    lookup: usize,
) -> Option<Step> {
    let (section, bases, header) = tables(memory, object)?;
    let parsed = EhFrameHdr::from(header).parse(&bases, 8).ok()?;
    let address = lookup as u64;
    let table = parsed.table()?;
    let entry = table
        .fde_for_address(&section, &bases, address, EhFrame::cie_from_offset)
        .ok()?;
    let mut context = UnwindContext::<usize, InPlace>::new_in();
    let row = entry
        .unwind_info_for_address(&section, &bases, &mut context, address)
        .ok()?;
    let evaluate = |expression: &UnwindExpression<usize>, given: Option<usize>| {
        let expression = expression.get(&section).ok()?;
        evaluate(memory, frame, &entry, expression, given)
    };

    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => frame
            .get(register.0)
            .wrapping_add_signed(isize::try_from(*offset).ok()?),
        CfaRule::Expression(expression) => evaluate(expression, None)?,
    };
    let mut caller = *frame;
    caller.set(STACK, cfa);
    let mut outermost = false;
    for (register, rule) in row.registers() {
        let offset = |by: i64| Some(cfa.wrapping_add_signed(isize::try_from(by).ok()?));
        let value = match rule {
            RegisterRule::Undefined => {
                outermost |= register.0 == RETURN;
                continue;
            }
            RegisterRule::SameValue => continue,
            RegisterRule::Offset(by) => memory.word(offset(*by)?)?,
            RegisterRule::ValOffset(by) => offset(*by)?,
            RegisterRule::Register(other) => frame.get(other.0),
            RegisterRule::Expression(expression) => {
                memory.word(evaluate(expression, Some(cfa))?)?
            }
            RegisterRule::ValExpression(expression) => evaluate(expression, Some(cfa))?,
            RegisterRule::Constant(value) => usize::try_from(*value).ok()?,
            _ => return None,
        };
        caller.set(register.0, value);
    }
    if outermost {
        return Some(Step::Outermost);
    }
    caller.set_pc(caller.get(RETURN));
    let interrupted = match entry.is_signal_trampoline() {
        true => Interrupted::Yes,
        false => Interrupted::No,
    };
    Some(Step::Caller(caller, interrupted))
}

fn evaluate<'m>(
    memory: &'m Memory,
    frame: &Registers,
    entry: &gimli::FrameDescriptionEntry<Window<'m>>,
    expression: Expression<Window<'m>>,
    given: Option<usize>,
) -> Option<usize> {
    let encoding = entry.cie().encoding();
    let mut evaluation = Evaluation::<_, InPlace>::new_in(expression.0, encoding);
    // Tables of compilers need a handful; damaged ones may loop.
    evaluation.set_max_iterations(200);
    if let Some(given) = given {
        evaluation.set_initial_value(given as u64);
    }
    let mut result = evaluation.evaluate().ok()?;
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, .. } => {
                let word = memory.word(usize::try_from(address).ok()?)?;
                let value = Value::Generic(word as u64);
                evaluation.resume_with_memory(value).ok()?
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = Value::Generic(frame.get(register.0) as u64);
                evaluation.resume_with_register(value).ok()?
            }
            _ => return None,
        };
    }
    match evaluation.as_result().first()?.location {
        Location::Address { address } => usize::try_from(address).ok(),
        _ => None,
    }
}
