//! Timers of plugins: deleted when the plugin leaves. Functions that they call run behind one of
//! the loader's, which enters the plugin's gate, so that an unload waits for those that run, and
//! none runs afterwards.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::hooks::owner;
use super::ledger::{self, Owner, What};
use super::remains::{self, Kind};
use crate::calls;
use crate::sys::task;
use crate::sys::timer::{self, Notice};

/// Timers of plugins at a time; a plugin that wants one more is told what libc says where the
/// kernel has no more.
const ROOM: usize = 1024;

/// In the place of a load's number while an entry is written.
const CLAIMED: u64 = u64::MAX;

/// One timer of a plugin's. All words are accessed by SeqCst: cold.
#[derive(Debug)]
struct Timer {
    /// The load that it belongs to; 0 for none, or [`CLAIMED`]. Claimed by [`create`], given back
    /// by who deletes the timer.
    generation: AtomicU64,
    /// The load's slot. Stored by [`create`].
    id: AtomicU32,
    /// How often the entry was used. Stored by [`create`]; what a thread of libc's still calls for
    /// a timer that was deleted has another number.
    turn: AtomicU32,
    /// The plugin's function and what it is given. Stored by [`create`].
    function: AtomicUsize,
    value: AtomicUsize,
    /// What libc calls the timer. Stored by [`create`], once it is made.
    timer: AtomicUsize,
}

static TABLE: [Timer; ROOM] = [const {
    Timer {
        generation: AtomicU64::new(0),
        id: AtomicU32::new(0),
        turn: AtomicU32::new(0),
        function: AtomicUsize::new(0),
        value: AtomicUsize::new(0),
        timer: AtomicUsize::new(0),
    }
}; ROOM];

/// One past the last entry that was ever used (SeqCst): no need to look further.
static USED: AtomicUsize = AtomicUsize::new(0);

fn used() -> &'static [Timer] {
    TABLE.get(..USED.load(Ordering::SeqCst)).unwrap_or_default()
}

impl Timer {
    /// Takes the entry from the load `generation`; whoever can deletes the timer.
    fn take(&self, generation: u64) -> bool {
        let (own, claimed) = (&self.generation, CLAIMED);
        // SeqCst, both: cold.
        ![0, CLAIMED].contains(&generation)
            && own
                .compare_exchange(generation, claimed, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    fn put(&self, generation: u64) {
        self.generation.store(generation, Ordering::SeqCst);
    }
}

/// `timer_create`, called by the function at `caller`.
unsafe extern "C-unwind" fn create(
    clock: c_int,
    notice: *const Notice,
    made: *mut usize,
    caller: usize,
) -> c_int {
    // SAFETY: null or a notice, as for timer_create().
    let function = unsafe { Notice::function(notice) };
    let near = [
        function.unwrap_or(0),
        caller,
        made.addr(),
        notice.addr(),
        calls::current(),
    ];
    let owner = match near.into_iter().find_map(owner) {
        Some(owner) if !task::is_guest() => owner,
        // SAFETY: passed on as it came.
        _ => return unsafe { timer::create(clock, notice, made) },
    };
    let free = |(_, entry): &(usize, &Timer)| {
        // SeqCst, both: cold.
        let claimed =
            entry
                .generation
                .compare_exchange(0, CLAIMED, Ordering::SeqCst, Ordering::SeqCst);
        claimed.is_ok()
    };
    let Some((number, entry)) = TABLE.iter().enumerate().find(free) else {
        task::set_errno(libc::EAGAIN);
        return -1;
    };
    USED.fetch_max(number + 1, Ordering::SeqCst);
    remains::note(owner.generation, Kind::Timer);
    let turn = entry.turn.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
    entry.id.store(owner.id, Ordering::SeqCst);
    entry
        .function
        .store(function.unwrap_or(0), Ordering::SeqCst);
    let mut instead;
    let mut asked = notice;
    if function.is_some() {
        // SAFETY: it has a function, so there is one.
        instead = unsafe { notice.read() };
        entry.value.store(instead.value, Ordering::SeqCst);
        instead.value = number | (turn as usize) << 32;
        instead.function = on_timer as *const () as usize;
        asked = &raw const instead;
    }
    // SAFETY: as asked for, but for what is called.
    let status = unsafe { timer::create(clock, asked, made) };
    if status == 0 {
        // SAFETY: written just now.
        entry.timer.store(unsafe { made.read() }, Ordering::SeqCst);
        entry.put(owner.generation);
    } else {
        entry.put(0);
    }
    status
}

/// `timer_delete`.
pub(super) unsafe extern "C-unwind" fn delete(timer: usize) -> c_int {
    let mut known = None;
    if !task::is_guest() {
        known = used().iter().find_map(|entry| {
            let generation = entry.generation.load(Ordering::SeqCst);
            let is_it = entry.timer.load(Ordering::SeqCst) == timer;
            (is_it && entry.take(generation)).then_some((entry, generation))
        });
    }
    // SAFETY: passed on as it came.
    let status = unsafe { timer::delete(timer) };
    if let Some((entry, generation)) = known {
        entry.put(if status == 0 { 0 } else { generation });
    }
    status
}

super::with_caller! {
    /// `timer_create`.
    pub(super) fn timer_create_hook(fourth) => create;
}

/// What libc calls, on a thread made for that, when a timer is over.
unsafe extern "C-unwind" fn on_timer(value: usize) {
    let (number, turn) = (value & 0xffff_ffff, value >> 32);
    let Some(entry) = TABLE.get(number) else {
        return;
    };
    // A timer is not set before timer_create() has returned, so that the entry is written.
    let generation = entry.generation.load(Ordering::SeqCst);
    let id = entry.id.load(Ordering::SeqCst);
    let function = entry.function.load(Ordering::SeqCst);
    let value = entry.value.load(Ordering::SeqCst);
    let is_same = entry.generation.load(Ordering::SeqCst) == generation
        && entry.turn.load(Ordering::SeqCst) as usize == turn;
    if !is_same || [0, CLAIMED].contains(&generation) || function == 0 {
        return;
    }
    if let Some(entered) = calls::enter_callback(id, generation, function) {
        // It counts as a thread of the plugin's until its end: it may have thread-locals.
        let start = function;
        ledger::note(Owner { id, generation }, What::Thread { start });
        // SAFETY: the plugin's function for this timer, which the gate keeps mapped.
        unsafe { timer::call(function, value) };
        entered.finish_callback();
    }
}

/// Deletes the timers that the load left. Thread context; as often as one likes.
pub(crate) fn withdraw(generation: u64) {
    for entry in used() {
        if entry.take(generation) {
            // SAFETY: made by create(), and only whoever took the entry deletes it.
            unsafe { timer::delete(entry.timer.load(Ordering::SeqCst)) };
            entry.put(0);
        }
    }
}

/// Timers that the load has.
pub(crate) fn count(generation: u64) -> usize {
    let of = |entry: &&Timer| entry.generation.load(Ordering::SeqCst) == generation;
    used().iter().filter(of).count()
}

/// Forgets, in a forked child, all timers: they are its parent's.
pub(super) fn reset_after_fork() {
    for entry in used() {
        entry.put(0);
    }
}
