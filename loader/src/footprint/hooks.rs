//! The loader's own functions in the place of those that a plugin imports: each writes down what
//! the plugin leaves behind, and does what was asked for.
//!
//! Whose plugin calls is told by what it hands over: a function or an object of its own. What is
//! nobody's is passed on as it is.

use std::ffi::{c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use plug_readside::SymbolReader;

use super::ledger::{self, Owner, What};
use super::{exits, forks, keys, libraries, mappings, notices, signals, stacks, timers};
use crate::image::Import;
use crate::sys::notices::lio_listio;
use crate::sys::thread::{self, Start};
use crate::sys::thread_exit::{self, Destructor};
use crate::sys::timer;

type ShortStart = unsafe extern "C-unwind" fn(*mut c_void) -> c_int;

unsafe extern "C-unwind" {
    fn thrd_create(thread: *mut c_void, start: ShortStart, argument: *mut c_void) -> c_int;
}

/// The function to put in the place of an import, as an address.
pub(crate) fn address(import: Import) -> usize {
    let function: *const c_void = match import {
        Import::ThreadAtexit => thread_atexit as *const c_void,
        Import::KeyCreate => key_create as *const c_void,
        Import::TssCreate => short_key_create as *const c_void,
        Import::KeyDelete | Import::TssDelete => key_delete as *const c_void,
        Import::SetSpecific => set_specific as *const c_void,
        Import::TssSet => short_set_specific as *const c_void,
        Import::ThreadCreate => thread_create as *const c_void,
        Import::ThrdCreate => short_thread_create as *const c_void,
        Import::StdThread => std_thread as *const c_void,
        Import::SigAction => signals::sigaction_hook as *const c_void,
        Import::Signal => signals::signal_hook as *const c_void,
        Import::SysvSignal => signals::sysv_signal_hook as *const c_void,
        Import::SigSet => signals::sigset_hook as *const c_void,
        Import::SigAltStack => stacks::sigaltstack_hook as *const c_void,
        Import::TimerCreate => timers::timer_create_hook as *const c_void,
        Import::TimerDelete => timers::delete as *const c_void,
        Import::OnExit => exits::on_exit as *const c_void,
        Import::AtQuickExit => exits::at_quick_exit as *const c_void,
        Import::RegisterAtFork => forks::register as *const c_void,
        Import::DlOpen => libraries::dlopen_hook as *const c_void,
        Import::DlmOpen => libraries::dlmopen_hook as *const c_void,
        Import::DlClose => libraries::dlclose_hook as *const c_void,
        Import::Mmap => mappings::mmap as *const c_void,
        Import::Munmap => mappings::munmap as *const c_void,
        Import::MqNotify => notices::mq_notify as *const c_void,
        Import::AioRead => notices::aio_read as *const c_void,
        Import::AioWrite => notices::aio_write as *const c_void,
        Import::AioFsync => notices::aio_fsync as *const c_void,
        Import::LioListio => notices::lio_listio as *const c_void,
        Import::GetAddrInfoA => notices::getaddrinfo_a as *const c_void,
    };
    function.addr()
}

/// Whether an import stays bound as it is: to an older version of a function, which takes something
/// else.
pub(crate) fn is_other_version(import: Import, bound: usize) -> bool {
    let known = match import {
        Import::TimerCreate => timer::functions().0,
        Import::TimerDelete => timer::functions().1,
        Import::LioListio => lio_listio as *const c_void,
        _ => return false,
    };
    known.addr() != bound
}

/// The load whose image covers an address. Async-signal-safe.
pub(super) fn owner(address: usize) -> Option<Owner> {
    let (id, generation) = SymbolReader::new().owner(address)?;
    Some(Owner { id, generation })
}

/// `__cxa_thread_atexit_impl`: a thread-local's destructor.
unsafe extern "C-unwind" fn thread_atexit(
    destructor: Destructor,
    object: *mut c_void,
    dso: *const c_void,
) -> c_int {
    let function = destructor as usize;
    match owner(dso.addr()).or_else(|| owner(function)) {
        Some(owner) => {
            let what = What::Destructor {
                function,
                object: object.addr(),
            };
            if !ledger::note(owner, what) {
                // The thread is past its last destructors: nobody would run this one either.
                tracing::debug!(target: "plug::footprint", function, "a thread-local came too late");
            }
            0
        }
        // SAFETY: passed on as it came.
        None => unsafe { thread_exit::at_thread_exit(destructor, object, dso) },
    }
}

/// `pthread_key_create`.
unsafe extern "C-unwind" fn key_create(key: *mut c_uint, destructor: Option<Destructor>) -> c_int {
    let function = destructor.map_or(0, |function| function as usize);
    // A key without a destructor of the plugin's is known by where the plugin keeps it.
    match owner(function).or_else(|| owner(key.addr())) {
        // SAFETY: passed on as it came.
        Some(owner) => unsafe { keys::create(key, function, owner) },
        // SAFETY: passed on as it came.
        None => unsafe { thread_exit::make_key(key, destructor) },
    }
}

/// `pthread_key_delete` and `tss_delete`.
unsafe extern "C-unwind" fn key_delete(key: c_uint) -> c_int {
    keys::delete(key).unwrap_or_else(|| thread_exit::delete_key(key))
}

/// `pthread_setspecific`.
unsafe extern "C-unwind" fn set_specific(key: c_uint, value: *const c_void) -> c_int {
    let status = thread_exit::set_value(key, value);
    if status == 0 {
        keys::value_set(key, value.is_null());
    }
    status
}

/// What C's own threads say instead of an error number.
fn short(status: c_int) -> c_int {
    const THRD_ERROR: c_int = 2;
    const THRD_NOMEM: c_int = 3;
    match status {
        0 => 0,
        libc::ENOMEM => THRD_NOMEM,
        _ => THRD_ERROR,
    }
}

/// `tss_create`.
unsafe extern "C-unwind" fn short_key_create(
    key: *mut c_uint,
    destructor: Option<Destructor>,
) -> c_int {
    // SAFETY: passed on as it came.
    short(unsafe { key_create(key, destructor) })
}

/// `tss_set`.
unsafe extern "C-unwind" fn short_set_specific(key: c_uint, value: *const c_void) -> c_int {
    // SAFETY: passed on as it came.
    short(unsafe { set_specific(key, value) })
}

/// A thread that a plugin asked for, until it has begun.
struct Asked<S> {
    owner: Owner,
    start: S,
    /// The address by which the thread is known.
    known_by: usize,
    argument: *mut c_void,
}

impl<S> Asked<S> {
    /// Hands the thread over to `create`, which makes it with this as the argument.
    fn make(self, create: impl FnOnce(*mut c_void) -> c_int) -> c_int {
        let (owner, known_by) = (self.owner, self.known_by);
        ledger::starting(owner, known_by);
        let asked = Box::into_raw(Box::new(self));
        let status = create(asked.cast());
        if status != 0 {
            // SAFETY: no thread was made that could have it.
            drop(unsafe { Box::from_raw(asked) });
            ledger::started(owner, known_by, false);
        }
        status
    }

    /// Takes it on the new thread, which counts from here on.
    ///
    /// # Safety
    /// - `asked` was handed over by [`Asked::make`], to this thread alone.
    unsafe fn begin(asked: *mut c_void) -> Box<Self> {
        // SAFETY: the caller's word.
        let asked = unsafe { Box::from_raw(asked.cast::<Self>()) };
        ledger::started(asked.owner, asked.known_by, true);
        asked
    }
}

/// `pthread_create`.
unsafe extern "C-unwind" fn thread_create(
    thread: *mut c_void,
    attributes: *const c_void,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    let known_by = start as usize;
    let Some(owner) = owner(known_by) else {
        // SAFETY: passed on as it came.
        return unsafe { thread::create(thread, attributes, start, argument) };
    };
    let asked = Asked {
        owner,
        start,
        known_by,
        argument,
    };
    // SAFETY: as asked for, but for what the thread begins with.
    asked.make(|asked| unsafe { thread::create(thread, attributes, thread_main, asked) })
}

/// What such a thread begins with. It may be left by an unwinding of libc's.
unsafe extern "C-unwind" fn thread_main(asked: *mut c_void) -> *mut c_void {
    // SAFETY: handed over by thread_create().
    let asked = unsafe { Asked::<Start>::begin(asked) };
    let (start, argument) = (asked.start, asked.argument);
    drop(asked);
    // SAFETY: what the plugin asked for; its thread is counted, so it stays mapped.
    unsafe { start(argument) }
}

/// `thrd_create`.
unsafe extern "C-unwind" fn short_thread_create(
    thread: *mut c_void,
    start: ShortStart,
    argument: *mut c_void,
) -> c_int {
    let known_by = start as usize;
    let Some(owner) = owner(known_by) else {
        // SAFETY: passed on as it came.
        return unsafe { thrd_create(thread, start, argument) };
    };
    let asked = Asked {
        owner,
        start,
        known_by,
        argument,
    };
    // SAFETY: as in thread_create().
    asked.make(|asked| unsafe { thrd_create(thread, short_thread_main, asked) })
}

/// What such a thread begins with.
unsafe extern "C-unwind" fn short_thread_main(asked: *mut c_void) -> c_int {
    // SAFETY: handed over by short_thread_create().
    let asked = unsafe { Asked::<ShortStart>::begin(asked) };
    let (start, argument) = (asked.start, asked.argument);
    drop(asked);
    // SAFETY: as in thread_main().
    unsafe { start(argument) }
}

/// `std::thread::_State`: an object that begins with the address of its virtual functions.
#[repr(C)]
struct State {
    functions: *const StateFunctions,
}

/// Its virtual functions, in the order of the Itanium C++ ABI.
#[repr(C)]
struct StateFunctions {
    destroy: unsafe extern "C-unwind" fn(*mut State),
    destroy_and_free: unsafe extern "C-unwind" fn(*mut State),
    run: unsafe extern "C-unwind" fn(*mut State),
}

type StdThread = unsafe extern "C-unwind" fn(*mut c_void, *mut *mut State, *const c_void);

/// `std::thread::_M_start_thread(unique_ptr<_State>, void (*)())`: libstdc++ makes the thread with
/// a start function of its own, so that the plugin's hides behind the object.
///
/// # Source
/// libstdc++-v3/src/c++11/thread.cc.
unsafe extern "C-unwind" fn std_thread(
    this: *mut c_void,
    state: *mut *mut State,
    depend: *const c_void,
) {
    // SAFETY: a unique_ptr is a pointer, and is passed by reference.
    let object = unsafe { state.read() };
    // SAFETY: std::thread never passes an empty one.
    let functions = unsafe { (*object).functions };
    // SAFETY: an object of a class with virtual functions has them.
    let known_by = unsafe { (*functions).run } as usize;
    if let Some(owner) = owner(known_by) {
        let asked = Asked {
            owner,
            start: object,
            known_by,
            argument: ptr::null_mut(),
        };
        // SAFETY: `this` is the thread's id, whose first member takes the new thread's handle.
        let status = asked
            .make(|asked| unsafe { thread::create(this, ptr::null(), std_thread_main, asked) });
        if status == 0 {
            // SAFETY: the new thread owns the object now: unique_ptr::release().
            unsafe { state.write(ptr::null_mut()) };
            return;
        }
    }
    // Nobody's, or no thread to be had, which only C++ can throw an exception for. Should it find
    // one after all, that thread counts as beginning for ever.
    if let Some(real) = real_std_thread() {
        let thrown = owner(known_by).map(|owner| {
            ledger::starting(owner, known_by);
            Thrown { owner, known_by }
        });
        // SAFETY: passed on as it came.
        unsafe { real(this, state, depend) };
        let _counted = thrown.map(ManuallyDrop::new);
    }
}

/// A thread that counts as beginning, unless an exception is thrown instead of making it.
struct Thrown {
    owner: Owner,
    known_by: usize,
}

impl Drop for Thrown {
    fn drop(&mut self) {
        ledger::started(self.owner, self.known_by, false);
    }
}

/// Address of libstdc++'s own function, as ld.so bound the first plugin that imports it to it; the
/// library stays, as the loader keeps it. Written once or with the same again (Relaxed, both: the
/// address alone counts).
static REAL_STD_THREAD: AtomicUsize = AtomicUsize::new(0);

/// Notes what an import was bound to before it is redirected.
pub(crate) fn was_bound(import: Import, address: usize) {
    if import == Import::StdThread && address != 0 && address != self::address(import) {
        REAL_STD_THREAD.store(address, Ordering::Relaxed);
    }
}

fn real_std_thread() -> Option<StdThread> {
    let address = REAL_STD_THREAD.load(Ordering::Relaxed);
    // SAFETY: the function of that name, if there is one.
    (address != 0).then(|| unsafe { std::mem::transmute::<usize, StdThread>(address) })
}

/// Frees the object also where the thread is left by an unwinding.
struct Freed(*mut State);

impl Drop for Freed {
    fn drop(&mut self) {
        // SAFETY: the object that this thread owns.
        let functions = unsafe { (*self.0).functions };
        // SAFETY: as in std_thread().
        let free = unsafe { (*functions).destroy_and_free };
        // SAFETY: once, as unique_ptr does.
        unsafe { free(self.0) };
    }
}

/// What such a thread begins with.
unsafe extern "C-unwind" fn std_thread_main(asked: *mut c_void) -> *mut c_void {
    // SAFETY: handed over by std_thread().
    let asked = unsafe { Asked::<*mut State>::begin(asked) };
    let state = asked.start;
    drop(asked);
    let freed = Freed(state);
    // SAFETY: the object that this thread owns.
    let functions = unsafe { (*state).functions };
    // SAFETY: as in std_thread().
    let run = unsafe { (*functions).run };
    // SAFETY: what the plugin asked for.
    unsafe { run(state) };
    drop(freed);
    ptr::null_mut()
}
