//! Builds the arrays by which readers find symbols.

#![forbid(unsafe_code)]

use plug_readside::elf::RawSymbol;
use plug_readside::index::rank;
use plug_readside::search::{Block, MIN_SCALE, ROOM, Search, Segment, WHOLE, Wide, place};

/// Symbols a block holds on average, in hundredths: 11.1 bytes a symbol. As many as leave room for
/// the one that reaches in from the bucket before and for crowding; more of them spill.
const FILL: u64 = 577;

/// The arrays of one file.
#[derive(Debug, Default)]
pub(crate) struct Arrays {
    base: u64,
    scale: u32,
    blocks: Vec<Block>,
    /// Segments of the buckets that have more than a block has room for.
    spilled: Vec<Segment>,
    /// All segments where addresses lie too far apart for buckets.
    wide: Vec<Wide>,
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
            // At the very end of the address space nothing is left to cover.
            .filter(|(start, _, end, _)| start < end)
            .collect();
        candidates.sort_unstable();
        let wide = flatten(&candidates);
        Self::bucketed(&wide).unwrap_or_else(|| Self {
            wide,
            ..Self::default()
        })
    }

    /// The arrays in buckets, unless a few symbols far apart would ask for more buckets than they
    /// are worth, or there are more symbols than a block can number.
    fn bucketed(segments: &[Wide]) -> Option<Self> {
        let base = segments.first()?.start;
        let span = u32::try_from(segments.last()?.end - base).ok()?;
        let n = segments.len() as u64;
        // Buckets in 2^32 bytes.
        let scale = ((n * 100) << 32) / (u64::from(span) * FILL);
        let scale = u32::try_from(scale).unwrap_or(u32::MAX).max(MIN_SCALE);
        let (last, _) = place(span - 1, scale);
        if last as u64 > n.max(64) {
            return None;
        }
        let mut arrays = Self {
            base,
            scale,
            blocks: Vec::with_capacity(last + 1),
            ..Self::default()
        };
        let mut here = Vec::new();
        for segment in segments {
            let start = u32::try_from(segment.start - base).ok()?;
            let end = u32::try_from(segment.end - base).ok()?;
            let (first, start) = place(start, scale);
            // The last address decides where it ends, for the end itself may lie in a bucket that
            // it does not reach.
            let (last, _) = place(end - 1, scale);
            let (behind, end) = place(end, scale);
            while arrays.blocks.len() < first {
                arrays.close(&mut here)?;
            }
            here.push(Segment {
                number: segment.number,
                start,
                end: if behind == first { end } else { WHOLE },
            });
            for bucket in first + 1..=last {
                arrays.close(&mut here)?;
                here.push(Segment {
                    number: segment.number,
                    start: 0,
                    end: if behind == bucket { end } else { WHOLE },
                });
            }
        }
        arrays.close(&mut here)?;
        arrays.spilled.shrink_to_fit();
        Some(arrays)
    }

    /// Ends the present bucket, which has the segments `here`.
    fn close(&mut self, here: &mut Vec<Segment>) -> Option<()> {
        let from = u32::try_from(self.spilled.len()).ok()?;
        let n = u32::try_from(here.len()).ok()?;
        self.blocks.push(Block::of(here, (from, n))?);
        if here.len() > ROOM {
            self.spilled.append(here);
        }
        here.clear();
        Some(())
    }

    /// What readers search; valid for as long as `self`.
    pub(crate) fn search(&self) -> Search {
        let count = |n: usize| u32::try_from(n).unwrap_or(0);
        Search {
            base: self.base,
            scale: self.scale,
            n_blocks: count(self.blocks.len()),
            blocks: self.blocks.as_ptr(),
            spilled: self.spilled.as_ptr(),
            wide: self.wide.as_ptr(),
            n_spilled: count(self.spilled.len()),
            n_wide: count(self.wide.len()),
        }
    }

    /// Bytes they occupy.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>()
            + self.spilled.capacity() * size_of::<Segment>()
            + self.wide.capacity() * size_of::<Wide>()
    }
}

/// Cuts the addresses into segments, ascending and disjoint, each covered by one symbol.
///
/// At every address the symbol that starts last among those that cover it counts, and of several
/// that start there the preferred one.
fn flatten(candidates: &[Candidate]) -> Vec<Wide> {
    let mut segments: Vec<Wide> = Vec::with_capacity(candidates.len());
    let mut put = |start: u64, end: u64, number: u32| {
        // What starts here or goes on behind this start gives way.
        if let Some(last) = segments.last_mut() {
            last.end = last.end.min(start);
            if last.start == last.end {
                segments.pop();
            }
        }
        segments.push(Wide { start, end, number });
    };
    // Symbols that cover the present address, the one that counts last.
    let mut open: Vec<(u64, u32)> = Vec::new();
    let close = |open: &mut Vec<(u64, u32)>, upto: u64, put: &mut dyn FnMut(u64, u64, u32)| {
        while let Some((end, _)) = open.pop_if(|(end, _)| *end <= upto) {
            // Whatever ended under it meanwhile does not come back.
            while open.pop_if(|(outer, _)| *outer <= end).is_some() {}
            if let Some((outer_end, outer)) = open.last() {
                put(end, *outer_end, *outer);
            }
        }
    };
    for &(start, _, end, ranked) in candidates {
        let number = rank(ranked);
        close(&mut open, start, &mut put);
        open.push((end, number));
        put(start, end, number);
    }
    close(&mut open, u64::MAX, &mut put);
    segments.shrink_to_fit();
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
            let start = (arrays.base, arrays.scale);
            let (blocks, spilled, wide) = (&arrays.blocks, &arrays.spilled, &arrays.wide);
            let found = search::find(start, blocks, spilled, wide, svma).map(|n| n as usize);
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
        assert!(!Arrays::build((0..3).zip(far)).wide.is_empty());
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
    fn arrays_of_many_functions_take_less_than_eleven_and_a_half_bytes_a_symbol() {
        let symbols = (0..100_000_u32).map(|n| (n, symbol(u64::from(n) * 139, 130, 0x12)));
        let arrays = Arrays::build(symbols);
        assert!(arrays.bytes() * 2 < 23 * 100_000, "{}", arrays.bytes());
    }
}
