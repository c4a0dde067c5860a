//! Pointers into a plugin that somebody else keeps: who follows one after the plugin has left
//! crashes.
//!
//! What holds the plugin: handlers of signals, timers, destructors of keys, functions for the
//! process's end, buffers of streams, texts of the environment, and all other data of the C and C++
//! libraries, hidden addresses included. What does not, and is only told: data of the program and of
//! other objects, which may be remains that nobody looks at any more. The heap is not searched, nor
//! are stacks, nor alternate signal stacks, which the kernel tells their own thread alone.

#![forbid(unsafe_code)]

mod tables;

use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use plug_readside::departed;

use crate::crash::memory::{PAGE, copy_readable};
use crate::record::Record;
use crate::sys::{actions, data};

/// Where a pointer into a plugin was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RootKind {
    /// It handles this signal.
    Signal(i32),
    /// A timer calls it, or hands it over.
    Timer,
    /// It destroys the values of this key.
    Key(u32),
    /// It is called, or handed over, when the process ends.
    Exit,
    /// A stream's buffer.
    Stream,
    /// A text of the environment.
    Environment,
    /// Data of a library that uses it: the C library or the C++ library.
    Library,
    /// Data of the program or of another object, which may be of no use any more.
    Data,
}

/// A pointer into a plugin that somebody else keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Root {
    /// What it is.
    pub kind: RootKind,
    /// The object whose data it is in; empty where the kernel has it, and for the program.
    pub object: Box<str>,
    /// Where it was found; 0 where the kernel has it.
    pub place: usize,
    /// Where it points.
    pub address: usize,
    /// The plugin's symbol there; empty where no exported one covers it.
    pub symbol: Box<str>,
}

impl Root {
    /// Whether the plugin must not be unmapped because of it; otherwise it is only worth telling.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.kind != RootKind::Data
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            RootKind::Signal(number) => write!(f, "signal {number} is handled by ")?,
            RootKind::Timer => f.write_str("a timer has ")?,
            RootKind::Key(number) => write!(f, "the values of key {number} are destroyed by ")?,
            RootKind::Exit => f.write_str("the process's end calls ")?,
            RootKind::Stream => f.write_str("a stream buffers in ")?,
            RootKind::Environment => f.write_str("the environment has ")?,
            RootKind::Library | RootKind::Data => match &*self.object {
                "" => write!(f, "the program's data at {:#x} has ", self.place)?,
                object => write!(f, "{object}'s data at {:#x} has ", self.place)?,
            },
        }
        match &*self.symbol {
            "" => write!(f, "its address {:#x}", self.address),
            symbol => write!(f, "its {symbol}"),
        }
    }
}

/// Looks for pointers into `record`'s plugin; also in the data of the program and of other objects
/// where `widely`.
///
/// Thread context; holds ld.so's lock while it reads. About 50 us, and 0.2 ms for each MiB of data
/// that is searched widely.
pub(crate) fn scan(record: &Record, widely: bool) -> Vec<Root> {
    let mut search = Search {
        record,
        ranges: record.ranges().collect(),
        guard: data::pointer_guard(),
        roots: Vec::new(),
        buffer: vec![0; CHUNK],
        buffered: Vec::new(),
    };
    search.signals();
    search.timers();
    search.environment();
    search.streams();
    search.exits();
    search.data(widely);
    search.roots
}

/// Finds the C library's tables, so that no thread is in the middle of that when another forks.
pub(crate) fn prepare() {
    let _found = tables::tables();
}

/// Bytes that are copied at once.
const CHUNK: usize = 64 << 10;

/// To compare with.
static NOTHING: [u8; 256] = [0; 256];

/// More findings are not told one by one.
const MOST: usize = 64;

/// What a search is at.
struct Search<'r> {
    record: &'r Record,
    ranges: Vec<Range<usize>>,
    guard: usize,
    roots: Vec<Root>,
    buffer: Vec<u8>,
    /// Streams with a buffer in the plugin, which has been told.
    buffered: Vec<usize>,
}

/// Bytes of a stream, with what it does.
const STREAM: usize = 224;

/// Which pages of a range hold anything that was not in a file.
struct Touched {
    /// Number of the first page.
    first: usize,
    /// The kernel's entries, one a page.
    entries: Vec<u8>,
}

impl Touched {
    /// Asks the kernel; none where it does not tell.
    ///
    /// # Source
    /// Documentation/admin-guide/mm/pagemap.rst: bit 63 present, bit 62 swapped.
    fn read(range: &Range<usize>) -> Option<Self> {
        let pagemap = File::open("/proc/thread-self/pagemap").ok()?;
        let first = range.start / PAGE;
        let mut entries = vec![0; (range.end.div_ceil(PAGE) - first) * 8];
        pagemap
            .read_exact_at(&mut entries, first as u64 * 8)
            .ok()
            .map(|()| Self { first, entries })
    }

    /// Bytes from `address` to the end of the last page in a row that does.
    fn run(&self, address: usize) -> usize {
        let mut end = (address | (PAGE - 1)).wrapping_add(1);
        while end.wrapping_sub(address) < CHUNK && self.is(end) {
            end = end.wrapping_add(PAGE);
        }
        end.wrapping_sub(address)
    }

    /// Whether the page of `address` does.
    fn is(&self, address: usize) -> bool {
        let entry = (address / PAGE - self.first) * 8 + 7;
        self.entries.get(entry).is_none_or(|top| top & 0xc0 != 0)
    }
}

impl Search<'_> {
    fn add(&mut self, kind: RootKind, object: &str, place: usize, address: usize) {
        let root = Root {
            kind,
            object: object.into(),
            place,
            address,
            symbol: self.record.symbol_at(address),
        };
        // What holds is told in any case.
        if root.holds() || self.roots.len() < MOST {
            self.roots.push(root);
        }
    }

    /// The words from `start` on, up to `count` of them or as far as they can be read.
    fn words(start: usize, count: usize) -> Vec<usize> {
        let mut bytes = vec![0; count.saturating_mul(8)];
        let readable = copy_readable(start, &mut bytes);
        let (words, _) = bytes.get(..readable).unwrap_or_default().as_chunks();
        words
            .iter()
            .map(|word| usize::from_ne_bytes(*word))
            .collect()
    }

    fn signals(&mut self) {
        for signal in 1..=actions::SIGNALS {
            let handler = actions::of(signal).map_or(0, |action| action.handler);
            if self.holds(&handler) {
                self.add(RootKind::Signal(signal), "", 0, handler);
            }
        }
    }

    /// Timers of the kernel's with what they hand over. For those that start a thread that is what
    /// the C library keeps of them: the function and its argument are in its first words.
    ///
    /// # Source
    /// proc(5), `/proc/pid/timers`; `struct timer` in glibc's `sysdeps/unix/sysv/linux/kernel-posix-timers.h`.
    fn timers(&mut self) {
        const WORDS: usize = 4;
        // 32 is the C library's own.
        const STARTS_THREAD: &str = "32";
        let text = fs::read_to_string("/proc/self/timers").unwrap_or_default();
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("signal: "))
        {
            let Some((signal, value)) = line.split_once('/') else {
                continue;
            };
            let Ok(value) = usize::from_str_radix(value.trim(), 16) else {
                continue;
            };
            let words = match signal.trim() == STARTS_THREAD {
                true => Self::words(value, WORDS),
                false => vec![value],
            };
            let found = words.into_iter().find(|word| self.holds(word));
            if let Some(address) = found {
                self.add(RootKind::Timer, "", 0, address);
            }
        }
    }

    fn environment(&mut self) {
        /// Texts that are looked at.
        const LONGEST: usize = 8192;
        let list = data::environment();
        if list == 0 {
            return;
        }
        // Most have some dozens.
        let (mut at, mut left) = (list, LONGEST);
        while left > 0 {
            let words = Self::words(at, left.min(64));
            let texts = words.iter().take_while(|word| **word != 0);
            let found: Vec<_> = texts.clone().filter(|w| self.holds(w)).collect();
            for address in found {
                self.add(RootKind::Environment, "", 0, *address);
            }
            let seen = texts.count();
            if seen < 64 {
                return;
            }
            at = at.wrapping_add(seen.wrapping_mul(8));
            left = left.saturating_sub(seen);
        }
    }

    /// Streams' pointers into their buffers.
    ///
    /// # Source
    /// `struct _IO_FILE` in glibc's `libio/bits/types/struct_FILE.h`.
    fn streams(&mut self) {
        const MOST: usize = 65536;
        const NEXT: usize = 13;
        let mut stream = data::streams();
        for _ in 0..MOST {
            if stream == 0 {
                return;
            }
            let words = Self::words(stream, NEXT + 1);
            // The first word is flags, the last but one something else's list.
            let pointers = words.iter().take(NEXT - 1).skip(1);
            let found = pointers.into_iter().find(|word| self.holds(word));
            if let Some(address) = found.copied() {
                self.add(RootKind::Stream, "", stream, address);
                self.buffered.push(stream);
            }
            stream = words.get(NEXT).copied().unwrap_or(0);
        }
    }

    /// Functions for the process's end, with what they are given.
    fn exits(&mut self) {
        for entry in tables::exits() {
            let function = data::shown(entry.function, self.guard);
            let words = [function, entry.argument];
            let found = words.into_iter().find(|word| self.holds(word));
            if let Some(address) = found {
                self.add(RootKind::Exit, "", entry.place, address);
            }
        }
    }

    /// Whether an address is one of the plugin's that somebody could follow.
    fn holds(&self, address: &usize) -> bool {
        let is_in = self.ranges.iter().any(|range| range.contains(address));
        // The C library knows objects by these, also after they have taken everything back.
        is_in && !self.record.dso_handles.contains(address)
    }

    /// Places and addresses of pointers among the words that were copied from `at` on, hidden ones
    /// included where `hidden`.
    fn hits(&self, at: usize, copy: &[u8], hidden: bool) -> Vec<(usize, usize)> {
        /// Compared with nothing at once, since most data is.
        const LINE: usize = 256;
        let mut hits = Vec::new();
        let lines = copy.chunks(LINE).enumerate();
        for (n, line) in lines.filter(|(_, line)| NOTHING.get(..line.len()) != Some(*line)) {
            let (words, _) = line.as_chunks();
            for (m, word) in words.iter().enumerate() {
                let word = usize::from_ne_bytes(*word);
                let shown = data::shown(word, self.guard);
                let is_hidden = hidden && self.holds(&shown);
                let address = if is_hidden { shown } else { word };
                // The address of its first byte is a plugin's as a whole: lists have that.
                if self.holds(&address) && !self.ranges.iter().any(|range| range.start == address) {
                    hits.push((at.wrapping_add(n * LINE).wrapping_add(m * 8), address));
                }
            }
        }
        hits
    }

    fn data(&mut self, widely: bool) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let tables = tables::tables();
        data::each(&mut |data| {
            let name = data.object.to_string_lossy();
            let file = name.rsplit('/').next().unwrap_or_default();
            let library = ["libc.so.6", "libstdc++.so.6"].contains(&file);
            // Its own, and what ld.so and the unwinder know of all objects.
            let is_aside = self.record.parts.iter().any(|part| part.bias == data.bias)
                || file.starts_with("ld-linux")
                || file.starts_with("libgcc_s")
                || file.starts_with("linux-vdso");
            if is_aside || !library && !widely {
                return;
            }
            let touched = Touched::read(&data.range);
            let mut at = data.range.start.next_multiple_of(8);
            while at < data.range.end {
                if touched.as_ref().is_some_and(|touched| !touched.is(at)) {
                    at = (at | (PAGE - 1)).wrapping_add(1);
                    continue;
                }
                // Up to the next page without anything where pages are told apart.
                let most = match &touched {
                    Some(touched) => touched.run(at).min(CHUNK),
                    None => CHUNK,
                };
                let most = most.min(data.range.end.wrapping_sub(at));
                let copied = match buffer.get_mut(..most) {
                    Some(buffer) => copy_readable(at, buffer),
                    None => 0,
                };
                let copy = buffer.get(..copied).unwrap_or_default();
                let hits = self.hits(at, copy, library);
                for (place, address) in hits {
                    let is_told = |stream: &usize| (*stream..stream + STREAM).contains(&place);
                    // Plugins that left may have been where this one is.
                    if self.buffered.iter().any(is_told) || departed::holds(place) {
                        continue;
                    }
                    let kind = match library {
                        true => tables.kind(place),
                        false => Some(RootKind::Data),
                    };
                    if let Some(kind) = kind {
                        self.add(kind, file, place, address);
                    }
                }
                if copied < 8 {
                    return;
                }
                at = at.wrapping_add(copied & !7);
            }
        });
        self.buffer = buffer;
    }
}
