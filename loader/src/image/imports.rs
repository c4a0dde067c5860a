//! Where a plugin keeps the addresses of imported functions that leave something behind.
//!
//! Thread context; reads bytes only.

#![forbid(unsafe_code)]

use super::dynamic::Dynamic;
use super::elf::{Elf, RelaKind, relocations};
use super::segment::Segment;
use super::tag;

/// A function whose calls a plugin's footprint consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Import {
    /// `__cxa_thread_atexit_impl` and `__cxa_thread_atexit`: a thread-local's destructor.
    ThreadAtexit,
    /// `pthread_key_create`.
    KeyCreate,
    /// `pthread_key_delete`.
    KeyDelete,
    /// `pthread_setspecific`.
    SetSpecific,
    /// `tss_create`.
    TssCreate,
    /// `tss_delete`.
    TssDelete,
    /// `tss_set`.
    TssSet,
    /// `pthread_create`.
    ThreadCreate,
    /// `thrd_create`.
    ThrdCreate,
    /// `std::thread::_M_start_thread`, by which `std::thread` and `std::async` start threads.
    StdThread,
}

const IMPORTS: [(&str, Import); 11] = [
    ("__cxa_thread_atexit_impl", Import::ThreadAtexit),
    ("__cxa_thread_atexit", Import::ThreadAtexit),
    ("pthread_key_create", Import::KeyCreate),
    ("pthread_key_delete", Import::KeyDelete),
    ("pthread_setspecific", Import::SetSpecific),
    ("tss_create", Import::TssCreate),
    ("tss_delete", Import::TssDelete),
    ("tss_set", Import::TssSet),
    ("pthread_create", Import::ThreadCreate),
    ("thrd_create", Import::ThrdCreate),
    (
        "_ZNSt6thread15_M_start_threadESt10unique_ptrINS_6_StateESt14default_deleteIS1_EEPFvvE",
        Import::StdThread,
    ),
];

impl Import {
    /// The function that the string at the start of `name` names, which ends in a zero byte.
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        // Most imports are told apart from all of these by their first byte.
        if !matches!(name.first(), Some(b'_' | b'p' | b't')) {
            return None;
        }
        let is =
            |text: &str| name.strip_prefix(text.as_bytes()).and_then(<[u8]>::first) == Some(&0);
        let found = IMPORTS.iter().find(|(text, _)| is(text));
        found.map(|(_, import)| *import)
    }
}

/// A word of the image that holds the address of an imported function once ld.so has relocated
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportSlot {
    /// Link-time address of the word.
    pub vaddr: u64,
    /// The function.
    pub import: Import,
}

/// The words that hold addresses of `imports`, each given with its symbol's number.
pub(super) fn slots(
    elf: &Elf<'_>,
    dynamic: &Dynamic,
    imports: &[(u32, Import)],
) -> Vec<ImportSlot> {
    if imports.is_empty() {
        return Vec::new();
    }
    let mut slots = Vec::new();
    for (address, size) in [(tag::RELA, tag::RELASZ), (tag::JMPREL, tag::PLTRELSZ)] {
        // Read without fault before.
        let table = dynamic.table(elf, address, size, 24).unwrap_or_default();
        for rela in relocations(table) {
            if rela.kind != RelaKind::Address || rela.addend != 0 || rela.symbol == 0 {
                continue;
            }
            // Ascending by symbol, as the table was walked.
            let at = imports.binary_search_by_key(&rela.symbol, |(symbol, _)| *symbol);
            let named = at.ok().and_then(|at| imports.get(at));
            // A word in read-only memory stays as it is: relocations into code are rare, and
            // writing there is not the loader's to do.
            let is_writable = |segment: &Segment| segment.is_writable();
            let named = named.filter(|_| elf.segment_of(rela.target, 8).is_some_and(is_writable));
            slots.extend(named.map(|(_, import)| ImportSlot {
                vaddr: rela.target,
                import: *import,
            }));
        }
    }
    slots
}
