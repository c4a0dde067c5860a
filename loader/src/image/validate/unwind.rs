//! The unwind tables: sorted, in code, and each entry with the record it promises.

#![forbid(unsafe_code)]

use super::View;
use crate::image::damage::Damage;
use crate::image::segment::{Extent, slice, u32_at};

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
    let relative = |word: [u8; 4]| {
        let distance = i64::from(i32::from_le_bytes(word));
        header.vaddr.wrapping_add_signed(distance)
    };
    let entries = slice(bytes, 12, count.saturating_mul(8)).unwrap_or_default();
    let mut frames = Frames::default();
    let mut last = 0;
    // Almost all lie in one segment.
    let mut code = Extent { vaddr: 0, size: 0 };
    for (index, entry) in (0u64..).zip(entries.chunks_exact(8)) {
        let &[s0, s1, s2, s3, f0, f1, f2, f3] = entry else {
            break;
        };
        let at = index.saturating_mul(8).saturating_add(12);
        let (start, frame) = (relative([s0, s1, s2, s3]), relative([f0, f1, f2, f3]));
        if start < last {
            return damage(at, "entries by address", format!("{start:#x}"));
        }
        last = start;
        if start.wrapping_sub(code.vaddr) >= code.size {
            let segment = view.elf.segment_of(start, 1);
            let Some(segment) = segment.filter(|segment| segment.is_executable()) else {
                return damage(at, "functions in code", format!("{start:#x}"));
            };
            code = Extent {
                vaddr: segment.vaddr,
                size: segment.memsz,
            };
        }
        if let Err(expected) = frames.check(view, frame, start) {
            return damage(at, expected, format!("{frame:#x} for {start:#x}"));
        }
    }
    Ok(())
}

/// The records behind the entries. Those of one object file share their common record.
#[derive(Default)]
struct Frames<'a> {
    /// The segment that held the record looked at last: its address and bytes.
    segment: (u64, &'a [u8]),
    /// The common record looked at last, and how it encodes addresses.
    common: Option<(u64, u8)>,
}

impl<'a> Frames<'a> {
    /// From `vaddr` to the end of its segment's file bytes.
    fn bytes(&mut self, view: &View<'a>, vaddr: u64) -> &'a [u8] {
        let (start, bytes) = self.segment;
        let at = usize::try_from(vaddr.wrapping_sub(start)).unwrap_or(usize::MAX);
        if at < bytes.len() {
            return bytes.get(at..).unwrap_or_default();
        }
        let Some(segment) = view.elf.segment_of(vaddr, 1) else {
            return &[];
        };
        let start = segment.vaddr;
        self.segment = (start, view.elf.bytes_from(start).unwrap_or_default());
        let at = usize::try_from(vaddr.wrapping_sub(start)).unwrap_or(usize::MAX);
        self.segment.1.get(at..).unwrap_or_default()
    }

    fn check(&mut self, view: &View<'a>, frame: u64, start: u64) -> Result<(), &'static str> {
        let bytes = self.bytes(view, frame);
        let Some(&[l0, l1, l2, l3, b0, b1, b2, b3, d0, d1, d2, d3]) = bytes.first_chunk() else {
            return Err("a record in a segment");
        };
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let back = u32::from_le_bytes([b0, b1, b2, b3]);
        let rest = bytes.len().saturating_sub(4);
        if !(12..0xffff_fff0).contains(&len) || usize::try_from(len).is_ok_and(|len| len > rest) {
            return Err("a record of its length");
        }
        if back == 0 {
            return Err("a function's record");
        }
        let common = frame.wrapping_add(4).wrapping_sub(u64::from(back));
        let encoding = match self.common {
            Some((at, encoding)) if at == common => encoding,
            _ => encoding(view, common).ok_or("a common record with a known encoding")?,
        };
        self.common = Some((common, encoding));
        if encoding != PCREL_SDATA4 {
            return Ok(());
        }
        let distance = i64::from(i32::from_le_bytes([d0, d1, d2, d3]));
        if frame.wrapping_add(8).wrapping_add_signed(distance) != start {
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
