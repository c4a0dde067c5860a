//! What plugins in Rust do that may keep them from leaving; one number each.

use std::cell::RefCell;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

plug_api::plugin! {
    name: "matrix-rust", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_| Ok(()), exit: stop_threads,
}

/// The host's words: how many destructors have run, and whether threads shall end.
static WORDS: AtomicPtr<[AtomicU32; 2]> = AtomicPtr::new(std::ptr::null_mut());
static ENDING: AtomicBool = AtomicBool::new(false);

fn words() -> &'static [AtomicU32; 2] {
    unsafe { &*WORDS.load(Ordering::SeqCst) }
}

fn tell() {
    words()[0].fetch_add(1, Ordering::SeqCst);
}

extern "C" fn tell_at_exit() {
    tell();
}

fn stop_threads() {
    ENDING.store(true, Ordering::SeqCst);
}

struct Local(Vec<u8>);

impl Drop for Local {
    fn drop(&mut self) {
        tell();
        SECOND.with(|second| second.borrow_mut().0.push(1));
    }
}

struct Second(Vec<u8>);

impl Drop for Second {
    fn drop(&mut self) {
        tell();
    }
}

thread_local! {
    static LOCAL: RefCell<Local> = const { RefCell::new(Local(Vec::new())) };
    static SECOND: RefCell<Second> = const { RefCell::new(Second(Vec::new())) };
}

fn use_local() -> u32 {
    LOCAL.with(|local| {
        local.borrow_mut().0.push(1);
        1
    })
}

static BUILT: AtomicBool = AtomicBool::new(false);

extern "C" fn build() {
    BUILT.store(true, Ordering::SeqCst);
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = build;

#[cfg(statics)]
extern "C" fn destroy() {
    tell();
}

#[cfg(local_at_end)]
extern "C" fn destroy() {
    use_local();
}

#[cfg(any(statics, local_at_end))]
#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destroy;

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
    fn pthread_key_create(key: *mut c_uint, destructor: unsafe extern "C" fn(*mut c_void))
    -> c_int;
    fn pthread_setspecific(key: c_uint, value: *const c_void) -> c_int;
    fn fork() -> c_int;
    fn waitpid(child: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(status: c_int) -> !;
}

unsafe extern "C" fn destroy_value(value: *mut c_void) {
    drop(unsafe { Box::from_raw(value.cast::<u64>()) });
    tell();
}

unsafe extern "C" fn destroy_by_local(value: *mut c_void) {
    drop(unsafe { Box::from_raw(value.cast::<u64>()) });
    use_local();
}

fn use_key(destructor: unsafe extern "C" fn(*mut c_void)) -> u32 {
    let mut key = 0;
    let value = Box::into_raw(Box::new(1_u64));
    let made = unsafe { pthread_key_create(&mut key, destructor) };
    u32::from(made == 0 && unsafe { pthread_setspecific(key, value.cast()) } == 0)
}

fn in_child() -> u32 {
    let mut status = 0;
    match unsafe { fork() } {
        0 => {
            use_local();
            unsafe { _exit(7) }
        }
        child => {
            let ended = unsafe { waitpid(child, &mut status, 0) };
            u32::from(child > 0 && ended == child && status == 7 << 8)
        }
    }
}

static TICKS: AtomicU32 = AtomicU32::new(0);

const SIGUSR2: c_int = 12;

extern "C" fn handle(_: c_int) {
    TICKS.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn tick(_: *mut c_void) {
    TICKS.fetch_add(1, Ordering::SeqCst);
}

unsafe extern "C" {
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn raise(number: c_int) -> c_int;
    fn timer_create(clock: c_int, event: *mut Event, timer: *mut usize) -> c_int;
    fn timer_settime(timer: usize, flags: c_int, new: *const [u64; 4], old: *mut [u64; 4])
    -> c_int;
}

/// The host has a handler for it.
fn use_handler() -> u32 {
    let set = unsafe { signal(SIGUSR2, handle) } != usize::MAX;
    u32::from(set && unsafe { raise(SIGUSR2) } == 0 && TICKS.load(Ordering::SeqCst) == 1)
}

/// `struct sigevent` of a thread.
#[repr(C)]
struct Event {
    value: usize,
    signal: c_int,
    notify: c_int,
    function: extern "C" fn(*mut c_void),
    rest: [usize; 5],
}

/// Fires every 2 ms until it is deleted.
fn use_timer() -> u32 {
    const SIGEV_THREAD: c_int = 2;
    let mut event = Event {
        value: 0,
        signal: 0,
        notify: SIGEV_THREAD,
        function: tick,
        rest: [0; 5],
    };
    let (mut timer, often) = (0, [0, 2_000_000, 0, 2_000_000]);
    if unsafe { timer_create(1, &mut event, &mut timer) } != 0
        || unsafe { timer_settime(timer, 0, &often, std::ptr::null_mut()) } != 0
    {
        return 0;
    }
    let is_over = |_: &u32| TICKS.load(Ordering::SeqCst) > 0;
    let mut waits = (0..5000).inspect(|_| thread::sleep(Duration::from_millis(1)));
    u32::from(waits.any(|wait| is_over(&wait)))
}

fn detached(wait: impl FnOnce() + Send + 'static) -> u32 {
    let (tell, is_named) = std::sync::mpsc::channel();
    let thread = thread::Builder::new()
        .name("lingerer".into())
        .spawn(move || {
            let _ = tell.send(1);
            wait();
        });
    match thread {
        Ok(_detached) => is_named.recv().unwrap_or(0),
        Err(_) => 0,
    }
}

plug_api::export! {
    pub fn listen_at(at: u64) -> u32 {
        WORDS.store(at as *mut _, Ordering::SeqCst);
        1
    }

    pub fn stop(none: u32) -> u32 {
        stop_threads();
        none
    }

    pub fn act(what: u32) -> u32 {
        match what {
            0 => 1,
            1 => { println!("a plugin prints"); 1 }
            2 => use_local(),
            3 => { std::hint::black_box(thread::current()); 1 }
            4 => u32::from(std::panic::catch_unwind(|| panic!("caught")).is_err()),
            5 => thread::spawn(use_local).join().unwrap_or(0),
            6 => detached(|| ()),
            7 => { thread::park_timeout(Duration::from_millis(1)); 1 }
            8 => detached(|| while words()[1].load(Ordering::SeqCst) == 0 { thread::yield_now(); }),
            9 => detached(|| while !ENDING.load(Ordering::SeqCst) { thread::yield_now(); }),
            10 => u32::from(BUILT.load(Ordering::SeqCst)),
            11 => u32::from(unsafe { atexit(tell_at_exit) } == 0),
            12 => use_key(destroy_value),
            13 => use_key(destroy_by_local),
            14 => in_child(),
            15 => { eprintln!("a plugin prints"); 1 }
            16 => use_handler(),
            17 => use_timer(),
            _ => 0,
        }
    }
}
