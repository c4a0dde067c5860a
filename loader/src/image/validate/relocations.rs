//! The relocations: known types, targets that may be written and are written once, addends that
//! stay in the image.

#![forbid(unsafe_code)]

use super::View;
use super::arrays::Arrays;
use super::machine::{self, Kind, Machine};
use super::symbols::can_be_thread_local;
use crate::image::damage::Damage;
use crate::image::elf::{self, RELA_SIZE, RawRela, Relas, relocations};
use crate::image::segment::{Extent, Segment, u64_at};
use crate::image::tag;

pub(super) fn check(view: &View<'_>) -> Result<(), Damage> {
    let mut arrays = Arrays::new(view);
    let mut targets = Targets::new(view, arrays.around());
    let dynamic = &view.dynamic;
    let plt = (dynamic.value(tag::JMPREL), dynamic.value(tag::PLTRELSZ));
    for (address, size) in [(tag::RELA, tag::RELASZ), (tag::JMPREL, tag::PLTRELSZ)] {
        let structure = tag::name(address);
        let mut table = dynamic.table(&view.elf, address, size, RELA_SIZE)?;
        let vaddr = dynamic.value(address);
        let start = view.elf.offset_of(vaddr, 1).unwrap_or(0);
        if address == tag::RELA
            && (vaddr..vaddr.saturating_add(dynamic.value(size))).contains(&plt.0)
        {
            // It ends with those of DT_JMPREL, which have their turn.
            let own = usize::try_from(plt.0.saturating_sub(vaddr)).unwrap_or(0);
            table = table.get(..own).unwrap_or(table);
        }
        let mut rest = relocations(table);
        let mut n_seen = 0u64;
        loop {
            if address == tag::RELA {
                n_seen = n_seen.saturating_add(targets.take_plain(&mut rest, view.span));
            }
            let Some(rela) = rest.next() else {
                break;
            };
            let index = n_seen;
            n_seen = index.saturating_add(1);
            let damage = |expected: &'static str, found: String| {
                let at = start.saturating_add(index.saturating_mul(RELA_SIZE));
                Err(Damage::new(structure, at, expected, found))
            };
            let Some(kind) = machine::kind(Machine::HOST, rela.number) else {
                return damage("a known type", rela.number.to_string());
            };
            if kind == Kind::None {
                continue;
            }
            let is_called = matches!(kind, Kind::JumpSlot | Kind::Irelative)
                || matches!(kind, Kind::ThreadLocal(16));
            if address == tag::JMPREL && !is_called {
                return damage("functions and descriptors", rela.number.to_string());
            }
            if let Err(expected) = targets.take(rela.target, kind.width()) {
                return damage(expected, format!("{:#x}", rela.target));
            }
            check_value(view, &rela, kind).or_else(|(expected, found)| damage(expected, found))?;
            let value = match kind {
                Kind::Relative => Some(rela.addend),
                _ => elf::symbol(view.symbols, u64::from(rela.symbol))
                    .filter(elf::RawSymbol::is_defined)
                    .map(|symbol| symbol.value.wrapping_add(rela.addend)),
            };
            arrays.fill(view, rela.target, value)?;
            if kind == Kind::Relative {
                targets.look_around(rela.target);
            }
        }
    }
    check_relr(view, &mut targets, &mut arrays)?;
    targets.check_unaligned()?;
    arrays.check()
}

/// Whether what a relocation stores can be meant.
fn check_value(view: &View<'_>, rela: &RawRela, kind: Kind) -> Result<(), (&'static str, String)> {
    if kind == Kind::Relative && rela.symbol == 0 && is_inside(view, rela.addend) {
        return Ok(());
    }
    let symbol = elf::symbol(view.symbols, u64::from(rela.symbol));
    let is_own = rela.symbol == 0 || symbol.is_some_and(|symbol| symbol.is_defined());
    match kind {
        Kind::Relative if !is_inside(view, rela.addend) => {
            Err(("an address in the image", format!("{:#x}", rela.addend)))
        }
        Kind::Relative | Kind::Irelative if rela.symbol != 0 => {
            Err(("no symbol", rela.symbol.to_string()))
        }
        Kind::JumpSlot if rela.symbol == 0 => Err(("a symbol", "none".into())),
        Kind::ThreadLocal(_) if is_own && view.facts.tls.is_none_or(|tls| tls.size == 0) => {
            Err(("PT_TLS for thread-locals of its own", "none".into()))
        }
        Kind::ThreadLocal(_)
            if rela.symbol != 0 && !symbol.is_some_and(|s| can_be_thread_local(&s)) =>
        {
            Err(("a thread-local", format!("symbol {}", rela.symbol)))
        }
        _ => Ok(()),
    }
}

/// Whether an address is one of the image's, or the one just behind it.
fn is_inside(view: &View<'_>, vaddr: u64) -> bool {
    let (low, high) = view.span;
    (low..=high).contains(&vaddr)
}

/// Packed relative relocations; their form was checked when they were read.
fn check_relr(
    view: &View<'_>,
    targets: &mut Targets<'_>,
    arrays: &mut Arrays,
) -> Result<(), Damage> {
    let table = view.dynamic.table(&view.elf, tag::RELR, tag::RELRSZ, 8)?;
    let vaddr = view.dynamic.value(tag::RELR);
    let start = view.elf.offset_of(vaddr, 1).unwrap_or(0);
    let mut next = 0u64;
    for (index, word) in (0u64..).zip(table.chunks_exact(8)) {
        let entry = u64_at(word, 0).unwrap_or(0);
        let at = start.saturating_add(index.saturating_mul(8));
        let mut take = |target: u64| {
            let damage =
                |expected, found| Err(Damage::new("DT_RELR", at, expected, format!("{found:#x}")));
            if !target.is_multiple_of(8) {
                return damage("an aligned target", target);
            }
            if let Err(expected) = targets.take(target, 8) {
                return damage(expected, target);
            }
            let stored = view
                .elf
                .bytes_at(target, 8)
                .and_then(|word| u64_at(word, 0));
            let Some(stored) = stored.filter(|stored| is_inside(view, *stored)) else {
                return damage("an address in the image", stored.unwrap_or(0));
            };
            arrays.fill(view, target, Some(stored))
        };
        if entry & 1 == 0 {
            take(entry)?;
            next = entry.saturating_add(8);
            continue;
        }
        for bit in 0..63u64 {
            if entry >> bit.saturating_add(1) & 1 != 0 {
                take(next.saturating_add(bit.saturating_mul(8)))?;
            }
        }
        next = next.saturating_add(63 * 8);
    }
    Ok(())
}

/// Which words of the image relocations write.
struct Targets<'a> {
    segments: Vec<Written<'a>>,
    /// The segment of the last target: mostly that of the next one, too.
    current: usize,
    /// What ld.so reads while it relocates: link-time start and end.
    kept: Vec<(u64, u64)>,
    /// The constructors' and destructors' arrays, whose slots are looked at one by one.
    arrays: Extent,
    /// Where words may be written without a closer look: around the last target that had one, in
    /// the current segment's file bytes, clear of what is kept and of the arrays.
    plain: Extent,
    /// Words that start at an odd place.
    unaligned: Vec<u64>,
    /// File offset of the dynamic section, for what has no place of its own.
    place: u64,
}

struct Written<'a> {
    segment: &'a Segment,
    /// One bit for each word that the file holds.
    words: Vec<u64>,
}

impl Written<'_> {
    /// The bit of the word at `vaddr`, if the file holds it.
    fn bit(&mut self, vaddr: u64) -> Option<(&mut u64, u64)> {
        let first = self.segment.vaddr & !7;
        let word = vaddr.checked_sub(first)? / 8;
        let cell = self.words.get_mut(usize::try_from(word / 64).ok()?)?;
        Some((cell, 1 << (word % 64)))
    }
}

fn store(words: &mut [u64], at: usize, cell: u64) {
    if let Some(word) = words.get_mut(at) {
        *word = cell;
    }
}

impl<'a> Targets<'a> {
    fn new(view: &'a View<'_>, arrays: Extent) -> Self {
        let is_writable = |segment: &&Segment| segment.is_writable() || view.facts.textrel;
        let segments: Vec<Written<'a>> = view
            .elf
            .segments
            .iter()
            .filter(is_writable)
            .map(|segment| Written {
                segment,
                words: vec![0; usize::try_from(segment.filesz / 512 + 1).unwrap_or(0)],
            })
            .collect();
        let dynamic = &view.dynamic;
        let sized = |address: i64, size: u64| dynamic.get(address).map(|entry| (entry.value, size));
        let n = view.facts.n_symbols;
        let header = u64_at(view.bytes, 32).unwrap_or(0);
        let n_headers = u64::try_from(view.elf.headers.len()).unwrap_or(0);
        let tables = [
            Some((view.elf.dynamic.vaddr, view.elf.dynamic.filesz)),
            Some((0, 64)),
            Some((header, n_headers.saturating_mul(56))),
            sized(tag::SYMTAB, n.saturating_mul(24)),
            sized(tag::STRTAB, dynamic.value(tag::STRSZ)),
            sized(tag::RELA, dynamic.value(tag::RELASZ)),
            sized(tag::JMPREL, dynamic.value(tag::PLTRELSZ)),
            sized(tag::RELR, dynamic.value(tag::RELRSZ)),
            sized(tag::VERSYM, n.saturating_mul(2)),
            sized(tag::VERNEED, 16),
            sized(tag::VERDEF, 20),
            sized(tag::GNU_HASH, n.saturating_mul(4).saturating_add(16)),
            sized(tag::HASH, n.saturating_mul(4).saturating_add(8)),
        ];
        let kept = tables
            .into_iter()
            .flatten()
            .map(|(start, size)| (start, start.saturating_add(size)))
            // Most lie where nothing is written anyway.
            .filter(|(start, _)| {
                segments
                    .iter()
                    .any(|written| written.segment.holds(*start, 1))
            })
            .collect();
        Self {
            segments,
            current: 0,
            kept,
            arrays,
            plain: Extent { vaddr: 0, size: 0 },
            unaligned: Vec::new(),
            place: view.elf.dynamic.offset,
        }
    }

    /// Takes relative relocations from the front of `rest` as long as no rule has anything to say
    /// about them, and tells how many: aligned words of the plain part that no other one writes,
    /// with addends in the image of that `span`. What ends the run is looked at by the others.
    fn take_plain(&mut self, rest: &mut Relas<'_>, (low, high): (u64, u64)) -> u64 {
        let Extent { vaddr, size } = self.plain;
        let Some(written) = self.segments.get_mut(self.current) else {
            return 0;
        };
        let first = written.segment.vaddr & !7;
        let words = &mut written.words;
        // Targets ascend, so that one cell has many of them in a row.
        let (mut at, mut cell) = (0, words.first().copied().unwrap_or(0));
        let n = rest.skip_relative(|target, addend| {
            let is_free = target.wrapping_sub(vaddr) < size && target & 7 == 0;
            if !is_free || addend.wrapping_sub(low) > high.wrapping_sub(low) {
                return false;
            }
            let word = target.wrapping_sub(first) / 8;
            let place = usize::try_from(word / 64).unwrap_or(usize::MAX);
            if place != at {
                store(words, at, cell);
                // Outside of what is marked, where the plain part is not, all is taken.
                (at, cell) = (place, words.get(place).copied().unwrap_or(u64::MAX));
            }
            let bit = 1 << (word % 64);
            let is_new = cell & bit == 0;
            cell |= bit;
            is_new
        });
        store(words, at, cell);
        n
    }

    /// Moves the plain part around `target`, which was just taken.
    fn look_around(&mut self, target: u64) {
        if target.wrapping_sub(self.plain.vaddr) < self.plain.size {
            return;
        }
        self.plain = Extent { vaddr: 0, size: 0 };
        let Some(written) = self.segments.get(self.current) else {
            return;
        };
        let segment = written.segment;
        let (mut low, mut high) = (segment.vaddr, segment.vaddr.saturating_add(segment.filesz));
        let arrays = (
            self.arrays.vaddr,
            self.arrays.vaddr.saturating_add(self.arrays.size),
        );
        for (from, to) in self.kept.iter().copied().chain([arrays]) {
            if to <= target {
                low = low.max(to);
            } else if from > target {
                high = high.min(from);
            } else {
                return;
            }
        }
        // The last word ends where the part does.
        self.plain = Extent {
            vaddr: low,
            size: high.saturating_sub(low).saturating_sub(7),
        };
    }

    /// Notes that `width` bytes at `target` are written.
    fn take(&mut self, target: u64, width: u64) -> Result<(), &'static str> {
        let end = target.saturating_add(width);
        let holds = |written: &Written<'_>| written.segment.holds(target, width);
        if !self.segments.get(self.current).is_some_and(holds) {
            let found = self.segments.iter().position(holds);
            self.current = found.ok_or("a target in a writable segment")?;
            // It lies in the segment before.
            self.plain = Extent { vaddr: 0, size: 0 };
        }
        let Some(written) = self.segments.get_mut(self.current) else {
            return Ok(());
        };
        if self
            .kept
            .iter()
            .any(|(from, to)| target < *to && *from < end)
        {
            return Err("a target that ld.so does not read");
        }
        // Halves of a word may have a relocation each.
        if width < 8 {
            return Ok(());
        }
        if !target.is_multiple_of(8) {
            self.unaligned.push(target);
            return Ok(());
        }
        let mut at = target;
        while at < end {
            if let Some((cell, bit)) = written.bit(at) {
                if *cell & bit != 0 {
                    return Err("a target of its own");
                }
                *cell |= bit;
            }
            at = at.saturating_add(8);
        }
        Ok(())
    }

    /// Packed structures have words at odd places; those share no byte with others.
    fn check_unaligned(&mut self) -> Result<(), Damage> {
        for target in std::mem::take(&mut self.unaligned) {
            let first = target & !7;
            for at in [first, first.saturating_add(8)] {
                let written = self.segments.iter_mut().find(|w| w.segment.holds(at, 1));
                if let Some((cell, bit)) = written.and_then(|written| written.bit(at))
                    && *cell & bit != 0
                {
                    let found = format!("{target:#x}");
                    let expected = "a target of its own";
                    return Err(Damage::new("DT_RELA", self.place, expected, found));
                }
            }
        }
        Ok(())
    }
}
