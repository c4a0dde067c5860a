//! Segments, and the bounds-checked way from a link-time address to bytes of the file.
//!
//! Thread context; arithmetic only. No input makes it panic or overflow.

#![forbid(unsafe_code)]

/// Smallest page of every supported machine; segments are aligned to at least this.
pub(super) const PAGE: u64 = 4096;

const PF_X: u32 = 1;
const PF_W: u32 = 2;

/// One `PT_LOAD` segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// Link-time address of the first byte.
    pub vaddr: u64,
    /// Bytes in memory; what exceeds `filesz` is zero.
    pub memsz: u64,
    /// File offset of the first byte.
    pub offset: u64,
    /// Bytes in the file.
    pub filesz: u64,
    /// `PF_R` 4, `PF_W` 2, `PF_X` 1.
    pub flags: u32,
}

impl Segment {
    /// Whether the segment is mapped writable.
    pub fn is_writable(&self) -> bool {
        self.flags & PF_W != 0
    }

    /// Whether the segment is mapped executable.
    pub fn is_executable(&self) -> bool {
        self.flags & PF_X != 0
    }

    /// Whether `len` bytes at `vaddr` lie in its memory.
    pub(super) fn holds(&self, vaddr: u64, len: u64) -> bool {
        within(vaddr, len, self.vaddr, self.memsz)
    }
}

/// A range of link-time addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extent {
    /// Link-time address of the first byte.
    pub vaddr: u64,
    /// Length in bytes.
    pub size: u64,
}

/// The little-endian 16-bit word at `offset`.
pub(super) fn u16_at(bytes: &[u8], offset: u64) -> Option<u16> {
    slice(bytes, offset, 2)?
        .try_into()
        .ok()
        .map(u16::from_le_bytes)
}

/// The little-endian 32-bit word at `offset`.
pub(super) fn u32_at(bytes: &[u8], offset: u64) -> Option<u32> {
    slice(bytes, offset, 4)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}

/// The little-endian 64-bit word at `offset`.
pub(super) fn u64_at(bytes: &[u8], offset: u64) -> Option<u64> {
    slice(bytes, offset, 8)?
        .try_into()
        .ok()
        .map(u64::from_le_bytes)
}

/// `len` bytes at `offset`, or `None` where the bytes end before.
pub(super) fn slice(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    bytes.get(start..end)
}

/// The file offset of `len` bytes at `vaddr`, which must lie in one segment's file bytes.
pub(super) fn offset_of(segments: &[Segment], vaddr: u64, len: u64) -> Option<u64> {
    let after = segments.partition_point(|s| s.vaddr <= vaddr);
    let segment = segments.get(after.checked_sub(1)?)?;
    if !within(vaddr, len, segment.vaddr, segment.filesz) {
        return None;
    }
    segment
        .offset
        .checked_add(vaddr.checked_sub(segment.vaddr)?)
}

/// Whether `len` bytes at `inner` lie in `size` bytes at `outer`.
pub(super) fn within(inner: u64, len: u64, outer: u64, size: u64) -> bool {
    match (inner.checked_add(len), outer.checked_add(size)) {
        (Some(inner_end), Some(outer_end)) => inner >= outer && inner_end <= outer_end,
        _ => false,
    }
}
