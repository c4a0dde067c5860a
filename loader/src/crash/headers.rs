//! A mapped object as its own program headers describe it, read from memory.
//!
//! Async-signal-safe. Nothing is prepared when an object is loaded: the headers lie in its first
//! page, and finding them again costs a crash report a few microseconds.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::memory::Memory;

/// Segments looked at; objects have about ten.
const SEGMENTS: usize = 24;

const PT_LOAD: u32 = 1;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;

/// One loaded segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    start: usize,
    end: usize,
    executable: bool,
}

/// A mapped object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    segments: [Segment; SEGMENTS],
    /// Address of the sorted table of functions; 0 where there is none.
    pub(crate) eh_frame_hdr: usize,
}

impl Object {
    /// The object whose first byte is at `start`.
    pub(crate) fn at(memory: &Memory, start: usize) -> Option<Self> {
        let header: [u8; 64] = memory.read(start)?;
        if !header.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let table = start.checked_add(usize::try_from(long(&header, 32)?).ok()?)?;
        let size = usize::from(short(&header, 54)?);
        let count = usize::from(short(&header, 56)?).min(2 * SEGMENTS);
        let mut object = Self {
            segments: [Segment {
                start: 0,
                end: 0,
                executable: false,
            }; SEGMENTS],
            eh_frame_hdr: 0,
        };
        let mut bias = None;
        let mut segments = object.segments.iter_mut();
        for n in 0..count {
            let at = table.checked_add(n.checked_mul(size)?)?;
            let header: [u8; 56] = memory.read(at)?;
            let (kind, flags) = (int(&header, 0)?, int(&header, 4)?);
            let vaddr = usize::try_from(long(&header, 16)?).ok()?;
            let memsz = usize::try_from(long(&header, 40)?).ok()?;
            if kind == PT_LOAD {
                // Segments are sorted, and the first one starts where the mapping does.
                let bias = *bias.get_or_insert(start.wrapping_sub(vaddr & !0xfff));
                if let Some(segment) = segments.next() {
                    let start = bias.wrapping_add(vaddr);
                    *segment = Segment {
                        start,
                        end: start.checked_add(memsz)?,
                        executable: flags & PF_X != 0,
                    };
                }
            } else if kind == PT_GNU_EH_FRAME {
                // Linkers put it behind the segments, whose first one gives the bias.
                object.eh_frame_hdr = bias?.wrapping_add(vaddr);
            }
        }
        Some(object)
    }

    /// Whether `address` lies in code of the object.
    pub(crate) fn is_code(&self, address: usize) -> bool {
        let mut code = self.segments.iter().filter(|segment| segment.executable);
        code.any(|segment| (segment.start..segment.end).contains(&address))
    }

    /// The range from the first byte of code to the last; empty where there is none.
    pub(crate) fn code(&self) -> Range<usize> {
        let start = self.executable().map(|code| code.start).min();
        start.unwrap_or(0)..self.executable().map(|code| code.end).max().unwrap_or(0)
    }

    /// The segments that hold code.
    pub(crate) fn executable(&self) -> impl Iterator<Item = Range<usize>> {
        let code = self.segments.iter().filter(|segment| segment.executable);
        code.map(|segment| segment.start..segment.end)
    }

    /// Bytes from `address` to the end of its segment; 0 outside of all.
    pub(crate) fn rest(&self, address: usize) -> usize {
        let mut segments = self.segments.iter();
        segments
            .find(|segment| (segment.start..segment.end).contains(&address))
            .map_or(0, |segment| segment.end.saturating_sub(address))
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let (bytes, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    let (bytes, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let (bytes, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}
