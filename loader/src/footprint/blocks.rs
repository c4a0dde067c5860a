//! The live blocks of plugins that are accounted for: whose each is, how long, and who asked for it.
//!
//! One table for all accounts, in shards by address, so that a block that another accounted plugin
//! frees is taken from the right one. An entry is there before the block's address is known to the
//! plugin, and gone before the allocator can give the address away again. A block that nobody was
//! seen to free is found out when its address is given out anew.
//!
//! Locks are taken as allocators take theirs: a signal handler may call neither.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::account::{ACCOUNTS, Account, counters};
use crate::deadline::{Deadline, lock_until};

/// Shards of the table: more than threads that allocate at the same moment.
const SHARDS: usize = 64;

/// Return addresses that are kept of a call.
pub(crate) const DEPTH: usize = 12;

/// Sites that are kept of one account; blocks of others have none.
const MOST_SITES: usize = 4096;

/// Return addresses below an allocation, those in the plugin and in its private dependencies, the
/// innermost first; 0 where there is none.
pub(crate) type Frames = [usize; DEPTH];

/// Blocks that one site allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// All zero for blocks whose site was not kept.
    pub(crate) frames: Frames,
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    account: Account,
    size: usize,
    /// The number of its site and one more; 0 for none.
    site: u32,
}

/// Spreads addresses, whose lowest bits are all alike.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, value: usize) {
        // The golden ratio's multiples lie far from each other; rotated, since the table looks at
        // the lowest bits and at the highest.
        let value = (self.0 ^ value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = value.rotate_left(32);
    }
}

type Shard = HashMap<usize, Block, BuildHasherDefault<Spread>>;

static TABLE: [Mutex<Shard>; SHARDS] =
    [const { Mutex::new(HashMap::with_hasher(BuildHasherDefault::new())) }; SHARDS];

/// The sites of one account, and the number of each.
#[derive(Debug)]
struct Sites {
    list: Vec<Frames>,
    numbers: HashMap<Frames, u32, BuildHasherDefault<Spread>>,
}

static SITES: [Mutex<Sites>; ACCOUNTS] = [const {
    Mutex::new(Sites {
        list: Vec::new(),
        numbers: HashMap::with_hasher(BuildHasherDefault::new()),
    })
}; ACCOUNTS];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shard(address: usize) -> Option<MutexGuard<'static, Shard>> {
    let spread = (address as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let at = usize::try_from(spread >> 58).ok()?;
    TABLE.get(at).map(lock)
}

fn give_back(block: &Block) {
    // Under the shard's lock, so that close() finds no entry uncounted.
    if let Some(counters) = counters(block.account.place) {
        let size = block.size as u64;
        counters.heap_bytes.fetch_sub(size, Ordering::Relaxed);
        counters.heap_blocks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The account at `place` allocated `size` bytes at `address`, from a site if those are noted.
pub(super) fn allocated(place: usize, address: usize, size: usize, frames: Option<Frames>) {
    let Some(counters) = counters(place) else {
        return;
    };
    let serial = counters.serial();
    let block = Block {
        account: Account { place, serial },
        size,
        site: frames.map_or(0, |frames| number(place, frames)),
    };
    let Some(mut shard) = shard(address) else {
        return;
    };
    counters
        .heap_bytes
        .fetch_add(size as u64, Ordering::Relaxed);
    counters.heap_blocks.fetch_add(1, Ordering::Relaxed);
    // Somebody else freed what was there.
    if let Some(before) = shard.insert(address, block) {
        give_back(&before);
    }
}

/// A block that was taken out, to be put back where it turns out to stay.
#[derive(Debug)]
pub(super) struct Freed(usize, Block);

/// The account at `place` is about to free the block at `address`; none if nobody that is accounted
/// for allocated it, which is counted.
pub(super) fn freed(place: usize, address: usize) -> Option<Freed> {
    let block = shard(address).and_then(|mut shard| {
        let block = shard.remove(&address)?;
        give_back(&block);
        Some(block)
    });
    if block.is_none()
        && let Some(counters) = counters(place)
    {
        counters.freed_of_others.fetch_add(1, Ordering::Relaxed);
    }
    block.map(|block| Freed(address, block))
}

/// It was not freed after all; `freed` is what the call at `place` took out.
pub(super) fn kept(place: usize, freed: Option<Freed>) {
    match (freed, counters(place)) {
        (Some(Freed(address, block)), _) => {
            let (at, size) = (block.account.place, block.size);
            if let (Some(counters), Some(mut shard)) = (counters(at), shard(address)) {
                counters
                    .heap_bytes
                    .fetch_add(size as u64, Ordering::Relaxed);
                counters.heap_blocks.fetch_add(1, Ordering::Relaxed);
                shard.insert(address, block);
            }
        }
        (None, Some(counters)) => {
            counters.freed_of_others.fetch_sub(1, Ordering::Relaxed);
        }
        (None, None) => {}
    }
}

/// The number of a site and one more; 0 where there are too many.
fn number(place: usize, frames: Frames) -> u32 {
    let Some(mut sites) = SITES.get(place).map(lock) else {
        return 0;
    };
    if let Some(number) = sites.numbers.get(&frames) {
        return *number;
    }
    if sites.list.len() >= MOST_SITES {
        return 0;
    }
    sites.list.push(frames);
    let number = u32::try_from(sites.list.len()).unwrap_or(0);
    sites.numbers.insert(frames, number);
    number
}

/// The live blocks of an account by site, the most bytes first.
pub(super) fn sites_of(account: Account) -> Vec<Site> {
    let mut found: HashMap<u32, (u64, u64)> = HashMap::new();
    for shard in &TABLE {
        for block in lock(shard).values() {
            if block.account == account {
                let (blocks, bytes) = found.entry(block.site).or_default();
                *blocks += 1;
                *bytes += block.size as u64;
            }
        }
    }
    let Some(sites) = SITES.get(account.place).map(lock) else {
        return Vec::new();
    };
    let frames = |number: u32| {
        let at = number
            .checked_sub(1)
            .and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| sites.list.get(at))
            .copied()
            .unwrap_or_default()
    };
    let mut all: Vec<Site> = found
        .into_iter()
        .map(|(number, (blocks, bytes))| Site {
            frames: frames(number),
            blocks,
            bytes,
        })
        .collect();
    all.sort_by_key(|site| (u64::MAX - site.bytes, site.frames));
    all
}

/// Forgets the blocks and the sites of an account.
pub(super) fn forget(account: Account) {
    for shard in &TABLE {
        let mut shard = lock(shard);
        shard.retain(|_, block| block.account != account);
        // What one plugin needed at its worst is not kept for ever.
        if shard.len() * 4 < shard.capacity() {
            shard.shrink_to_fit();
        }
    }
    if let Some(mut sites) = SITES.get(account.place).map(lock) {
        sites.list = Vec::new();
        sites.numbers = HashMap::default();
    }
}

/// Takes all locks, for a fork: in its child, a plugin may allocate. None where they are not to be
/// had in time.
pub(crate) fn hold(deadline: Deadline) -> Option<impl Sized> {
    let sites: Option<Vec<_>> = SITES.iter().map(|m| lock_until(m, deadline)).collect();
    let table: Option<Vec<_>> = TABLE.iter().map(|m| lock_until(m, deadline)).collect();
    Some((sites?, table?))
}
