//! The facts of one crash, gathered step by step so that a fault in one step leaves the others.
//!
//! Async-signal-safe.

#![forbid(unsafe_code)]

use plug_readside::phase::{self, Phase};
use plug_readside::state::State;
use plug_readside::{Resolved, SymbolReader, thread_pointer};

use super::backtrace::{End, FRAMES, Found, Frame, Place, Walk};
use super::memory::Memory;
use super::registers::{FRAME, Registers, STACK};
use super::signal::CrashSignal;
use crate::sys::{clock, task};

/// What is known about a crash.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) signal: CrashSignal,
    /// `si_code`.
    pub(crate) code: i32,
    /// The address of the fault; none for a signal that was sent.
    pub(crate) address: Option<usize>,
    /// The process that sent it, if one did.
    pub(crate) sender: Option<u32>,
    registers: Registers,
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) thread: [u8; 16],
    /// Of the wall clock.
    pub(crate) time: (u64, u64),
    /// Of the monotonic clock.
    pub(crate) began: u64,
    /// What the loader makes the thread do: a load and its phase.
    pub(crate) running: Option<(u64, Phase)>,
    /// Where the thread was.
    pub(crate) place: Place,
    pub(crate) frames: [Frame; FRAMES],
    pub(crate) n_frames: usize,
    pub(crate) end: End,
}

/// What a fault has to do with plugins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blame<'r> {
    /// It is in a plugin's code.
    Plugin(&'r Resolved),
    /// It is where a plugin was that left.
    Departed,
    /// It is in other code that a plugin called: the plugin's nearest frame.
    CalledFrom(&'r Frame, &'r Resolved),
    /// It is while the loader called into a plugin, of which no frame was found.
    Running,
    /// No plugin has to do with it.
    Nobody,
}

/// What a plugin was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// The loader made it do something.
    Phase(Phase),
    /// Somebody called it.
    Call,
    /// Code of its own that runs although nobody may call it.
    Unasked,
}

impl Doing {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Phase(phase) => phase.name(),
            Self::Call => "call",
            Self::Unasked => "none",
        }
    }
}

impl Report {
    pub(crate) const EMPTY: Self = Self {
        signal: CrashSignal::Segv,
        code: 0,
        address: None,
        sender: None,
        registers: Registers::NONE,
        pid: 0,
        tid: 0,
        thread: [0; 16],
        time: (0, 0),
        began: 0,
        running: None,
        place: Place::Nowhere,
        frames: [const { Frame::NONE }; FRAMES],
        n_frames: 0,
        end: End::Fault,
    };

    /// Begins with what the kernel said.
    pub(crate) fn begin(&mut self, signal: CrashSignal, code: i32, registers: Registers) {
        self.began = clock::monotonic();
        self.time = clock::wall();
        self.signal = signal;
        self.code = code;
        self.registers = registers;
        self.pid = task::process();
        self.tid = task::id();
        self.thread = task::name();
        self.running = phase::of(thread_pointer());
        self.place = Place::Nowhere;
        self.n_frames = 0;
        self.end = End::Fault;
    }

    /// Finds out whose code the thread was in.
    pub(crate) fn locate(&mut self, memory: &Memory) {
        self.place = Place::of(memory, self.pc());
    }

    /// Finds the frames.
    pub(crate) fn unwind(&mut self, memory: &Memory) {
        let mut walk = Walk::new(memory, self.registers);
        for place in &mut self.frames {
            *place = walk.frame();
            self.n_frames = self.n_frames.saturating_add(1);
            if let Err(end) = walk.up() {
                self.end = end;
                return;
            }
        }
        self.end = End::Deep;
    }

    pub(crate) fn pc(&self) -> usize {
        self.registers.pc()
    }

    pub(crate) fn stack_pointer(&self) -> usize {
        self.registers.get(STACK)
    }

    pub(crate) fn frame_pointer(&self) -> usize {
        self.registers.get(FRAME)
    }

    /// How long it has taken so far.
    pub(crate) fn microseconds(&self) -> u64 {
        clock::monotonic().saturating_sub(self.began) / 1_000
    }

    /// The frames found.
    pub(crate) fn frames(&self) -> &[Frame] {
        self.frames.get(..self.n_frames).unwrap_or(&[])
    }

    /// The thread's name.
    pub(crate) fn thread_name(&self) -> &[u8] {
        self.thread
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
    }

    pub(crate) fn blame(&self) -> Blame<'_> {
        match &self.place {
            Place::Plugin(resolved) => return Blame::Plugin(resolved),
            Place::Departed(..) => return Blame::Departed,
            Place::Object(_) | Place::Nowhere => {}
        }
        let nearest = |surely: bool| {
            self.frames().iter().find_map(|frame| match &frame.place {
                Place::Plugin(plugin) if (frame.found == Found::Surely) == surely => {
                    Some(Blame::CalledFrom(frame, plugin))
                }
                _ => None,
            })
        };
        // A guess counts where nothing better is to be had.
        match nearest(true).or_else(|| nearest(false)) {
            Some(blame) => blame,
            None if self.running.is_some() => Blame::Running,
            None => Blame::Nobody,
        }
    }

    /// What a plugin that readers see was doing on this thread.
    pub(crate) fn doing(&self, plugin: &Resolved) -> Doing {
        match self.running {
            Some((generation, phase)) if generation == plugin.generation => Doing::Phase(phase),
            _ => match plugin.state() {
                State::Live | State::Going => Doing::Call,
                _ => Doing::Unasked,
            },
        }
    }

    /// The phase that the thread is in because of another plugin than `plugin`, if any.
    pub(crate) fn running_other(&self, plugin: Option<&Resolved>) -> Option<(u64, Phase)> {
        let of = plugin.map(|plugin| plugin.generation);
        self.running
            .filter(|(generation, _)| Some(*generation) != of)
    }
}

/// Shows `visit` the name and version of the load `generation`, if readers see it.
pub(crate) fn with_plugin(generation: u64, mut visit: impl FnMut(&[u8], &[u8])) {
    SymbolReader::new().walk(|view| {
        let found = view.generation() == generation;
        if found {
            visit(view.name(), view.version());
        }
        !found
    });
}
