//! Who owns a line of the table, and what becomes of lines and slots whose owner died or forked.
//!
//! A line belongs to the one thread whose thread pointer *and* id it carries. The pointer alone
//! would not do: the next thread gets a dead one's nearly always, and would go on where the dead
//! one stood. Owners change by way of [`TOMB`], which no thread's name equals, so that nobody
//! enters through a line while its id or its word is changed.

use core::ptr;

use super::{EPOCH_ONE, INSIDE, LINES, Line, Sections, claimed_by, claimer};
use crate::sync::Ordering;
use crate::thread_pointer::ThreadPointer;

/// The owner of a line that is changing hands. Thread pointers are aligned and never odd.
pub(super) const TOMB: usize = 1;

/// What the reaper found and cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Lines of dead threads, idle ones included.
    pub lines: usize,
    /// Sections that dead threads had entered and never left.
    pub sections: usize,
}

impl Sections {
    /// Lets the table tell dead owners from their successors: every thread has its id `at` bytes
    /// from its thread pointer (wrapping). Without this nothing is reaped.
    ///
    /// Thread context.
    ///
    /// # Safety
    /// - `at` is right for every thread of the process, present and future: a multiple of four
    ///   that leads into the thread's own control block.
    /// - No thread is registered, and each later registration happens after this call.
    pub unsafe fn know_tids(&self, at: usize) {
        // SeqCst: cold, and the strongest order is the easiest to audit.
        self.tid_at.store(at, Ordering::SeqCst);
    }

    /// Whether dead owners can be told from their successors.
    #[must_use]
    pub fn knows_tids(&self) -> bool {
        // Relaxed: set once, at the start.
        self.tid_at.load(Ordering::Relaxed) != 0
    }

    /// The running thread's id; 0 where it is not known how to find it.
    #[inline]
    pub(super) fn tid(&self, thread: ThreadPointer) -> u32 {
        self.known_tid(thread).unwrap_or(0)
    }

    #[inline]
    fn known_tid(&self, thread: ThreadPointer) -> Option<u32> {
        // Relaxed: set once; who misses it goes on as if it were unknown.
        match self.tid_at.load(Ordering::Relaxed) {
            0 => None,
            // SAFETY: by the contract of know_tids(), and `thread` is the running one.
            at => Some(unsafe { thread.tid(at) }),
        }
    }

    /// Whether the running thread owns `line`.
    #[inline]
    pub(super) fn is_own(&self, line: &Line, thread: ThreadPointer) -> bool {
        // Relaxed, both: only this thread ever puts both its names there, the id first.
        line.owner.load(Ordering::Relaxed) == thread.address()
            && self
                .known_tid(thread)
                .is_none_or(|tid| line.tid.load(Ordering::Relaxed) == tid)
    }

    /// As [`Sections::is_own`], in fewer steps; false where ids are not known.
    #[inline]
    pub(super) fn is_known_own(&self, line: &Line, thread: ThreadPointer) -> bool {
        // Relaxed: as in known_tid().
        let at = self.tid_at.load(Ordering::Relaxed);
        // SAFETY: by the contract of know_tids(), and `thread` is the running one; at the distance
        // 0, which stands for not known, the thread's control block is as well, and no id.
        let tid = unsafe { thread.tid(at) };
        // Relaxed, both: as in is_own(). One comparison for both, and so one branch.
        let owner = line.owner.load(Ordering::Relaxed) ^ thread.address();
        let other = line.tid.load(Ordering::Relaxed) ^ tid;
        owner | other as usize == 0
    }

    /// Claims a line for the running thread; false when the lines near its home are all owned,
    /// in which case the thread goes on as an unregistered one. A line that a dead thread of the
    /// same thread pointer left behind is inherited, without what that one never left.
    ///
    /// Thread context, outside any section.
    pub fn register(&self, thread: ThreadPointer, tid: u32) -> bool {
        if let Some(line) = self.window(thread).find(|line| self.is_own(line, thread)) {
            // Relaxed: own line; another number only where ids are not known, for reports.
            line.tid.store(tid, Ordering::Relaxed);
            return true;
        }
        // The running thread has this thread pointer alone: its former owner is dead.
        let left = |line: &&Line| line.owner.load(Ordering::Relaxed) == thread.address();
        let taken = self
            .window(thread)
            .filter(left)
            .any(|line| take(line, thread.address(), thread.address(), tid))
            || self
                .window(thread)
                .any(|line| take(line, 0, thread.address(), tid));
        let mut window = self.window(thread);
        if let Some(home) = window.next()
            && window.any(|line| self.is_own(line, thread))
        {
            // Relaxed: only this thread's own lookups rely on it.
            home.is_left.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// Gives the running thread's line back; does nothing if it has none or is inside a section.
    ///
    /// Thread context.
    pub fn unregister(&self, thread: ThreadPointer) {
        for line in self.window(thread) {
            // Relaxed: own line, own stores.
            if self.is_own(line, thread) && line.word.load(Ordering::Relaxed) & INSIDE == 0 {
                give_back(line);
            }
        }
    }

    /// Whether the running thread owns a line. Async-signal-safe.
    #[must_use]
    pub fn is_registered(&self, thread: ThreadPointer) -> bool {
        self.window(thread).any(|line| self.is_own(line, thread))
    }

    /// Whether the running thread is inside a section. One that it entered unregistered is found
    /// only where thread ids are known, and not in a shared counter, where a section is because 20
    /// others were near its home.
    ///
    /// Async-signal-safe; used to refuse an unload that would wait for itself.
    #[must_use]
    pub fn is_inside(&self, thread: ThreadPointer) -> bool {
        let tid = self.tid(thread);
        self.window(thread).any(|line| {
            // Relaxed: own line and own slots, own stores.
            let by_line =
                self.is_own(line, thread) && line.word.load(Ordering::Relaxed) & INSIDE != 0;
            let mut words = line.spare.iter().map(|spare| spare.load(Ordering::Relaxed));
            by_line || (tid != 0 && words.any(|word| claimed_by(word) == tid))
        })
    }

    /// Clears the lines and slots of threads that are no more, so that grace periods no longer
    /// wait for what those never left.
    ///
    /// `is_dead` says whether no thread of the process has an id, which must stay true until some
    /// thread gets it anew. `barrier` is as in [`Sections::synchronize`]. What is counted in the
    /// shared counters has no name and is not reaped.
    ///
    /// Thread context.
    ///
    /// # Errors
    /// That of `barrier`; lines are then as before.
    ///
    /// # Safety
    /// - One caller at a time.
    /// - A thread of whom `is_dead` holds runs no more code of the process.
    pub unsafe fn reap<B>(
        &self,
        is_dead: impl Fn(u32) -> bool,
        barrier: impl FnOnce() -> Result<(), B>,
    ) -> Result<Reaped, B> {
        let mut reaped = Reaped::default();
        if !self.knows_tids() {
            return Ok(reaped);
        }
        for spare in self.lines.iter().flat_map(|line| &line.spare) {
            // Acquire: the look at the thread comes after it.
            let word = spare.load(Ordering::Acquire);
            let tid = claimed_by(word);
            // The claimer has not left, and nobody claims what is not free: if it is dead now, the
            // slot is its legacy. A later thread of its id finds the slot taken.
            if tid != 0 && is_dead(tid) {
                // AcqRel: the next claim acquires what the reaper saw. Only the reaper clears
                // slots of the dead, so that it cannot fail.
                let cleared = spare.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed);
                reaped.sections = reaped.sections.saturating_add(usize::from(cleared.is_ok()));
            }
        }
        let mut marked = [(0_usize, 0_u32); LINES];
        let mut any = false;
        for (line, marked) in self.lines.iter().zip(&mut marked) {
            // Acquire: the id that was stored before the owner.
            let owner = line.owner.load(Ordering::Acquire);
            // Relaxed: ordered by the load before.
            let tid = line.tid.load(Ordering::Relaxed);
            if owner > TOMB && tid != 0 && is_dead(tid) {
                // SeqCst: precedes the barrier. Fails when a successor inherits the line.
                let taken =
                    line.owner
                        .compare_exchange(owner, TOMB, Ordering::SeqCst, Ordering::Relaxed);
                if taken.is_ok() {
                    *marked = (owner, tid);
                    any = true;
                }
            }
        }
        if !any {
            return Ok(reaped);
        }
        // From here on nobody enters through a marked line. A thread that was born with both names
        // of the dead one and did enter before is alive at the second look.
        let passed = self.cross(barrier);
        for (line, (owner, tid)) in self.lines.iter().zip(marked) {
            if owner == 0 {
                continue;
            }
            // Relaxed: ordered by the owner that was taken. A successor that inherited the line
            // between the look and the taking left its own id, and may be inside.
            let is_legacy = line.tid.load(Ordering::Relaxed) == tid;
            if passed.is_ok() && is_legacy && is_dead(tid) {
                // Relaxed: nobody else writes it while the owner is TOMB.
                let inside = line.word.load(Ordering::Relaxed) & INSIDE != 0;
                reaped.sections = reaped.sections.saturating_add(usize::from(inside));
                reaped.lines = reaped.lines.saturating_add(1);
                clear(line);
                give_back(line);
            } else {
                // Release: as found.
                line.owner.store(owner, Ordering::Release);
            }
        }
        passed.map(|()| reaped)
    }

    /// Makes every slot idle again in a forked child, where no other thread exists, apart from
    /// those of `thread`, the one thread that was copied; its id was `before`.
    ///
    /// What nobody can name stays: slots claimed while thread ids were not known, and the thread's
    /// shared counter. If others used them at the fork, the child's grace periods wait for ever.
    ///
    /// Async-signal-safe.
    ///
    /// # Safety
    /// - Called in the child of a fork, before it makes a thread, by the thread that forked.
    pub unsafe fn reset_after_fork(&self, thread: ThreadPointer, before: u32, now: u32) {
        // Relaxed throughout: the child has one thread.
        for line in &self.lines {
            let is_own = line.owner.load(Ordering::Relaxed) == thread.address()
                && line.tid.load(Ordering::Relaxed) == before;
            if is_own {
                line.tid.store(now, Ordering::Relaxed);
            } else {
                clear(line);
                give_back(line);
            }
            for spare in &line.spare {
                let word = spare.load(Ordering::Relaxed);
                let tid = claimed_by(word);
                if tid == before && tid != 0 {
                    spare.store(word & !INSIDE | claimer(now), Ordering::Relaxed);
                } else if tid != 0 {
                    spare.store(0, Ordering::Relaxed);
                }
            }
        }
        let own = self.shard(thread);
        for shard in self.shards.iter().filter(|shard| !ptr::eq(*shard, own)) {
            shard.inside.store(0, Ordering::Relaxed);
        }
    }
}

/// Takes `line` from `owner` for the thread `address`, in the only order that is safe under the
/// reaper: nobody's, then the id, then the thread's.
fn take(line: &Line, owner: usize, address: usize, tid: u32) -> bool {
    // Acquire: the idle word that the previous owner left is seen; pairs with the Release in
    // give_back(). Relaxed on failure: nothing was taken.
    let taken = line
        .owner
        .compare_exchange(owner, TOMB, Ordering::Acquire, Ordering::Relaxed);
    if taken.is_err() {
        return false;
    }
    if owner != 0 {
        clear(line);
    }
    // Relaxed: published by the store of the owner.
    line.tid.store(tid, Ordering::Relaxed);
    // Release: the reaper that sees this owner sees its id.
    line.owner.store(address, Ordering::Release);
    true
}

/// Forgets what the line's owner never left; the line is the caller's alone.
fn clear(line: &Line) {
    // Release: a scan that sees it comes after the death of the owner, and so after its reads.
    line.word.store(0, Ordering::Release);
}

/// Makes the line free.
fn give_back(line: &Line) {
    // Relaxed: published by the store of the owner.
    line.tid.store(0, Ordering::Relaxed);
    // Release: the next owner finds the idle word; pairs with the Acquire in take().
    line.owner.store(0, Ordering::Release);
}

/// Ids fit below the epoch.
const _: () = assert!(claimer(1 << 22) < EPOCH_ONE);

#[cfg(all(test, not(plug_loom)))]
mod tests {
    use super::*;
    use crate::section::{Incomplete, Stall};

    extern crate std;
    use std::boxed::Box;
    use std::mem::ManuallyDrop;

    /// A table that knows how to find ids.
    fn table() -> Box<Sections> {
        let sections = Box::new(Sections::new());
        // SAFETY: the threads of a test have assumed ids, which are not looked for anywhere.
        unsafe { sections.know_tids(4) };
        sections
    }

    fn thread(address: usize, tid: u32) -> ThreadPointer {
        // SAFETY: each test has its table to itself and runs in one thread.
        unsafe { ThreadPointer::assume(address, tid) }
    }

    fn stalled_by(sections: &Sections) -> Option<Stall> {
        match sections.synchronize(|| Ok::<(), ()>(()), |_| false) {
            Ok(()) => None,
            Err(Incomplete::Stalled(stall)) => Some(stall),
            Err(Incomplete::Barrier(())) => unreachable!("it does not fail"),
        }
    }

    fn reap(sections: &Sections, dead: &[u32]) -> Reaped {
        // SAFETY: one thread; the dead of a test do nothing more.
        let reaped = unsafe { sections.reap(|tid| dead.contains(&tid), || Ok::<(), ()>(())) };
        reaped.expect("the barrier does not fail")
    }

    /// Enters and never leaves.
    fn die_inside(sections: &Sections, thread: ThreadPointer) {
        let _never_left = ManuallyDrop::new(sections.enter(thread));
    }

    #[test]
    fn reap_of_thread_that_died_inside_its_line_ends_the_stall() {
        let sections = table();
        assert!(sections.register(thread(64, 7), 7));
        die_inside(&sections, thread(64, 7));
        assert_eq!(reap(&sections, &[8]), Reaped::default(), "7 is alive");
        assert_eq!(stalled_by(&sections).map(|stall| stall.tid), Some(7));
        assert_eq!(
            reap(&sections, &[7]),
            Reaped {
                lines: 1,
                sections: 1
            }
        );
        assert_eq!(stalled_by(&sections), None);
        assert!(
            sections.register(thread(64, 9), 9),
            "the line is free again"
        );
    }

    #[test]
    fn reap_of_unregistered_thread_that_died_inside_frees_its_slot() {
        let sections = table();
        die_inside(&sections, thread(64, 7));
        let alive = sections.enter(thread(64, 8));
        assert_eq!(stalled_by(&sections).map(|stall| stall.tid), Some(7));
        assert_eq!(
            reap(&sections, &[7]),
            Reaped {
                lines: 0,
                sections: 1
            }
        );
        assert_eq!(stalled_by(&sections).map(|stall| stall.tid), Some(8));
        drop(alive);
        assert_eq!(stalled_by(&sections), None);
    }

    #[test]
    fn reap_without_known_ids_leaves_everything() {
        let sections = Box::new(Sections::new());
        assert!(sections.register(thread(64, 7), 7));
        die_inside(&sections, thread(64, 7));
        assert_eq!(reap(&sections, &[7]), Reaped::default());
        assert!(stalled_by(&sections).is_some());
    }

    #[test]
    fn reap_whose_barrier_fails_leaves_lines_as_they_are() {
        let sections = table();
        assert!(sections.register(thread(64, 7), 7));
        die_inside(&sections, thread(64, 7));
        // SAFETY: as in reap().
        let refused = unsafe { sections.reap(|tid| tid == 7, || Err("no")) };
        assert_eq!(refused, Err("no"));
        assert_eq!(stalled_by(&sections).map(|stall| stall.tid), Some(7));
        assert_eq!(reap(&sections, &[7]).lines, 1);
    }

    #[test]
    fn reap_of_thread_whose_id_came_back_to_life_clears_nothing() {
        let sections = table();
        assert!(sections.register(thread(64, 7), 7));
        let looks = core::cell::Cell::new(0);
        let section = sections.enter(thread(64, 7));
        // Dead at the first look; at the second a new thread has both names and is inside.
        let is_dead = |_| {
            looks.set(looks.get() + 1);
            looks.get() == 1
        };
        // SAFETY: the second answer is what the rule is about.
        let reaped = unsafe { sections.reap(is_dead, || Ok::<(), ()>(())) };
        assert_eq!(reaped, Ok(Reaped::default()));
        assert!(stalled_by(&sections).is_some());
        drop(section);
        assert_eq!(stalled_by(&sections), None);
    }

    #[test]
    fn successor_of_the_same_thread_pointer_never_continues_what_the_dead_one_left() {
        let sections = table();
        assert!(sections.register(thread(64, 7), 7));
        die_inside(&sections, thread(64, 7));
        let next = thread(64, 8);
        assert!(!sections.is_inside(next) && !sections.is_registered(next));
        // Not registered: by a claim of its own, which the reaper does not touch.
        let section = sections.enter(next);
        assert_eq!(reap(&sections, &[7]).sections, 1);
        assert_eq!(stalled_by(&sections).map(|stall| stall.tid), Some(8));
        assert!(sections.is_inside(next));
        drop(section);
        assert_eq!(stalled_by(&sections), None);
    }

    #[test]
    fn thousand_successors_of_one_thread_pointer_inherit_one_line() {
        let sections = table();
        for tid in 1..=1000 {
            let thread = thread(64, tid);
            assert!(sections.register(thread, tid));
            assert!(!sections.is_inside(thread));
            assert_eq!(stalled_by(&sections), None);
            // Every third dies inside, every third without a word, the rest leave properly.
            match tid % 3 {
                0 => die_inside(&sections, thread),
                1 => drop(sections.enter(thread)),
                _ => sections.unregister(thread),
            }
        }
        let owned = |line: &&Line| line.owner.load(Ordering::Relaxed) != 0;
        assert!(sections.lines.iter().filter(owned).count() <= 1);
    }

    #[test]
    fn an_unregistered_thread_finds_itself_and_nobody_else_inside() {
        let sections = table();
        let others = sections.enter(thread(128, 8));
        assert!(!sections.is_inside(thread(64, 7)));
        let own = sections.enter(thread(64, 7));
        assert!(sections.is_inside(thread(64, 7)));
        drop(others);
        assert!(sections.is_inside(thread(64, 7)) && !sections.is_inside(thread(128, 8)));
        drop(own);
        assert!(!sections.is_inside(thread(64, 7)));
    }

    #[test]
    fn fork_keeps_the_forking_threads_sections_and_nobody_elses() {
        let sections = table();
        assert!(sections.register(thread(64, 7), 7));
        assert!(sections.register(thread(128, 8), 8));
        die_inside(&sections, thread(128, 8));
        die_inside(&sections, thread(192, 9));
        let by_line = sections.enter(thread(64, 7));
        let by_claim = sections.enter_unregistered(thread(64, 7));
        // SAFETY: one thread, which stands for the one that forked.
        unsafe { sections.reset_after_fork(thread(64, 17), 7, 17) };
        let child = thread(64, 17);
        assert!(sections.is_registered(child));
        assert_eq!(stalled_by(&sections).map(|stall| stall.tid), Some(17));
        drop(by_line);
        assert_eq!(
            stalled_by(&sections),
            Some(Stall {
                thread_pointer: 0,
                tid: 17
            })
        );
        drop(by_claim);
        assert_eq!(stalled_by(&sections), None);
        assert!(
            sections.register(thread(128, 18), 18),
            "the child's threads"
        );
    }
}
