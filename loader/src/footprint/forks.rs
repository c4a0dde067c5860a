//! Handlers of plugins around forks (`pthread_atfork`): each runs behind a function of the loader's.
//!
//! glibc takes them back when it runs the plugin's destructors, but waits for none that run. So an
//! unload waits until no fork is between a plugin's first handler and its last, before it runs
//! destructors; what begins once the plugin is on its way out is not run.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use plug_readside::state::{self, State, StateWord};

use super::hooks::owner;
use super::ledger::Debt;
use super::remains::{self, Kind};
use crate::sys::process_exit::{self, AtFork};

/// Registrations of plugins at a time: a bit each in a thread's word. One that finds no room is
/// made with glibc alone, and no gate covers it.
const ROOM: usize = 64;

/// In the place of a load's number while an entry is written.
const CLAIMED: u64 = u64::MAX;

/// One registration. All words are accessed by SeqCst: cold.
#[derive(Debug)]
struct Registration {
    /// The load that it belongs to; 0 for none, or [`CLAIMED`]. Claimed by [`register`], given back
    /// by [`release`].
    generation: AtomicU64,
    /// The load's slot.
    id: AtomicU32,
    /// The plugin's functions; 0 for none.
    functions: [AtomicUsize; 3],
    /// Forks that are between the first and the last. Raised before the state is looked at, which
    /// is changed before this is: one of both sees the other.
    running: AtomicUsize,
}

static TABLE: [Registration; ROOM] = [const {
    Registration {
        generation: AtomicU64::new(0),
        id: AtomicU32::new(0),
        functions: [const { AtomicUsize::new(0) }; 3],
        running: AtomicUsize::new(0),
    }
}; ROOM];

thread_local! {
    /// Registrations whose first handler ran for the fork that this thread is making, a bit each.
    static FORKING: Cell<u64> = const { Cell::new(0) };
}

// Three functions of 16 bytes for each registration: each notes its number as the first argument
// and goes on to `on_fork`.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.plug_loader_fork_thunks,\"ax\",@progbits",
    ".balign 16",
    ".globl plug_loader_fork_thunks",
    ".hidden plug_loader_fork_thunks",
    "plug_loader_fork_thunks:",
    ".set plug_loader_fork, 0",
    ".rept 192",
    ".balign 16",
    "mov edi, offset plug_loader_fork",
    "jmp {on_fork}",
    ".set plug_loader_fork, plug_loader_fork + 1",
    ".endr",
    ".popsection",
    on_fork = sym on_fork,
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .text.plug_loader_fork_thunks,\"ax\",@progbits",
    ".balign 16",
    ".globl plug_loader_fork_thunks",
    ".hidden plug_loader_fork_thunks",
    "plug_loader_fork_thunks:",
    ".set plug_loader_fork, 0",
    ".rept 192",
    ".balign 16",
    "mov w0, #plug_loader_fork",
    "b {on_fork}",
    ".set plug_loader_fork, plug_loader_fork + 1",
    ".endr",
    ".popsection",
    on_fork = sym on_fork,
);

unsafe extern "C" {
    /// The first of the functions.
    static plug_loader_fork_thunks: u8;
}

/// The function for a handler of a registration.
fn thunk(number: usize, which: usize) -> AtFork {
    let at = (&raw const plug_loader_fork_thunks).wrapping_add((number * 3 + which) * 16);
    // SAFETY: one of the functions above, which take nothing.
    unsafe { mem::transmute::<*const u8, AtFork>(at) }
}

/// `__register_atfork`.
pub(super) unsafe extern "C-unwind" fn register(
    prepare: Option<AtFork>,
    parent: Option<AtFork>,
    child: Option<AtFork>,
    dso: *mut c_void,
) -> c_int {
    let functions = [prepare, parent, child];
    let addresses = functions.map(|function| function.map_or(0, |function| function as usize));
    let Some(owner) = addresses.into_iter().chain([dso.addr()]).find_map(owner) else {
        // SAFETY: passed on as it came.
        return unsafe { process_exit::around_forks(functions, dso) };
    };
    let free = |(_, entry): &(usize, &Registration)| {
        // SeqCst, both: cold.
        let claimed =
            entry
                .generation
                .compare_exchange(0, CLAIMED, Ordering::SeqCst, Ordering::SeqCst);
        claimed.is_ok()
    };
    let Some((number, entry)) = TABLE.iter().enumerate().find(free) else {
        remains::note(owner.generation, Kind::ForkHandlers);
        // SAFETY: passed on as it came.
        return unsafe { process_exit::around_forks(functions, dso) };
    };
    entry.id.store(owner.id, Ordering::SeqCst);
    for (place, address) in entry.functions.iter().zip(addresses) {
        place.store(address, Ordering::SeqCst);
    }
    entry.generation.store(owner.generation, Ordering::SeqCst);
    let instead = [0, 1, 2].map(|which| Some(thunk(number, which)));
    // SAFETY: the functions are there for ever, and are taken back as the plugin's own would be.
    let status = unsafe { process_exit::around_forks(instead, dso) };
    if status != 0 {
        entry.generation.store(0, Ordering::SeqCst);
    }
    status
}

/// What each of the functions goes on to.
unsafe extern "C-unwind" fn on_fork(place: usize) {
    // They set only the lower half.
    let place = place & 0xffff_ffff;
    let (number, which) = (place / 3, place % 3);
    let Some(entry) = TABLE.get(number) else {
        return;
    };
    let bit = 1 << number;
    let forking = FORKING.get();
    if which == 0 {
        entry.running.fetch_add(1, Ordering::SeqCst);
        let generation = entry.generation.load(Ordering::SeqCst);
        let now = state::cell(entry.id.load(Ordering::SeqCst)).load(Ordering::SeqCst);
        let is_in = [State::Live, State::Coming]
            .into_iter()
            .any(|state| now == StateWord::new(generation, state).0);
        if !is_in {
            entry.running.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        FORKING.set(forking | bit);
        run(entry, which);
    } else if forking & bit != 0 {
        FORKING.set(forking & !bit);
        run(entry, which);
        entry.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn run(entry: &Registration, which: usize) {
    let function = entry.functions.get(which);
    let function = function.map_or(0, |function| function.load(Ordering::SeqCst));
    if function != 0 {
        // SAFETY: the plugin's, mapped while the registration counts as running.
        let function = unsafe { mem::transmute::<usize, AtFork>(function) };
        // SAFETY: as glibc would, on the thread that forks.
        unsafe { function() };
    }
}

/// Forks that are among the load's handlers.
pub(super) fn debts(generation: u64) -> Vec<Debt> {
    let of = |entry: &&Registration| {
        entry.generation.load(Ordering::SeqCst) == generation
            && entry.running.load(Ordering::SeqCst) > 0
    };
    let busy = TABLE.iter().filter(of);
    busy.map(|_| Debt {
        is_forking: true,
        ..Debt::default()
    })
    .collect()
}

/// Gives the load's registrations back, which glibc has forgotten.
pub(super) fn release(generation: u64) {
    for entry in &TABLE {
        if entry.generation.load(Ordering::SeqCst) == generation {
            entry.generation.store(0, Ordering::SeqCst);
        }
    }
}

/// Registrations of the load.
pub(super) fn count(generation: u64) -> usize {
    let of = |entry: &&Registration| entry.generation.load(Ordering::SeqCst) == generation;
    TABLE.iter().filter(of).count()
}

/// Forgets, in a forked child, the forks of threads that are not there.
pub(super) fn reset_after_fork() {
    for (number, entry) in TABLE.iter().enumerate() {
        let own = FORKING.get() >> number & 1;
        let own = usize::try_from(own).unwrap_or(0);
        entry.running.store(own, Ordering::SeqCst);
    }
}
