//! The owners of the memory that readers search for symbols.

use std::fmt;
use std::iter::repeat_n;
use std::sync::OnceLock;

use plug_readside::elf::RawSymbol;
use plug_readside::index::{Bytes, Index, IndexView, SearchCell, Table};

use crate::checkpoint;
use crate::image::Bytes as FileBytes;
use crate::image::search::Arrays;
use crate::image::tables::Tables;
use crate::sys::mapping::Parts;

/// Symbols and names of one load: the file's own tables.
///
/// Those of a small file are a copy. Otherwise, while the plugin is loaded, they are the pages of its
/// private copy, which is sealed. When it leaves, they become a copy at the same addresses: whoever
/// looks whether a plugin has left the process looks for that file, while a snapshot that somebody
/// keeps may show the plugin for ever.
pub(crate) struct OwnedIndex {
    index: Index,
    arrays: OnceLock<Arrays>,
    tables: Memory,
    _name: Box<str>,
    _version: Box<str>,
}

/// Where the tables are.
enum Memory {
    /// In pages of the private copy.
    Shared(Parts),
    /// In memory by themselves.
    Copied(Box<[u8]>),
}

// SAFETY: the pointers in `index` point at the fields beside it, which nobody changes; `search` is
// stored once and stays.
unsafe impl Send for OwnedIndex {}
// SAFETY: as above.
unsafe impl Sync for OwnedIndex {}

impl fmt::Debug for OwnedIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedIndex")
            .field("tables", &self.table_bytes())
            .finish_non_exhaustive()
    }
}

impl OwnedIndex {
    /// The index of the file that is `bytes`, whose tables are at `places`. Reads nothing of a
    /// mapped file that is sealed, and copies the tables of any other.
    pub(crate) fn new(
        bytes: FileBytes,
        is_sealed: bool,
        places: &Tables,
        name: &str,
        version: &str,
        build_id: &[u8],
    ) -> Self {
        let tables = match bytes {
            FileBytes::Mapped(mapping) if is_sealed => {
                Memory::Shared(Parts::of(mapping, &places.all()))
            }
            bytes => Memory::Copied(
                places
                    .all()
                    .iter()
                    .flat_map(|place| {
                        let table = bytes.get(place.clone()).unwrap_or_default();
                        // Entries stay aligned.
                        let padding = place.len().next_multiple_of(8) - place.len();
                        table.iter().copied().chain(repeat_n(0, padding))
                    })
                    .collect(),
            ),
        };
        let mut copied = 0;
        let [
            symbols,
            strings,
            all_symbols,
            all_strings,
            gnu_hash,
            sysv_hash,
            versions,
            frames,
        ] = places.all().map(|place| match &tables {
            Memory::Shared(parts) => Bytes {
                start: parts.at(place.start),
                len: place.len(),
            },
            Memory::Copied(copy) => {
                let from = copied;
                copied += place.len().next_multiple_of(8);
                run_of(copy.get(from..from + place.len()).unwrap_or_default())
            }
        });
        let (name, version): (Box<str>, Box<str>) = (name.into(), version.into());
        let mut id = [0; 32];
        let id_len = build_id.len().min(id.len());
        if let (Some(to), Some(from)) = (id.get_mut(..id_len), build_id.get(..id_len)) {
            to.copy_from_slice(from);
        }
        let index = Index {
            search: SearchCell::new(),
            name: run_of(name.as_bytes()),
            version: run_of(version.as_bytes()),
            build_id: id,
            build_id_len: u8::try_from(id_len).unwrap_or(0),
            dynamic: Table { symbols, strings },
            all: Table {
                symbols: all_symbols,
                strings: all_strings,
            },
            gnu_hash,
            sysv_hash,
            versions,
            frames,
            frames_svma: places.frames_svma,
            text: (places.text.start, places.text.end),
        };
        Self {
            index,
            arrays: OnceLock::new(),
            tables,
            _name: name,
            _version: version,
        }
    }

    /// What readers reach by raw pointer: part of this very object.
    pub(crate) fn as_ptr(&self) -> *const Index {
        &raw const self.index
    }

    /// What readers see of it.
    pub(crate) fn view(&self) -> IndexView<'_> {
        // SAFETY: all that the index points at belongs to `self`, which the view borrows.
        unsafe { IndexView::of(&self.index) }
    }

    /// Whether its search is built faster than another thread is woken: some tens of microseconds.
    pub(crate) fn is_small(&self) -> bool {
        const ENTRIES: usize = 1024;
        let entries = |table: &Table| table.symbols.len / size_of::<RawSymbol>();
        entries(&self.index.dynamic) + entries(&self.index.all) <= ENTRIES
    }

    /// Builds the search by address, once; until then readers scan.
    pub(crate) fn build_search(&self) {
        checkpoint::note("index.begin");
        let arrays = Arrays::build(self.view().candidates());
        checkpoint::note("index.built");
        if let Ok(()) = self.arrays.set(arrays)
            && let Some(arrays) = self.arrays.get()
        {
            // SAFETY: once, as the line above succeeds once; the arrays stay as long as `self`.
            unsafe { self.index.search.set(arrays.search()) };
        }
        checkpoint::note("index.stored");
    }

    /// Bytes of the search by address.
    pub(crate) fn search_bytes(&self) -> usize {
        self.arrays.get().map_or(0, Arrays::bytes)
    }

    /// Bytes that go when it goes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.search_bytes() + self.table_bytes()
    }

    /// Bytes of the tables that are not the staged file's.
    fn table_bytes(&self) -> usize {
        match &self.tables {
            Memory::Shared(parts) => parts.copied(),
            Memory::Copied(copy) => copy.len(),
        }
    }

    /// Lets go of the staged file: for a plugin that leaves. Readers notice nothing.
    pub(crate) fn detach(&self) {
        checkpoint::note("index.detach");
        if let Memory::Shared(parts) = &self.tables
            && let Err(error) = parts.detach()
        {
            tracing::debug!(target: "plug::unload", %error, "symbols stay in the staged file");
        }
        checkpoint::note("index.detached");
    }
}

fn run_of(bytes: &[u8]) -> Bytes {
    Bytes {
        start: bytes.as_ptr(),
        len: bytes.len(),
    }
}

#[cfg(test)]
impl OwnedIndex {
    /// An index without symbols.
    pub(crate) fn empty() -> Self {
        let none = FileBytes::Read(Vec::new());
        Self::new(none, false, &Tables::default(), "p", "", &[])
    }
}
