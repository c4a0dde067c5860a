//! What a plugin leaves in this process, and its undoing: destructors of thread-locals, keys,
//! threads, handlers of signals, alternate stacks, timers, functions for the process's end, handlers
//! around forks, libraries and mappings of its own file.
//!
//! Before any of a plugin's code runs, the words of its image that hold the addresses of certain
//! imported functions are redirected to functions of the loader's ([`hooks`]). glibc, which would
//! keep the plugin mapped for as long as a thread owes it a destructor, never hears of them; the
//! loader runs them where they belong ([`ledger`]). What calls the plugin by itself, such as a
//! handler of a signal, does so through functions of the loader's that stay for ever.

/// Functions in the place of imports that tell where they were called from: the return address is
/// the argument of this number, behind those that the import has.
macro_rules! with_caller {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($which:ident) => $target:path;)*) => {$(
        $(#[$doc])*
        #[unsafe(naked)]
        $vis unsafe extern "C-unwind" fn $name() {
            #[cfg(target_arch = "x86_64")]
            std::arch::naked_asm!(
                concat!("mov ", with_caller!(@x86 $which), ", [rsp]"),
                "jmp {target}",
                target = sym $target,
            );
            #[cfg(target_arch = "aarch64")]
            std::arch::naked_asm!(
                concat!("mov ", with_caller!(@arm $which), ", x30"),
                "b {target}",
                target = sym $target,
            );
        }
    )*};
    (@x86 second) => { "rsi" };
    (@x86 third) => { "rdx" };
    (@x86 fourth) => { "rcx" };
    (@arm second) => { "x1" };
    (@arm third) => { "x2" };
    (@arm fourth) => { "x3" };
}
use with_caller;

pub(crate) mod account;
pub(crate) mod blocks;
pub(crate) mod counting;
pub(crate) mod descriptors;
mod exits;
mod forks;
pub(crate) mod hooks;
pub(crate) mod keys;
pub(crate) mod ledger;
mod libraries;
mod mappings;
mod notices;
pub(crate) mod remains;
mod signals;
mod stacks;
mod timers;

#[cfg(feature = "measuring")]
use std::sync::atomic::{AtomicBool, Ordering};

use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::image::{Facts, FileKey, Import, ImportSlot};
use crate::sys::{code, slots, task};

pub(crate) use ledger::Owner;
pub(crate) use libraries::Object;
use remains::Kind;

/// How much a plugin has in the process at one moment that goes when it leaves, by kind: what its
/// own code asked for. What libraries do on its behalf is not counted, but for those that it opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footprint {
    /// Destructors of thread-locals that threads have yet to run.
    pub thread_locals: usize,
    /// Keys for thread-specific data.
    pub keys: usize,
    /// Values of those keys that threads have yet to destroy.
    pub key_values: usize,
    /// Threads that it started, those that its timers run on included.
    pub threads: usize,
    /// Handlers of signals that are in force.
    pub signals: usize,
    /// Threads whose alternate signal stack it set.
    pub alternate_stacks: usize,
    /// Timers.
    pub timers: usize,
    /// Functions for the process's end, by `on_exit` and `at_quick_exit`. The former keep it
    /// mapped for ever.
    pub exit_functions: usize,
    /// Registrations of handlers around forks.
    pub fork_handlers: usize,
    /// Handles of libraries that it opened.
    pub libraries: usize,
    /// Mappings that it made of its own file.
    pub mappings: usize,
    /// Functions that libc may call at any time without passing the plugin's gate: given to
    /// `mq_notify`, `aio_*` and `getaddrinfo_a`. How many of them are still to be called is not
    /// known. An unload warns of them.
    pub uncovered: usize,
}

/// What the load has in the process just now. Thread context.
pub(crate) fn of(generation: u64) -> Footprint {
    let (thread_locals, key_values, threads) = ledger::counts(generation);
    Footprint {
        thread_locals,
        keys: keys::count(generation),
        key_values,
        threads,
        signals: signals::count(generation),
        alternate_stacks: stacks::count(generation),
        timers: timers::count(generation),
        exit_functions: exits::count(generation),
        fork_handlers: forks::count(generation),
        libraries: libraries::count(generation),
        mappings: mappings::count(generation),
        uncovered: remains::count_uncovered(generation),
    }
}

/// Whether the file with these facts opens libraries by itself.
pub(crate) fn opens_libraries(facts: &Facts) -> bool {
    let opens = |slot: &ImportSlot| [Import::DlOpen, Import::DlmOpen].contains(&slot.import);
    facts.imports.iter().any(opens)
}

/// Lets the load `generation`, which consists of `objects`, the plugin first, find libraries as its
/// originals would; until [`release`].
pub(crate) fn find_as_originals(generation: u64, objects: Vec<Object>) {
    libraries::know(generation, objects);
}

/// Redirects the imports of the plugin `owner`, which is mapped at `bias` from the file `staged`.
///
/// # Errors
/// [`ErrorKind::Map`] when the words cannot be made writable.
///
/// # Safety
/// - The plugin is relocated, none of its code has run, and `facts` are those of its file.
pub(crate) unsafe fn redirect(
    facts: &Facts,
    bias: usize,
    owner: Owner,
    staged: impl FnOnce() -> Option<FileKey>,
) -> Result<(), Error> {
    if facts.imports.is_empty() || !is_redirecting() {
        return Ok(());
    }
    let maps = |slot: &ImportSlot| slot.import == Import::Mmap;
    if facts.imports.iter().any(maps)
        && let Some(key) = staged()
    {
        mappings::know(owner, key.dev, key.ino);
    }
    let protected = protected(facts, bias);
    let imports = facts.imports.iter().filter_map(|slot| {
        let word = code::run_time(bias, slot.vaddr);
        // SAFETY: a word of the relocated image.
        let bound = unsafe { slots::word(word) };
        hooks::was_bound(slot.import, bound);
        let is_other = hooks::is_other_version(slot.import, bound);
        (!is_other).then(|| (word, hooks::address(slot.import)))
    });
    // SAFETY: words that ld.so relocated with the address of the import that each hook stands in
    // for; the rest is our caller's word.
    unsafe { slots::redirect(imports, protected) }.map_err(|error| {
        Error::new(ErrorKind::Map, "the imports cannot be redirected").because(error)
    })
}

/// Takes back what would call the load by itself: handlers of signals and timers. Those that run
/// are in its gate. Thread context; as often as one likes.
pub(crate) fn withdraw(generation: u64) {
    signals::withdraw(generation);
    timers::withdraw(generation);
}

/// Whether anything may ever have called the load by itself, through its gate.
pub(crate) fn has_callbacks(generation: u64) -> bool {
    signals::has_any(generation) || remains::count(generation, Kind::Timer) > 0
}

/// Gives back what the process keeps for a load whose destructors have run and whom threads owe
/// nothing. Thread context.
pub(crate) fn release(owner: Owner) {
    let generation = owner.generation;
    withdraw(generation);
    signals::release(generation);
    forks::release(generation);
    exits::release(generation);
    libraries::release(generation);
    mappings::release(owner);
    keys::release(generation);
    remains::release(generation);
}

/// Gets what the footprint cannot do without.
///
/// # Errors
/// [`ErrorKind::Thread`] where the process has no key left.
pub(crate) fn prepare() -> Result<(), Error> {
    task::remember_process();
    ledger::prepare()
}

/// Takes the locks besides the ledger's, for a fork; none where they are not to be had in time.
pub(crate) fn hold(deadline: Deadline) -> Option<impl Sized> {
    Some((exits::hold(deadline)?, libraries::hold(deadline)?))
}

/// Makes it the child's after a fork, whose only thread is the running one, `now`. A child that this
/// is not called in only borrows what is there: nothing that its plugins do is written down.
pub(crate) fn reset_after_fork(now: u32) {
    task::remember_process();
    stacks::reset_after_fork(now);
    timers::reset_after_fork();
    forks::reset_after_fork();
}

/// Whether imports are left alone, for a benchmark. Written by it, read by its loads (Relaxed).
#[cfg(feature = "measuring")]
static IS_OFF: AtomicBool = AtomicBool::new(false);

#[cfg(feature = "measuring")]
pub(crate) fn set_redirecting(is_wanted: bool) {
    IS_OFF.store(!is_wanted, Ordering::Relaxed);
}

#[cfg(feature = "measuring")]
fn is_redirecting() -> bool {
    !IS_OFF.load(Ordering::Relaxed)
}

#[cfg(not(feature = "measuring"))]
fn is_redirecting() -> bool {
    true
}

/// What ld.so made read-only after it relocated a plugin: whole pages that end before the range does.
pub(crate) fn protected(facts: &Facts, bias: usize) -> (usize, usize) {
    let page = rustix::param::page_size();
    facts.relro.map_or((0, 0), |relro| {
        let start = code::run_time(bias, relro.vaddr);
        let end = code::run_time(bias, relro.vaddr.saturating_add(relro.size));
        (start - start % page, end - end % page)
    })
}
