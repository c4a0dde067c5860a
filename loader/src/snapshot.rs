//! The loader's side of the snapshot: the owners of the memory that readers walk.

use std::sync::Arc;

use plug_readside::PluginView;
use plug_readside::snapshot::{Index, Row, Symbol, View};

/// Symbols and names of one load, in memory of the loader's own.
#[derive(Debug)]
pub(crate) struct OwnedIndex {
    index: Index,
    symbols: Box<[Symbol]>,
    strings: Box<[u8]>,
}

// SAFETY: the pointers in `index` point at the two boxes beside it, which nobody changes.
unsafe impl Send for OwnedIndex {}
// SAFETY: as above.
unsafe impl Sync for OwnedIndex {}

impl OwnedIndex {
    /// Takes sorted symbols and the bytes that their names, `name` and `version` span.
    pub(crate) fn new(
        symbols: Vec<Symbol>,
        mut strings: Vec<u8>,
        name: &str,
        version: &str,
        build_id: &[u8],
    ) -> Self {
        let mut span = |text: &str| {
            let start = strings.len();
            strings.extend_from_slice(text.as_bytes());
            // Names are at most 64 bytes; a string table beyond 4 GiB was refused before.
            (
                u32::try_from(start).unwrap_or(u32::MAX),
                u32::try_from(text.len()).unwrap_or(0),
            )
        };
        let name = span(name);
        let version = span(version);
        let mut id = [0; 32];
        let id_len = build_id.len().min(id.len());
        if let (Some(to), Some(from)) = (id.get_mut(..id_len), build_id.get(..id_len)) {
            to.copy_from_slice(from);
        }
        let symbols = symbols.into_boxed_slice();
        let strings = strings.into_boxed_slice();
        let index = Index {
            symbols: symbols.as_ptr(),
            n_symbols: symbols.len(),
            strings: strings.as_ptr(),
            n_strings: strings.len(),
            name,
            version,
            build_id: id,
            build_id_len: u8::try_from(id_len).unwrap_or(0),
        };
        Self {
            index,
            symbols,
            strings,
        }
    }

    /// What readers reach by raw pointer: part of this very object.
    pub(crate) fn as_ptr(&self) -> *const Index {
        &raw const self.index
    }

    /// The symbols, sorted by link-time address.
    pub(crate) fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    /// The name of a symbol.
    pub(crate) fn name_of(&self, symbol: &Symbol) -> &[u8] {
        let start = symbol.name as usize;
        self.strings
            .get(start..start.saturating_add(symbol.name_len as usize))
            .unwrap_or_default()
    }

    /// Build-id bytes; empty when the file has none.
    pub(crate) fn build_id(&self) -> &[u8] {
        let index = &self.index;
        index
            .build_id
            .get(..usize::from(index.build_id_len))
            .unwrap_or_default()
    }

    /// Bytes it occupies.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.symbols) + self.strings.len() + size_of::<Self>()
    }

    /// The symbol named `name`, functions before data; the last of several (the default version
    /// is put last by whoever sorted them).
    pub(crate) fn by_name(&self, name: &[u8]) -> Option<&Symbol> {
        self.symbols
            .iter()
            .rfind(|symbol| self.name_of(symbol) == name)
    }
}

/// An immutable view of every plugin that readers can see, sorted by address.
///
/// Keep one as long as you like: what it shows stays readable, though the plugins themselves may
/// be gone.
#[derive(Debug)]
pub struct Snapshot {
    view: View,
    rows: Box<[Row]>,
}

// SAFETY: `view.rows` points at the box beside it; rows point at indexes that the registry keeps
// until no snapshot that shows them is held (soundness of `registry::Retired`); all immutable.
unsafe impl Send for Snapshot {}
// SAFETY: as above.
unsafe impl Sync for Snapshot {}

impl Snapshot {
    /// A snapshot of `rows`, which are sorted by address and disjoint.
    pub(crate) fn new(rows: &[Row], sequence: u64) -> Arc<Self> {
        let rows: Box<[Row]> = rows.into();
        let view = View {
            rows: rows.as_ptr(),
            n_rows: rows.len(),
            sequence,
        };
        Arc::new(Self { view, rows })
    }

    /// What readers reach by raw pointer: part of this very object.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Bytes it occupies.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.rows) + size_of::<Self>()
    }

    /// Number of the snapshot; grows by one with every publication.
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
        plug_readside::snapshot::find(&self.rows, address).map(|row| {
            // SAFETY: as in plugins().
            unsafe { PluginView::of(row) }
        })
    }
}
