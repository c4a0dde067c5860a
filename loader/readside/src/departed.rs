//! The last plugins that left, in memory of fixed size: what a crash report or a late sample asks
//! about an address that nobody covers any more.
//!
//! Each slot is a sequence lock made of atomic words, so that a reader that is interrupted by
//! nobody sees all of one entry, and any other sees that it did not.

use crate::index::Index;
use crate::reader::{Resolved, Text, answer};
use crate::snapshot::{self, Row};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::thread_pointer::thread_pointer;

/// How many are kept. Twice as many double the time that a crash report looks for an address.
pub const KEPT: usize = 64;

/// Words of one entry.
const WORDS: usize = 23;

/// One plugin that left.
#[derive(Clone, Copy, Debug)]
pub struct Departed {
    /// First address it had.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    /// Run-time address minus link-time address.
    pub bias: usize,
    /// The process-wide number of the load.
    pub generation: u64,
    /// When it was unmapped, in nanoseconds of the monotonic clock.
    pub at: u64,
    /// Its name.
    pub name: Text<68>,
    /// Its version.
    pub version: Text<36>,
    build_id: [u8; 32],
    build_id_len: u8,
    /// Its symbols, or null when they are not kept.
    index: *const Index,
}

impl Departed {
    /// The build-id; empty when the file has none. Async-signal-safe.
    #[must_use]
    pub fn build_id(&self) -> &[u8] {
        self.build_id
            .get(..usize::from(self.build_id_len))
            .unwrap_or(&[])
    }
}

/// One place of the table.
struct Slot {
    /// Odd while the words are written, and 0 before the first time. Written by the loader with
    /// its own lock held (SeqCst: cold, and the strongest order is the easiest to audit), read by
    /// anybody.
    sequence: AtomicU64,
    /// The entry. Written between two changes of `sequence`; Relaxed on both sides, the fences
    /// around them order them against `sequence`.
    words: [AtomicU64; WORDS],
}

static TABLE: [Slot; KEPT] = [const {
    Slot {
        sequence: AtomicU64::new(0),
        words: [const { AtomicU64::new(0) }; WORDS],
    }
}; KEPT];

/// Whether an address is one of the table's: what stands there leads nowhere.
#[must_use]
pub fn holds(address: usize) -> bool {
    let start = TABLE.as_ptr().addr();
    (start..start.wrapping_add(size_of_val(&TABLE))).contains(&address)
}

/// Entries ever added. Written by the loader with its lock held (SeqCst: cold).
static ADDED: AtomicU64 = AtomicU64::new(0);

/// Packs up to `8 * N` bytes into words.
fn pack<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut full = [0; 8];
        for (to, from) in full.iter_mut().zip(chunk) {
            *to = *from;
        }
        *word = u64::from_le_bytes(full);
    }
    words
}

/// Undoes [`pack`] into `to`.
fn unpack(words: &[u64], to: &mut [u8]) {
    for (chunk, word) in to.chunks_mut(8).zip(words) {
        for (to, from) in chunk.iter_mut().zip(word.to_le_bytes()) {
            *to = from;
        }
    }
}

fn write(slot: &Slot, words: &[u64; WORDS]) {
    let sequence = slot.sequence.load(Ordering::SeqCst);
    slot.sequence
        .store(sequence.wrapping_add(1), Ordering::SeqCst);
    // SeqCst: no word below is seen before the odd number above; pairs with the fence in read().
    fence(Ordering::SeqCst);
    for (to, from) in slot.words.iter().zip(words) {
        // Relaxed: between the two changes of the sequence.
        to.store(*from, Ordering::Relaxed);
    }
    slot.sequence
        .store(sequence.wrapping_add(2), Ordering::SeqCst);
}

/// The words of a slot, if nobody wrote them meanwhile; tried a few times and never waited for.
fn read(slot: &Slot) -> Option<[u64; WORDS]> {
    for _ in 0..4 {
        let before = slot.sequence.load(Ordering::SeqCst);
        if before == 0 {
            return None;
        }
        let mut words = [0; WORDS];
        for (to, from) in words.iter_mut().zip(&slot.words) {
            // Relaxed: checked by the second look at the sequence.
            *to = from.load(Ordering::Relaxed);
        }
        // SeqCst: the words are read before the second look; pairs with the fence in write().
        fence(Ordering::SeqCst);
        if before & 1 == 0 && slot.sequence.load(Ordering::SeqCst) == before {
            return Some(words);
        }
    }
    None
}

/// Adds a plugin that was unmapped at `at`; the oldest entry goes. Null for `index` where the
/// symbols are not kept.
///
/// Thread context, one caller at a time; neither waits nor allocates.
///
/// # Safety
/// - `index`, and all that it points at, stays in place until [`forget_symbols`] was called for
///   the generation and a grace period of [`snapshot::sections`] completed after that. Once the
///   entry is pushed out by later ones, the grace period alone is awaited.
pub unsafe fn add(row: &Row, name: &[u8], version: &[u8], build_id: &[u8], at: u64) {
    let lengths = |bytes: &[u8], most: usize| bytes.len().min(most) as u64;
    let lens = lengths(name, 64) | lengths(version, 32) << 8 | lengths(build_id, 32) << 16;
    let name: [u64; 8] = pack(name);
    let version: [u64; 4] = pack(version);
    let build_id: [u64; 4] = pack(build_id);
    let mut words = [0; WORDS];
    let fields = [
        row.start as u64,
        row.end as u64,
        row.bias as u64,
        row.generation,
        at,
        lens,
        row.index as u64,
    ];
    let all = fields.iter().chain(&name).chain(&version).chain(&build_id);
    for (to, from) in words.iter_mut().zip(all) {
        *to = *from;
    }
    let n = ADDED.fetch_add(1, Ordering::SeqCst);
    let place = usize::try_from(n).unwrap_or(0) & (KEPT - 1);
    if let Some(slot) = TABLE.get(place) {
        write(slot, &words);
    }
}

/// The symbols of the load `generation` are about to go.
///
/// Thread context, one caller at a time, together with [`add`].
pub fn forget_symbols(generation: u64) {
    for slot in &TABLE {
        // Nobody else writes, so that the first try succeeds.
        if let Some(mut words) = read(slot)
            && words.get(3) == Some(&generation)
        {
            if let Some(index) = words.get_mut(6) {
                *index = 0;
            }
            write(slot, &words);
        }
    }
}

fn entry(words: &[u64; WORDS]) -> Option<Departed> {
    let field = |n: usize| words.get(n).copied().unwrap_or(0);
    let address = |n: usize| usize::try_from(field(n)).unwrap_or(0);
    let lens = field(5).to_le_bytes();
    let len = |n: usize| usize::from(lens.get(n).copied().unwrap_or(0));
    let (mut name, mut version, mut build_id) = ([0; 64], [0; 32], [0; 32]);
    unpack(words.get(7..15)?, &mut name);
    unpack(words.get(15..19)?, &mut version);
    unpack(words.get(19..23)?, &mut build_id);
    Some(Departed {
        start: address(0),
        end: address(1),
        bias: address(2),
        generation: field(3),
        at: field(4),
        name: Text::of(name.get(..len(0))?),
        version: Text::of(version.get(..len(1))?),
        build_id,
        build_id_len: u8::try_from(len(2)).unwrap_or(0),
        index: address(6) as *const Index,
    })
}

/// The entries, the last one to leave first. Those that are being written are left out.
fn entries() -> impl Iterator<Item = Departed> {
    let added = ADDED.load(Ordering::SeqCst);
    (1..=KEPT as u64).filter_map(move |back| {
        let n = added.checked_sub(back)?;
        let place = usize::try_from(n).unwrap_or(0) & (KEPT - 1);
        entry(&read(TABLE.get(place)?)?)
    })
}

/// The plugin that left last.
///
/// Async-signal-safe.
#[must_use]
pub fn last() -> Option<Departed> {
    entries().next()
}

/// The plugin that covered `address` and left last of those that did, and what of it was
/// there; the symbol is empty where
/// the symbols are not kept, and the state means nothing.
///
/// Nothing is said about who has the address at this moment: ask for that first.
///
/// Async-signal-safe.
#[must_use]
pub fn find(address: usize) -> Option<(Departed, Resolved)> {
    let section = snapshot::sections().enter(thread_pointer());
    let departed = entries().find(|departed| (departed.start..departed.end).contains(&address))?;
    let row = Row {
        start: departed.start,
        end: departed.end,
        bias: departed.bias,
        id: u32::MAX,
        generation: departed.generation,
        index: departed.index,
    };
    let index = (!departed.index.is_null()).then(|| {
        // SAFETY: add()'s contract keeps the index while the section is open that was entered
        // before the entry was read.
        unsafe { row.index() }
    });
    let resolved = answer(&row, index, address);
    drop(section);
    Some((departed, resolved))
}

const _: () = assert!(KEPT.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    fn row(generation: u64, start: usize) -> Row {
        Row {
            start,
            end: start + 0x1000,
            bias: start,
            id: 0,
            generation,
            index: core::ptr::null(),
        }
    }

    #[test]
    fn find_in_a_range_used_twice_names_the_last_that_left() {
        for n in 1..=KEPT + 3 {
            let (start, generation) = (0x10_0000 * (1 + (n & 1)), n as u64);
            // SAFETY: no symbols.
            unsafe {
                add(
                    &row(generation, start),
                    b"old",
                    b"1.2",
                    &[0xab; 20],
                    generation,
                );
            };
        }
        let newest = KEPT as u64 + 3;
        let (departed, resolved) = find(0x20_0010).expect("covered");
        assert_eq!(departed.generation, newest);
        assert_eq!(departed.name.as_str(), "old");
        assert_eq!(departed.version.as_str(), "1.2");
        assert_eq!(departed.build_id(), [0xab; 20]);
        assert_eq!((departed.at, resolved.offset), (newest, 0x10));
        assert_eq!(find(0x10_0010).map(|(d, _)| d.generation), Some(newest - 1));
        assert!(find(0x20_1000).is_none());
        assert_eq!(last().map(|d| d.generation), Some(newest));
        forget_symbols(newest);
        assert_eq!(last().map(|d| d.generation), Some(newest));
    }
}
