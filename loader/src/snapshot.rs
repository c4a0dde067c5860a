//! The loader's side of the snapshot: the owner of the rows that readers walk.

use std::sync::Arc;

use plug_readside::PluginView;
use plug_readside::snapshot::{Row, View};

/// An immutable view of every plugin that readers can see, sorted by address.
///
/// Keep one as long as you like: what it shows stays readable, though the plugins themselves may
/// be gone.
#[derive(Debug)]
pub struct Snapshot {
    view: View,
    rows: Box<[Row]>,
    starts: Box<[usize]>,
}

// SAFETY: `view` points at the boxes beside it; rows point at indexes that the registry keeps
// until no snapshot that shows them is held (soundness of `registry::Retired`); all immutable.
unsafe impl Send for Snapshot {}
// SAFETY: as above.
unsafe impl Sync for Snapshot {}

impl Snapshot {
    /// A snapshot of `rows`, which are sorted by address and disjoint.
    pub(crate) fn new(rows: &[Row], sequence: u64) -> Arc<Self> {
        let rows: Box<[Row]> = rows.into();
        let starts: Box<[usize]> = rows.iter().map(|row| row.start).collect();
        let view = View {
            rows: rows.as_ptr(),
            starts: starts.as_ptr(),
            n_rows: rows.len(),
            sequence,
        };
        Arc::new(Self { view, rows, starts })
    }

    /// What readers reach by raw pointer: part of this very object.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Bytes it occupies.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.rows) + size_of_val(&*self.starts) + size_of::<Self>()
    }

    /// Number of the snapshot; grows with every publication.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.view.sequence
    }

    /// The plugins, by address.
    ///
    /// # Contexts
    /// Thread context (the `Arc` may be the last one to go).
    pub fn plugins(&self) -> impl Iterator<Item = PluginView<'_>> {
        self.rows.iter().map(|row| {
            // SAFETY: the registry keeps the row's index while this snapshot is held.
            unsafe { PluginView::of(row) }
        })
    }

    /// The plugin that covers `address`.
    #[must_use]
    pub fn find(&self, address: usize) -> Option<PluginView<'_>> {
        // SAFETY: the view is this snapshot's own, which `self` holds.
        let row = unsafe { plug_readside::snapshot::find(&self.view, address) };
        row.map(|row| {
            // SAFETY: as in plugins().
            unsafe { PluginView::of(row) }
        })
    }
}
