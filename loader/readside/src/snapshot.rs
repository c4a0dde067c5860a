//! The snapshot as readers see it: flat rows sorted by address, in plain memory.
//!
//! The loader owns the memory behind every pointer here and frees it only after a grace period
//! in which no section could still see it (and when no `Arc` of an older snapshot is held).
//! Nothing in it points into a plugin's mapping.

use crate::index::{Index, IndexView};
use crate::section::{Section, Sections};
use crate::sync::{AtomicPtr, Ordering};

/// One plugin's range: a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
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
    /// Which rows are where.
    pub finder: Finder,
    /// Number of the snapshot; grows with every publication.
    pub sequence: u64,
}

/// Leads from an address to the rows that may cover it.
///
/// The range from the first row's start is cut into buckets of equal width. A snapshot without
/// buckets is searched by halving.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Finder {
    /// For each bucket how many rows start at or before its first address, and once more for the
    /// bucket after the last.
    pub before: *const u16,
    /// How many buckets; 0 for none.
    pub n_buckets: u32,
    /// A bucket is `1 << shift` bytes wide.
    pub shift: u32,
}

impl Finder {
    /// No buckets.
    pub const NONE: Self = Self {
        before: core::ptr::null(),
        n_buckets: 0,
        shift: 0,
    };
}

/// The current view; null before the first publication.
///
/// Written by the loader's writer (SeqCst in [`publish`]), read inside sections (SeqCst in
/// [`view`]); the old view is freed after a grace period.
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
/// - Rows are sorted by `start` and disjoint; the finder's counts are what it says.
pub unsafe fn publish(view: *const View) -> *const View {
    // SeqCst: the swap precedes the grace period's scan in the total order; a section that the
    // scan does not see loads the pointer after it.
    HEAD.swap(view.cast_mut(), Ordering::SeqCst)
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
    pub unsafe fn index<'s>(&self) -> IndexView<'s> {
        // SAFETY: publish()'s contract keeps the index in place while the section is open.
        let index: &'s Index = unsafe { &*self.index };
        // SAFETY: as above, for all it points at.
        unsafe { IndexView::of(index) }
    }
}

/// The row that covers `address`, among those of `view`.
///
/// Async-signal-safe. Where plugins lie side by side, as ld.so maps them, one look at the buckets
/// and one or two at the rows; a search by halving among those that share a bucket.
///
/// # Safety
/// - The view was reached through a section that is still open, or belongs to a snapshot that is
///   held.
#[inline]
#[must_use]
pub unsafe fn find(view: &View, address: usize) -> Option<&Row> {
    // SAFETY: publish()'s contract: as many rows, in place by our caller's word.
    let rows = unsafe { core::slice::from_raw_parts(view.rows, view.n_rows) };
    let (from, to) = if view.finder.n_buckets == 0 {
        (0, rows.len())
    } else {
        let offset = address.checked_sub(rows.first()?.start)?;
        // Masked: no shift is as wide as an address.
        let bucket = offset.wrapping_shr(view.finder.shift);
        if bucket >= view.finder.n_buckets as usize {
            return None;
        }
        let before = view.finder.before.wrapping_add(bucket);
        // SAFETY: publish()'s contract: one count for each bucket, and one more.
        let [from, to] = unsafe { *before.cast::<[u16; 2]>() };
        (usize::from(from), usize::from(to))
    };
    let started = if from == to {
        0
    } else {
        rows.get(from..to)?
            .partition_point(|row| row.start <= address)
    };
    let row = rows.get(from.wrapping_add(started).checked_sub(1)?)?;
    (address < row.end).then_some(row)
}
