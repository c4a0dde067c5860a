//! The loader's side of the snapshot: the owner of the rows that readers walk.

use std::sync::Arc;

use plug_readside::PluginView;
use plug_readside::snapshot::{Finder, Row, View};

/// An immutable view of every plugin that readers can see, sorted by address.
///
/// Keep one as long as you like: what it shows stays readable, though the plugins themselves may
/// be gone.
#[derive(Debug)]
pub struct Snapshot {
    view: View,
    rows: Box<[Row]>,
    /// The buckets of `view.finder`.
    before: Box<[u16]>,
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
        let (shift, before) = buckets(&rows);
        let n_buckets = before.len().saturating_sub(1);
        let view = View {
            rows: rows.as_ptr(),
            n_rows: rows.len(),
            finder: Finder {
                before: before.as_ptr(),
                n_buckets: u32::try_from(n_buckets).unwrap_or(0),
                shift,
            },
            sequence,
        };
        Arc::new(Self { view, rows, before })
    }

    /// What readers reach by raw pointer: part of this very object.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Bytes it occupies.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.rows) + size_of_val(&*self.before) + size_of::<Self>()
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

/// Buckets over the range of `rows`, about four a row, each counting the rows that start at or
/// before its first address; none for more rows than a bucket can count.
fn buckets(rows: &[Row]) -> (u32, Box<[u16]>) {
    const PER_ROW: usize = 4;
    const PAGE_SHIFT: u32 = 12;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return (0, Box::default());
    };
    if u16::try_from(rows.len()).is_err() {
        return (0, Box::default());
    }
    let span = last.end - first.start;
    let width = (span / (rows.len() * PER_ROW)).max(1);
    let shift = width.ilog2().max(PAGE_SHIFT);
    let n_buckets = (span >> shift) + 1;
    let mut before = Vec::with_capacity(n_buckets + 1);
    for (row, count) in rows.iter().zip(0_u16..) {
        // The first bucket that begins at or behind the row's start is the first to count it.
        let bucket = (row.start - first.start).div_ceil(1 << shift);
        before.resize(bucket, count);
    }
    before.resize(n_buckets + 1, u16::try_from(rows.len()).unwrap_or(0));
    (shift, before.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ranges: &[(usize, usize)]) -> Vec<Row> {
        ranges
            .iter()
            .map(|&(start, end)| Row {
                start,
                end,
                bias: start,
                id: 0,
                generation: start as u64,
                index: std::ptr::null(),
            })
            .collect()
    }

    fn check(ranges: &[(usize, usize)]) {
        let rows = rows(ranges);
        let snapshot = Snapshot::new(&rows, 1);
        for &(start, end) in ranges {
            for address in [
                start.wrapping_sub(1),
                start,
                start + 1,
                end - 1,
                end,
                end + 1,
            ] {
                let naive = rows
                    .iter()
                    .find(|row| (row.start..row.end).contains(&address));
                // SAFETY: the snapshot is held.
                let found = unsafe { plug_readside::snapshot::find(snapshot.view(), address) };
                assert_eq!(
                    found.map(|row| row.start),
                    naive.map(|row| row.start),
                    "{address:#x} in {ranges:#x?}"
                );
            }
        }
        for address in [0, usize::MAX] {
            // SAFETY: as above.
            let found = unsafe { plug_readside::snapshot::find(snapshot.view(), address) };
            assert!(found.is_none());
        }
    }

    #[test]
    fn find_among_rows_side_by_side_and_far_apart_agrees_with_the_slow_answer() {
        check(&[]);
        check(&[(0x1000, 0x5000)]);
        check(&[(0x1000, 0x5000), (0x5000, 0x6000), (0x9000, 0xa000)]);
        // Two clusters a terabyte apart: all of each share a bucket.
        let far: Vec<_> = (0..200_usize)
            .map(|n| {
                let start = 0x7000_0000 + n * 0x5000 + (n / 100) * (1 << 40);
                (start, start + 0x4000)
            })
            .collect();
        check(&far);
        let mut seed = 0x9e37_79b9_7f4a_7c15_usize;
        for _ in 0..50 {
            let mut at = 0x5555_0000;
            let ranges: Vec<_> = (0..300)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    let start = at + (seed % 9) * 0x1000;
                    at = start + 0x1000 * (1 + (seed >> 8) % 60);
                    (start, at)
                })
                .collect();
            check(&ranges);
        }
    }
}
