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

/// Buckets with more segments than this are searched by halving.
const LINEAR: usize = 32;

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
    /// The low `shift` bits of each segment's start.
    pub low: *const u16,
    /// Whole starts of the segments where they lie too far apart for buckets; else null.
    pub starts: *const u64,
    /// The symbol that covers each segment.
    pub symbols: *const u32,
    /// How many segments.
    pub n_segments: u32,
}

impl Search {
    /// The number of the symbol whose segment contains `svma`; that the symbol reaches so far is
    /// for the caller to check.
    ///
    /// Async-signal-safe.
    ///
    /// # Safety
    /// - The pointers and counts are what the fields say, and the memory stays for the call.
    #[inline]
    #[must_use]
    pub unsafe fn find(&self, svma: u64) -> Option<u32> {
        let n_segments = self.n_segments as usize;
        // SAFETY: as many numbers as segments.
        let symbols = unsafe { core::slice::from_raw_parts(self.symbols, n_segments) };
        if !self.starts.is_null() {
            // SAFETY: as many starts as segments.
            let starts = unsafe { core::slice::from_raw_parts(self.starts, n_segments) };
            return find_wide(starts, symbols, svma);
        }
        // SAFETY: as many bounds as the field says.
        let first = unsafe { core::slice::from_raw_parts(self.first, self.n_bounds as usize) };
        // SAFETY: as many remainders as segments.
        let low = unsafe { core::slice::from_raw_parts(self.low, n_segments) };
        find(self.base, self.shift, first, low, symbols, svma)
    }
}

/// The search by halving, over whole starts.
///
/// Async-signal-safe.
#[must_use]
pub fn find_wide(starts: &[u64], symbols: &[u32], svma: u64) -> Option<u32> {
    let after = starts.partition_point(|start| *start <= svma);
    symbols.get(after.checked_sub(1)?).copied()
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
    symbols: &[u32],
    svma: u64,
) -> Option<u32> {
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
    let low = low.get(from..to)?;
    let inside = if low.len() <= LINEAR {
        low.iter().filter(|start| **start <= key).count()
    } else {
        low.partition_point(|start| *start <= key)
    };
    // None in this bucket: the last segment of an earlier one goes on.
    let segment = from.wrapping_add(inside).checked_sub(1)?;
    symbols.get(segment).copied()
}
