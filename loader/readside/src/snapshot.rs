//! The snapshot as readers see it: flat rows sorted by address, in plain memory.
//!
//! The loader owns the memory behind every pointer here and frees it only after a grace period
//! in which no section could still see it (and when no `Arc` of an older snapshot is held).
//! Nothing in it points into a plugin's mapping.

use crate::section::{Section, Sections};
use crate::sync::{AtomicPtr, Ordering};

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

/// One exported symbol, by link-time address.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Symbol {
    /// Link-time address; the load bias is added to get the run-time one.
    pub svma: u64,
    /// Size in bytes; 0 covers only the very address.
    pub size: u64,
    /// Start of the name in the index's `strings`.
    pub name: u32,
    /// Length of the name in bytes.
    pub name_len: u32,
    /// What it is.
    pub kind: SymbolKind,
}

/// Everything about one load of a plugin that readers may copy out.
#[derive(Debug)]
#[repr(C)]
pub struct Index {
    /// Symbols sorted by `svma`; of several at one address the preferred one is last.
    pub symbols: *const Symbol,
    /// How many.
    pub n_symbols: usize,
    /// Name bytes.
    pub strings: *const u8,
    /// How many.
    pub n_strings: usize,
    /// Start and length of the plugin's name in `strings`.
    pub name: (u32, u32),
    /// Start and length of the plugin's version in `strings`.
    pub version: (u32, u32),
    /// Build-id, zero-padded.
    pub build_id: [u8; 32],
    /// Its length in bytes.
    pub build_id_len: u8,
}

/// One plugin's range.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Row {
    /// First address of the mapping.
    pub start: usize,
    /// One past the last address.
    pub end: usize,
    /// Load bias: run-time address minus link-time address.
    pub bias: usize,
    /// Slot of the plugin, which finds its state word.
    pub id: u32,
    /// The load this row belongs to.
    pub generation: u64,
    /// The load's symbols and names.
    pub index: *const Index,
}

/// The rows of one snapshot.
#[derive(Debug)]
#[repr(C)]
pub struct View {
    /// Rows sorted by `start`, disjoint.
    pub rows: *const Row,
    /// How many.
    pub n_rows: usize,
    /// Number of the snapshot; grows by one with every publication.
    pub sequence: u64,
}

/// The current view; null before the first publication.
///
/// Written by the loader's writer (SeqCst in [`publish`]), read inside sections (SeqCst in
/// [`current`]); the old view is freed after a grace period.
static HEAD: AtomicPtr<View> = AtomicPtr::new(core::ptr::null_mut());

/// The sections that protect [`HEAD`].
static SECTIONS: Sections = Sections::new();

/// The process's one table of sections.
#[inline]
#[must_use]
pub fn sections() -> &'static Sections {
    &SECTIONS
}

/// Makes `view` the current one and returns the one before.
///
/// Thread context, the loader's writer only. Never waits.
///
/// # Safety
/// - `view`, its rows, their indexes and everything those point at stay in place and unchanged
///   until a later call has replaced `view` *and* [`Sections::synchronize`] completed after it.
/// - Rows are sorted by `start` and disjoint; symbols are sorted by `svma`; name spans lie inside
///   `strings`.
pub unsafe fn publish(view: *const View) -> *const View {
    // SeqCst: the swap precedes the grace period's scan in the total order; a section that the
    // scan does not see loads the pointer after it.
    HEAD.swap(view.cast_mut(), Ordering::SeqCst)
}

/// The rows that `section` protects.
#[inline]
#[must_use]
pub fn current<'s>(section: &'s Section<'static>) -> &'s [Row] {
    match view(section) {
        // SAFETY: publish()'s contract gives `n_rows` rows that stay for as long as the section.
        Some(view) if view.n_rows != 0 => unsafe {
            core::slice::from_raw_parts(view.rows, view.n_rows)
        },
        _ => &[],
    }
}

/// The view that `section` protects; `None` before the first publication.
#[inline]
#[must_use]
pub fn view<'s>(_section: &'s Section<'static>) -> Option<&'s View> {
    // SeqCst: follows the section's entry in the total order; pairs with publish().
    let view = HEAD.load(Ordering::SeqCst);
    // SAFETY: publish()'s contract keeps the view in place until a grace period after its
    // replacement, and that waits for the section the caller holds.
    unsafe { view.as_ref() }
}

impl Row {
    /// The row's index.
    ///
    /// # Safety
    /// - The row was reached through a section that is still open, or through an `Arc` of the
    ///   snapshot that holds it.
    #[inline]
    #[must_use]
    pub unsafe fn index<'s>(&self) -> &'s Index {
        // SAFETY: publish()'s contract keeps the index in place while the section is open.
        unsafe { &*self.index }
    }
}

impl Index {
    /// The symbols, sorted by link-time address.
    ///
    /// This and the other methods stay within the crate: they trust pointers that anybody may
    /// write into an index, and are sound only for one reached through [`Row::index`].
    #[inline]
    pub(crate) fn symbols(&self) -> &[Symbol] {
        if self.n_symbols == 0 {
            return &[];
        }
        // SAFETY: whoever made the index set pointer and count from one allocation that lives
        // as long as the index.
        unsafe { core::slice::from_raw_parts(self.symbols, self.n_symbols) }
    }

    /// All name bytes.
    #[inline]
    pub(crate) fn strings(&self) -> &[u8] {
        if self.n_strings == 0 {
            return &[];
        }
        // SAFETY: as in symbols().
        unsafe { core::slice::from_raw_parts(self.strings, self.n_strings) }
    }

    /// The bytes of a name; empty if the span is outside.
    #[inline]
    pub(crate) fn text(&self, (start, len): (u32, u32)) -> &[u8] {
        let start = start as usize;
        self.strings()
            .get(start..start.saturating_add(len as usize))
            .unwrap_or(&[])
    }

    /// The symbol that covers the link-time address `svma`.
    #[inline]
    pub(crate) fn find(&self, svma: u64) -> Option<&Symbol> {
        find_symbol(self.symbols(), svma)
    }
}

/// The symbol that covers the link-time address `svma`, among symbols sorted by address.
///
/// The one that starts last among those that reach past `svma`; at most 32 are looked at
/// backwards, which bounds the time where symbols overlap. Async-signal-safe.
#[inline]
#[must_use]
pub fn find_symbol(symbols: &[Symbol], svma: u64) -> Option<&Symbol> {
    let after = symbols.partition_point(|symbol| symbol.svma <= svma);
    symbols.get(..after)?.iter().rev().take(32).find(|symbol| {
        let offset = svma.wrapping_sub(symbol.svma);
        offset < symbol.size || (symbol.size == 0 && offset == 0)
    })
}

/// The row that covers `address`.
#[inline]
#[must_use]
pub fn find(rows: &[Row], address: usize) -> Option<&Row> {
    let after = rows.partition_point(|row| row.start <= address);
    rows.get(after.checked_sub(1)?)
        .filter(|row| address < row.end)
}
