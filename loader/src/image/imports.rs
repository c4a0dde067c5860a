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
    /// `sigaction`.
    SigAction,
    /// `signal`.
    Signal,
    /// `sysv_signal`, which `signal` is in programs that ask for System V's.
    SysvSignal,
    /// `sigset`.
    SigSet,
    /// `sigaltstack`.
    SigAltStack,
    /// `timer_create`.
    TimerCreate,
    /// `timer_delete`.
    TimerDelete,
    /// `on_exit`.
    OnExit,
    /// `__cxa_at_quick_exit`, by which `at_quick_exit` registers.
    AtQuickExit,
    /// `__register_atfork`, by which `pthread_atfork` registers.
    RegisterAtFork,
    /// `dlopen`.
    DlOpen,
    /// `dlmopen`.
    DlmOpen,
    /// `dlclose`.
    DlClose,
    /// `mmap`.
    Mmap,
    /// `munmap`.
    Munmap,
    /// `mq_notify`.
    MqNotify,
    /// `aio_read`.
    AioRead,
    /// `aio_write`.
    AioWrite,
    /// `aio_fsync`.
    AioFsync,
    /// `lio_listio`.
    LioListio,
    /// `getaddrinfo_a`.
    GetAddrInfoA,
}

/// The functions' names, by their first bytes.
const UNDERSCORED: [(&str, Import); 7] = [
    ("__cxa_thread_atexit_impl", Import::ThreadAtexit),
    ("__cxa_thread_atexit", Import::ThreadAtexit),
    ("__cxa_at_quick_exit", Import::AtQuickExit),
    ("__register_atfork", Import::RegisterAtFork),
    ("__sigaction", Import::SigAction),
    ("__sysv_signal", Import::SysvSignal),
    (
        "_ZNSt6thread15_M_start_threadESt10unique_ptrINS_6_StateESt14default_deleteIS1_EEPFvvE",
        Import::StdThread,
    ),
];

/// As [`UNDERSCORED`].
const PLAIN: [(&str, Import); 34] = [
    ("aio_fsync", Import::AioFsync),
    ("aio_fsync64", Import::AioFsync),
    ("aio_read", Import::AioRead),
    ("aio_read64", Import::AioRead),
    ("aio_write", Import::AioWrite),
    ("aio_write64", Import::AioWrite),
    ("bsd_signal", Import::Signal),
    ("dlclose", Import::DlClose),
    ("dlmopen", Import::DlmOpen),
    ("dlopen", Import::DlOpen),
    ("getaddrinfo_a", Import::GetAddrInfoA),
    ("lio_listio", Import::LioListio),
    ("lio_listio64", Import::LioListio),
    ("mmap", Import::Mmap),
    ("mmap64", Import::Mmap),
    ("mq_notify", Import::MqNotify),
    ("munmap", Import::Munmap),
    ("on_exit", Import::OnExit),
    ("pthread_create", Import::ThreadCreate),
    ("pthread_key_create", Import::KeyCreate),
    ("pthread_key_delete", Import::KeyDelete),
    ("pthread_setspecific", Import::SetSpecific),
    ("sigaction", Import::SigAction),
    ("sigaltstack", Import::SigAltStack),
    ("signal", Import::Signal),
    ("sigset", Import::SigSet),
    ("ssignal", Import::Signal),
    ("sysv_signal", Import::SysvSignal),
    ("thrd_create", Import::ThrdCreate),
    ("timer_create", Import::TimerCreate),
    ("timer_delete", Import::TimerDelete),
    ("tss_create", Import::TssCreate),
    ("tss_delete", Import::TssDelete),
    ("tss_set", Import::TssSet),
];

/// Bytes of the longest name of [`PLAIN`].
const LONGEST: usize = 19;

impl Import {
    /// The function that the string at the start of `name` names, which ends in a zero byte.
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        let is =
            |text: &str| name.strip_prefix(text.as_bytes()).and_then(<[u8]>::first) == Some(&0);
        // Most imports are told apart from all of these by their first bytes.
        match name {
            [b'_', b'_', b'c' | b'r' | b's', ..] | [b'_', b'Z', b'N', b'S', b't', b'6', ..] => {
                let found = UNDERSCORED.iter().find(|(text, _)| is(text));
                found.map(|(_, import)| *import)
            }
            [b'_', ..] => None,
            _ => {
                let len = name.iter().take(LONGEST + 1).position(|byte| *byte == 0)?;
                let name = name.get(..len)?;
                let at = PLAIN.binary_search_by_key(&name, |(text, _)| text.as_bytes());
                at.ok()
                    .and_then(|at| PLAIN.get(at))
                    .map(|(_, import)| *import)
            }
        }
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
        let mut rest = relocations(table);
        rest.skip_relative(|_, _| true);
        for rela in rest {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_none_that_only_begins_so() {
        assert!(PLAIN.is_sorted_by_key(|(text, _)| text.as_bytes()));
        for (text, import) in UNDERSCORED.iter().chain(&PLAIN) {
            let mut name = text.as_bytes().to_vec();
            name.extend(b"\0x");
            assert_eq!(Import::of(&name), Some(*import), "{text}");
            assert!(text.starts_with('_') || text.len() <= LONGEST);
            name.insert(text.len(), b'x');
            let longer = UNDERSCORED.iter().chain(&PLAIN);
            let is_other = longer
                .clone()
                .any(|(other, _)| *other == format!("{text}x"));
            assert_eq!(Import::of(&name).is_some(), is_other, "{text}x");
        }
        assert_eq!(Import::of(b""), None);
        assert_eq!(Import::of(b"mmap"), None, "without an end");
    }
}
