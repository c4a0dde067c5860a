//! Answers by copy-out: what a signal handler or a profiler asks, and gets to keep.

use core::fmt;

use crate::index::{FileSymbols, IndexView, SymbolKind};
use crate::snapshot::{self, Row};
use crate::state::{self, State};
use crate::thread_pointer::thread_pointer;

/// Reads the current snapshot from any thread, at any moment.
///
/// Zero-sized and `Copy`: keep one in a `static` for the handler.
///
/// # Contexts
/// Every method is async-signal-safe: no lock, no allocation, no system call, no call into libc,
/// no thread-local storage, `errno` untouched.
#[derive(Clone, Copy, Debug, Default)]
pub struct SymbolReader;

impl SymbolReader {
    /// A reader. `const`, so that it can stand in a `static`.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// The plugin and the symbol that cover `address`, copied out.
    ///
    /// `None` when no plugin of this process covers it. Where no symbol of the file reaches the
    /// address, but an unwind entry says which function contains it, the symbol reads
    /// `fn@+0x1139`, the function's link-time address; else it is empty. Takes one section and two
    /// searches.
    ///
    /// # Contexts
    /// Async-signal-safe.
    #[must_use]
    pub fn resolve(self, address: usize) -> Option<Resolved> {
        snapshot::sections().within(thread_pointer(), |section| {
            let view = snapshot::view(section)?;
            // SAFETY: reached through `section`, which is open until the end of this closure.
            let row = unsafe { snapshot::find(view, address) }?;
            // SAFETY: the row was found through `section`, which is open as long.
            let index = unsafe { row.index() };
            Some(answer(row, Some(index), address))
        })
    }

    /// The plugin and the number of the symbol that cover `address`, without their names: for a
    /// profiler that records now and names later.
    ///
    /// # Contexts
    /// Async-signal-safe.
    #[inline]
    #[must_use]
    pub fn locate(self, address: usize) -> Option<Location> {
        snapshot::sections().within(thread_pointer(), |section| {
            let view = snapshot::view(section)?;
            // SAFETY: reached through `section`, which is open until the end of this closure.
            let row = unsafe { snapshot::find(view, address) }?;
            // SAFETY: as in resolve().
            let index = unsafe { row.index() };
            let offset = link_time(row.bias, address);
            Some(Location {
                plugin: row.id,
                generation: row.generation,
                symbol: index.find_number(offset),
                svma: offset,
            })
        })
    }

    /// The slot and the load of the plugin that covers `address`, and nothing else.
    ///
    /// # Contexts
    /// Async-signal-safe.
    #[inline]
    #[must_use]
    pub fn owner(self, address: usize) -> Option<(u32, u64)> {
        let section = snapshot::sections().enter(thread_pointer());
        let view = snapshot::view(&section)?;
        // SAFETY: reached through `section`, which is open until the end of this call.
        let row = unsafe { snapshot::find(view, address) }?;
        Some((row.id, row.generation))
    }

    /// The number of the current snapshot, which grows with every load and unload; 0 before the
    /// first load.
    ///
    /// For profilers and unwinders that keep what they once found about addresses: while the
    /// number stays the same, no plugin has come or gone and nothing of that is stale. Read it
    /// before the answers that are kept with it, never after.
    ///
    /// # Contexts
    /// Async-signal-safe.
    #[must_use]
    pub fn sequence(self) -> u64 {
        snapshot::sections().within(thread_pointer(), |section| {
            snapshot::view(section).map_or(0, |view| view.sequence)
        })
    }

    /// Shows every plugin of the current snapshot to `visit`, in address order, until it says
    /// stop by returning false; returns the snapshot's sequence number.
    ///
    /// One section covers the whole walk, so that all plugins belong to one snapshot; what
    /// `visit` borrows cannot leave it.
    ///
    /// # Contexts
    /// Async-signal-safe, if `visit` is. A child that `visit` forks goes on inside the section.
    pub fn walk(self, mut visit: impl FnMut(PluginView<'_>) -> bool) -> u64 {
        let section = snapshot::sections().enter(thread_pointer());
        let Some(view) = snapshot::view(&section) else {
            return 0;
        };
        let rows: &[Row] = if view.n_rows == 0 {
            &[]
        } else {
            // SAFETY: publish()'s contract: `n_rows` rows, in place while the section is open.
            unsafe { core::slice::from_raw_parts(view.rows, view.n_rows) }
        };
        for row in rows {
            // SAFETY: the row belongs to the view that `section` protects.
            if !visit(unsafe { PluginView::of(row) }) {
                break;
            }
        }
        view.sequence
    }
}

/// What `row` and its symbols, if there are any, say about `address`, copied out.
pub(crate) fn answer(row: &Row, index: Option<IndexView<'_>>, address: usize) -> Resolved {
    let mut out = Resolved::of(row, index, address);
    let svma = link_time(row.bias, address);
    if let Some(symbol) = index.and_then(|index| index.find(svma)) {
        out.symbol.set(symbol.name);
        out.symbol_start = run_time(row.bias, symbol.svma);
        out.symbol_size = symbol.size;
        out.offset = svma.wrapping_sub(symbol.svma);
    } else if let Some((start, end)) = index.and_then(|index| index.find_unnamed(svma)) {
        out.symbol.set_unnamed(start);
        out.symbol_start = run_time(row.bias, start);
        out.symbol_size = end.wrapping_sub(start);
        out.offset = svma.wrapping_sub(start);
    } else {
        out.symbol_start = row.start;
        out.offset = link_time(row.start, address);
    }
    out
}

/// Where an address lies, in numbers that stay meaningful after the plugin is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The plugin's slot.
    pub plugin: u32,
    /// The load.
    pub generation: u64,
    /// The number of the symbol that covers the address.
    pub symbol: Option<u32>,
    /// The address as the file has it.
    pub svma: u64,
}

/// One plugin during a walk.
#[derive(Clone, Copy, Debug)]
pub struct PluginView<'s> {
    row: &'s Row,
    index: IndexView<'s>,
}

impl<'s> PluginView<'s> {
    /// The view of one row.
    ///
    /// # Safety
    /// - `row` was reached through a section or a snapshot that stays open or held for `'s`.
    #[must_use]
    pub unsafe fn of(row: &'s Row) -> Self {
        // SAFETY: passed on to our caller.
        let index = unsafe { row.index() };
        Self { row, index }
    }

    /// The name, as the plugin declares it.
    #[must_use]
    pub fn name(&self) -> &'s [u8] {
        self.index.name()
    }

    /// The version, empty for a foreign library.
    #[must_use]
    pub fn version(&self) -> &'s [u8] {
        self.index.version()
    }

    /// The build-id; empty when the file has none.
    #[must_use]
    pub fn build_id(&self) -> &'s [u8] {
        self.index.build_id()
    }

    /// The process-wide number of this load.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.row.generation
    }

    /// The slot that the plugin has while it is there.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.row.id
    }

    /// First address and one past the last.
    #[must_use]
    pub fn range(&self) -> (usize, usize) {
        (self.row.start, self.row.end)
    }

    /// Run-time address minus link-time address.
    #[must_use]
    pub fn bias(&self) -> usize {
        self.row.bias
    }

    /// The state at this moment.
    #[must_use]
    pub fn state(&self) -> State {
        state_of(self.row)
    }

    /// The exported symbols, in the file's order.
    #[must_use]
    pub fn symbols(&self) -> Symbols<'s> {
        Symbols {
            bias: self.row.bias,
            symbols: self.index.symbols(),
        }
    }
}

/// The exported symbols of one plugin, in the file's order.
#[derive(Clone, Debug)]
pub struct Symbols<'s> {
    bias: usize,
    symbols: FileSymbols<'s>,
}

/// One exported symbol during a walk.
#[derive(Clone, Copy, Debug)]
pub struct SymbolView<'s> {
    /// The name, mangled as in the file.
    pub name: &'s [u8],
    /// Run-time address.
    pub address: usize,
    /// Size in bytes.
    pub size: u64,
    /// What it is.
    pub kind: SymbolKind,
}

impl<'s> Iterator for Symbols<'s> {
    type Item = SymbolView<'s>;

    fn next(&mut self) -> Option<SymbolView<'s>> {
        let symbol = self.symbols.next()?;
        Some(SymbolView {
            name: symbol.name,
            address: run_time(self.bias, symbol.svma),
            size: symbol.size,
            kind: symbol.kind,
        })
    }
}

/// The run-time address of a link-time one.
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits, asserted below"
)]
fn run_time(bias: usize, svma: u64) -> usize {
    bias.wrapping_add(svma as usize)
}

/// The link-time address of a run-time one.
fn link_time(bias: usize, address: usize) -> u64 {
    address.wrapping_sub(bias) as u64
}

const _: () = assert!(usize::BITS == 64);

/// The state of a row's plugin; a word of another generation means that it is leaving.
fn state_of(row: &Row) -> State {
    let word = state::word(row.id);
    if word.generation() == row.generation {
        word.state()
    } else {
        State::Going
    }
}

/// Up to `N - 1` bytes of text, copied, always terminated by a zero byte.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Text<const N: usize> {
    len: u16,
    truncated: u16,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    const EMPTY: Self = Self {
        len: 0,
        truncated: 0,
        bytes: [0; N],
    };

    /// As much of `text` as fits.
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut out = Self::EMPTY;
        out.set(text);
        out
    }

    /// Copies as much of `text` as fits.
    fn set(&mut self, text: &[u8]) {
        let room = self.bytes.len().saturating_sub(1);
        let n = text.len().min(room);
        if let (Some(to), Some(from)) = (self.bytes.get_mut(..n), text.get(..n)) {
            to.copy_from_slice(from);
        }
        // N is at most 512 in this crate.
        self.len = u16::try_from(n).unwrap_or(0);
        self.truncated = u16::from(n < text.len());
    }

    /// Names a function without a name after its link-time address.
    fn set_unnamed(&mut self, svma: u64) {
        const PREFIX: &[u8; 6] = b"fn@+0x";
        let mut text = [0_u8; PREFIX.len() + 16];
        let digits = svma.max(1).ilog2() / 4;
        let mut len = 0;
        let shifts = (0..=digits).rev().map(|digit| digit.wrapping_mul(4));
        let hex = shifts.map(|shift| {
            let digit = u8::try_from(svma.wrapping_shr(shift) & 0xf).unwrap_or(0);
            let first = if digit < 10 {
                b'0'
            } else {
                b'a'.wrapping_sub(10)
            };
            first.wrapping_add(digit)
        });
        for (place, byte) in text.iter_mut().zip(PREFIX.iter().copied().chain(hex)) {
            *place = byte;
            len = usize::wrapping_add(len, 1);
        }
        self.set(text.get(..len).unwrap_or(&[]));
    }

    /// The text. Async-signal-safe.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// The text, if it is UTF-8. Async-signal-safe.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or("")
    }

    /// Whether the original was longer.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.truncated != 0
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What is known about one address, copied out of the snapshot.
///
/// Layout shared with C: `include/plug_reader.h`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Resolved {
    /// The address that was asked for.
    pub address: usize,
    /// First address of the plugin's mapping.
    pub plugin_start: usize,
    /// One past its last address.
    pub plugin_end: usize,
    /// Run-time address minus link-time address.
    pub bias: usize,
    /// The process-wide number of the load.
    pub generation: u64,
    /// First address of the symbol; of the plugin where no symbol covers the address.
    pub symbol_start: usize,
    /// The symbol's size; 0 where there is none.
    pub symbol_size: u64,
    /// `address - symbol_start`.
    pub offset: u64,
    /// [`State`] as a number.
    state: u8,
    build_id_len: u8,
    build_id: [u8; 32],
    /// The plugin's name.
    pub plugin: Text<68>,
    /// The plugin's version.
    pub version: Text<36>,
    /// The symbol's name; empty where no symbol covers the address.
    pub symbol: Text<252>,
}

impl Resolved {
    fn of(row: &Row, index: Option<IndexView<'_>>, address: usize) -> Self {
        let mut out = Self {
            address,
            plugin_start: row.start,
            plugin_end: row.end,
            bias: row.bias,
            generation: row.generation,
            symbol_start: 0,
            symbol_size: 0,
            offset: 0,
            state: state_of(row) as u8,
            build_id_len: 0,
            build_id: [0; 32],
            plugin: Text::EMPTY,
            version: Text::EMPTY,
            symbol: Text::EMPTY,
        };
        let Some(index) = index else {
            return out;
        };
        out.plugin.set(index.name());
        out.version.set(index.version());
        let build_id = index.build_id();
        if let Some(room) = out.build_id.get_mut(..build_id.len()) {
            room.copy_from_slice(build_id);
            out.build_id_len = u8::try_from(build_id.len()).unwrap_or(0);
        }
        out
    }

    /// The plugin's state when it was read.
    #[must_use]
    pub const fn state(&self) -> State {
        State::from_byte(self.state)
    }

    /// The build-id; empty when the file has none.
    #[must_use]
    pub fn build_id(&self) -> &[u8] {
        self.build_id
            .get(..usize::from(self.build_id_len))
            .unwrap_or(&[])
    }
}

/// [`SymbolReader::resolve`] for C: 1 and `*out` when a plugin covers `address`, else 0.
///
/// # Contexts
/// Async-signal-safe.
///
/// # Safety
/// - `out` is null or points at memory for one `plug_resolved`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plug_resolve(address: usize, out: *mut Resolved) -> i32 {
    match SymbolReader.resolve(address) {
        Some(_) if out.is_null() => 1,
        Some(resolved) => {
            // SAFETY: not null, and the caller gives room for one value.
            unsafe { out.write(resolved) };
            1
        }
        None => 0,
    }
}

const _: () = assert!(size_of::<Resolved>() == 472);

#[cfg(all(test, not(plug_loom)))]
mod c_abi;
