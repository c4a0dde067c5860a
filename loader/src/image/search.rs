//! Builds the arrays by which readers find symbols.

#![forbid(unsafe_code)]

use plug_readside::elf::RawSymbol;
use plug_readside::index::rank;
use plug_readside::search::{Cover, MAX_SHIFT, PADDING, Search};

/// Segments a bucket holds on average: more save memory, fewer save compares.
const FILL: u64 = 8;

/// The arrays of one file.
#[derive(Debug, Default)]
pub(crate) struct Arrays {
    base: u64,
    shift: u32,
    first: Box<[u32]>,
    low: Box<[u16]>,
    /// Whole starts instead of buckets where addresses lie too far apart.
    starts: Box<[u64]>,
    covers: Box<[Cover]>,
}

/// A symbol on the way: address, preference, end, rank.
type Candidate = (u64, (u8, bool, bool, u64), u64, u32);

impl Arrays {
    /// Builds the arrays of `symbols`, each with its number.
    ///
    /// Costs a sort.
    pub(crate) fn build(symbols: impl Iterator<Item = (u32, RawSymbol)>) -> Self {
        let mut candidates: Vec<Candidate> = symbols
            .map(|(number, symbol)| {
                let end = symbol.svma.saturating_add(symbol.size.max(1));
                (symbol.svma, symbol.preference(), end, rank(number))
            })
            .collect();
        candidates.sort_unstable();
        let segments = flatten(&candidates);
        Self::bucketed(&segments).unwrap_or_else(|| Self {
            starts: segments.iter().map(|segment| segment.start).collect(),
            covers: segments
                .iter()
                .map(|segment| Cover {
                    number: segment.number,
                    end: u32::MAX,
                })
                .collect(),
            ..Self::default()
        })
    }

    /// The arrays in buckets, unless a few symbols far apart would ask for more buckets than they
    /// are worth.
    fn bucketed(segments: &[Segment]) -> Option<Self> {
        let base = segments.first()?.start;
        let span = segments.last()?.start - base;
        let shift = (span.saturating_mul(FILL) / segments.len() as u64)
            .max(1)
            .ilog2();
        let shift = shift.clamp(4, MAX_SHIFT);
        let n_buckets = usize::try_from((span >> shift) + 1).ok()?;
        if n_buckets > segments.len().saturating_mul(16).max(1 << 12) {
            return None;
        }
        let mut first = Vec::with_capacity(n_buckets + 1);
        let mut low = Vec::with_capacity(segments.len() + PADDING);
        let mut covers = Vec::with_capacity(segments.len());
        for segment in segments {
            let offset = segment.start - base;
            let bucket = usize::try_from(offset >> shift).ok()?;
            let at = u32::try_from(low.len()).ok()?;
            first.resize(bucket + 1, at);
            low.push(u16::try_from(offset & ((1 << shift) - 1)).ok()?);
            // One that reaches further than 32 bits tell is looked up in the file's table.
            let end = u32::try_from(segment.end - base).unwrap_or(u32::MAX);
            covers.push(Cover {
                number: segment.number,
                end,
            });
        }
        first.resize(n_buckets + 1, u32::try_from(low.len()).ok()?);
        low.resize(low.len() + PADDING, u16::MAX);
        Some(Self {
            base,
            shift,
            first: first.into(),
            low: low.into(),
            starts: Box::default(),
            covers: covers.into(),
        })
    }

    /// What readers search; valid for as long as `self`.
    pub(crate) fn search(&self) -> Search {
        let starts = &self.starts;
        Search {
            base: self.base,
            shift: self.shift,
            n_bounds: u32::try_from(self.first.len()).unwrap_or(0),
            first: self.first.as_ptr(),
            low: self.low.as_ptr(),
            starts: if starts.is_empty() {
                std::ptr::null()
            } else {
                starts.as_ptr()
            },
            covers: self.covers.as_ptr(),
            n_segments: u32::try_from(self.covers.len()).unwrap_or(0),
        }
    }

    /// Bytes they occupy.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.first)
            + size_of_val(&*self.low)
            + size_of_val(&*self.starts)
            + size_of_val(&*self.covers)
    }
}

/// A run of addresses that one symbol covers from its start on.
struct Segment {
    start: u64,
    number: u32,
    /// One past the symbol's last address.
    end: u64,
}

/// Cuts the addresses into segments, sorted by start, each start once.
///
/// At every address the symbol that starts last among those that cover it counts, and of several
/// that start there the preferred one. What no symbol covers belongs to the segment before it.
fn flatten(candidates: &[Candidate]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::with_capacity(candidates.len());
    let mut put = |start: u64, number: u32, end: u64| match segments.last_mut() {
        Some(last) if last.start == start => (last.number, last.end) = (number, end),
        Some(last) if last.number == number => {}
        _ => segments.push(Segment { start, number, end }),
    };
    // Symbols that cover the present address, the one that counts last.
    let mut open: Vec<(u64, u32)> = Vec::new();
    let close = |open: &mut Vec<(u64, u32)>, upto: u64, put: &mut dyn FnMut(u64, u32, u64)| {
        while let Some((end, _)) = open.pop_if(|(end, _)| *end <= upto) {
            // Whatever ended under it meanwhile does not come back.
            while open.pop_if(|(outer, _)| *outer <= end).is_some() {}
            if let Some((outer_end, outer)) = open.last() {
                put(end, *outer, *outer_end);
            }
        }
    };
    for &(start, _, end, ranked) in candidates {
        let number = rank(ranked);
        close(&mut open, start, &mut put);
        open.push((end, number));
        put(start, number, end);
    }
    close(&mut open, u64::MAX, &mut put);
    segments
}

#[cfg(test)]
mod tests {
    use plug_readside::search;

    use super::*;

    fn symbol(svma: u64, size: u64, info: u8) -> RawSymbol {
        RawSymbol {
            name: 1,
            info,
            other: 0,
            section: 1,
            svma,
            size,
        }
    }

    /// The slow and obvious answer.
    fn naive(symbols: &[RawSymbol], svma: u64) -> Option<usize> {
        (0..symbols.len())
            .filter(|&n| symbols[n].covers(svma))
            .max_by_key(|&n| (symbols[n].svma, symbols[n].preference(), n))
    }

    fn check(symbols: &[RawSymbol]) {
        let numbered = symbols
            .iter()
            .enumerate()
            .map(|(n, s)| (u32::try_from(n).unwrap(), *s));
        let arrays = Arrays::build(numbered);
        let mut addresses: Vec<u64> = symbols
            .iter()
            .flat_map(|s| {
                let end = s.svma.saturating_add(s.size);
                [
                    s.svma.wrapping_sub(1),
                    s.svma,
                    s.svma + s.size / 2,
                    end.wrapping_sub(1),
                    end,
                    end + 1,
                ]
            })
            .collect();
        addresses.push(0);
        addresses.push(u64::MAX);
        for svma in addresses {
            let found = if arrays.starts.is_empty() {
                search::find(
                    arrays.base,
                    arrays.shift,
                    &arrays.first,
                    &arrays.low,
                    &arrays.covers,
                    svma,
                )
            } else {
                search::find_wide(&arrays.starts, &arrays.covers, svma)
            }
            .map(|cover| cover.number as usize)
            .filter(|&n| symbols[n].covers(svma));
            let expected = naive(symbols, svma);
            assert_eq!(
                found.map(|n| (symbols[n].svma, symbols[n].preference())),
                expected.map(|n| (symbols[n].svma, symbols[n].preference())),
                "{svma:#x}"
            );
        }
    }

    #[test]
    fn find_in_plain_aliased_nested_and_empty_symbols_agrees_with_the_slow_answer() {
        check(&[
            symbol(0x1000, 16, 0x12),
            symbol(0x1010, 8, 0x12),
            symbol(0x2000, 0, 0x12),
        ]);
        check(&[
            symbol(0x1000, 16, 0x12),
            symbol(0x1000, 32, 0x22),
            symbol(0x1000, 32, 0x11),
        ]);
        check(&[
            symbol(0x1000, 4096, 0x12),
            symbol(0x1100, 16, 0x12),
            symbol(0x1105, 0, 0x10),
        ]);
        check(&[
            symbol(0x1000, 100, 0x12),
            symbol(0x1010, 200, 0x12),
            symbol(0x1020, 10, 0x12),
        ]);
    }

    #[test]
    fn find_in_an_overfull_bucket_before_a_hole_agrees_with_the_slow_answer() {
        let mut symbols: Vec<_> = (0..1200).map(|n| symbol(0x1000 + n, 1, 0x12)).collect();
        symbols.push(symbol(0x1000 + (1 << 26), 8, 0x12));
        check(&symbols);
    }

    #[test]
    fn find_in_symbols_beyond_what_buckets_hold_agrees_with_the_slow_answer() {
        let far = [
            symbol(0, 1, 0x12),
            symbol(1 << 40, 1, 0x12),
            symbol(3 << 40, 9, 0x12),
        ];
        assert!(!Arrays::build((0..3).zip(far)).starts.is_empty());
        check(&far);
        assert_eq!(Arrays::build(std::iter::empty()).bytes(), 0);
    }

    #[test]
    fn find_in_random_symbols_agrees_with_the_slow_answer() {
        let mut seed = 0x243f_6a88_85a3_08d3_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for round in 0..200 {
            let n = random(60) + 1;
            let spread = 1 << random(20);
            let symbols: Vec<_> = (0..n)
                .map(|_| {
                    let info = [0x12, 0x22, 0x11, 0x10, 0x1a][usize::try_from(random(5)).unwrap()];
                    symbol(random(spread + 1), random(80), info)
                })
                .collect();
            check(&symbols);
            assert!(round < 200);
        }
    }

    #[test]
    fn arrays_of_many_functions_take_less_than_eleven_bytes_a_symbol() {
        let symbols = (0..100_000_u32).map(|n| (n, symbol(u64::from(n) * 139, 130, 0x12)));
        let arrays = Arrays::build(symbols);
        assert!(arrays.bytes() < 11 * 100_000, "{}", arrays.bytes());
    }
}
