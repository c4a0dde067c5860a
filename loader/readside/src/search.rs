//! From a link-time address to the symbol that covers it, in one cache line.
//!
//! The addresses of a file are cut into *buckets* of equal width, and each bucket has a [`Block`]
//! of one cache line with everything about the symbols in it: where each begins and ends, as
//! fractions of the bucket, and its number. A symbol that reaches into a bucket from an earlier one
//! stands in both, so that no search looks back. What does not fit into a block lies in an array
//! that all blocks share; files whose symbols are too far apart for buckets are searched by halving.
//!
//! The loader builds the arrays; see `Arrays` there. Nothing here allocates.

/// Segments that a block has room for.
pub const ROOM: usize = 9;

/// A fraction of a bucket has 15 bits; this is the end of the bucket.
pub const WHOLE: u16 = 1 << 15;

/// Least scale, and with it the widest bucket of `WHOLE` bytes: two addresses of a bucket then
/// have two fractions.
pub const MIN_SCALE: u32 = 1 << 17;

/// Numbers in blocks have 24 bits, the highest of which stands for [`crate::index::SECOND`].
pub const MAX_NUMBER: u32 = (1 << 23) - 1;

/// Starts of no segment in a block.
const NOTHING: u16 = u16::MAX;

/// One bucket's segments.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Block {
    /// Where each segment begins, ascending; [`NOTHING`] behind the last.
    starts: [u16; ROOM],
    /// Where each ends; [`WHOLE`] for one that goes on.
    ends: [u16; ROOM],
    /// The lower halves of the numbers; of one that spilled, where in the shared array it begins
    /// (two halves) and how many there are (two halves).
    low: [u16; ROOM],
    /// The upper parts of the numbers.
    high: [u8; ROOM],
    /// Whether the segments lie in the shared array.
    is_spilled: bool,
}

const _: () = assert!(size_of::<Block>() == 64);

/// A part of a bucket that one symbol covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// The symbol's number.
    pub number: u32,
    /// Where it begins, as a fraction of the bucket.
    pub start: u16,
    /// Where it ends.
    pub end: u16,
}

/// A part of the file that one symbol covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Wide {
    /// First link-time address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// The symbol's number.
    pub number: u32,
}

impl Block {
    /// A block without segments.
    pub const EMPTY: Self = Self {
        starts: [NOTHING; ROOM],
        ends: [0; ROOM],
        low: [0; ROOM],
        high: [0; ROOM],
        is_spilled: false,
    };

    /// The block of a bucket with these segments, which are ascending and disjoint; the shared
    /// array `spilled` takes what does not fit. `None` for numbers that have no place.
    ///
    /// Thread context.
    #[must_use]
    pub fn of(segments: &[Segment], spilled: (u32, u32)) -> Option<Self> {
        let mut block = Self::EMPTY;
        if segments.len() > ROOM {
            let [a, b, c, d] = [
                spilled.0 & 0xffff,
                spilled.0 >> 16,
                spilled.1 & 0xffff,
                spilled.1 >> 16,
            ]
            .map(|half| u16::try_from(half).unwrap_or(0));
            block.low = [a, b, c, d, 0, 0, 0, 0, 0];
            block.is_spilled = true;
            return Some(block);
        }
        let places = block.starts.iter_mut().zip(&mut block.ends);
        let numbers = block.low.iter_mut().zip(&mut block.high);
        for ((segment, (start, end)), (low, high)) in segments.iter().zip(places).zip(numbers) {
            let number = packed(segment.number)?;
            (*start, *end) = (segment.start, segment.end);
            *low = u16::try_from(number & 0xffff).ok()?;
            *high = u8::try_from(number >> 16).ok()?;
        }
        Some(block)
    }

    /// Which segments of the shared array belong to a block that spilled.
    #[inline]
    fn spilled(&self) -> (usize, usize) {
        let [a, b, c, d, ..] = self.low.map(usize::from);
        (a | b << 16, c | d << 16)
    }

    /// The number of the segment that holds the fraction `key`.
    #[inline]
    fn find(&self, key: u16) -> Option<u32> {
        let at = not_above(&self.starts, key).wrapping_sub(1);
        let end = *self.ends.get(at)?;
        let low = u32::from(*self.low.get(at)?);
        let high = u32::from(*self.high.get(at)?);
        (key < end).then_some(unpacked(high << 16 | low))
    }
}

/// A number in 24 bits.
fn packed(number: u32) -> Option<u32> {
    let (second, rest) = (number >> 31, number & (u32::MAX >> 1));
    (rest <= MAX_NUMBER).then_some(second << 23 | rest)
}

#[inline]
fn unpacked(number: u32) -> u32 {
    (number >> 23) << 31 | (number & MAX_NUMBER)
}

/// The arrays of one file.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Search {
    /// Link-time address at which bucket 0 begins.
    pub base: u64,
    /// Buckets in 2^32 bytes; at least [`MIN_SCALE`].
    pub scale: u32,
    /// How many buckets there are; 0 where `wide` counts.
    pub n_blocks: u32,
    /// One for each bucket.
    pub blocks: *const Block,
    /// Segments of the buckets that have more of them than a block has room for.
    pub spilled: *const Segment,
    /// All segments of a file that has no buckets, ascending and disjoint.
    pub wide: *const Wide,
    /// How many have spilled.
    pub n_spilled: u32,
    /// How many are wide.
    pub n_wide: u32,
}

impl Search {
    /// The arrays of a file without symbols.
    pub const EMPTY: Self = Self {
        base: 0,
        scale: MIN_SCALE,
        n_blocks: 0,
        blocks: core::ptr::dangling(),
        spilled: core::ptr::dangling(),
        wide: core::ptr::dangling(),
        n_spilled: 0,
        n_wide: 0,
    };

    /// The number of the symbol that covers `svma`.
    ///
    /// Async-signal-safe.
    ///
    /// # Safety
    /// - The pointers and counts are what the fields say, none of the pointers is null, and the
    ///   memory stays for the call.
    #[inline]
    #[must_use]
    pub unsafe fn find(&self, svma: u64) -> Option<u32> {
        // SAFETY: passed on to our caller.
        let blocks = unsafe { slice(self.blocks, self.n_blocks) };
        // SAFETY: as above.
        let spilled = unsafe { slice(self.spilled, self.n_spilled) };
        // SAFETY: as above.
        let wide = unsafe { slice(self.wide, self.n_wide) };
        find((self.base, self.scale), blocks, spilled, wide, svma)
    }
}

/// # Safety
/// - `n` values are at `start` and stay for `'s`; for none of them it is aligned and not null.
#[inline]
unsafe fn slice<'s, T>(start: *const T, n: u32) -> &'s [T] {
    // SAFETY: the caller vouches for the values, and for a pointer that is fit for none.
    unsafe { core::slice::from_raw_parts(start, n as usize) }
}

/// The search itself, over what the fields of [`Search`] describe.
///
/// Async-signal-safe.
#[inline]
#[must_use]
pub fn find(
    (base, scale): (u64, u32),
    blocks: &[Block],
    spilled: &[Segment],
    wide: &[Wide],
    svma: u64,
) -> Option<u32> {
    let distance = svma.checked_sub(base)?;
    let place = u32::try_from(distance).map(|offset| place(offset, scale));
    let found = place
        .ok()
        .and_then(|(bucket, key)| Some((blocks.get(bucket)?, key)));
    match found {
        Some((block, key)) if !block.is_spilled => block.find(key),
        Some((block, key)) => find_spilled(spilled, block, key),
        None => find_wide(wide, svma),
    }
}

/// The bucket of an address and where in the bucket it lies, given its distance from the base.
///
/// A product with 32 bits behind the point: the whole part counts buckets, the fraction tells
/// addresses of one bucket apart, since each is at least `MIN_SCALE` from the next.
#[inline]
#[must_use]
pub fn place(offset: u32, scale: u32) -> (usize, u16) {
    // Neither factor has more than 32 bits.
    let product = u64::from(offset).wrapping_mul(u64::from(scale));
    let [a, b, c, d, e, f, g, h] = product.to_le_bytes();
    let (behind, before) = (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    );
    let [_, _, low, high] = (behind >> 1).to_le_bytes();
    (before as usize, u16::from_le_bytes([low, high]))
}

#[cold]
fn find_spilled(spilled: &[Segment], block: &Block, key: u16) -> Option<u32> {
    let (from, n) = block.spilled();
    let segments = spilled.get(from..from.wrapping_add(n))?;
    let after = segments.partition_point(|segment| segment.start <= key);
    let segment = segments.get(after.checked_sub(1)?)?;
    (key < segment.end).then_some(segment.number)
}

/// The search by halving.
#[cold]
fn find_wide(wide: &[Wide], svma: u64) -> Option<u32> {
    let after = wide.partition_point(|segment| segment.start <= svma);
    let segment = wide.get(after.checked_sub(1)?)?;
    (svma < segment.end).then_some(segment.number)
}

/// How many starts stand before the first that is above `key`.
#[cfg(target_arch = "x86_64")]
#[inline]
fn not_above(starts: &[u16; ROOM], key: u16) -> usize {
    use core::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi16, _mm_setzero_si128,
        _mm_subs_epu16,
    };
    // SAFETY: SSE2 is part of x86-64, and eight of the nine starts are read.
    let first = unsafe { _mm_loadu_si128(starts.as_ptr().cast()) };
    // SAFETY: SSE2 is part of x86-64.
    let keys = unsafe { _mm_set1_epi16(key.cast_signed()) };
    // SAFETY: as above. A start that is not above leaves nothing over.
    let over = unsafe { _mm_subs_epu16(first, keys) };
    // SAFETY: as above.
    let zero = unsafe { _mm_setzero_si128() };
    // SAFETY: as above.
    let equal = unsafe { _mm_cmpeq_epi16(over, zero) };
    // SAFETY: as above.
    let mask = unsafe { _mm_movemask_epi8(equal) };
    // Two bits a start, and the starts ascend; the ninth by itself.
    let eight = (mask.trailing_ones() / 2) as usize;
    eight.wrapping_add(usize::from(starts[ROOM - 1] <= key))
}

/// How many starts stand before the first that is above `key`.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn not_above(starts: &[u16; ROOM], key: u16) -> usize {
    starts.iter().filter(|start| **start <= key).count()
}
