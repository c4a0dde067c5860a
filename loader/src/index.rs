//! The owners of the memory that readers search for symbols.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use plug_readside::elf::RawSymbol;
use plug_readside::index::{Bytes, Index, IndexView, Table};
use plug_readside::search::Search;

use crate::checkpoint;
use crate::image::search::Arrays;
use crate::image::tables::Tables;

/// Symbols and names of one load: a copy of the file's own tables.
///
/// A copy, and no mapping of the staged file: whoever looks whether a plugin has left the process
/// looks for that file, while a snapshot that somebody keeps may show the plugin for ever.
pub(crate) struct OwnedIndex {
    index: Index,
    search: OnceLock<(Arrays, Box<Search>)>,
    tables: Box<[u8]>,
    _name: Box<str>,
    _version: Box<str>,
}

// SAFETY: the pointers in `index` point at the fields beside it, which nobody changes; `search` is
// stored once and stays.
unsafe impl Send for OwnedIndex {}
// SAFETY: as above.
unsafe impl Sync for OwnedIndex {}

impl fmt::Debug for OwnedIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedIndex")
            .field("tables", &self.tables.len())
            .finish_non_exhaustive()
    }
}

impl OwnedIndex {
    /// The index of the file `bytes`, whose tables are at `places`. Copies them and nothing else.
    pub(crate) fn new(
        bytes: &[u8],
        places: &Tables,
        name: &str,
        version: &str,
        build_id: &[u8],
    ) -> Self {
        let mut copy = Vec::with_capacity(places.len() + 64);
        let mut keep = |place: &Range<usize>| {
            // Entries stay aligned.
            copy.resize(copy.len().next_multiple_of(8), 0);
            let start = copy.len();
            copy.extend_from_slice(bytes.get(place.clone()).unwrap_or_default());
            start..copy.len()
        };
        let symbols = keep(&places.symbols);
        let strings = keep(&places.strings);
        let all_symbols = keep(&places.all_symbols);
        let all_strings = keep(&places.all_strings);
        let gnu_hash = keep(&places.gnu_hash);
        let sysv_hash = keep(&places.sysv_hash);
        let versions = keep(&places.versions);
        let frames = keep(&places.frames);
        let tables = copy.into_boxed_slice();
        let (name, version): (Box<str>, Box<str>) = (name.into(), version.into());
        let mut id = [0; 32];
        let id_len = build_id.len().min(id.len());
        if let (Some(to), Some(from)) = (id.get_mut(..id_len), build_id.get(..id_len)) {
            to.copy_from_slice(from);
        }
        let run = |place: Range<usize>| run_of(tables.get(place).unwrap_or_default());
        let index = Index {
            name: run_of(name.as_bytes()),
            version: run_of(version.as_bytes()),
            build_id: id,
            build_id_len: u8::try_from(id_len).unwrap_or(0),
            dynamic: Table {
                symbols: run(symbols),
                strings: run(strings),
            },
            all: Table {
                symbols: run(all_symbols),
                strings: run(all_strings),
            },
            gnu_hash: run(gnu_hash),
            sysv_hash: run(sysv_hash),
            versions: run(versions),
            frames: run(frames),
            frames_svma: places.frames_svma,
            text: (places.text.start, places.text.end),
            search: AtomicPtr::new(std::ptr::null_mut()),
        };
        Self {
            index,
            search: OnceLock::new(),
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
        let (_, search) = self.search.get_or_init(|| {
            let arrays = Arrays::build(self.view().candidates());
            let search = Box::new(arrays.search());
            (arrays, search)
        });
        checkpoint::note("index.built");
        let search: *const Search = &raw const **search;
        // Release: publishes the arrays; pairs with the Acquire in IndexView::find_number().
        self.index
            .search
            .store(search.cast_mut(), Ordering::Release);
        checkpoint::note("index.stored");
    }

    /// Bytes of the search by address.
    pub(crate) fn search_bytes(&self) -> usize {
        let arrays = self.search.get();
        arrays.map_or(0, |(arrays, _)| arrays.bytes() + size_of::<Search>())
    }

    /// Bytes that go when it goes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.search_bytes() + self.tables.len()
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
        Self::new(&[], &Tables::default(), "p", "", &[])
    }
}
