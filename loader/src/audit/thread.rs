//! One thread read from outside: nothing is sent to it, and it notices nothing.
//!
//! The kernel tells where a thread is blocked, copies its stack, and counts how often it has been
//! given a processor: if that number is the same before and after, all that was read belongs
//! together.
//!
//! # Source
//! proc(5): `/proc/pid/task/tid/syscall`, `/proc/pid/schedstat`. `task_current_syscall` in the
//! kernel's `lib/syscall.c`; `struct rt_sigframe` in its `arch/x86/include/asm/sigframe.h`;
//! `tcbhead_t` in glibc's `sysdeps/x86_64/nptl/tls.h`.

#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::fs;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, openat};
use rustix::io::{Errno, pread};

use super::frames::{self, Outcome};
use super::mappings::{Mappings, hex};
use crate::crash::memory::{Memory, PAGE, copy_readable};
use crate::crash::registers::Registers;
use crate::error::Doubt;
use crate::sys::task;

/// What a look at a thread found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is there no more, or runs nothing of the process's code any more.
    Gone,
    /// It has a processor or waits for one, or it moved meanwhile; nanoseconds of processor time that
    /// it has had.
    Running(u64),
    /// It is blocked, and this is what its stack tells.
    Blocked(Outcome),
}

/// What all looks of one audit share.
#[derive(Debug)]
pub(super) struct Outside {
    /// `/proc/self/task`.
    tasks: OwnedFd,
    pub(super) code: Range<usize>,
    /// What is mapped where, once somebody had to know.
    mappings: OnceCell<Mappings>,
    /// Where handlers return to.
    restorers: Vec<usize>,
    /// How far from its thread pointer each thread has its id.
    id_at: Option<usize>,
    /// Copies of pages of the stacks of the thread that is looked at, one after the other.
    copies: Vec<u8>,
    /// Their addresses.
    pages: Vec<usize>,
}

/// Where a thread is blocked.
#[derive(Debug)]
struct Blocked {
    pc: usize,
    stack: usize,
    /// Of the system call that it makes; none where it makes none.
    arguments: Vec<usize>,
}

/// What a look at all of a thread's stacks gave.
#[derive(Debug)]
struct Seen {
    /// What is in use of the stack that it was started on.
    own: Option<Range<usize>>,
    /// A word that looks like a return into the code.
    suspect: Option<usize>,
}

/// Bytes from a thread's control block on that are searched for the function it starts with.
/// `struct pthread` has 2,304 in glibc 2.36.
pub(super) const CONTROL_BLOCK: usize = 2304;

/// Bytes of a stack that are looked at before what is mapped is asked of the kernel, which takes
/// longer.
const NEAR: usize = 64 << 10;

/// Bytes of the list of threads that are asked for at once: a thousand of them.
const LISTED: usize = 32 << 10;

/// Bytes of a stack that are looked at; who uses more is not told to be outside.
const DEEPEST: usize = 64 << 20;

impl Outside {
    /// # Errors
    /// The kernel's, where it does not show the process's threads.
    pub(super) fn new(
        code: Range<usize>,
        restorers: Vec<usize>,
        id_at: Option<usize>,
    ) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            tasks: rustix::fs::open("/proc/self/task", flags, Mode::empty())?,
            code,
            mappings: OnceCell::new(),
            restorers,
            id_at,
            copies: Vec::new(),
            pages: Vec::new(),
        })
    }

    /// The threads of the process.
    ///
    /// # Errors
    /// The kernel's, where it shows none or not all.
    pub(super) fn threads(&self) -> Result<Vec<u32>, Errno> {
        let mut tids = Vec::new();
        rustix::fs::seek(&self.tasks, SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(LISTED);
        let mut entries = RawDir::new(&self.tasks, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_str().ok();
            tids.extend(name.and_then(|name| name.parse::<u32>().ok()));
        }
        Ok(tids)
    }

    /// Looks at the thread `tid`; about ten microseconds if it sleeps and no word of its stack looks
    /// like a return into the code.
    pub(super) fn look(&mut self, tid: u32) -> Look {
        let unreadable = Look::Blocked(Outcome::Unclear(Doubt::Unreadable, 0));
        let opened = (self.open(tid, "schedstat"), self.open(tid, "syscall"));
        let (times, syscall) = match opened {
            (Ok(times), Ok(syscall)) => (times, syscall),
            (Err(Errno::NOENT | Errno::SRCH), _) | (_, Err(Errno::NOENT | Errno::SRCH)) => {
                return Look::Gone;
            }
            _ => return unreadable,
        };
        let mut before = [0; 64];
        let before = match read(&times, &mut before) {
            Ok(before) => before,
            Err(Errno::SRCH) => return Look::Gone,
            Err(_) => return unreadable,
        };
        let running = Look::Running(processor_time(before));
        let mut line = [0; 192];
        let blocked = match read(&syscall, &mut line) {
            Ok(line) => Blocked::parse(line),
            Err(Errno::SRCH) => return Look::Gone,
            Err(_) => return unreadable,
        };
        let Some(blocked) = blocked else {
            return running;
        };
        // Threads of the kernel's that work for the process, and those that have given up all that
        // they had.
        if (blocked.pc, blocked.stack) == (0, 0) {
            return Look::Gone;
        }
        let seen = self.stacks(tid, &blocked);
        let mut after = [0; 64];
        match read(&times, &mut after) {
            Ok(after) if after == before => Look::Blocked(self.judge(&blocked, seen)),
            Ok(_) => running,
            Err(Errno::SRCH) => Look::Gone,
            Err(_) => unreadable,
        }
    }

    fn open(&self, tid: u32, file: &str) -> Result<OwnedFd, Errno> {
        let path = format!("{tid}/{file}");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        openat(&self.tasks, path, flags, Mode::empty())
    }

    /// Copies and scans the stacks of a blocked thread.
    fn stacks(&mut self, tid: u32, blocked: &Blocked) -> Result<Seen, Outcome> {
        self.copies.clear();
        self.pages.clear();
        if self.code.contains(&blocked.pc) {
            return Err(Outcome::Inside(blocked.pc));
        }
        let memory = Memory::by_kernel();
        let mut arguments = blocked.arguments.iter();
        // One of them may be a return address: vfork keeps its own in a register.
        let argument = arguments.find(|word| frames::is_candidate(&memory, **word, &self.code));
        let mut seen = Seen {
            own: None,
            suspect: argument.copied(),
        };
        let mut tops = vec![blocked.stack];
        let mut ranges: Vec<Range<usize>> = Vec::new();
        while let Some(top) = tops.pop() {
            if ranges.iter().any(|range| range.contains(&top)) {
                continue;
            }
            if let Some(part) = self.scan_near(tid, top, &mut tops) {
                ranges.push(top..part.end);
                seen.suspect = seen.suspect.or(part.suspect);
                seen.own = Some(top..part.end);
                if let Some(start) = part.starts_with {
                    return Err(Outcome::Inside(start));
                }
                continue;
            }
            let Some(range) = self.mapping(top) else {
                // What looked like an interrupted thread's stack pointer may have been anything.
                if ranges.is_empty() {
                    return Err(Outcome::Unclear(Doubt::ForeignStack, blocked.pc));
                }
                continue;
            };
            let part = self.scan(tid, top..range.end, &mut tops);
            let part = part.map_err(|doubt| Outcome::Unclear(doubt, 0))?;
            ranges.push(top..part.end);
            seen.suspect = seen.suspect.or(part.suspect);
            if part.is_own {
                seen.own = Some(top..part.end);
            }
            if let Some(start) = part.starts_with {
                return Err(Outcome::Inside(start));
            }
        }
        Ok(seen)
    }

    /// What was seen of a thread tells, now that it is known to belong together.
    fn judge(&self, blocked: &Blocked, seen: Result<Seen, Outcome>) -> Outcome {
        let (own, suspect) = match seen {
            Ok(Seen { own, suspect }) => (own, suspect),
            Err(outcome) => return outcome,
        };
        match (own, suspect) {
            (Some(_), None) => Outcome::Outside,
            (Some(own), Some(_)) => {
                // The thread may have gone on: its stack is what was copied.
                let memory = Memory::copied();
                let (pages, _) = self.copies.as_chunks();
                for (page, bytes) in self.pages.iter().zip(pages) {
                    memory.keep(*page, bytes);
                }
                frames::explore(&memory, blocked.registers(), &self.code, &own)
            }
            (None, suspect) => Outcome::Unclear(Doubt::ForeignStack, suspect.unwrap_or(0)),
        }
    }

    /// The mapping of a stack pointer; asks the kernel again where it is not known.
    fn mapping(&mut self, top: usize) -> Option<Range<usize>> {
        if let Some(range) = self.mappings.get().and_then(|known| known.find(top)) {
            return Some(range);
        }
        self.mappings = OnceCell::from(Mappings::read());
        self.mappings.get()?.find(top)
    }

    /// The stack of the process's first thread.
    pub(super) fn first_stack(&self) -> &Range<usize> {
        &self.mappings.get_or_init(Mappings::read).first_stack
    }

    /// As [`Outside::scan`], without knowing what is mapped: where the thread's own control block is
    /// not far and all up to it can be read, that is where its stack ends. None otherwise.
    fn scan_near(&mut self, tid: u32, top: usize, tops: &mut Vec<usize>) -> Option<Part> {
        // The first thread's is elsewhere.
        if tid == task::process() {
            return None;
        }
        let (pages, copies, others) = (self.pages.len(), self.copies.len(), tops.len());
        let part = self.scan(tid, top..top.saturating_add(NEAR), tops);
        let part = part.ok().filter(|part| part.is_own);
        if part.is_none() {
            self.pages.truncate(pages);
            self.copies.truncate(copies);
            tops.truncate(others);
        }
        part
    }

    /// Looks at each word from a stack pointer on: up to the thread's control block, which lies
    /// behind its stack, or to the end of the mapping.
    fn scan(
        &mut self,
        tid: u32,
        range: Range<usize>,
        tops: &mut Vec<usize>,
    ) -> Result<Part, Doubt> {
        let memory = Memory::by_kernel();
        let mut part = Part {
            end: range.end,
            suspect: None,
            is_own: false,
            starts_with: None,
        };
        let code = self.code.clone();
        let width = code.len();
        let mut page = range.start - range.start % PAGE;
        while page < range.end {
            if page.wrapping_sub(range.start) > DEEPEST && page > range.start {
                return Err(Doubt::ForeignStack);
            }
            // Two pages at once: most sleeping threads use less, with their control blocks.
            let wanted = (2 * PAGE).min(range.end.wrapping_sub(page).next_multiple_of(PAGE));
            let from = self.copies.len();
            self.copies.resize(from.wrapping_add(wanted), 0);
            let copy = self.copies.get_mut(from..).ok_or(Doubt::Unreadable)?;
            // The stack may end with the first of them.
            let bytes = copy_readable(page, copy) / PAGE * PAGE;
            if bytes == 0 {
                return Err(Doubt::Unreadable);
            }
            self.copies.truncate(from.wrapping_add(bytes));
            self.pages
                .extend((0..bytes).step_by(PAGE).map(|at| page.wrapping_add(at)));
            let copy = self.copies.get(from..).ok_or(Doubt::Unreadable)?;
            let (words, _) = copy.as_chunks();
            let first = range.start.saturating_sub(page).div_ceil(8);
            for (n, word) in words.iter().enumerate().skip(first) {
                let word = usize::from_ne_bytes(*word);
                let place = page.wrapping_add(n.wrapping_mul(8));
                if word.wrapping_sub(code.start).wrapping_sub(1) < width {
                    if part.suspect.is_none() && frames::is_candidate(&memory, word, &code) {
                        part.suspect = Some(word);
                    }
                } else if word == place {
                    let behind = copy.get(n.wrapping_mul(8)..).unwrap_or_default();
                    if let Some(block) = self.control_block(tid, place, behind) {
                        let (words, _) = block.as_chunks();
                        let mut words = words.iter().map(|word| usize::from_ne_bytes(*word));
                        part.starts_with = words.find(|word| code.contains(word));
                        part.is_own = true;
                        part.end = place;
                        return Ok(part);
                    }
                } else if self.restorers.contains(&word)
                    && let Some((pc, top)) = interrupted(&memory, place)
                {
                    if code.contains(&pc) {
                        part.suspect = part.suspect.or(Some(pc));
                    }
                    // Where the interrupted thread goes on, if that is not above here anyway.
                    tops.push(top);
                }
            }
            page = page.wrapping_add(bytes);
        }
        // The first thread's control block is elsewhere.
        part.is_own = tid == task::process() && self.first_stack().contains(&range.start);
        Ok(part)
    }

    /// The control block of the thread `tid`, if it is at `place`, which holds its own address;
    /// `behind` is what was copied from there on.
    fn control_block(&self, tid: u32, place: usize, behind: &[u8]) -> Option<[u8; CONTROL_BLOCK]> {
        if cfg!(not(target_arch = "x86_64")) {
            return None;
        }
        let mut block = [0; CONTROL_BLOCK];
        let known = behind.len().min(CONTROL_BLOCK);
        let (first, rest) = block.split_at_mut(known);
        first.copy_from_slice(behind.get(..known)?);
        if !rest.is_empty() {
            // What cannot be read of it is not part of it.
            let _readable = copy_readable(place.wrapping_add(known), rest);
        }
        let at = |at: usize| {
            block
                .get(at..)?
                .first_chunk()
                .copied()
                .map(usize::from_ne_bytes)
        };
        let id = block.get(self.id_at?..)?.first_chunk().copied();
        let is_its = at(16) == Some(place) && id.map(u32::from_ne_bytes) == Some(tid);
        is_its.then_some(block)
    }
}

/// What one part of a thread's stacks holds.
#[derive(Debug)]
struct Part {
    /// Where it ends.
    end: usize,
    /// A word that looks like a return into the code.
    suspect: Option<usize>,
    /// Whether it is what the thread was started on, and all of it up to its end was seen.
    is_own: bool,
    /// A function of the code that the thread began with, or is about to.
    starts_with: Option<usize>,
}

/// The address in the code that a control block holds: there is none but the function that the
/// thread starts with. Async-signal-safe.
pub(super) fn start(memory: &Memory, block: usize, code: &Range<usize>) -> Option<usize> {
    let words = (0..CONTROL_BLOCK).step_by(8);
    let mut words = words.filter_map(|at| memory.word(block.wrapping_add(at)));
    words.find(|word| code.contains(word))
}

/// Program counter and stack pointer of what a signal interrupted whose frame begins at `place`,
/// with the address that its handler returns to.
#[cfg(target_arch = "x86_64")]
fn interrupted(memory: &Memory, place: usize) -> Option<(usize, usize)> {
    /// From the frame's start to the saved registers: the return address, and `struct ucontext` up
    /// to its `mcontext`.
    const REGISTERS: usize = 8 + 40;
    /// The saved stack pointer and program counter among them.
    const STACK: usize = 15 * 8;
    const PC: usize = 16 * 8;
    let saved = |at: usize| memory.word(place.wrapping_add(REGISTERS + at));
    Some((saved(PC)?, saved(STACK)?))
}

/// Not known here.
#[cfg(not(target_arch = "x86_64"))]
fn interrupted(_memory: &Memory, _place: usize) -> Option<(usize, usize)> {
    None
}

fn read<'b>(file: &OwnedFd, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    let len = pread(file.as_fd(), &mut *buffer, 0)?;
    Ok(buffer.get(..len).unwrap_or_default())
}

/// The first number of `schedstat`.
fn processor_time(times: &[u8]) -> u64 {
    let digits = times.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |value, digit| {
        value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
    })
}

impl Blocked {
    /// Number and arguments of the system call, stack pointer and program counter; none for a thread
    /// that runs.
    fn parse(line: &[u8]) -> Option<Self> {
        let words = line.trim_ascii_end().split(|byte| *byte == b' ').skip(1);
        let numbers: Option<Vec<_>> = words
            .map(|word| Some(hex(word.strip_prefix(b"0x")?)?.0))
            .collect();
        match &*numbers? {
            [arguments @ .., stack, pc] => Some(Self {
                pc: *pc,
                stack: *stack,
                arguments: arguments.to_vec(),
            }),
            _ => None,
        }
    }

    fn registers(&self) -> Registers {
        let mut registers = Registers::only_at(self.pc, self.stack);
        for (register, value) in Registers::ARGUMENTS.iter().zip(&self.arguments) {
            registers.set(*register, *value);
        }
        registers
    }
}

/// What the kernel says of a thread that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status {
    /// How often it has paused of its own accord.
    pub(super) pauses: u64,
    /// The signals that it keeps back, one bit each.
    pub(super) blocked: u64,
    /// How confined its system calls are: mode and number of filters.
    pub(super) confinement: (u32, u32),
}

impl Status {
    /// None for a thread that is not there.
    pub(super) fn of(tid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/self/task/{tid}/status")).ok()?;
        let field = |name: &str| text.split_once(name)?.1.split_ascii_whitespace().next();
        // Kernels before 5.9 count no filters, and those without seccomp know neither.
        let number = |name| field(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(Self {
            pauses: field("\nvoluntary_ctxt_switches:")?.parse().ok()?,
            blocked: u64::from_str_radix(field("\nSigBlk:")?, 16).ok()?,
            confinement: (number("\nSeccomp:"), number("\nSeccomp_filters:")),
        })
    }
}
