//! Mappings that plugins make of their own files, and do not undo: Rust's library does so to name
//! the frames of a panic. Unmapped when the plugin leaves; no other mapping is looked at.
//!
//! What a plugin may call here works in a handler and in a forked child: no lock, no allocation.

use std::ffi::{c_int, c_void};
use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use plug_readside::state::MAX_PLUGINS;

use super::ledger::Owner;
use crate::sys::{mapping, task};

/// Mappings at a time; one more stays in the process.
const ROOM: usize = 1024;

/// In the place of a load's number while an entry is written.
const CLAIMED: u64 = u64::MAX;

/// The file that a load is mapped from. All words are accessed by SeqCst: cold.
#[derive(Debug)]
struct Staged {
    /// The load; 0 for none. Stored last by [`know`], cleared first by [`release`].
    generation: AtomicU64,
    device: AtomicU64,
    inode: AtomicU64,
}

/// By slot.
static STAGED: [Staged; MAX_PLUGINS] = [const {
    Staged {
        generation: AtomicU64::new(0),
        device: AtomicU64::new(0),
        inode: AtomicU64::new(0),
    }
}; MAX_PLUGINS];

/// One past the highest slot that was ever known (SeqCst).
static SLOTS: AtomicUsize = AtomicUsize::new(0);

/// One mapping. All words are accessed by SeqCst: cold.
#[derive(Debug)]
struct Entry {
    /// The load whose file it is; 0 for none, or [`CLAIMED`].
    generation: AtomicU64,
    start: AtomicUsize,
    end: AtomicUsize,
    inode: AtomicU64,
}

static TABLE: [Entry; ROOM] = [const {
    Entry {
        generation: AtomicU64::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        inode: AtomicU64::new(0),
    }
}; ROOM];

/// One past the last entry that was ever used (SeqCst).
static USED: AtomicUsize = AtomicUsize::new(0);

/// The file that the load `owner` is mapped from.
pub(super) fn know(owner: Owner, device: u64, inode: u64) {
    let slot = owner.id as usize;
    if let Some(staged) = STAGED.get(slot) {
        staged.device.store(device, Ordering::SeqCst);
        staged.inode.store(inode, Ordering::SeqCst);
        staged.generation.store(owner.generation, Ordering::SeqCst);
        SLOTS.fetch_max(slot + 1, Ordering::SeqCst);
    }
}

/// The load whose file is open as `fd`, and the file's inode.
fn load_of(fd: c_int) -> Option<(u64, u64)> {
    let (device, inode) = mapping::file_of(fd)?;
    let slots = STAGED.get(..SLOTS.load(Ordering::SeqCst))?;
    slots.iter().find_map(|staged| {
        let generation = staged.generation.load(Ordering::SeqCst);
        let is_it = generation != 0
            && staged.inode.load(Ordering::SeqCst) == inode
            && staged.device.load(Ordering::SeqCst) == device;
        is_it.then_some((generation, inode))
    })
}

fn used() -> &'static [Entry] {
    TABLE.get(..USED.load(Ordering::SeqCst)).unwrap_or_default()
}

/// Forgets what lies in a range that is about to be something else; also what does so in part,
/// since nothing says whose the rest will be.
fn forget(start: usize, len: usize) {
    let end = start.saturating_add(len);
    for entry in used() {
        let generation = entry.generation.load(Ordering::SeqCst);
        if generation != 0
            && generation != CLAIMED
            && entry.start.load(Ordering::SeqCst) < end
            && entry.end.load(Ordering::SeqCst) > start
            && !task::is_guest()
        {
            // SeqCst, both: another thread may have been faster.
            let _forgotten = entry.generation.compare_exchange(
                generation,
                0,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
        }
    }
}

fn note(generation: u64, inode: u64, start: usize, len: usize) {
    let free = |(_, entry): &(usize, &Entry)| {
        // SeqCst, both: cold.
        let claimed =
            entry
                .generation
                .compare_exchange(0, CLAIMED, Ordering::SeqCst, Ordering::SeqCst);
        claimed.is_ok()
    };
    if let Some((number, entry)) = TABLE.iter().enumerate().find(free) {
        let len = len.next_multiple_of(rustix::param::page_size());
        entry.start.store(start, Ordering::SeqCst);
        entry.end.store(start.saturating_add(len), Ordering::SeqCst);
        entry.inode.store(inode, Ordering::SeqCst);
        entry.generation.store(generation, Ordering::SeqCst);
        USED.fetch_max(number + 1, Ordering::SeqCst);
    }
}

/// `mmap`.
pub(super) unsafe extern "C-unwind" fn mmap(
    address: *mut c_void,
    len: usize,
    rights: c_int,
    flags: c_int,
    fd: c_int,
    offset: libc::off_t,
) -> *mut c_void {
    if flags & libc::MAP_FIXED != 0 {
        forget(address.addr(), len);
    }
    // SAFETY: passed on as it came.
    let mapped = unsafe { mapping::map_as_asked(address, len, rights, flags, fd, offset) };
    if mapped != libc::MAP_FAILED && fd >= 0 && flags & libc::MAP_ANONYMOUS == 0 {
        let errno = task::errno();
        if let Some((generation, inode)) = load_of(fd)
            && !task::is_guest()
        {
            note(generation, inode, mapped.addr(), len);
        }
        task::set_errno(errno);
    }
    mapped
}

/// `munmap`.
pub(super) unsafe extern "C-unwind" fn munmap(address: *mut c_void, len: usize) -> c_int {
    // Before it is: the addresses may be somebody else's at once.
    forget(address.addr(), len);
    // SAFETY: passed on as it came.
    unsafe { mapping::unmap_as_asked(address, len) }
}

/// The addresses at which the kernel shows a file, ascending; by inode alone, since it shows the
/// device in another way.
fn shown(inode: u64) -> Vec<Range<usize>> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let of_line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        if fields.nth(3)?.parse() != Ok(inode) {
            return None;
        }
        let start = usize::from_str_radix(start, 16).ok()?;
        Some(start..usize::from_str_radix(end, 16).ok()?)
    };
    maps.lines().filter_map(of_line).collect()
}

/// Whether all of `range` lies in `shown`, which is ascending.
fn covers(shown: &[Range<usize>], range: &Range<usize>) -> bool {
    let mut at = range.start;
    for part in shown {
        if part.contains(&at) {
            at = part.end;
        }
    }
    at >= range.end
}

/// Unmaps what the load left of its own file, if it is still that, and forgets the file. Thread
/// context; its own destructors have run.
pub(super) fn release(owner: Owner) {
    if let Some(staged) = STAGED.get(owner.id as usize) {
        // SeqCst, both: the slot may be another load's already.
        let _forgotten = staged.generation.compare_exchange(
            owner.generation,
            0,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
    }
    for entry in used() {
        // SeqCst, both: cold.
        let taken = entry.generation.compare_exchange(
            owner.generation,
            CLAIMED,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        if taken.is_err() {
            continue;
        }
        let range = entry.start.load(Ordering::SeqCst)..entry.end.load(Ordering::SeqCst);
        // Somebody else may have unmapped it meanwhile, whose calls are not seen here.
        if covers(&shown(entry.inode.load(Ordering::SeqCst)), &range) {
            // SAFETY: the plugin mapped it, nobody has unmapped it, and the plugin runs no more.
            unsafe { mapping::unmap_as_asked(range.start as *mut c_void, range.len()) };
        }
        entry.generation.store(0, Ordering::SeqCst);
    }
}

/// Mappings that the load has of its own file.
pub(super) fn count(generation: u64) -> usize {
    let of = |entry: &&Entry| entry.generation.load(Ordering::SeqCst) == generation;
    used().iter().filter(of).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_only_what_is_shown_without_a_gap() {
        let shown = [10..20, 20..30, 40..50];
        assert!(covers(&shown, &(10..30)));
        assert!(covers(&shown, &(12..18)));
        assert!(covers(&shown, &(40..50)));
        for bad in [9..12, 25..31, 28..45, 30..40, 45..51] {
            assert!(!covers(&shown, &bad), "{bad:?}");
        }
    }
}
