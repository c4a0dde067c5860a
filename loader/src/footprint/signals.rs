//! Handlers of plugins: each is installed behind a function of the loader's, which enters the
//! plugin's gate, so that an unload waits for a handler that runs, and none runs afterwards.
//!
//! Such a function, a trampoline, knows by its own address which handler it is for. Whoever finds
//! it in force may keep it as what was there before and call it at any later time: once the plugin
//! is on its way out it does what was to be done before the plugin came.
//!
//! Everything that a plugin may call here works in a handler and in a forked child: no lock, no
//! allocation.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::hooks::owner;
use super::ledger::Owner;
use super::remains::{self, Kind};
use crate::calls;
use crate::sys::actions::{self, Action, Older, SIGNALS};
use crate::sys::task;

/// Handlers that can be installed at a time, those included that somebody may still call though
/// their plugins are gone. As many as there are keys; a plugin that finds none left is pinned.
const PLACES: usize = 1024;

/// In the place of a load's number while a place is written.
const CLAIMED: u64 = u64::MAX - 1;

/// The plugin is gone, but somebody may have kept the trampoline.
const RETIRED: u64 = u64::MAX;

/// One handler of a plugin's.
#[derive(Debug)]
struct Place {
    /// The load that it belongs to; 0 for none, or [`CLAIMED`] or [`RETIRED`]. Claimed in [`claim`],
    /// given back in [`release`]. All words of a place are accessed by SeqCst: they are cold, and
    /// whoever finds the same load here before and after has read words of that load's.
    generation: AtomicU64,
    /// The load's slot. Stored by [`claim`], read by the trampoline.
    id: AtomicU32,
    /// The signal, 0 before the first. It never changes: whoever calls a trampoline that was given
    /// back reaches a handler of the same signal. Stored by [`claim`].
    signal: AtomicI32,
    /// The plugin's handler. Stored by [`claim`].
    handler: AtomicUsize,
    /// Whether it takes three arguments. Stored by [`claim`].
    is_long: AtomicBool,
    /// Whether the trampoline is in force as far as the loader knows. Stored whenever a plugin
    /// changes the action.
    is_in_force: AtomicBool,
    /// Whether somebody else has seen the trampoline. Stored as soon as that is so.
    is_known: AtomicBool,
    /// What was to be done before: handler, flags and mask. Stored while nobody knows the
    /// trampoline, read by it and when the plugin leaves.
    before: [AtomicU64; 3],
}

static TABLE: [Place; PLACES] = [const {
    Place {
        generation: AtomicU64::new(0),
        id: AtomicU32::new(0),
        signal: AtomicI32::new(0),
        handler: AtomicUsize::new(0),
        is_long: AtomicBool::new(false),
        is_in_force: AtomicBool::new(false),
        is_known: AtomicBool::new(false),
        before: [const { AtomicU64::new(0) }; 3],
    }
}; PLACES];

/// One past the last place that was ever used (SeqCst): no need to look further.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Where the next free place is looked for, so that one that was given back is not taken at once
/// (Relaxed: any place will do).
static CURSOR: AtomicUsize = AtomicUsize::new(0);

/// How many places are taken in turn before a new one is: few, so that there is little to look at.
const TURNS: usize = 64;

// One function of 16 bytes for each place: it notes its number as the fourth argument and goes on
// to `on_signal`.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.plug_loader_signal_thunks,\"ax\",@progbits",
    ".balign 16",
    ".globl plug_loader_signal_thunks",
    ".hidden plug_loader_signal_thunks",
    "plug_loader_signal_thunks:",
    ".set plug_loader_signal, 0",
    ".rept 1024",
    ".balign 16",
    "mov ecx, offset plug_loader_signal",
    "jmp {on_signal}",
    ".set plug_loader_signal, plug_loader_signal + 1",
    ".endr",
    ".popsection",
    on_signal = sym on_signal,
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .text.plug_loader_signal_thunks,\"ax\",@progbits",
    ".balign 16",
    ".globl plug_loader_signal_thunks",
    ".hidden plug_loader_signal_thunks",
    "plug_loader_signal_thunks:",
    ".set plug_loader_signal, 0",
    ".rept 1024",
    ".balign 16",
    "mov w3, #plug_loader_signal",
    "b {on_signal}",
    ".set plug_loader_signal, plug_loader_signal + 1",
    ".endr",
    ".popsection",
    on_signal = sym on_signal,
);

unsafe extern "C" {
    /// The first of the functions.
    static plug_loader_signal_thunks: u8;
}

const THUNK: usize = 16;

/// The trampoline of a place.
fn trampoline(place: usize) -> usize {
    (&raw const plug_loader_signal_thunks)
        .wrapping_add(place * THUNK)
        .addr()
}

/// The place whose trampoline is at `address`.
fn place_at(address: usize) -> Option<&'static Place> {
    let from = address.checked_sub(trampoline(0))?;
    TABLE.get(from / THUNK)
}

impl Place {
    fn number(&self) -> usize {
        let from = ptr::from_ref(self).addr() - TABLE.as_ptr().addr();
        from / size_of::<Self>()
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// What the plugin wanted to be called, if that is known and does not change just now.
    fn wanted(&self) -> Option<(Owner, Action)> {
        for _ in 0..4 {
            let generation = self.generation();
            let owner = Owner {
                id: self.id.load(Ordering::SeqCst),
                generation,
            };
            let action = Action {
                handler: self.handler.load(Ordering::SeqCst),
                flags: self.flags(),
                ..actions::DEFAULT
            };
            if self.generation() == generation {
                let is_owned = ![0, CLAIMED, RETIRED].contains(&generation);
                return is_owned.then_some((owner, action));
            }
        }
        None
    }

    fn flags(&self) -> c_int {
        match self.is_long.load(Ordering::SeqCst) {
            true => libc::SA_SIGINFO,
            false => 0,
        }
    }

    fn before(&self) -> Action {
        let [handler, flags, mask] = &self.before;
        let handler = handler.load(Ordering::SeqCst);
        let flags = flags.load(Ordering::SeqCst);
        Action {
            handler: usize::try_from(handler).unwrap_or(libc::SIG_DFL),
            flags: u32::try_from(flags).unwrap_or(0).cast_signed(),
            mask: mask.load(Ordering::SeqCst),
            restorer: 0,
        }
    }

    /// As [`Place::before`], for a trampoline: a signal may be on its way into one that is given back
    /// and used again just now. None where that goes on and on.
    fn instead(&self) -> Option<Action> {
        for _ in 0..1_000 {
            let generation = self.generation();
            let before = self.before();
            if generation != CLAIMED && self.generation() == generation {
                return Some(before);
            }
            std::hint::spin_loop();
        }
        None
    }

    fn set_before(&self, action: Action) {
        let [handler, flags, mask] = &self.before;
        handler.store(action.handler as u64, Ordering::SeqCst);
        // As bits: the highest flag is the sign.
        flags.store(u64::from(action.flags.cast_unsigned()), Ordering::SeqCst);
        mask.store(action.mask, Ordering::SeqCst);
    }
}

/// Places that may be in use.
fn used() -> &'static [Place] {
    let used = USED.load(Ordering::SeqCst);
    TABLE.get(..used).unwrap_or(&TABLE)
}

/// What each trampoline goes on to.
unsafe extern "C-unwind" fn on_signal(
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
    place: usize,
) {
    // The trampoline sets only the lower half.
    let Some(place) = TABLE.get(place & 0xffff_ffff) else {
        return;
    };
    if let Some((owner, wanted)) = place.wanted()
        && let Some(entered) = calls::enter_callback(owner.id, owner.generation, wanted.handler)
    {
        // SAFETY: the plugin's handler, which the gate keeps mapped, and what the kernel or whoever
        // chains handlers told.
        unsafe { actions::call(&wanted, signal, info, context) };
        drop(entered);
        return;
    }
    let Some(before) = place.instead() else {
        return;
    };
    let errno = task::errno();
    if before.is_handler() {
        // SAFETY: what was in force before, which its owner keeps for those that know it.
        unsafe { actions::call(&before, signal, info, context) };
    } else if before.handler == libc::SIG_DFL {
        // Called by somebody else's handler, that has decided already what becomes of the signal.
        let own = trampoline(place.number());
        let present = actions::of(signal).map(|action| action.handler);
        let is_in_force = present == Some(own) || present == Some(libc::SIG_DFL);
        // SAFETY: as told.
        if is_in_force || unsafe { actions::recurs(signal, info) } {
            // SAFETY: as told.
            unsafe { actions::by_default(signal, info) };
        }
    }
    task::set_errno(errno);
}

/// An action as if the load `generation` had not touched it.
fn without(action: Action, generation: u64) -> Action {
    let own = place_at(action.handler).filter(|place| place.generation() == generation);
    own.map_or(action, Place::before)
}

/// A place for a handler, and whether it is a new one: the one that it had before, if the same is
/// to be done without it.
fn place_for(
    owner: Owner,
    signal: c_int,
    (handler, is_long): (usize, bool),
    before: Action,
) -> Option<(&'static Place, bool)> {
    let known = used().iter().find(|place| {
        place.generation() == owner.generation
            && place.signal.load(Ordering::SeqCst) == signal
            && place.handler.load(Ordering::SeqCst) == handler
            && place.is_long.load(Ordering::SeqCst) == is_long
            && place.before().handler == before.handler
    });
    if let Some(known) = known {
        return Some((known, false));
    }
    let place = claim(signal)?;
    place.id.store(owner.id, Ordering::SeqCst);
    place.handler.store(handler, Ordering::SeqCst);
    place.is_long.store(is_long, Ordering::SeqCst);
    place.is_in_force.store(false, Ordering::SeqCst);
    place.is_known.store(false, Ordering::SeqCst);
    place.set_before(before);
    place.generation.store(owner.generation, Ordering::SeqCst);
    Some((place, true))
}

/// A free place, of which nobody knows another signal.
fn claim(signal: c_int) -> Option<&'static Place> {
    let from = CURSOR.fetch_add(1, Ordering::Relaxed) % TURNS;
    let numbers = (0..PLACES).map(|step| from.wrapping_add(step) % PLACES);
    for number in numbers {
        let place = TABLE.get(number)?;
        let of = place.signal.load(Ordering::SeqCst);
        if of != 0 && of != signal {
            continue;
        }
        let claimed =
            place
                .generation
                .compare_exchange(0, CLAIMED, Ordering::SeqCst, Ordering::SeqCst);
        if claimed.is_err() {
            continue;
        }
        // Nobody else stores the signal of a place that is claimed.
        let of = place.signal.load(Ordering::SeqCst);
        if of == 0 || of == signal {
            place.signal.store(signal, Ordering::SeqCst);
            USED.fetch_max(number + 1, Ordering::SeqCst);
            return Some(place);
        }
        place.generation.store(0, Ordering::SeqCst);
    }
    None
}

/// A trampoline is no longer in force.
fn taken_out(handler: usize, by: u64) {
    if let Some(place) = place_at(handler) {
        place.is_in_force.store(false, Ordering::SeqCst);
        if place.generation() != by {
            place.is_known.store(true, Ordering::SeqCst);
        }
    }
}

/// The handler of `who`'s in the place of its trampoline, as it set it; none where the action is
/// somebody else's.
fn own(action: Action, who: Option<Owner>) -> Option<Action> {
    let (owner, wanted) = place_at(action.handler)?.wanted()?;
    (who? == owner).then_some(Action {
        handler: wanted.handler,
        flags: action.flags & !libc::SA_SIGINFO | wanted.flags,
        ..action
    })
}

/// Shows a plugin, `who`, an action as it would be without the loader: its own handlers, and others'
/// trampolines.
fn shown(action: Action, who: Option<Owner>) -> Action {
    own(action, who).unwrap_or_else(|| {
        if let Some(place) = place_at(action.handler) {
            place.is_known.store(true, Ordering::SeqCst);
        }
        action
    })
}

/// What a plugin's call comes to: a trampoline in the place of its handler.
struct Installing {
    owner: Owner,
    place: &'static Place,
    is_new: bool,
}

impl Installing {
    /// None where `handler` is no plugin's, or there is no place, which is noted.
    fn of(signal: c_int, handler: usize, is_long: bool) -> Option<Self> {
        let is_signal = (1..=SIGNALS).contains(&signal);
        let owner = is_signal.then(|| owner(handler)).flatten()?;
        let before = without(actions::of(signal)?, owner.generation);
        let Some((place, is_new)) = place_for(owner, signal, (handler, is_long), before) else {
            remains::note(owner.generation, Kind::Handler);
            return None;
        };
        // Before it is: somebody may replace it at once.
        place.is_in_force.store(true, Ordering::SeqCst);
        Some(Self {
            owner,
            place,
            is_new,
        })
    }

    fn trampoline(&self) -> usize {
        trampoline(self.place.number())
    }

    /// It was not installed.
    fn give_up(&self) {
        self.place.is_in_force.store(false, Ordering::SeqCst);
        if self.is_new {
            self.place.generation.store(0, Ordering::SeqCst);
        }
    }

    /// It was installed in the place of `replaced`.
    fn done(&self, replaced: Action) {
        let before = without(replaced, self.owner.generation);
        // Another thread was faster. A trampoline that was known before keeps what it had: what was
        // replaced may go on to it.
        if self.is_new && before != self.place.before() {
            self.place.set_before(before);
        }
        if replaced.handler != self.trampoline() {
            taken_out(replaced.handler, self.owner.generation);
        }
    }
}

/// `sigaction`, called by the function at `caller`.
unsafe extern "C-unwind" fn set_action(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
    caller: usize,
) -> c_int {
    if task::is_guest() {
        // SAFETY: passed on as it came.
        let status = unsafe { actions::set(signal, new, old) };
        // SAFETY: null or room for an action, written as it did not fail.
        if let Some(old) = unsafe { old.as_mut() }.filter(|_| status == 0)
            && let Some(own) = own(Action::from_libc(old), owner(caller))
        {
            own.put_into(old);
        }
        return status;
    }
    // SAFETY: null, or an action, as for sigaction().
    let wanted = unsafe { new.as_ref() };
    let installing = wanted.and_then(|wanted| {
        let is_long = wanted.sa_flags & libc::SA_SIGINFO != 0;
        Installing::of(signal, wanted.sa_sigaction, is_long)
    });
    let mut instead = wanted.copied();
    match (&installing, &mut instead) {
        (Some(installing), Some(instead)) => {
            instead.sa_sigaction = installing.trampoline();
            instead.sa_flags |= libc::SA_SIGINFO;
        }
        (None, Some(instead)) => {
            // Somebody's trampoline, kept as what was there before.
            if let Some(place) = place_at(instead.sa_sigaction) {
                place.is_known.store(true, Ordering::SeqCst);
            }
        }
        (_, None) => {}
    }
    let instead = instead.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: numbers, a set of bits and a null pointer are all valid as zero.
    let mut replaced: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: what the plugin asked for, with a trampoline that is there for ever.
    let status = unsafe { actions::set(signal, instead, &raw mut replaced) };
    let action = Action::from_libc(&replaced);
    match &installing {
        Some(installing) if status == 0 => installing.done(action),
        Some(installing) => installing.give_up(),
        None => {}
    }
    if status != 0 {
        return status;
    }
    let who = || {
        let near = [caller, old.addr(), new.addr(), calls::current()];
        let of = installing.as_ref().map(|installing| installing.owner);
        of.or_else(|| near.into_iter().find_map(owner))
    };
    if installing.is_none() && !new.is_null() && place_at(action.handler).is_some() {
        taken_out(action.handler, who().map_or(0, |who| who.generation));
    }
    if !old.is_null() {
        if place_at(action.handler).is_some() {
            shown(action, who()).put_into(&mut replaced);
        }
        // SAFETY: room for an action, as for sigaction().
        unsafe { old.write(replaced) };
    }
    status
}

/// `signal` and its like.
unsafe fn older(which: Older, signal: c_int, handler: usize, caller: usize) -> usize {
    if task::is_guest() {
        // SAFETY: passed on as it came.
        let old = unsafe { which.call(signal, handler) };
        let action = Action {
            handler: old,
            ..actions::DEFAULT
        };
        return own(action, owner(caller)).map_or(old, |own| own.handler);
    }
    let installing = Installing::of(signal, handler, false);
    let instead = installing.as_ref().map_or(handler, Installing::trampoline);
    let replaced = actions::of(signal);
    // SAFETY: as in set_action().
    let old = unsafe { which.call(signal, instead) };
    if old == libc::SIG_ERR {
        installing.iter().for_each(Installing::give_up);
        return old;
    }
    let who = installing.as_ref().map(|installing| installing.owner);
    let who = who.or_else(|| [caller, calls::current()].into_iter().find_map(owner));
    if let Some(installing) = &installing {
        // What the call does not say: that the trampoline wants to know what the kernel knows.
        if let Some(mut present) = actions::of(signal)
            && present.handler == instead
        {
            present.flags |= libc::SA_SIGINFO;
            // SAFETY: a trampoline, which is there for ever.
            unsafe { actions::exchange(signal, present) };
        }
        installing.done(replaced.unwrap_or(actions::DEFAULT));
    } else {
        taken_out(old, who.map_or(0, |who| who.generation));
    }
    let old = Action {
        handler: old,
        ..actions::DEFAULT
    };
    shown(old, who).handler
}

unsafe extern "C-unwind" fn set_bsd(signal: c_int, handler: usize, caller: usize) -> usize {
    // SAFETY: passed on as it came.
    unsafe { older(Older::Bsd, signal, handler, caller) }
}

unsafe extern "C-unwind" fn set_system_v(signal: c_int, handler: usize, caller: usize) -> usize {
    // SAFETY: passed on as it came.
    unsafe { older(Older::SystemV, signal, handler, caller) }
}

unsafe extern "C-unwind" fn set_or_hold(signal: c_int, handler: usize, caller: usize) -> usize {
    // SAFETY: passed on as it came.
    unsafe { older(Older::Set, signal, handler, caller) }
}

super::with_caller! {
    /// `sigaction`.
    pub(super) fn sigaction_hook(fourth) => set_action;
    /// `signal`.
    pub(super) fn signal_hook(third) => set_bsd;
    /// `sysv_signal`.
    pub(super) fn sysv_signal_hook(third) => set_system_v;
    /// `sigset`.
    pub(super) fn sigset_hook(third) => set_or_hold;
}

/// Puts what was there before in the place of the load's handlers, as far as they are in force.
///
/// Thread context; as often as one likes.
pub(crate) fn withdraw(generation: u64) {
    let own = |place: &&Place| place.generation() == generation;
    for place in used().iter().filter(own) {
        let signal = place.signal.load(Ordering::SeqCst);
        let trampoline = trampoline(place.number());
        let is_in_force = |action: &Action| action.handler == trampoline;
        let Some(present) = actions::of(signal).filter(is_in_force) else {
            continue;
        };
        // One-shot handlers are gone by themselves; whoever was before may have left as well.
        let mut before = place.before();
        for _ in 0..PLACES {
            match place_at(before.handler) {
                Some(gone) if gone.generation() == RETIRED => before = gone.before(),
                _ => break,
            }
        }
        // The kernel does not compare: who replaces it just now is put back.
        let mut put = before;
        let mut expected = present.handler;
        for _ in 0..PLACES {
            // SAFETY: an action that was in force before, or is put back as it was found.
            let Some(found) = (unsafe { actions::exchange(signal, put) }) else {
                break;
            };
            if found.handler == expected {
                break;
            }
            (expected, put) = (put.handler, found);
        }
        place.is_in_force.store(false, Ordering::SeqCst);
    }
}

/// Gives the places of a load back whose handlers neither run nor will: those that nobody else
/// knows. The others stay what they are, safe to be called.
///
/// Thread context, after [`withdraw`].
pub(crate) fn release(generation: u64) {
    let own = |place: &&Place| place.generation() == generation;
    for place in used().iter().filter(own) {
        let signal = place.signal.load(Ordering::SeqCst);
        // One that is not in force though no plugin took it out was replaced by somebody else, who
        // may have kept it; unless the kernel did so itself.
        let is_default = || {
            let present = actions::of(signal);
            present.is_some_and(|action| action.handler == libc::SIG_DFL)
        };
        let is_lost = place.is_in_force.load(Ordering::SeqCst) && !is_default();
        let is_known = place.is_known.load(Ordering::SeqCst) || is_lost;
        let next = if is_known { RETIRED } else { 0 };
        place.generation.store(next, Ordering::SeqCst);
    }
}

/// Handlers that the load has in force, as far as the loader knows.
pub(crate) fn count(generation: u64) -> usize {
    let own = |place: &&Place| {
        place.generation() == generation && place.is_in_force.load(Ordering::SeqCst)
    };
    used().iter().filter(own).count()
}

/// Whether the load ever installed a handler.
pub(crate) fn has_any(generation: u64) -> bool {
    used().iter().any(|place| place.generation() == generation)
}
