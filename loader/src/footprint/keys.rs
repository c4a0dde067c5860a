//! Keys of plugins: each has a destructor of the loader's, which knows by its own address which key
//! it is for, since glibc tells it only the value.

use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::ledger::{self, Owner, What};
use crate::sys::thread_exit::{self, Destructor};

/// Keys that a process can have (`PTHREAD_KEYS_MAX`).
pub(super) const KEYS: usize = 1024;

/// In the place of glibc's number for a key that was deleted.
const DELETED: u32 = u32::MAX;

/// One key of a plugin's.
#[derive(Debug)]
struct Key {
    /// The load that it belongs to; 0 for none. Claimed by [`create`] (SeqCst), given back by
    /// its last runner after [`delete`], or by [`release`] (SeqCst).
    generation: AtomicU64,
    /// The load's slot. Stored by [`create`] before the key is made, read where a value is set or
    /// destroyed (SeqCst, both).
    id: AtomicU32,
    /// The plugin's destructor; 0 once it may not be called any more. Stored before the key is made
    /// and cleared before it is freed (SeqCst, in one order with `running`: either a destructor
    /// that begins sees the zero, or whoever cleared it sees the destructor).
    destructor: AtomicUsize,
    /// Destructors of values that run at this moment (SeqCst).
    running: AtomicUsize,
    /// What glibc calls it; [`DELETED`] afterwards. Stored by [`create`] and [`delete`], read by
    /// whoever destroys a value or gives the place back (SeqCst, all).
    key: AtomicU32,
}

static TABLE: [Key; KEYS] = [const {
    Key {
        generation: AtomicU64::new(0),
        id: AtomicU32::new(0),
        destructor: AtomicUsize::new(0),
        running: AtomicUsize::new(0),
        key: AtomicU32::new(0),
    }
}; KEYS];

/// For each of glibc's keys the place in [`TABLE`], and one more; 0 for keys of others. Written by
/// whoever makes or deletes the key (SeqCst), read when a value is set (SeqCst).
static PLACES: [AtomicU16; KEYS] = [const { AtomicU16::new(0) }; KEYS];

// One function of 16 bytes for each place: it notes its number as the second argument and goes on
// to `destroy`, which glibc's caller does not notice.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.plug_loader_key_thunks,\"ax\",@progbits",
    ".balign 16",
    ".globl plug_loader_key_thunks",
    ".hidden plug_loader_key_thunks",
    "plug_loader_key_thunks:",
    ".set plug_loader_key, 0",
    ".rept 1024",
    ".balign 16",
    "mov esi, offset plug_loader_key",
    "jmp {destroy}",
    ".set plug_loader_key, plug_loader_key + 1",
    ".endr",
    ".popsection",
    destroy = sym destroy,
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .text.plug_loader_key_thunks,\"ax\",@progbits",
    ".balign 16",
    ".globl plug_loader_key_thunks",
    ".hidden plug_loader_key_thunks",
    "plug_loader_key_thunks:",
    ".set plug_loader_key, 0",
    ".rept 1024",
    ".balign 16",
    "mov w1, #plug_loader_key",
    "b {destroy}",
    ".set plug_loader_key, plug_loader_key + 1",
    ".endr",
    ".popsection",
    destroy = sym destroy,
);

unsafe extern "C" {
    /// The first of the functions.
    static plug_loader_key_thunks: u8;
}

/// The function for a place.
fn thunk(place: usize) -> Destructor {
    const SIZE: usize = 16;
    let at = (&raw const plug_loader_key_thunks).wrapping_add(place * SIZE);
    // SAFETY: one of the functions above, each of which takes a value as `destroy` does.
    unsafe { std::mem::transmute::<*const u8, Destructor>(at) }
}

/// Where the next free place is looked for, so that one that was given back is not taken at once
/// (Relaxed: any place will do).
static CURSOR: AtomicUsize = AtomicUsize::new(0);

/// Makes a key for `owner`, in the words of `pthread_key_create`.
///
/// # Safety
/// - As for `pthread_key_create`, and `destructor` belongs to `owner`.
pub(super) unsafe fn create(key: *mut c_uint, destructor: usize, owner: Owner) -> i32 {
    let claim = |place: &&Key| {
        // SeqCst, both: cold.
        let (free, own) = (0, owner.generation);
        let claimed =
            place
                .generation
                .compare_exchange(free, own, Ordering::SeqCst, Ordering::SeqCst);
        claimed.is_ok()
    };
    let from = CURSOR.fetch_add(1, Ordering::Relaxed);
    let places = (0..KEYS).map(|step| from.wrapping_add(step) % KEYS);
    let mut free = places.filter_map(|place| Some((place, TABLE.get(place).filter(claim)?)));
    let Some((place, entry)) = free.next() else {
        // As where glibc has none left.
        return libc::EAGAIN;
    };
    entry.id.store(owner.id, Ordering::SeqCst);
    entry.destructor.store(destructor, Ordering::SeqCst);
    // SAFETY: the caller gives room for a key; the thunk takes any value.
    let status = unsafe { thread_exit::make_key(key, Some(thunk(place))) };
    if status != 0 {
        entry.destructor.store(0, Ordering::SeqCst);
        entry.generation.store(0, Ordering::SeqCst);
        return status;
    }
    // SAFETY: written just now.
    let made = unsafe { key.read() };
    entry.key.store(made, Ordering::SeqCst);
    if let Some(known) = PLACES.get(made as usize) {
        known.store(u16::try_from(place + 1).unwrap_or(0), Ordering::SeqCst);
    }
    status
}

/// The place of a key of glibc's, if it is a plugin's.
fn place_of(key: c_uint) -> Option<usize> {
    let place = PLACES.get(key as usize)?.load(Ordering::SeqCst);
    usize::from(place).checked_sub(1)
}

/// A plugin deletes a key, in the words of `pthread_key_delete`: whatever values there are, nobody
/// destroys them. `None` for a key that is no plugin's.
///
/// A destructor may delete its own key, so that this waits for none that runs: the last one gives
/// the place back.
pub(super) fn delete(key: c_uint) -> Option<i32> {
    let place = place_of(key)?;
    let entry = TABLE.get(place)?;
    ledger::forget_key(place);
    entry.destructor.store(0, Ordering::SeqCst);
    if let Some(known) = PLACES.get(key as usize) {
        known.store(0, Ordering::SeqCst);
    }
    let status = thread_exit::delete_key(key);
    entry.key.store(DELETED, Ordering::SeqCst);
    entry.give_back_if_idle();
    Some(status)
}

impl Key {
    fn owner(&self) -> Owner {
        Owner {
            id: self.id.load(Ordering::SeqCst),
            generation: self.generation.load(Ordering::SeqCst),
        }
    }

    /// Gives the place of a deleted key back once nothing runs for it.
    fn give_back_if_idle(&self) {
        let owner = self.generation.load(Ordering::SeqCst);
        if self.key.load(Ordering::SeqCst) == DELETED && self.running.load(Ordering::SeqCst) == 0 {
            // SeqCst, both: only who finds it still there gives it back.
            let _given =
                self.generation
                    .compare_exchange(owner, 0, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}

/// The running thread's value was set, to nothing or to something.
pub(super) fn value_set(key: c_uint, is_null: bool) {
    if let Some(place) = place_of(key)
        && let Some(entry) = TABLE.get(place)
    {
        if is_null {
            ledger::forget_value(place);
        } else {
            ledger::note(entry.owner(), What::Value { key: place });
        }
    }
}

/// Counts a destructor that runs, whatever way it ends.
struct Running<'a>(&'a Key);

impl<'a> Running<'a> {
    fn of(entry: &'a Key) -> Self {
        entry.running.fetch_add(1, Ordering::SeqCst);
        Self(entry)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // In a forked child, those of other threads were forgotten, and so may this one have been.
        let less = |running: usize| running.checked_sub(1);
        let _left = self
            .0
            .running
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        self.0.give_back_if_idle();
    }
}

/// Forgets, in a forked child, the destructors that run on threads that are not there.
pub(super) fn reset_after_fork() {
    for entry in &TABLE {
        entry.running.store(0, Ordering::SeqCst);
    }
}

/// glibc destroys a value on a thread that ends: what each thunk goes on to.
unsafe extern "C-unwind" fn destroy(value: *mut c_void, place: usize) {
    // The thunk sets only the lower half.
    let Some(entry) = TABLE.get(place & 0xffff_ffff) else {
        return;
    };
    let running = Running::of(entry);
    let destructor = entry.destructor.load(Ordering::SeqCst);
    if destructor != 0 {
        let destroying = ledger::destroying(place & 0xffff_ffff);
        ledger::in_plugin(entry.owner(), || {
            // SAFETY: the plugin's destructor for this key; `running` keeps the plugin mapped.
            unsafe { thread_exit::run(destructor, value.addr()) };
        });
        drop(destroying);
    }
    drop(running);
}

/// Destroys the running thread's value of a key, as glibc would at the thread's end.
pub(super) fn destroy_value(place: usize) {
    let Some(entry) = TABLE.get(place) else {
        return;
    };
    let running = Running::of(entry);
    let key = entry.key.load(Ordering::SeqCst);
    for _ in 0..thread_exit::ROUNDS {
        let value = thread_exit::value(key);
        let destructor = entry.destructor.load(Ordering::SeqCst);
        if value.is_null() || destructor == 0 {
            break;
        }
        thread_exit::set_value(key, std::ptr::null());
        // SAFETY: as in destroy().
        unsafe { thread_exit::run(destructor, value.addr()) };
    }
    drop(running);
}

/// Keys that the load has.
pub(super) fn count(generation: u64) -> usize {
    let own = |entry: &&Key| {
        entry.generation.load(Ordering::SeqCst) == generation
            && entry.key.load(Ordering::SeqCst) != DELETED
    };
    TABLE.iter().filter(own).count()
}

/// Deletes the keys that the load `generation` left, and gives their places back; no thread holds a
/// value of them.
pub(crate) fn release(generation: u64) {
    let own = |entry: &&Key| entry.generation.load(Ordering::SeqCst) == generation;
    for entry in TABLE.iter().filter(own) {
        entry.destructor.store(0, Ordering::SeqCst);
        while entry.running.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
        let key = entry.key.load(Ordering::SeqCst);
        if key != DELETED {
            if let Some(known) = PLACES.get(key as usize) {
                known.store(0, Ordering::SeqCst);
            }
            thread_exit::delete_key(key);
        }
        entry.generation.store(0, Ordering::SeqCst);
    }
}
