//! What a plugin that asked for it holds of the process: heap, mappings and descriptors, counted as
//! the hooks of [`super::counting`] tell.
//!
//! An account has a place among [`ACCOUNTS`], which the hooks know by the thunk that was called, and
//! a serial number, so that what is left of one is not taken for the next one's.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use super::blocks::{self, Site};
use super::descriptors;
use crate::error::{Error, ErrorKind};
use crate::trust::Accounting;

/// How many plugins can be accounted for at once.
pub(crate) const ACCOUNTS: usize = 64;

/// What a plugin holds, as far as its own calls tell: an estimate. What libraries allocate for it
/// is not seen, nor what others free or close on its behalf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Balance {
    /// Bytes that it asked for and nobody was seen to free.
    pub heap_bytes: u64,
    /// In so many blocks.
    pub heap_blocks: u64,
    /// Bytes of its mappings, whole pages; 0 where it unmapped more than it mapped.
    pub mapped_bytes: u64,
    /// Calls of `mmap` that no `munmap` of its stands against.
    pub mappings: u64,
    /// Descriptors that it opened and that are open.
    pub descriptors: u64,
    /// Blocks that it freed without having allocated them; they are in no other number.
    pub freed_of_others: u64,
}

impl Balance {
    /// Whether it holds nothing.
    #[must_use]
    pub fn is_even(&self) -> bool {
        let Self {
            heap_blocks,
            mapped_bytes,
            descriptors,
            ..
        } = *self;
        heap_blocks == 0 && mapped_bytes == 0 && descriptors == 0
    }
}

/// The counters of one account. Added to by the hooks, read for reports (Relaxed, all: numbers; who
/// joined the threads that added sees all of theirs), set to zero by who closes the account, after
/// which nothing is counted for it.
#[derive(Debug)]
pub(super) struct Counters {
    /// The serial number of the account that is open here; 0 for none. Claimed by [`open`] and given
    /// back by [`Account::close`] (SeqCst: cold), read by the hooks (Relaxed: what they count for
    /// lives as long as the plugin, and the plugin began after the claim).
    pub(super) serial: AtomicU32,
    /// Whether sites are noted, 0 or 1. Stored by [`open`] before the plugin's code runs.
    sites: AtomicU32,
    pub(super) heap_bytes: AtomicU64,
    pub(super) heap_blocks: AtomicU64,
    pub(super) mapped_bytes: AtomicI64,
    pub(super) mappings: AtomicI64,
    pub(super) freed_of_others: AtomicU64,
    /// The plugin's generation; 0 until it is known. Stored by [`Account::set_generation`] before
    /// the plugin's code runs (Relaxed).
    generation: AtomicU64,
}

static COUNTERS: [Counters; ACCOUNTS] = [const {
    Counters {
        serial: AtomicU32::new(0),
        sites: AtomicU32::new(0),
        heap_bytes: AtomicU64::new(0),
        heap_blocks: AtomicU64::new(0),
        mapped_bytes: AtomicI64::new(0),
        mappings: AtomicI64::new(0),
        freed_of_others: AtomicU64::new(0),
        generation: AtomicU64::new(0),
    }
}; ACCOUNTS];

/// The last serial number given (SeqCst: cold).
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// The counters at a place.
pub(super) fn counters(place: usize) -> Option<&'static Counters> {
    COUNTERS.get(place)
}

impl Counters {
    pub(super) fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// The plugin's generation, where sites are noted.
    pub(super) fn generation_for_sites(&self) -> Option<u64> {
        let notes_sites = self.sites.load(Ordering::Relaxed) != 0;
        notes_sites.then(|| self.generation.load(Ordering::Relaxed))
    }

    /// Adds a mapping of `bytes`, or takes one away.
    pub(super) fn mapped(&self, mappings: i64, bytes: i64) {
        self.mappings.fetch_add(mappings, Ordering::Relaxed);
        self.mapped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Names an account without keeping it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(super) place: usize,
    pub(super) serial: u32,
}

/// An account in use; closed when dropped.
#[derive(Debug)]
#[must_use = "the account is closed when this is dropped"]
pub(crate) struct Open(Account);

/// Opens an account, unless that is not `wanted`.
///
/// # Errors
/// [`ErrorKind::TooManyPlugins`] when all are in use.
pub(crate) fn open(wanted: Accounting) -> Result<Option<Open>, Error> {
    if wanted == Accounting::Off {
        return Ok(None);
    }
    descriptors::prepare();
    let mut serial = 0;
    while serial == 0 {
        serial = SERIAL.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
    }
    let claim = |counters: &Counters| {
        let (free, order) = (0, Ordering::SeqCst);
        let claimed = counters.serial.compare_exchange(free, serial, order, order);
        claimed.is_ok()
    };
    let Some(place) = COUNTERS.iter().position(claim) else {
        return Err(Error::new(
            ErrorKind::TooManyPlugins,
            format!("expected at most {ACCOUNTS} plugins with accounting, found as many"),
        ));
    };
    if let Some(counters) = counters(place) {
        let sites = u32::from(wanted == Accounting::Sites);
        counters.sites.store(sites, Ordering::Relaxed);
    }
    Ok(Some(Open(Account { place, serial })))
}

impl Open {
    /// The account by name.
    pub(crate) fn account(&self) -> Account {
        self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Account {
    /// Tells which load it is of, before the plugin's code runs.
    pub(crate) fn set_generation(self, generation: u64) {
        if let Some(counters) = counters(self.place) {
            counters.generation.store(generation, Ordering::Relaxed);
        }
    }

    /// What is held; none once the account is closed.
    ///
    /// Asks the kernel about every descriptor that the plugin opened. Thread context.
    pub(crate) fn balance(self) -> Option<Balance> {
        let counters = counters(self.place)?;
        let number = |count: &AtomicI64| count.load(Ordering::Relaxed).max(0).unsigned_abs();
        let balance = Balance {
            heap_bytes: counters.heap_bytes.load(Ordering::Relaxed),
            heap_blocks: counters.heap_blocks.load(Ordering::Relaxed),
            mapped_bytes: number(&counters.mapped_bytes),
            mappings: number(&counters.mappings),
            descriptors: descriptors::open_of(self.serial),
            freed_of_others: counters.freed_of_others.load(Ordering::Relaxed),
        };
        (counters.serial.load(Ordering::SeqCst) == self.serial).then_some(balance)
    }

    /// The live blocks by the site that allocated them, the most bytes first; empty where sites are
    /// not noted. Walks all blocks of all accounts.
    pub(crate) fn sites(self) -> Vec<Site> {
        match counters(self.place).and_then(Counters::generation_for_sites) {
            Some(_) => blocks::sites_of(self),
            None => Vec::new(),
        }
    }

    /// Forgets everything. The plugin is gone, so that its hooks are called no more.
    fn close(self) {
        let Some(counters) = counters(self.place) else {
            return;
        };
        blocks::forget(self);
        descriptors::forget(self.serial);
        for count in [&counters.heap_bytes, &counters.heap_blocks] {
            count.store(0, Ordering::Relaxed);
        }
        counters.freed_of_others.store(0, Ordering::Relaxed);
        for count in [&counters.mapped_bytes, &counters.mappings] {
            count.store(0, Ordering::Relaxed);
        }
        self.set_generation(0);
        counters.serial.store(0, Ordering::SeqCst);
    }
}
