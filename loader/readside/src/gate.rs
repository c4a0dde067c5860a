//! Call gates: who is inside a plugin's code.
//!
//! A registered worker counts itself in a row of its own, one counter a plugin, with plain
//! stores. Anybody else counts itself in shared counters of the plugin. Entering is refused
//! unless the plugin's whole state word, generation included, is the expected one, and the count
//! is raised *before* the state is looked at: the loader changes the state first and looks at
//! the counts afterwards, so that either the caller sees the change or the loader sees the
//! caller. Who finds the state changed before that is refused without a count. See `docs/ORDERING.md`, section "Call gates".

use crate::state::StateCell;
#[cfg(not(plug_loom))]
use crate::state::{self, MAX_PLUGINS};
#[cfg(not(plug_loom))]
use crate::sync::{AtomicPtr, AtomicUsize};
use crate::sync::{AtomicU64, Ordering, compiler_fence, fence};
#[cfg(not(plug_loom))]
use crate::thread_pointer::ThreadPointer;

/// One gate's counter: `calls << 16 | inside`.
///
/// One word, so that counting calls costs nothing beside counting who is inside. A thread nests
/// at most 65,535 calls of one plugin, and as many unregistered threads may be inside one shard:
/// both far beyond what stacks and thread limits allow.
///
/// Written by its owner with plain stores, or by anybody with locked additions where it is
/// shared; read by the loader's scans (SeqCst, see [`inside`]).
pub type Count = AtomicU64;

/// One call, in the upper part.
const CALL: u64 = 1 << 16;
const INSIDE: u64 = CALL - 1;

/// What a counter held after it was raised, for [`leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a counter that was raised is to be lowered"]
pub struct Raised(u64);

/// Raises a counter that only the running thread writes, then looks at the state.
///
/// Some: the thread is inside and must [`leave`]. None: the counter is as before.
/// `fences` is [`crate::section::Sections::fences`], asked once the counter is raised.
#[inline]
pub fn enter(
    count: &Count,
    state: &StateCell,
    word: u64,
    fences: impl FnOnce() -> bool,
) -> Option<Raised> {
    if is_closed(state, word) {
        return None;
    }
    let raised = raise(count, fences);
    // Acquire: what the loader wrote before it made the plugin Live is seen; and it is this
    // load that the fence or the loader's membarrier orders after the count.
    if state.load(Ordering::Acquire) == word {
        return Some(raised);
    }
    take_back(count);
    None
}

/// Whether a caller can be refused without raising its counter. Those that go on asking would
/// otherwise be met by a scan with their counters raised, one or another at every look, and an unload
/// would never see all of them outside.
#[inline]
fn is_closed(state: &StateCell, word: u64) -> bool {
    // Relaxed: spares a raise, and lets nobody in.
    state.load(Ordering::Relaxed) != word
}

/// Raises a counter that only the running thread writes, whatever the state: for a caller whom
/// a pin protects.
#[inline]
pub fn raise(count: &Count, fences: impl FnOnce() -> bool) -> Raised {
    // Relaxed: written by this thread and by handlers that interrupt it and put it back. A scan
    // never passes on this store, only on one that makes the lower part zero.
    let raised = count.load(Ordering::Relaxed).wrapping_add(CALL | 1);
    count.store(raised, Ordering::Relaxed);
    // The flag is loaded after the count is stored: as on entering a section's line.
    compiler_fence(Ordering::SeqCst);
    if fences() {
        // SeqCst: the caller's half when membarrier is missing; pairs with the fence that the
        // loader puts between its state store and its scan.
        fence(Ordering::SeqCst);
    } else {
        compiler_fence(Ordering::SeqCst);
    }
    Raised(raised)
}

/// Lowers a counter raised by [`enter`] or [`raise`].
#[inline]
pub fn leave(count: &Count, raised: Raised) {
    // Relaxed: own counter.
    let now = count.load(Ordering::Relaxed);
    // Mostly no other call of this plugin was made meanwhile. What is stored then does not depend
    // on what was loaded, so that the next call need not wait until this load has met its store.
    let left = if now == raised.0 {
        raised.0.wrapping_sub(1)
    } else {
        one_less(now)
    };
    // Release: the call comes before it; pairs with the loader's Acquire load of the counter, after
    // which it unmaps.
    count.store(left, Ordering::Release);
}

/// A counter with one less inside, after calls within the call. Apart, so that the compiler does
/// not make one subtraction of both cases.
#[cold]
#[inline(never)]
const fn one_less(now: u64) -> u64 {
    now.wrapping_sub(1)
}

/// Takes a call back that was refused.
#[cold]
#[inline(never)]
fn take_back(count: &Count) {
    // Relaxed load: own counter. Release: as in leave().
    let now = count.load(Ordering::Relaxed);
    count.store(now.wrapping_sub(CALL | 1), Ordering::Release);
}

/// Raises a counter that many threads share, then looks at the state.
#[inline]
pub fn enter_shared(count: &Count, state: &StateCell, word: u64) -> bool {
    if is_closed(state, word) {
        return false;
    }
    raise_shared(count);
    // SeqCst, as the increment: both stand in one total order with the loader's state store and
    // its look at the counter.
    if state.load(Ordering::SeqCst) == word {
        return true;
    }
    // Release: as in leave_shared().
    count.fetch_sub(CALL | 1, Ordering::Release);
    false
}

/// Raises a counter that many threads share, whatever the state: for a caller whom a pin
/// protects.
#[inline]
pub fn raise_shared(count: &Count) {
    // SeqCst: as in enter_shared(), so that a scan that follows the pin's release sees it.
    count.fetch_add(CALL | 1, Ordering::SeqCst);
}

/// Lowers a counter raised by [`enter_shared`] or [`raise_shared`].
#[inline]
pub fn leave_shared(count: &Count) {
    // Release: as in leave(); the additions of others continue the release sequence.
    count.fetch_sub(1, Ordering::Release);
}

/// Takes a pin, if the plugin's state word is the expected one.
///
/// Pins have counters of their own, over the whole word: a host may take one an object.
#[inline]
pub fn pin(pins: &Count, state: &StateCell, word: u64) -> bool {
    if is_closed(state, word) {
        return false;
    }
    pin_again(pins);
    // SeqCst: as in enter_shared().
    if state.load(Ordering::SeqCst) == word {
        return true;
    }
    unpin(pins);
    false
}

/// Takes one more pin for a holder of one.
#[inline]
pub fn pin_again(pins: &Count) {
    // SeqCst: in one total order with the loader's state store and its look at the counter.
    pins.fetch_add(1, Ordering::SeqCst);
}

/// Gives a pin back.
#[inline]
pub fn unpin(pins: &Count) {
    // Release: what was done under the pin comes before it; pairs with pinned().
    pins.fetch_sub(1, Ordering::Release);
}

/// How many pins are held.
#[inline]
#[must_use]
pub fn pinned(pins: &Count) -> u64 {
    // SeqCst: as in inside().
    pins.load(Ordering::SeqCst)
}

/// How many are inside, for the loader's scan.
#[inline]
#[must_use]
pub fn inside(count: &Count) -> u64 {
    // SeqCst: in the total order with enter_shared(); has the Acquire that leave() pairs with.
    count.load(Ordering::SeqCst) & INSIDE
}

/// Forgets who is inside: its thread is dead, or was not copied by a fork.
///
/// Thread context. Only for a counter that nobody else writes any more.
pub fn forget(count: &Count) {
    // Relaxed load: nobody else writes it. Release: a scan that sees it comes after the death.
    let before = count.load(Ordering::Relaxed);
    count.store(before & !INSIDE, Ordering::Release);
}

/// How many calls were counted since the process began, whichever plugins had the slot.
#[inline]
#[must_use]
pub fn calls(count: &Count) -> u64 {
    // Relaxed: a statistic.
    count.load(Ordering::Relaxed) >> 16
}

/// Adds calls that a row counted to a shared counter, before the row goes away.
pub fn inherit(count: &Count, calls: u64) {
    // Relaxed: a statistic; the lower part is left as it is.
    count.fetch_add(calls << 16, Ordering::Relaxed);
}

/// Counters in a chunk of a [`GateRow`].
#[cfg(not(plug_loom))]
pub const CHUNK: usize = 64;

/// Counters of 64 consecutive plugin slots.
#[cfg(not(plug_loom))]
#[derive(Debug)]
pub struct Chunk(pub [Count; CHUNK]);

#[cfg(not(plug_loom))]
impl Chunk {
    /// All counters at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; CHUNK])
    }
}

#[cfg(not(plug_loom))]
impl Default for Chunk {
    fn default() -> Self {
        Self::new()
    }
}

/// One worker's counters, grown by the loader as plugin slots come into use.
#[cfg(not(plug_loom))]
#[derive(Debug)]
pub struct GateRow {
    /// Chunks by `slot / 64`. Null until the loader stores one (Release, in [`GateRow::grow`]);
    /// read by the owner and by scans (Acquire). Never replaced, freed only with the row.
    chunks: [AtomicPtr<Chunk>; MAX_PLUGINS / CHUNK],
    /// Address of the plugin function the worker is in, 0 outside. Plain stores by the owner
    /// (Relaxed), read for reports only (Relaxed).
    current: AtomicUsize,
}

#[cfg(not(plug_loom))]
impl GateRow {
    /// A row without chunks.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            chunks: [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_PLUGINS / CHUNK],
            current: AtomicUsize::new(0),
        }
    }

    /// The counter of slot `id`; `None` where no chunk has been grown.
    #[inline]
    #[must_use]
    pub fn count(&self, id: u32) -> Option<&Count> {
        let id = id as usize;
        // Acquire: the chunk's zeroes are seen; pairs with the Release in grow().
        let chunk = self.chunks.get(id / CHUNK)?.load(Ordering::Acquire);
        // SAFETY: a non-null chunk was stored by grow(), whose caller keeps it alive and in
        // place for as long as the row, which `self` borrows.
        let chunk = unsafe { chunk.as_ref() }?;
        chunk.0.get(id % CHUNK)
    }

    /// Installs `chunk` for slot `id` if there is none, and gives back what was not needed.
    ///
    /// # Safety
    /// - `chunk` points at a live [`Chunk`] that stays in place until the row is gone.
    /// - One caller at a time: the loader's lock over its workers.
    pub unsafe fn grow(&self, id: u32, chunk: *mut Chunk) -> Option<*mut Chunk> {
        let Some(cell) = self.chunks.get(id as usize / CHUNK) else {
            return Some(chunk);
        };
        // Acquire: single writer, read back own stores.
        if cell.load(Ordering::Acquire).is_null() {
            // Release: publishes the zeroed chunk; pairs with the Acquire in count().
            cell.store(chunk, Ordering::Release);
            return None;
        }
        Some(chunk)
    }

    /// Every chunk, for whoever frees the row.
    pub fn chunks(&self) -> impl Iterator<Item = *mut Chunk> {
        // Acquire: pairs with grow().
        self.chunks
            .iter()
            .map(|cell| cell.load(Ordering::Acquire))
            .filter(|chunk| !chunk.is_null())
    }

    /// Calls counted by all counters.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.chunks()
            // SAFETY: chunks live as long as the row, by the contract of grow().
            .filter_map(|chunk| unsafe { chunk.as_ref() })
            .flat_map(|chunk| &chunk.0)
            .map(calls)
            .fold(0, u64::saturating_add)
    }

    /// Sum over all counters: how deep the worker is inside plugins at all.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.chunks()
            // SAFETY: chunks live as long as the row, by the contract of grow().
            .filter_map(|chunk| unsafe { chunk.as_ref() })
            .flat_map(|chunk| &chunk.0)
            .map(inside)
            .fold(0, u64::saturating_add)
    }

    /// As [`forget`], for all counters.
    pub fn forget_all(&self) {
        self.chunks()
            // SAFETY: chunks live as long as the row, by the contract of grow().
            .filter_map(|chunk| unsafe { chunk.as_ref() })
            .flat_map(|chunk| &chunk.0)
            .for_each(forget);
    }

    /// Notes the function that the worker is in from now on.
    #[inline]
    pub fn set_current(&self, address: usize) {
        // Relaxed: shown in reports only.
        self.current.store(address, Ordering::Relaxed);
    }

    /// Address of the plugin function the worker is in, 0 outside.
    #[must_use]
    pub fn current(&self) -> usize {
        // Relaxed: shown in reports only.
        self.current.load(Ordering::Relaxed)
    }
}

#[cfg(not(plug_loom))]
impl Default for GateRow {
    fn default() -> Self {
        Self::new()
    }
}

/// Shards of a plugin's shared counter.
#[cfg(not(plug_loom))]
const SHARDS: usize = 4;

/// Counters of callers without a row, and of pins, for one slot.
#[cfg(not(plug_loom))]
#[derive(Debug)]
#[repr(align(64))]
struct SharedLine(Count);

/// The shared counters of all slots: zero pages until a slot is used.
#[cfg(not(plug_loom))]
static SHARED: [[SharedLine; SHARDS]; MAX_PLUGINS] =
    [const { [const { SharedLine(AtomicU64::new(0)) }; SHARDS] }; MAX_PLUGINS];

/// Pins of all slots; see [`pins`].
#[cfg(not(plug_loom))]
static PINS: [Count; MAX_PLUGINS] = [const { AtomicU64::new(0) }; MAX_PLUGINS];

/// A counter nobody uses, for ids past the end.
#[cfg(not(plug_loom))]
static NOBODY: Count = AtomicU64::new(0);

/// The shared counter of slot `id` for the running thread.
#[cfg(not(plug_loom))]
#[inline]
#[must_use]
pub fn shared(id: u32, thread: ThreadPointer) -> &'static Count {
    let shard = (thread.address().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % SHARDS;
    SHARED
        .get(id as usize)
        .and_then(|line| line.get(shard))
        .map_or(&NOBODY, |line| &line.0)
}

/// The shared counters of slot `id`.
#[cfg(not(plug_loom))]
fn shards(id: u32) -> impl Iterator<Item = &'static Count> {
    SHARED
        .get(id as usize)
        .into_iter()
        .flatten()
        .map(|line| &line.0)
}

/// Callers without a row that are inside slot `id`.
#[cfg(not(plug_loom))]
#[must_use]
pub fn shared_inside(id: u32) -> u64 {
    shards(id).map(inside).fold(0, u64::saturating_add)
}

/// Leaves in the shared counters of slot `id` only what the running thread counted there, which is
/// at most `own`: in a forked child, where no other thread exists.
///
/// Async-signal-safe.
#[cfg(not(plug_loom))]
pub fn keep_own_after_fork(id: u32, thread: ThreadPointer, own: u64) {
    let home = shared(id, thread);
    for count in shards(id) {
        let own = if core::ptr::eq(count, home) { own } else { 0 };
        // Relaxed, both: the child has one thread.
        let word = count.load(Ordering::Relaxed);
        count.store(word & !INSIDE | (word & INSIDE).min(own), Ordering::Relaxed);
    }
}

/// Calls counted by the shared counters of slot `id` since the process began.
#[cfg(not(plug_loom))]
#[must_use]
pub fn shared_calls(id: u32) -> u64 {
    shards(id).map(calls).fold(0, u64::saturating_add)
}

/// The pin counter of slot `id`; see [`pin`].
#[cfg(not(plug_loom))]
#[must_use]
pub fn pins(id: u32) -> &'static Count {
    PINS.get(id as usize).unwrap_or(&NOBODY)
}

/// The state word of slot `id`, re-exported here so that callers need one import.
#[cfg(not(plug_loom))]
#[inline]
#[must_use]
pub fn state(id: u32) -> &'static StateCell {
    state::cell(id)
}

#[cfg(all(test, not(plug_loom)))]
mod tests {
    use super::*;
    use crate::state::{State, StateWord};

    #[test]
    fn leave_after_calls_within_the_call_keeps_their_number() {
        let count = Count::new(0);
        let word = StateWord::new(7, State::Live).0;
        let live = StateCell::new(word);
        let outer = enter(&count, &live, word, || false).expect("it is Live");
        let inner = enter(&count, &live, word, || false).expect("it is Live");
        assert_eq!(inside(&count), 2);
        leave(&count, inner);
        assert_eq!(inside(&count), 1);
        assert!(enter(&count, &live, word + 1, || false).is_none());
        // Closed between the raise and the look.
        let closes = || {
            live.store(word + 1, Ordering::SeqCst);
            false
        };
        assert!(enter(&count, &live, word, closes).is_none());
        assert_eq!((inside(&count), calls(&count)), (1, 2));
        leave(&count, outer);
        assert_eq!((inside(&count), calls(&count)), (0, 2));
    }
}
