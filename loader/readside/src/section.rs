//! Read sections: while one is open, no snapshot that it could see is freed.
//!
//! A section is an epoch written into a slot of a static table. The table is keyed by the thread
//! pointer, so it needs no thread-local storage and no registration. A registered thread owns a
//! whole line and enters with a plain store; everybody else, signal handlers included, claims
//! one of the spare slots of the lines near its home with one compare-and-swap. When all of
//! those are taken, a shared counter serves: entering is wait-free.
//!
//! The argument for each ordering stands in `docs/ORDERING.md`, section "Read sections". Who owns
//! a line, and what becomes of it when that thread dies or forks, is in `lines`.

use core::marker::PhantomData;

mod lines;

use crate::sync::{AtomicBool, AtomicU32, AtomicUsize, Ordering, compiler_fence, fence};
use crate::thread_pointer::ThreadPointer;

/// Lines in the table: 16 KiB, scanned in under a microsecond by a grace period.
///
/// A thread that finds none near its home reads by claims, at three times the cost.
#[cfg(not(plug_loom))]
pub const LINES: usize = 256;
#[cfg(plug_loom)]
const LINES: usize = 1;

/// How many lines from its home a thread looks at; bounds the time of an enter.
#[cfg(not(plug_loom))]
const WINDOW: usize = 4;
#[cfg(plug_loom)]
const WINDOW: usize = 1;

/// Spare slots in a line, which fill it up to one cache line of 64 bytes.
#[cfg(not(plug_loom))]
const SPARE: usize = 5;
#[cfg(plug_loom)]
const SPARE: usize = 2;

/// Shards of the counter for the case that every slot is taken.
#[cfg(not(plug_loom))]
const SHARDS: usize = 8;
#[cfg(plug_loom)]
const SHARDS: usize = 1;

/// The epoch has the upper 40 bits of a word. The rest is zero when nobody is inside, and
/// otherwise a line's nesting depth, or for a spare slot the claimer's thread id and a one, so
/// that a slot whose owner died is told from one that is in use. A thread id has 22 bits
/// (`PID_MAX_LIMIT` in the kernel's threads.h).
const EPOCH_ONE: usize = 1 << 24;
const INSIDE: usize = EPOCH_ONE - 1;

/// Levels that a line counts; the next one is claimed like a stranger's.
const MAX_NEST: usize = (1 << 16) - 1;

/// One cache line of the table.
#[repr(C, align(64))]
#[derive(Debug)]
struct Line {
    /// Thread pointer of the registered thread, 0 when free, [`lines::TOMB`] while it changes
    /// hands. Taken by CAS, given back by store; read by anybody (Relaxed: only the owner ever
    /// stores the value that the owner compares with).
    owner: AtomicUsize,
    /// Thread id of the owner. Written by whoever took the line, before the owner is; read by the
    /// owner (Relaxed: own store), by reports and by the reaper (see `lines`).
    tid: AtomicU32,
    /// Whether a thread whose home this is has ever owned another line, since this one was taken.
    /// Written by such threads, never cleared; read by threads that do not own the line (Relaxed,
    /// both: only a thread's own store matters to it).
    is_left: AtomicBool,
    /// `epoch << 24 | nest` of the owner, 0 outside. Release stores by the owner and its signal handlers, on
    /// entering and on leaving; read by grace periods (SeqCst).
    word: AtomicUsize,
    /// `epoch << 24 | tid << 1 | 1` of whoever claimed the slot, 0 when free. Claimed by a SeqCst
    /// CAS, released by a Release store; read by grace periods (SeqCst).
    spare: [AtomicUsize; SPARE],
}

/// The shared counters for more readers than slots.
#[repr(C, align(64))]
#[derive(Debug)]
struct Shard {
    /// Readers inside. SeqCst increments, Release decrements; read by grace periods (SeqCst).
    inside: AtomicUsize,
}

/// A table of sections and the epoch they are measured by.
#[derive(Debug)]
pub struct Sections {
    /// Grows by one (shifted) with every grace period. Written by grace periods (SeqCst), read
    /// on entering (Acquire: an epoch seen implies the unpublication before it is seen).
    epoch: AtomicUsize,
    /// Whether readers must fence because membarrier is missing or will be. Set once (SeqCst),
    /// never cleared; read on entering (Relaxed: see `switch_to_fences`).
    fences: AtomicBool,
    /// Whether every reader is known to fence, so that the writer sends no barrier. Set once,
    /// after `fences` (SeqCst); read by writers (SeqCst).
    all_fence: AtomicBool,
    /// Distance from a thread pointer to the thread's id, 0 where unknown. Set once before the
    /// first thread registers (SeqCst), read on entering (Relaxed: as for `fences` at a start).
    tid_at: AtomicUsize,
    lines: [Line; LINES],
    shards: [Shard; SHARDS],
}

/// Proof that the thread is inside a section; leaves it when dropped.
///
/// Not `Send`: the word it holds belongs to the thread that entered.
#[derive(Debug)]
#[must_use = "a section ends when it is dropped"]
pub struct Section<'a> {
    word: &'a AtomicUsize,
    kind: Kind,
    _not_send: PhantomData<*mut ()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Line,
    Spare,
    Shard,
}

/// Who holds a grace period up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Thread pointer of a registered thread, 0 for an unregistered one or a handler.
    pub thread_pointer: usize,
    /// The reader's thread id; 0 where it is not known.
    pub tid: u32,
}

/// Why a grace period was not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incomplete<B> {
    /// The barrier failed; nothing may be freed.
    Barrier(B),
    /// `pause` gave up while this reader was inside.
    Stalled(Stall),
}

impl Sections {
    /// An empty table.
    ///
    /// Not public: [`crate::snapshot`] owns the only table of the process, so that a
    /// `Section<'static>` always is one that protects the current view.
    #[cfg(not(plug_loom))]
    pub(crate) const fn new() -> Self {
        Self {
            epoch: AtomicUsize::new(EPOCH_ONE),
            fences: AtomicBool::new(false),
            all_fence: AtomicBool::new(false),
            tid_at: AtomicUsize::new(0),
            lines: [const {
                Line {
                    owner: AtomicUsize::new(0),
                    tid: AtomicU32::new(0),
                    is_left: AtomicBool::new(false),
                    word: AtomicUsize::new(0),
                    spare: [const { AtomicUsize::new(0) }; SPARE],
                }
            }; LINES],
            shards: [const {
                Shard {
                    inside: AtomicUsize::new(0),
                }
            }; SHARDS],
        }
    }

    /// An empty table in a loom model, which always runs in fence mode.
    #[cfg(all(test, plug_loom))]
    pub(crate) fn new() -> Self {
        Self {
            epoch: AtomicUsize::new(EPOCH_ONE),
            fences: AtomicBool::new(true),
            all_fence: AtomicBool::new(true),
            tid_at: AtomicUsize::new(1),
            lines: core::array::from_fn(|_| Line {
                owner: AtomicUsize::new(0),
                tid: AtomicU32::new(0),
                is_left: AtomicBool::new(false),
                word: AtomicUsize::new(0),
                spare: core::array::from_fn(|_| AtomicUsize::new(0)),
            }),
            shards: core::array::from_fn(|_| Shard {
                inside: AtomicUsize::new(0),
            }),
        }
    }

    /// Fills all spare slots with readers that no grace period waits for, so that the next one
    /// takes the shared counter.
    #[cfg(all(test, plug_loom))]
    pub(crate) fn occupy_spares(&self) {
        for line in &self.lines {
            for spare in &line.spare {
                // Relaxed: before the model makes a thread.
                spare.store(EPOCH_ONE << 20 | 1, Ordering::Relaxed);
            }
        }
    }

    /// Makes every enter fence, for a process where membarrier is not to be had.
    ///
    /// Thread context. There is no way back.
    ///
    /// # Safety
    /// - No thread is registered, and each later registration happens after this call: a
    ///   registered thread that missed the change would enter without a fence while grace periods
    ///   no longer send a barrier.
    pub unsafe fn use_fences(&self) {
        // SeqCst: cold, and the strongest order is the easiest to audit.
        self.fences.store(true, Ordering::SeqCst);
        // SeqCst: as above.
        self.all_fence.store(true, Ordering::SeqCst);
    }

    /// Makes every enter fence from now on, whoever is registered: for a process that is about to
    /// lose membarrier. `barrier` is the last one: see [`Sections::synchronize`].
    ///
    /// Thread context. There is no way back.
    ///
    /// # Errors
    /// That of `barrier`. Readers fence from then on, but grace periods still send barriers.
    pub fn switch_to_fences<B>(&self, barrier: impl FnOnce() -> Result<(), B>) -> Result<(), B> {
        // SeqCst: precedes the barrier, after which no thread loads the old value.
        self.fences.store(true, Ordering::SeqCst);
        barrier()?;
        // SeqCst: a writer that sees it comes after the barrier, which made the words of all who
        // entered without a fence visible.
        self.all_fence.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Whether readers fence. Async-signal-safe.
    #[inline]
    #[must_use]
    pub fn fences(&self) -> bool {
        // Relaxed: who still misses a switch is caught by its barrier.
        self.fences.load(Ordering::Relaxed)
    }

    /// Whether a writer must send a barrier; otherwise a fence of its own is enough.
    ///
    /// Thread context.
    #[must_use]
    pub fn needs_barrier(&self) -> bool {
        // SeqCst: pairs with the store in switch_to_fences().
        !self.all_fence.load(Ordering::SeqCst)
    }

    /// The lines that the thread may use, home first.
    #[inline]
    fn window(&self, thread: ThreadPointer) -> impl Iterator<Item = &Line> {
        let home = hash(thread.address());
        (0..WINDOW).filter_map(move |step| self.lines.get(home.wrapping_add(step) % LINES))
    }

    /// Enters a section for the running thread, which lasts until the guard is dropped.
    ///
    /// Async-signal-safe, wait-free: at most `WINDOW` loads, then at most `WINDOW * SPARE`
    /// compare-and-swaps, then one addition.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs as much as all of it")]
    pub fn enter(&self, thread: ThreadPointer) -> Section<'_> {
        match self.enter_home(thread) {
            Some(section) => section,
            None => self.enter_elsewhere(thread),
        }
    }

    /// Runs `read` inside a section of the running thread's.
    ///
    /// Async-signal-safe, if `read` is; wait-free as [`Sections::enter`], and cheaper: there is a
    /// copy of `read` for workers, whose guard is known to be a line's.
    #[inline]
    pub fn within<'a, R>(
        &'a self,
        thread: ThreadPointer,
        read: impl FnOnce(&Section<'a>) -> R,
    ) -> R {
        match self.enter_home(thread) {
            Some(section) => read(&section),
            None => self.within_elsewhere(thread, read),
        }
    }

    /// Apart, so that what workers do is short enough to become part of whoever reads.
    #[inline(never)]
    fn within_elsewhere<'a, R>(
        &'a self,
        thread: ThreadPointer,
        read: impl FnOnce(&Section<'a>) -> R,
    ) -> R {
        read(&self.enter_elsewhere(thread))
    }

    /// Enters by the thread's line, if it is known to own the one at its home.
    #[inline]
    fn enter_home(&self, thread: ThreadPointer) -> Option<Section<'_>> {
        let line = self.window(thread).next()?;
        let is_entered = self.is_known_own(line, thread) && self.enter_line(line);
        is_entered.then(|| Section::of(&line.word, Kind::Line))
    }

    /// Enters by a line of the thread's that may not be at its home, or without one: the one at home
    /// is another thread's, has no more room, or ids are not known.
    #[inline]
    fn enter_elsewhere(&self, thread: ThreadPointer) -> Section<'_> {
        // Relaxed, both: only what this thread stored itself matters.
        let may_own = |home: &Line| {
            home.owner.load(Ordering::Relaxed) == thread.address()
                || home.is_left.load(Ordering::Relaxed)
        };
        if !self.window(thread).next().is_some_and(may_own) {
            return self.enter_unregistered(thread);
        }
        let owned = self.window(thread).find(|line| self.is_own(line, thread));
        match owned {
            Some(line) if self.enter_line(line) => Section::of(&line.word, Kind::Line),
            _ => self.enter_unregistered(thread),
        }
    }

    /// Enters by a plain store into the owned line; false where the line can count no more levels.
    #[inline]
    fn enter_line(&self, line: &Line) -> bool {
        // Relaxed: the word is written by this thread and by handlers that interrupt it and put
        // it back; one word holds epoch and depth, so an interrupted update stays consistent.
        let word = line.word.load(Ordering::Relaxed);
        let entered = if word & INSIDE == 0 {
            // Acquire: an epoch at or past a grace period's target was stored after that grace
            // period's unpublication, which this reader must then see. Pairs with the SeqCst
            // addition in synchronize().
            self.epoch.load(Ordering::Acquire) | 1
        } else {
            match one_more(word) {
                Some(entered) => entered,
                None => return false,
            }
        };
        // Release: a scan that passes this word for its epoch never sees the store that left the
        // thread's section before, so this store must itself carry that section's reads to the
        // scan in synchronize(). It is ordered before the later load of the snapshot pointer by
        // the fence below, or by the membarrier in synchronize().
        line.word.store(entered, Ordering::Release);
        // The flag is loaded after the word is stored: whoever finds it unset before the barrier of
        // a switch has its word seen by all who come after that barrier.
        compiler_fence(Ordering::SeqCst);
        if self.fences() {
            // SeqCst: the asymmetric half of synchronize() when membarrier is missing: either
            // the scan sees the store above, or the reader sees the unpublication.
            fence(Ordering::SeqCst);
        } else {
            compiler_fence(Ordering::SeqCst);
        }
        true
    }

    /// The shared counter that the thread uses.
    #[inline]
    fn shard(&self, thread: ThreadPointer) -> &Shard {
        // The modulo is in range, so the first shard is never taken for another reason.
        self.shards
            .get(hash(thread.address()) % SHARDS)
            .unwrap_or(&self.shards[0])
    }

    /// Enters by claiming a spare slot near home, or through the shared counter.
    #[inline]
    fn enter_unregistered(&self, thread: ThreadPointer) -> Section<'_> {
        let claimer = claimer(self.tid(thread));
        for line in self.window(thread) {
            for spare in &line.spare {
                // Acquire: as in enter_line().
                let entered = self.epoch.load(Ordering::Acquire) | claimer;
                // SeqCst: this RMW, the later load of the snapshot pointer and the scan in
                // synchronize() stand in one total order. Relaxed on failure: nothing was entered.
                let claim = spare.compare_exchange(0, entered, Ordering::SeqCst, Ordering::Relaxed);
                if claim.is_ok() {
                    return Section::of(spare, Kind::Spare);
                }
            }
        }
        let shard = self.shard(thread);
        // SeqCst: as for the claim.
        shard.inside.fetch_add(1, Ordering::SeqCst);
        Section::of(&shard.inside, Kind::Shard)
    }

    /// Puts a full barrier between what the caller stored and what it looks at next, for every
    /// reader and caller as well: by `barrier` where they rely on one, else by a fence of its own.
    ///
    /// # Errors
    /// That of `barrier`, unless readers and callers have begun to fence meanwhile: then its failure
    /// does no harm.
    pub fn cross<B>(&self, barrier: impl FnOnce() -> Result<(), B>) -> Result<(), B> {
        if self.needs_barrier() {
            match barrier() {
                Err(error) if self.needs_barrier() => return Err(error),
                Err(_) => {}
                done => return done,
            }
        }
        // SeqCst: the writer's half of the fence pair in enter_line() and in gates.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Waits until every section entered before the call has been left: a grace period.
    ///
    /// What the caller unpublished (with a SeqCst store) before the call is then seen by nobody.
    /// `barrier` must put a full barrier into every running thread of the process; it is not called
    /// unless [`Sections::needs_barrier`]. `pause` is called between looks and may give up.
    ///
    /// Thread context. Several may run at a time.
    ///
    /// # Errors
    /// [`Incomplete::Barrier`] when `barrier` failed, [`Incomplete::Stalled`] when `pause` gave
    /// up. In both cases nothing may be freed.
    pub fn synchronize<B>(
        &self,
        barrier: impl FnOnce() -> Result<(), B>,
        mut pause: impl FnMut(Stall) -> bool,
    ) -> Result<(), Incomplete<B>> {
        // SeqCst: follows the caller's unpublication in the total order, so that a reader that
        // loads this epoch (Acquire) also sees the unpublication.
        let target = self
            .epoch
            .fetch_add(EPOCH_ONE, Ordering::SeqCst)
            .wrapping_add(EPOCH_ONE);
        self.cross(barrier).map_err(Incomplete::Barrier)?;
        let mut wait =
            |word: &AtomicUsize, past: &dyn Fn(usize) -> bool, who: &dyn Fn(usize) -> Stall| {
                loop {
                    // SeqCst: the scan takes part in the total order with the claims; it also has the
                    // Acquire that pairs with the Release on leaving and on entering a line, so that
                    // the freeing that follows comes after the reader's last access.
                    let seen = word.load(Ordering::SeqCst);
                    if past(seen) {
                        return Ok(());
                    }
                    let stall = who(seen);
                    if !pause(stall) {
                        return Err(Incomplete::Stalled(stall));
                    }
                }
            };
        let past = |word| is_past(word, target);
        for line in &self.lines {
            wait(&line.word, &past, &|_| Stall {
                // Relaxed: shown in reports only.
                thread_pointer: line.owner.load(Ordering::Relaxed),
                tid: line.tid.load(Ordering::Relaxed),
            })?;
            for spare in &line.spare {
                wait(spare, &past, &|seen| Stall {
                    thread_pointer: 0,
                    tid: claimed_by(seen),
                })?;
            }
        }
        for shard in &self.shards {
            // A shard has no epoch: it is passed at a moment when nobody at all is in it.
            wait(&shard.inside, &|inside| inside == 0, &|_| Stall {
                thread_pointer: 0,
                tid: 0,
            })?;
        }
        Ok(())
    }
}

impl<'a> Section<'a> {
    #[inline]
    const fn of(word: &'a AtomicUsize, kind: Kind) -> Self {
        Self {
            word,
            kind,
            _not_send: PhantomData,
        }
    }
}

impl Drop for Section<'_> {
    #[inline]
    fn drop(&mut self) {
        match self.kind {
            Kind::Line => {
                // Relaxed load: own word.
                let word = self.word.load(Ordering::Relaxed);
                let left = if word & INSIDE == 1 {
                    0
                } else {
                    one_less(word)
                };
                // Release: the reads of the section come before it; pairs with the scan in
                // synchronize().
                self.word.store(left, Ordering::Release);
            }
            // Release: as above.
            Kind::Spare => self.word.store(0, Ordering::Release),
            Kind::Shard => leave_shard(self.word),
        }
    }
}

/// The word of one level more than `word`, which has one; none where there is no room. The next
/// section of a thread that forgets to leave is then claimed like a stranger's.
///
/// Cold, as [`one_less`] is, so that entering and leaving an outermost section, by far the most
/// frequent, store what does not depend on what was loaded: sections that follow each other then do
/// not wait for each other's stores to reach the loads.
#[cold]
#[inline(never)]
fn one_more(word: usize) -> Option<usize> {
    (word & INSIDE != MAX_NEST).then_some(word.wrapping_add(1))
}

/// The word of one level less than `word`, which has several.
#[cold]
#[inline(never)]
fn one_less(word: usize) -> usize {
    word.wrapping_sub(1)
}

/// Leaves a shared counter; rare.
#[cold]
fn leave_shard(inside: &AtomicUsize) {
    // Release: as on leaving a line; the decrements of others continue the release sequence.
    inside.fetch_sub(1, Ordering::Release);
}

/// Whether a section word allows a grace period of `target` to end.
#[inline]
fn is_past(word: usize, target: usize) -> bool {
    // The epoch may wrap: a section that lasts cannot see half of all epochs go by, since each
    // grace period but the overlapping ones waits for it.
    let ahead = (word & !INSIDE).wrapping_sub(target);
    word & INSIDE == 0 || ahead <= usize::MAX / 2
}

/// The lower part of the word of a slot claimed by the thread `tid`.
#[inline]
const fn claimer(tid: u32) -> usize {
    (tid as usize) << 1 & INSIDE | 1
}

/// Who claimed a slot with this word; 0 for nobody or where it is not known.
fn claimed_by(word: usize) -> u32 {
    // 23 bits always fit.
    u32::try_from((word & INSIDE) >> 1).unwrap_or(0)
}

/// The home line of a thread: thread pointers are multiples of 64 and mostly of the stack size.
#[inline]
const fn hash(thread_pointer: usize) -> usize {
    (thread_pointer.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % LINES
}

#[cfg(not(plug_loom))]
const _: () = assert!(size_of::<Line>() == 64);

#[cfg(all(test, not(plug_loom)))]
mod tests {
    use super::*;

    extern crate std;
    use std::boxed::Box;

    fn table() -> Box<Sections> {
        Box::new(Sections::new())
    }

    /// A name of this thread, which is the only one that uses the test's own table.
    fn me(address: usize) -> ThreadPointer {
        thread(address, 7)
    }

    fn thread(address: usize, tid: u32) -> ThreadPointer {
        // SAFETY: each test has its table to itself and runs in one thread.
        unsafe { ThreadPointer::assume(address, tid) }
    }

    fn grace(sections: &Sections) -> Result<(), Incomplete<()>> {
        sections.synchronize(|| Ok(()), |_| false)
    }

    #[test]
    fn synchronize_without_readers_completes() {
        assert_eq!(grace(&table()), Ok(()));
    }

    #[test]
    fn synchronize_with_unregistered_reader_stalls_until_it_left() {
        let sections = table();
        let section = sections.enter(me(64));
        assert_eq!(
            grace(&sections),
            Err(Incomplete::Stalled(Stall {
                thread_pointer: 0,
                tid: 0
            })),
            "an id that is not known is not told"
        );
        drop(section);
        assert_eq!(grace(&sections), Ok(()));
    }

    #[test]
    fn synchronize_with_registered_nested_reader_names_it() {
        let sections = table();
        assert!(sections.register(me(128), 7));
        let outer = sections.enter(me(128));
        let inner = sections.enter(me(128));
        assert!(sections.is_inside(me(128)));
        drop(inner);
        assert_eq!(
            grace(&sections),
            Err(Incomplete::Stalled(Stall {
                thread_pointer: 128,
                tid: 7
            }))
        );
        drop(outer);
        assert!(!sections.is_inside(me(128)));
        assert_eq!(grace(&sections), Ok(()));
    }

    #[test]
    fn synchronize_within_a_read_stalls_until_the_read_returned() {
        let sections = table();
        assert!(sections.register(me(128), 7));
        for thread in [me(128), me(256)] {
            sections.within(thread, |_| {
                sections.within(thread, |_| assert!(grace(&sections).is_err()));
                assert!(grace(&sections).is_err());
            });
            assert_eq!(grace(&sections), Ok(()));
        }
    }

    #[test]
    fn synchronize_with_sections_left_in_any_order_stalls_until_the_last() {
        let sections = table();
        assert!(sections.register(me(128), 7));
        let (first, second) = (sections.enter(me(128)), sections.enter(me(128)));
        drop(first);
        assert!(grace(&sections).is_err());
        drop(second);
        assert_eq!(grace(&sections), Ok(()));
    }

    #[test]
    fn synchronize_with_more_nested_sections_than_a_line_counts_stalls() {
        let sections = table();
        assert!(sections.register(me(128), 7));
        let all: std::vec::Vec<_> = (0..=MAX_NEST).map(|_| sections.enter(me(128))).collect();
        assert!(grace(&sections).is_err());
        drop(all);
        assert_eq!(grace(&sections), Ok(()));
    }

    #[test]
    fn synchronize_ignores_sections_entered_after_it_began() {
        let sections = table();
        let mut late = None;
        let early = sections.enter(me(64));
        let mut early = Some(early);
        let done = sections.synchronize(
            || Ok::<(), ()>(()),
            |_| {
                late.get_or_insert_with(|| sections.enter(me(64)));
                early = None;
                true
            },
        );
        assert_eq!(done, Ok(()));
        assert!(late.is_some());
    }

    #[test]
    fn enter_with_all_slots_taken_uses_the_shared_counter() {
        let sections = table();
        let all: std::vec::Vec<_> = (0..WINDOW * SPARE + 3)
            .map(|_| sections.enter(me(64)))
            .collect();
        assert_eq!(all.iter().filter(|s| s.kind == Kind::Shard).count(), 3);
        assert!(grace(&sections).is_err());
        drop(all);
        assert_eq!(grace(&sections), Ok(()));
    }

    #[test]
    fn unregister_returns_the_line_to_others() {
        let sections = table();
        for round in 0..1000_usize {
            let pointer = (round + 1) * 64;
            assert!(sections.register(me(pointer), 1));
            sections.unregister(me(pointer));
        }
    }

    #[test]
    fn synchronize_with_failing_barrier_frees_nothing() {
        let sections = table();
        assert_eq!(
            sections.synchronize(|| Err("no"), |_| true),
            Err(Incomplete::Barrier("no"))
        );
    }
}
