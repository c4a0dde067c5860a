//! One load's symbols: the file's own tables, in memory of the loader's, and the ways to search
//! them.
//!
//! Nothing is copied out of the tables when a plugin is loaded. By name the file's own hash table
//! is walked; by address the loader's [`Search`] is asked once it is built, and until then the
//! table is read from end to end, which gives the same answer slowly.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::fmt;

use crate::elf::RawSymbol;
use crate::frames;
use crate::search::Search;
use crate::sync::{AtomicBool, Ordering};

/// Numbers of symbols of the second table have this bit.
pub const SECOND: u32 = 1 << 31;

/// Bytes of a symbol's entry.
const ENTRY: usize = size_of::<RawSymbol>();

/// Symbols that are read at most while no search is built: some milliseconds.
const SCANNED: u32 = 1 << 20;

/// A run of bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Bytes {
    /// First byte; may dangle when `len` is 0.
    pub start: *const u8,
    /// How many.
    pub len: usize,
}

impl Bytes {
    /// No bytes.
    pub const EMPTY: Self = Self {
        start: core::ptr::null(),
        len: 0,
    };

    /// The bytes.
    ///
    /// # Safety
    /// - They are in place and unchanged for `'s`.
    #[inline]
    unsafe fn get<'s>(self) -> &'s [u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the caller vouches for the bytes.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
    }
}

/// A symbol table of a file with its string table.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Table {
    /// Entries of 24 bytes; may be unaligned.
    pub symbols: Bytes,
    /// Names, each ended by a zero byte.
    pub strings: Bytes,
}

impl Table {
    /// No table.
    pub const EMPTY: Self = Self {
        symbols: Bytes::EMPTY,
        strings: Bytes::EMPTY,
    };
}

/// The search of an index, there from some moment on.
#[repr(C)]
pub struct SearchCell {
    search: UnsafeCell<Search>,
    /// Whether it is there. Stored once by the loader (Release, in [`SearchCell::set`]), read inside
    /// sections (Acquire, in [`SearchCell::get`]: the search and its arrays are seen).
    is_set: AtomicBool,
}

// SAFETY: the search is written before `is_set` and never again, and read only after `is_set` was
// seen; what it points at is not written either (the contract of set()).
unsafe impl Sync for SearchCell {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for SearchCell {}

impl fmt::Debug for SearchCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SearchCell").field(&self.get()).finish()
    }
}

impl SearchCell {
    /// No search yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            search: UnsafeCell::new(Search::EMPTY),
            is_set: AtomicBool::new(false),
        }
    }

    /// Shows `search` to readers from now on.
    ///
    /// Thread context.
    ///
    /// # Safety
    /// - Called once for this cell.
    /// - All that `search` points at is what its fields say, and stays unchanged and in place for
    ///   as long as the cell.
    pub unsafe fn set(&self, search: Search) {
        // SAFETY: called once, and nobody reads before the store below.
        unsafe { self.search.get().write(search) };
        // Release: publishes the search and its arrays; pairs with the Acquire in get().
        self.is_set.store(true, Ordering::Release);
    }

    /// The search, if it is there. Async-signal-safe.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Option<&Search> {
        // Acquire: pairs with the Release in set().
        let is_set = self.is_set.load(Ordering::Acquire);
        // SAFETY: once set, it is never written again.
        is_set.then(|| unsafe { &*self.search.get() })
    }
}

impl Default for SearchCell {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything about one load of a plugin that readers may copy out.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Index {
    /// The search by address; first, so that a lookup reads one cache line of the index.
    pub search: SearchCell,
    /// The plugin's name.
    pub name: Bytes,
    /// The plugin's version.
    pub version: Bytes,
    /// Build-id, zero-padded.
    pub build_id: [u8; 32],
    /// Its length in bytes.
    pub build_id_len: u8,
    /// `DT_SYMTAB` with `DT_STRTAB`: what other files may use.
    pub dynamic: Table,
    /// `.symtab` with its strings where the file has them: local functions, too.
    pub all: Table,
    /// `DT_GNU_HASH` to the end of its segment; empty where there is none.
    pub gnu_hash: Bytes,
    /// `DT_HASH` to the end of its segment; empty where there is none.
    pub sysv_hash: Bytes,
    /// `DT_VERSYM`, two bytes for each dynamic symbol; empty where there is none.
    pub versions: Bytes,
    /// `.eh_frame_hdr`; empty where there is none.
    pub frames: Bytes,
    /// Its link-time address.
    pub frames_svma: u64,
    /// Link-time addresses of code: the first executable segment.
    pub text: (u64, u64),
}

const _: () = assert!(size_of::<SearchCell>() <= 64);

/// An index that stays for `'s`.
#[derive(Clone, Copy, Debug)]
pub struct IndexView<'s> {
    index: &'s Index,
}

/// What a symbol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SymbolKind {
    /// Code.
    Func = 0,
    /// Data.
    Object = 1,
    /// Code whose address a resolver chooses.
    Ifunc = 2,
    /// No type given.
    Notype = 3,
}

/// One symbol of a file.
#[derive(Clone, Copy, Debug)]
pub struct FileSymbol<'s> {
    /// Its number: of the dynamic table, or with [`SECOND`] of the other.
    pub number: u32,
    /// The name, mangled as in the file.
    pub name: &'s [u8],
    /// Link-time address.
    pub svma: u64,
    /// Size in bytes; 0 when the file does not say.
    pub size: u64,
    /// What it is.
    pub kind: SymbolKind,
}

impl<'s> IndexView<'s> {
    /// The view of an index.
    ///
    /// Async-signal-safe.
    ///
    /// # Safety
    /// - The index and all it points at stay in place and unchanged (but for `search`) for `'s`.
    #[inline]
    #[must_use]
    pub const unsafe fn of(index: &'s Index) -> Self {
        Self { index }
    }

    /// The plugin's name. Async-signal-safe, as all methods here.
    #[inline]
    #[must_use]
    pub fn name(self) -> &'s [u8] {
        // SAFETY: of()'s contract.
        unsafe { self.index.name.get() }
    }

    /// The plugin's version; empty for a foreign library.
    #[inline]
    #[must_use]
    pub fn version(self) -> &'s [u8] {
        // SAFETY: of()'s contract.
        unsafe { self.index.version.get() }
    }

    /// The build-id; empty when the file has none.
    #[inline]
    #[must_use]
    pub fn build_id(self) -> &'s [u8] {
        let len = usize::from(self.index.build_id_len);
        self.index.build_id.get(..len).unwrap_or(&[])
    }

    /// The exported symbols, in the file's order.
    #[inline]
    #[must_use]
    pub fn symbols(self) -> FileSymbols<'s> {
        FileSymbols {
            view: self,
            next: 0,
        }
    }

    /// The symbol that covers the link-time address `svma`: of several the one that starts last,
    /// and of those that start together the preferred one ([`RawSymbol::preference`]).
    #[inline]
    #[must_use]
    pub fn find(self, svma: u64) -> Option<FileSymbol<'s>> {
        self.symbol(self.find_number(svma)?)
    }

    /// The function without a name that contains the link-time address `svma`, by the file's unwind
    /// entries: its start and where the next one begins.
    ///
    /// For an address that [`IndexView::find`] finds no symbol for: behind the end of a function
    /// that has a name and a size, nothing is there.
    #[must_use]
    pub fn find_unnamed(self, svma: u64) -> Option<(u64, u64)> {
        let (low, high) = self.index.text;
        if !(low..high).contains(&svma) {
            return None;
        }
        // SAFETY: of()'s contract.
        let header = unsafe { self.index.frames.get() };
        let found = frames::find(header, self.index.frames_svma, svma)?;
        let named = self.find(found.0).filter(|symbol| symbol.size > 0);
        named.is_none().then_some(found)
    }

    /// As [`IndexView::find`], the number alone.
    #[inline]
    #[must_use]
    pub fn find_number(self, svma: u64) -> Option<u32> {
        match self.index.search.get() {
            // SAFETY: the contract of SearchCell::set().
            Some(search) => unsafe { search.find(svma) },
            None => self.scan(svma),
        }
    }

    /// Reads the tables from end to end.
    fn scan(self, svma: u64) -> Option<u32> {
        let mut best = None;
        for (number, symbol) in self.first_candidates(SCANNED) {
            if symbol.covers(svma) {
                best = best.max(Some((symbol.svma, symbol.preference(), rank(number))));
            }
        }
        best.map(|(.., ranked)| rank(ranked))
    }

    /// Every symbol that an address may be named after, with its number.
    #[inline]
    pub fn candidates(self) -> impl Iterator<Item = (u32, RawSymbol)> + use<'s> {
        self.first_candidates(u32::MAX)
    }

    /// Those among the first `most` entries of each table.
    #[inline]
    fn first_candidates(self, most: u32) -> impl Iterator<Item = (u32, RawSymbol)> + use<'s> {
        let first = (0..self.len(self.index.dynamic).min(most))
            .filter(move |n| self.raw(*n).is_some_and(|s| s.is_exported()));
        let second = (0..self.len(self.index.all).min(most)).map(|n| n | SECOND);
        first
            .chain(second)
            .filter_map(move |number| Some((number, self.raw(number)?)))
            .filter(|(_, symbol)| symbol.is_named_address())
    }

    /// How many entries the dynamic table has.
    #[inline]
    #[must_use]
    pub fn n_dynamic(self) -> u32 {
        self.len(self.index.dynamic)
    }

    #[inline]
    fn len(self, table: Table) -> u32 {
        let entries = table.symbols.len.checked_div(ENTRY).unwrap_or(0);
        u32::try_from(entries).unwrap_or(SECOND.wrapping_sub(1))
    }

    #[inline]
    fn table(self, number: u32) -> Table {
        if number & SECOND == 0 {
            self.index.dynamic
        } else {
            self.index.all
        }
    }

    /// The entry of a symbol.
    #[inline]
    #[must_use]
    pub fn raw(self, number: u32) -> Option<RawSymbol> {
        let table = self.table(number);
        let at = (number & !SECOND) as usize;
        if at >= self.len(table) as usize {
            return None;
        }
        let entry = table.symbols.start.wrapping_add(at.wrapping_mul(ENTRY));
        // SAFETY: inside the table, as just checked; of()'s contract keeps it in place. Any bytes
        // make an entry.
        Some(unsafe { entry.cast::<RawSymbol>().read_unaligned() })
    }

    /// The symbol with this number.
    #[inline]
    #[must_use]
    pub fn symbol(self, number: u32) -> Option<FileSymbol<'s>> {
        let raw = self.raw(number)?;
        Some(of_raw(
            number,
            &raw,
            self.text(self.table(number), raw.name),
        ))
    }

    #[inline]
    fn text(self, table: Table, offset: u32) -> &'s [u8] {
        // SAFETY: of()'s contract.
        let strings: &'s [u8] = unsafe { table.strings.get() };
        let from = strings.get(offset as usize..).unwrap_or(&[]);
        CStr::from_bytes_until_nul(from).map_or(&[], CStr::to_bytes)
    }

    /// Whether the name at `offset` is `text`, without looking for its end first.
    #[inline]
    fn is_text(self, table: Table, offset: u32, text: &[u8]) -> bool {
        // SAFETY: of()'s contract.
        let strings: &'s [u8] = unsafe { table.strings.get() };
        let start = offset as usize;
        let end = start.saturating_add(text.len());
        let is_same = strings
            .get(start..end)
            .is_some_and(|found| same(found, text));
        is_same && strings.get(end) == Some(&0)
    }

    /// The exported symbol `name`: of several versions the default one. As for `dlsym`, one whose
    /// versions are all hidden has no address by its name alone.
    ///
    /// By the file's GNU hash table, else by its System V one, else by reading all names.
    #[must_use]
    pub fn by_name(self, name: &[u8]) -> Option<FileSymbol<'s>> {
        let (number, raw) = self.find_by_name(name)?;
        // SAFETY: of()'s contract.
        let strings: &'s [u8] = unsafe { self.index.dynamic.strings.get() };
        let start = raw.name as usize;
        let name = strings.get(start..start.wrapping_add(name.len()))?;
        Some(of_raw(number, &raw, name))
    }

    /// As [`IndexView::by_name`], the symbol's number and entry alone.
    #[inline]
    #[must_use]
    pub fn find_by_name(self, name: &[u8]) -> Option<(u32, RawSymbol)> {
        let mut found = None;
        let mut look = |number: u32| {
            let raw = self.raw(number).filter(|raw| {
                self.is_text(self.index.dynamic, raw.name, name)
                    && raw.is_exported()
                    && raw.is_named_address()
                    && self.is_default(number)
            });
            found = raw.map(|raw| (number, raw));
            found.is_some()
        };
        // SAFETY: of()'s contract, twice.
        let gnu = unsafe { self.index.gnu_hash.get() };
        // SAFETY: as above.
        let sysv = unsafe { self.index.sysv_hash.get() };
        if !gnu.is_empty() {
            walk_gnu(gnu, name, &mut look);
        } else if !sysv.is_empty() {
            walk_sysv(sysv, name, &mut look);
        } else {
            let _first = (0..self.n_dynamic()).find(|number| look(*number));
        }
        found
    }

    /// Whether the version of a dynamic symbol is the one that its name alone means.
    fn is_default(self, number: u32) -> bool {
        // SAFETY: of()'s contract.
        let versions = unsafe { self.index.versions.get() };
        let at = (number as usize).saturating_mul(2);
        match versions.get(at..at.saturating_add(2)) {
            // The upper bit hides a version from lookups by name alone; the numbers below 2 are no
            // versions.
            Some(&[lower, upper]) => upper & 0x80 == 0 || (upper == 0x80 && lower < 2),
            _ => true,
        }
    }
}

#[inline]
fn of_raw<'s>(number: u32, raw: &RawSymbol, name: &'s [u8]) -> FileSymbol<'s> {
    FileSymbol {
        number,
        name,
        svma: raw.svma,
        size: raw.size,
        kind: match raw.info & 0xf {
            2 => SymbolKind::Func,
            10 => SymbolKind::Ifunc,
            1 => SymbolKind::Object,
            _ => SymbolKind::Notype,
        },
    }
}

/// The exported symbols of a file, in its order.
#[derive(Clone, Debug)]
pub struct FileSymbols<'s> {
    view: IndexView<'s>,
    next: u32,
}

impl<'s> Iterator for FileSymbols<'s> {
    type Item = FileSymbol<'s>;

    fn next(&mut self) -> Option<FileSymbol<'s>> {
        loop {
            let number = self.next;
            let raw = self.view.raw(number)?;
            self.next = number.wrapping_add(1);
            if raw.is_exported() && raw.is_named_address() {
                return self.view.symbol(number);
            }
        }
    }
}

/// Whether two runs of bytes are equal, eight at a time: names are short, and a call into libc's
/// comparison costs as much as all of this.
#[inline]
fn same(one: &[u8], other: &[u8]) -> bool {
    let (ones, rest) = one.as_chunks::<8>();
    let (others, other_rest) = other.as_chunks::<8>();
    if ones.len() != others.len() || rest.len() != other_rest.len() {
        return false;
    }
    let word = |eight: &[u8; 8]| u64::from_ne_bytes(*eight);
    let mut differs = 0;
    for (one, other) in ones.iter().zip(others) {
        differs |= word(one) ^ word(other);
    }
    // The last eight bytes once more take in what is left, where there are as many.
    match (one.last_chunk(), other.last_chunk()) {
        (Some(one), Some(other)) => differs | (word(one) ^ word(other)) == 0,
        _ => rest.iter().zip(other_rest).all(|(one, other)| one == other),
    }
}

/// Of symbols that nothing else tells apart, the one with the greatest rank is shown: one of the
/// dynamic table, whose names have no versions in them. The rank's rank is the number.
#[inline]
#[must_use]
pub const fn rank(number: u32) -> u32 {
    number ^ SECOND
}

fn word(table: &[u8], at: usize) -> Option<u32> {
    let bytes = table.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The hash of the GNU table: `hash * 33 + byte` over the name.
///
/// Eight bytes at a time: pairs, fours and eights are joined in one register, each by the power of
/// 33 that its place asks for, which breaks the chain of 43 dependent steps that an average mangled
/// name has. What is left over is the end of the last eight bytes, with nothing before it.
#[inline]
fn gnu_hash(name: &[u8]) -> u32 {
    const fn power(n: u32) -> u32 {
        33_u32.wrapping_pow(n)
    }
    const EIGHT: u32 = power(8);
    const POWERS: [u32; 8] = [
        power(0),
        power(1),
        power(2),
        power(3),
        power(4),
        power(5),
        power(6),
        power(7),
    ];
    let (eights, rest) = name.as_chunks::<8>();
    let mut hash = 5381_u32;
    for eight in eights {
        let joined = joined(u64::from_le_bytes(*eight));
        hash = hash.wrapping_mul(EIGHT).wrapping_add(joined);
    }
    let Some(power) = POWERS.get(rest.len()) else {
        return hash;
    };
    let Some(last) = name.last_chunk() else {
        return rest.iter().fold(hash, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
        });
    };
    // With nothing left over, all 64 bits are hidden.
    let hidden = 8_usize.wrapping_sub(rest.len()).wrapping_mul(8);
    let hidden = u32::try_from(hidden).unwrap_or(64);
    let shown = u64::MAX.checked_shl(hidden).unwrap_or(0);
    let joined = joined(u64::from_le_bytes(*last) & shown);
    hash.wrapping_mul(*power).wrapping_add(joined)
}

/// What eight bytes, the first one in the lowest place, add to the hash of those before them.
#[inline]
fn joined(eight: u64) -> u32 {
    const FOUR: u32 = 33_u32.pow(4);
    const BYTES: u64 = 0x00ff_00ff_00ff_00ff;
    const PAIRS: u64 = 0x0000_ffff_0000_ffff;
    let pairs = (eight & BYTES)
        .wrapping_mul(33)
        .wrapping_add((eight >> 8) & BYTES);
    let fours = (pairs & PAIRS)
        .wrapping_mul(33 * 33)
        .wrapping_add((pairs >> 16) & PAIRS);
    let [a, b, c, d, e, f, g, h] = fours.to_le_bytes();
    let early = u32::from_le_bytes([a, b, c, d]);
    let late = u32::from_le_bytes([e, f, g, h]);
    early.wrapping_mul(FOUR).wrapping_add(late)
}

/// Shows `look` the numbers that a GNU hash table has for `name`, until it has enough.
///
/// # Source
/// glibc elf/dl-lookup.c, `do_lookup_x`.
#[inline]
fn walk_gnu(table: &[u8], name: &[u8], look: &mut impl FnMut(u32) -> bool) -> Option<()> {
    let hash = gnu_hash(name);
    let n_buckets = word(table, 0)?;
    let first_hashed = word(table, 4)?;
    let n_bloom = word(table, 8)?;
    let shift = word(table, 12)?;
    // Divisions by 32 bits, which are short. The bloom filter has words of 64 bits, and as many as
    // a power of two.
    let bucket = hash.checked_rem(n_buckets)? as usize;
    let bloom_word = ((hash >> 6) & n_bloom.wrapping_sub(1)) as usize;
    let (n_buckets, n_bloom) = (n_buckets as usize, n_bloom as usize);
    let bloom_at = bloom_word.checked_mul(8)?.checked_add(16)?;
    let low = word(table, bloom_at)?;
    let high = word(table, bloom_at.checked_add(4)?)?;
    let bloom = u64::from(high) << 32 | u64::from(low);
    let bit = |hash: u32| bloom & (1_u64 << (hash & 63)) != 0;
    if !bit(hash) || !bit(hash.checked_shr(shift)?) {
        return None;
    }
    let buckets = n_bloom.checked_mul(8)?.checked_add(16)?;
    let mut number = word(table, bucket.checked_mul(4)?.checked_add(buckets)?)?;
    if number < first_hashed {
        return None;
    }
    let chains = n_buckets.checked_mul(4)?.checked_add(buckets)?;
    loop {
        let place = (number.checked_sub(first_hashed)?) as usize;
        let chained = word(table, place.checked_mul(4)?.checked_add(chains)?)?;
        if (chained | 1) == (hash | 1) && look(number) {
            return Some(());
        }
        // The lowest bit ends the chain; so does the end of the table, which bounds the walk.
        if chained & 1 != 0 {
            return None;
        }
        number = number.checked_add(1)?;
    }
}

/// The same for a System V hash table.
fn walk_sysv(table: &[u8], name: &[u8], look: &mut impl FnMut(u32) -> bool) -> Option<()> {
    let hash = name.iter().fold(0_u32, |hash, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(*byte));
        let top = hash & 0xf000_0000;
        (hash ^ (top >> 24)) & !top
    });
    let n_buckets = word(table, 0)? as usize;
    let n_chains = word(table, 4)? as usize;
    let bucket = (hash as usize).checked_rem(n_buckets)?;
    let mut number = word(table, bucket.checked_mul(4)?.checked_add(8)?)?;
    let chains = n_buckets.checked_mul(4)?.checked_add(8)?;
    // A chain visits each symbol at most once in a sound table.
    for _ in 0..n_chains {
        if number == 0 || look(number) {
            return Some(());
        }
        number = word(
            table,
            (number as usize).checked_mul(4)?.checked_add(chains)?,
        )?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{gnu_hash, same};

    #[test]
    fn same_tells_a_difference_in_any_byte_and_in_length() {
        let one = [7_u8; 40];
        for len in 0..one.len() {
            let mut other = one;
            assert!(same(&one[..len], &other[..len]));
            assert!(len == 0 || !same(&one[..len], &other[..len - 1]));
            for at in 0..len {
                other[at] = 8;
                assert!(!same(&one[..len], &other[..len]), "{at} of {len}");
                other[at] = 7;
            }
        }
    }

    #[test]
    fn gnu_hash_of_any_length_equals_the_plain_one() {
        let mut name = [0_u8; 200];
        for (n, byte) in name.iter_mut().enumerate() {
            *byte = u8::try_from(n * 151 % 256).unwrap();
        }
        for len in 0..name.len() {
            let name = &name[..len];
            let plain = name.iter().fold(5381_u32, |hash, byte| {
                hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
            });
            assert_eq!(gnu_hash(name), plain, "{len} bytes");
        }
    }
}
