//! Alternate signal stacks that plugins set: which threads have one.
//!
//! Only a thread itself can set its stack. It puts back what was there before at a quiescent point
//! while the plugin leaves; until then, or until its end, it keeps the plugin mapped.
//!
//! What a plugin may call here works in a handler and in a forked child: no lock, no allocation.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use plug_readside::thread_pointer;

use super::hooks::owner;
use super::ledger::{Debt, Owner};
use super::remains::{self, Kind};
use crate::calls;
use crate::sys::{alternate_stack, clock, task};

/// Threads with a plugin's stack at a time. A plugin that finds no room is pinned.
const ROOM: usize = 256;

/// In the place of a load's number while an entry is written.
const CLAIMED: u64 = u64::MAX;

/// One thread's alternate stack.
#[derive(Debug)]
struct Entry {
    /// The load that set it; 0 for none, or [`CLAIMED`]. Claimed by [`set_stack`], given back by
    /// the thread itself or by who finds it dead. All words are accessed by SeqCst: cold.
    generation: AtomicU64,
    /// The thread: its pointer and its id.
    thread: AtomicUsize,
    tid: AtomicU32,
    /// When it set the stack, in ticks since the machine started: a thread that is younger has
    /// only got the number.
    since: AtomicU64,
    /// Where the stack starts.
    start: AtomicUsize,
    /// Start, flags and size of what was set before. Written and read by the thread itself.
    before: (AtomicUsize, AtomicI32, AtomicUsize),
}

static TABLE: [Entry; ROOM] = [const {
    Entry {
        generation: AtomicU64::new(0),
        thread: AtomicUsize::new(0),
        tid: AtomicU32::new(0),
        since: AtomicU64::new(0),
        start: AtomicUsize::new(0),
        before: (AtomicUsize::new(0), AtomicI32::new(0), AtomicUsize::new(0)),
    }
}; ROOM];

/// One past the last entry that was ever used (SeqCst): no need to look further.
static USED: AtomicUsize = AtomicUsize::new(0);

impl Entry {
    fn is_of(&self, generation: u64) -> bool {
        self.generation.load(Ordering::SeqCst) == generation
    }

    fn is_own(&self) -> bool {
        let generation = self.generation.load(Ordering::SeqCst);
        generation != 0
            && generation != CLAIMED
            && self.thread.load(Ordering::SeqCst) == thread_pointer().address()
            && self.tid.load(Ordering::SeqCst) == task::id()
    }

    fn before(&self) -> libc::stack_t {
        let (start, flags, size) = &self.before;
        libc::stack_t {
            ss_sp: ptr::with_exposed_provenance_mut(start.load(Ordering::SeqCst)),
            ss_flags: flags.load(Ordering::SeqCst),
            ss_size: size.load(Ordering::SeqCst),
        }
    }

    fn set_before(&self, before: &libc::stack_t) {
        let (start, flags, size) = &self.before;
        start.store(before.ss_sp.expose_provenance(), Ordering::SeqCst);
        flags.store(before.ss_flags, Ordering::SeqCst);
        size.store(before.ss_size, Ordering::SeqCst);
    }

    /// The thread no longer has the stack: whoever would put it back puts back what was before it.
    fn forget(&self) {
        let start = self.start.load(Ordering::SeqCst);
        for other in used().iter().filter(|other| other.is_own()) {
            if other.before().ss_sp.addr() == start {
                other.set_before(&self.before());
            }
        }
        self.generation.store(0, Ordering::SeqCst);
    }

    /// Gives the entry of a dead thread back, unless somebody else has taken it for dead, too.
    fn give_back(&self, generation: u64) {
        // SeqCst, both: cold.
        let _given =
            self.generation
                .compare_exchange(generation, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether its thread has ended, whoever has its number now.
    fn is_dead(&self) -> bool {
        let tid = self.tid.load(Ordering::SeqCst);
        let since = self.since.load(Ordering::SeqCst);
        task::is_dead(tid) || task::started(tid).is_some_and(|started| started > since + 1)
    }
}

fn used() -> &'static [Entry] {
    TABLE.get(..USED.load(Ordering::SeqCst)).unwrap_or_default()
}

/// Whether any plugin ever set a stack.
pub(super) fn is_any() -> bool {
    USED.load(Ordering::SeqCst) != 0
}

fn claim() -> Option<&'static Entry> {
    let free = |(number, entry): (usize, &'static Entry)| {
        // SeqCst, both: cold.
        let claimed =
            entry
                .generation
                .compare_exchange(0, CLAIMED, Ordering::SeqCst, Ordering::SeqCst);
        claimed.is_ok().then_some((number, entry))
    };
    let look = || TABLE.iter().enumerate().find_map(free);
    let (number, entry) = look().or_else(|| {
        give_back_of_dead();
        look()
    })?;
    USED.fetch_max(number + 1, Ordering::SeqCst);
    Some(entry)
}

/// Gives the entries back whose threads are not there any more.
fn give_back_of_dead() {
    for entry in used() {
        let generation = entry.generation.load(Ordering::SeqCst);
        let errno = task::errno();
        if generation != CLAIMED && task::is_unknown(entry.tid.load(Ordering::SeqCst)) {
            entry.give_back(generation);
        }
        task::set_errno(errno);
    }
}

/// `sigaltstack`, called by the function at `caller`.
unsafe extern "C-unwind" fn set_stack(
    new: *const libc::stack_t,
    old: *mut libc::stack_t,
    caller: usize,
) -> c_int {
    if new.is_null() || task::is_guest() {
        // SAFETY: passed on as it came.
        return unsafe { alternate_stack::set(new, old) };
    }
    let before = alternate_stack::present();
    // SAFETY: passed on as it came.
    let status = unsafe { alternate_stack::set(new, old) };
    if status == 0 {
        // SAFETY: the kernel has just read it.
        let set = unsafe { new.read() };
        let near = [caller, set.ss_sp.addr(), new.addr(), calls::current()];
        if let Some(owner) = near.into_iter().find_map(owner) {
            was_set(owner, &set, before);
        }
    }
    status
}

/// The running thread's stack is now `set` and was `before`.
fn was_set(owner: Owner, set: &libc::stack_t, before: libc::stack_t) {
    let mut own = used().iter().filter(|entry| entry.is_own());
    let known = own.find(|entry| entry.is_of(owner.generation));
    let is_none = set.ss_flags & libc::SS_DISABLE != 0;
    if let Some(known) = known {
        if is_none || known.before().ss_sp == set.ss_sp {
            known.forget();
        } else {
            known.start.store(set.ss_sp.addr(), Ordering::SeqCst);
        }
        return;
    }
    if is_none {
        return;
    }
    let Some(entry) = claim() else {
        remains::note(owner.generation, Kind::Stack);
        return;
    };
    entry.set_before(&before);
    entry
        .thread
        .store(thread_pointer().address(), Ordering::SeqCst);
    entry.tid.store(task::id(), Ordering::SeqCst);
    entry.since.store(clock::ticks(), Ordering::SeqCst);
    entry.start.store(set.ss_sp.addr(), Ordering::SeqCst);
    entry.generation.store(owner.generation, Ordering::SeqCst);
}

super::with_caller! {
    /// `sigaltstack`.
    pub(super) fn sigaltstack_hook(third) => set_stack;
}

/// Puts back what the running thread had before the load `generation` set its stack; the thread is
/// outside of all plugins' code.
pub(super) fn settle(generation: u64) {
    let own = |entry: &&Entry| entry.is_of(generation) && entry.is_own();
    for entry in used().iter().filter(own) {
        let present = alternate_stack::present();
        let is_set =
            present.ss_size != 0 && present.ss_sp.addr() == entry.start.load(Ordering::SeqCst);
        let before = entry.before();
        // SAFETY: what was set before, which its owner keeps while it may be set again. It is
        // refused to a thread that runs on the stack just now.
        if !is_set || unsafe { alternate_stack::set(&raw const before, ptr::null_mut()) } == 0 {
            entry.forget();
        }
    }
}

/// Threads that have a stack of the load's. Thread context.
pub(super) fn debts(generation: u64) -> Vec<Debt> {
    let mut debts = Vec::new();
    for entry in used().iter().filter(|entry| entry.is_of(generation)) {
        if entry.is_dead() {
            entry.give_back(generation);
            continue;
        }
        debts.push(Debt {
            tid: entry.tid.load(Ordering::SeqCst),
            has_stack: true,
            ..Debt::default()
        });
    }
    debts
}

/// Threads that have a stack of the load's.
pub(super) fn count(generation: u64) -> usize {
    let of = used().iter().filter(|entry| entry.is_of(generation));
    of.count()
}

/// Forgets, in a forked child, all threads but the running one, whose number is `now`.
pub(super) fn reset_after_fork(now: u32) {
    for entry in used() {
        if entry.thread.load(Ordering::SeqCst) == thread_pointer().address() {
            entry.tid.store(now, Ordering::SeqCst);
        } else {
            entry.generation.store(0, Ordering::SeqCst);
        }
    }
}
