//! What stands for a plugin's code where no plugin is: pages that say which load they belong to,
//! and that cannot be read once that is gone.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use plug_tests::storm;

use crate::tally::{self, Fault};

/// Bytes of a page.
const PAGE: usize = 4096;
/// Words of a page that are looked at.
const WORDS: usize = 16;
/// What an unloaded page says.
const POISON: u64 = 0xdead_dead_dead_dead;
/// Pages that the loads of one slot use in turn.
pub const TURNS: usize = 8;

/// The pages of all slots.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    start: usize,
    len: usize,
}

static PAGES: OnceLock<Pages> = OnceLock::new();

/// A late reader finds the poison, after the fault was counted.
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a record to a handler installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let ours = PAGES
        .get()
        .filter(|pages| (pages.start..pages.start + pages.len).contains(&address));
    if ours.is_none() {
        // SAFETY: plain numbers; the fault happens again and ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    tally::fault(Fault::Unmapped, address as u64);
    protect(address & !(PAGE - 1), libc::PROT_READ);
}

fn protect(page: usize, protection: c_int) {
    // SAFETY: a page of our own mapping.
    let done = unsafe { libc::mprotect(page as *mut c_void, PAGE, protection) };
    debug_assert_eq!(done, 0, "mprotect");
}

impl Pages {
    /// The process's pages, for so many slots.
    pub fn new(slots: usize) -> Self {
        let len = slots * TURNS * PAGE;
        // SAFETY: a fresh anonymous mapping.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "mmap");
        let pages = Self {
            start: start as usize,
            len,
        };
        assert!(PAGES.set(pages).is_ok(), "one set of pages a process");
        storm::install(libc::SIGSEGV, 0, libc::SIGUSR1, on_fault);
        pages
    }

    fn page(self, slot: usize, generation: u64) -> usize {
        let turn = usize::try_from(generation).unwrap_or(0) % TURNS;
        self.start + (slot * TURNS + turn) * PAGE
    }

    fn write(self, slot: usize, generation: u64, with: u64) {
        let page = self.page(slot, generation) as *mut u64;
        for n in 0..WORDS {
            // SAFETY: a page of our own mapping, writable until it is closed; in a broken variant
            // callers look, which is the point.
            unsafe { page.add(n).write_volatile(with) };
        }
    }

    /// As [`Pages::open`], where the page is open already.
    pub fn fill(self, slot: usize, generation: u64) {
        self.write(slot, generation, generation);
    }

    /// As [`Pages::close`], but the page stays open.
    pub fn poison(self, slot: usize, generation: u64) {
        self.write(slot, generation, POISON);
    }

    /// The code of a load comes to be.
    pub fn open(self, slot: usize, generation: u64) {
        protect(
            self.page(slot, generation),
            libc::PROT_READ | libc::PROT_WRITE,
        );
        self.write(slot, generation, generation);
    }

    /// It is gone: poisoned, and not to be read.
    pub fn close(self, slot: usize, generation: u64) {
        self.write(slot, generation, POISON);
        protect(self.page(slot, generation), libc::PROT_NONE);
    }

    /// Runs it, so to say: whoever does must be inside the gate. Async-signal-safe.
    pub fn run(self, slot: usize, generation: u64) {
        let page = self.page(slot, generation) as *const u64;
        for n in 0..WORDS {
            // SAFETY: a page of our own mapping; the fault of one that is gone is counted.
            let word = unsafe { page.add(n).read_volatile() };
            if word != generation {
                tally::fault(Fault::Freed, word);
                return;
            }
        }
    }
}
