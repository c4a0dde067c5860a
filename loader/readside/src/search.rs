//! From a link-time address to the symbol that covers it, in two cache misses.
//!
//! The addresses of a file are cut into *segments*, each covered by one symbol from its start to
//! the next segment's. Starts are kept as 16-bit remainders in buckets of equal width, so that a
//! search reads one pair of bucket bounds, compares a handful of remainders and reads one number.
//! Symbols that overlap cost a segment more where the outer one goes on; the search itself never
//! looks back.
//!
//! The loader builds the arrays; see `Builder` there. Nothing here allocates.

/// Widest bucket: remainders have 16 bits.
pub const MAX_SHIFT: u32 = 16;

/// Remainders that follow the last one, so that a whole block can be compared anywhere.
pub const PADDING: usize = 16;

/// The symbol that covers a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Cover {
    /// The symbol's number.
    pub number: u32,
    /// Where it ends, from the base of the search; [`u32::MAX`] where the caller has to look.
    pub end: u32,
}

/// The arrays of one file.
#[derive(Debug)]
#[repr(C)]
pub struct Search {
    /// Link-time address at which bucket 0 begins.
    pub base: u64,
    /// A bucket is `1 << shift` bytes wide; at most [`MAX_SHIFT`].
    pub shift: u32,
    /// One more than there are buckets; 0 for none.
    pub n_bounds: u32,
    /// For each bucket the number of its first segment, and one past the last at the end.
    pub first: *const u32,
    /// The low `shift` bits of each segment's start, and [`PADDING`] more.
    pub low: *const u16,
    /// Whole starts of the segments where they lie too far apart for buckets; else null.
    pub starts: *const u64,
    /// The symbol that covers each segment.
    pub covers: *const Cover,
    /// How many segments.
    pub n_segments: u32,
}

impl Search {
    /// The symbol that covers `svma`; its `end` is [`u32::MAX`] where it may end before.
    ///
    /// Async-signal-safe.
    ///
    /// # Safety
    /// - The pointers and counts are what the fields say, and the memory stays for the call.
    #[inline]
    #[must_use]
    pub unsafe fn find(&self, svma: u64) -> Option<Cover> {
        let n_segments = self.n_segments as usize;
        // SAFETY: as many covers as segments.
        let covers = unsafe { core::slice::from_raw_parts(self.covers, n_segments) };
        if !self.starts.is_null() {
            // SAFETY: as many starts as segments.
            let starts = unsafe { core::slice::from_raw_parts(self.starts, n_segments) };
            return find_wide(starts, covers, svma);
        }
        // SAFETY: as many bounds as the field says.
        let first = unsafe { core::slice::from_raw_parts(self.first, self.n_bounds as usize) };
        let n_low = n_segments.wrapping_add(PADDING);
        // SAFETY: as many remainders as segments, and the padding.
        let low = unsafe { core::slice::from_raw_parts(self.low, n_low) };
        find(self.base, self.shift, first, low, covers, svma)
    }
}

/// The search by halving, over whole starts.
///
/// Async-signal-safe.
#[must_use]
pub fn find_wide(starts: &[u64], covers: &[Cover], svma: u64) -> Option<Cover> {
    let after = starts.partition_point(|start| *start <= svma);
    covers.get(after.checked_sub(1)?).copied()
}

/// The search itself, over the arrays that the fields of [`Search`] describe.
///
/// Async-signal-safe.
#[inline]
#[must_use]
pub fn find(
    base: u64,
    shift: u32,
    first: &[u32],
    low: &[u16],
    covers: &[Cover],
    svma: u64,
) -> Option<Cover> {
    let offset = svma.checked_sub(base)?;
    let bucket = usize::try_from(offset.checked_shr(shift)?).ok()?;
    let last = first.len().checked_sub(2)?;
    let (bucket, key) = if bucket <= last {
        // Masked to 16 bits at most.
        let key = offset & 1_u64.checked_shl(shift)?.wrapping_sub(1);
        (bucket, u16::try_from(key).ok()?)
    } else {
        // Past the last bucket the last segment goes on.
        (last, u16::MAX)
    };
    let from = *first.get(bucket)? as usize;
    let to = *first.get(bucket.wrapping_add(1))? as usize;
    let n = to.wrapping_sub(from);
    let inside = match low
        .get(from..from.wrapping_add(PADDING))
        .map(TryInto::try_into)
    {
        Some(Ok(block)) if n <= PADDING => not_above(block, key).min(n),
        _ => low.get(from..to)?.partition_point(|start| *start <= key),
    };
    // None in this bucket: the last segment of an earlier one goes on.
    let segment = from.wrapping_add(inside).checked_sub(1)?;
    let cover = *covers.get(segment)?;
    (cover.end == u32::MAX || offset < u64::from(cover.end)).then_some(cover)
}

/// How many remainders stand before the first that is above `key`.
#[cfg(target_arch = "x86_64")]
#[inline]
fn not_above(block: &[u16; PADDING], key: u16) -> usize {
    use core::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        _mm_setzero_si128, _mm_subs_epu16,
    };
    let at = block.as_ptr();
    // SAFETY: SSE2 is part of x86-64.
    let keys = unsafe { _mm_set1_epi16(key.cast_signed()) };
    // SAFETY: as above.
    let zero = unsafe { _mm_setzero_si128() };
    let compare = |at: *const u16| {
        // SAFETY: eight of the block's sixteen remainders are at `at`; the load may be unaligned.
        let starts = unsafe { _mm_loadu_si128(at.cast()) };
        // SAFETY: SSE2 is part of x86-64. A start that is not above leaves nothing over.
        let over = unsafe { _mm_subs_epu16(starts, keys) };
        // SAFETY: as above.
        unsafe { _mm_cmpeq_epi16(over, zero) }
    };
    let (lower, upper) = (compare(at), compare(at.wrapping_add(8)));
    // SAFETY: SSE2 is part of x86-64.
    let packed = unsafe { _mm_packs_epi16(lower, upper) };
    // SAFETY: as above.
    let mask = unsafe { _mm_movemask_epi8(packed) };
    mask.trailing_ones() as usize
}

/// How many remainders stand before the first that is above `key`.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn not_above(block: &[u16; PADDING], key: u16) -> usize {
    block.iter().take_while(|start| **start <= key).count()
}
