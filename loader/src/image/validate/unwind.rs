//! The unwind tables: sorted, in code, and each entry with the record it promises.

#![forbid(unsafe_code)]

use super::View;
use crate::image::damage::Damage;
use crate::image::segment::{Segment, u32_at};

/// Relative to the table, signed 32 bits: what every linker writes for the sorted table.
const TABLE_ENCODING: u8 = 0x3b;
/// Relative to the place, signed 32 bits.
const PCREL_SDATA4: u8 = 0x1b;
const UDATA4: u8 = 0x03;

pub(super) fn check(view: &View<'_>) -> Result<(), Damage> {
    const WHERE: &str = "PT_GNU_EH_FRAME";
    let Some(header) = view
        .elf
        .eh_frame
        .as_ref()
        .filter(|header| header.filesz > 0)
    else {
        return Ok(());
    };
    let damage = |at: u64, expected: &'static str, found: String| {
        Err(Damage::new(
            WHERE,
            header.offset.saturating_add(at),
            expected,
            found,
        ))
    };
    if view.elf.offset_of(header.vaddr, header.filesz) != Some(header.offset) {
        let found = format!("{:#x} for {:#x}", header.offset, header.vaddr);
        return damage(0, "offset and address that agree", found);
    }
    let bytes = view.elf.bytes_of(header);
    let &[version, frame_encoding, count_encoding, table_encoding, ..] = bytes else {
        return damage(0, "a header", format!("{} bytes", bytes.len()));
    };
    if version != 1 {
        return damage(0, "version 1", version.to_string());
    }
    if (frame_encoding, count_encoding, table_encoding) != (PCREL_SDATA4, UDATA4, TABLE_ENCODING) {
        // Without a table that can be searched, readers walk the frames themselves.
        return Ok(());
    }
    let count = u32_at(bytes, 8).map_or(0, u64::from);
    let end = count.saturating_mul(8).saturating_add(12);
    if end > header.filesz {
        return damage(8, "entries inside the table", count.to_string());
    }
    let relative = |at: u64| {
        let word = u32_at(bytes, at).unwrap_or(0).cast_signed();
        header.vaddr.wrapping_add_signed(i64::from(word))
    };
    let mut frames = Frames::default();
    let mut last = None;
    for index in 0..count {
        let at = index.saturating_mul(8).saturating_add(12);
        let (start, frame) = (relative(at), relative(at.saturating_add(4)));
        if last.is_some_and(|last| start < last) {
            return damage(at, "entries by address", format!("{start:#x}"));
        }
        last = Some(start);
        if !view
            .elf
            .segment_of(start, 1)
            .is_some_and(Segment::is_executable)
        {
            return damage(at, "functions in code", format!("{start:#x}"));
        }
        if let Err(expected) = frames.check(view, frame, start) {
            return damage(at, expected, format!("{frame:#x} for {start:#x}"));
        }
    }
    Ok(())
}

/// The records behind the entries. Those of one object file share their common record.
#[derive(Default)]
struct Frames {
    /// The common record looked at last, and how it encodes addresses.
    common: Option<(u64, u8)>,
}

impl Frames {
    fn check(&mut self, view: &View<'_>, frame: u64, start: u64) -> Result<(), &'static str> {
        let bytes = view.elf.bytes_from(frame).unwrap_or_default();
        let word = |at: u64| u32_at(bytes, at);
        let (Some(len), Some(back)) = (word(0), word(4)) else {
            return Err("a record in a segment");
        };
        let len = u64::from(len);
        let fits = len
            .checked_add(4)
            .is_some_and(|end| usize::try_from(end).is_ok_and(|end| end <= bytes.len()));
        if !(12..0xffff_fff0).contains(&len) || !fits {
            return Err("a record of its length");
        }
        let common = frame.wrapping_add(4).wrapping_sub(u64::from(back));
        if back == 0 {
            return Err("a function's record");
        }
        let encoding = match self.common {
            Some((at, encoding)) if at == common => encoding,
            _ => encoding(view, common).ok_or("a common record with a known encoding")?,
        };
        self.common = Some((common, encoding));
        if encoding != PCREL_SDATA4 {
            return Ok(());
        }
        let distance = word(8).unwrap_or(0).cast_signed();
        if frame
            .wrapping_add(8)
            .wrapping_add_signed(i64::from(distance))
            != start
        {
            return Err("the record of this function");
        }
        Ok(())
    }
}

/// How the common record at `vaddr` encodes addresses of functions.
fn encoding(view: &View<'_>, vaddr: u64) -> Option<u8> {
    let bytes = view.elf.bytes_from(vaddr)?;
    let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let record = bytes.get(4..len.checked_add(4)?)?;
    let (id, rest) = record.split_at_checked(4)?;
    let (version, rest) = rest.split_first()?;
    if id != [0; 4] || ![1, 3].contains(version) {
        return None;
    }
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (augmentation, rest) = rest.split_at_checked(end)?;
    let mut rest = rest.get(1..)?;
    let Some(augmentation) = augmentation.strip_prefix(b"z") else {
        // Absolute addresses, which are relocated.
        return augmentation.is_empty().then_some(0);
    };
    // Alignment of code and of data, the return register, and the size of what follows.
    for _ in 0..4 {
        let end = rest.iter().position(|byte| byte & 0x80 == 0)?;
        rest = rest.get(end.checked_add(1)?..)?;
    }
    let mut found = 0;
    for letter in augmentation {
        match letter {
            b'R' => {
                let (encoding, more) = rest.split_first()?;
                (found, rest) = (*encoding, more);
            }
            b'L' => rest = rest.get(1..)?,
            b'P' => {
                let (encoding, more) = rest.split_first()?;
                let width = match encoding & 0xf {
                    0x2 | 0xa => 2,
                    0x3 | 0xb => 4,
                    0x0 | 0x4 | 0xc => 8,
                    _ => return None,
                };
                rest = more.get(width..)?;
            }
            b'S' | b'B' => {}
            _ => return None,
        }
    }
    Some(found)
}
