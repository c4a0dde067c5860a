//! The process's own `argc`, `argv` and `envp`, which constructors are given.
//!
//! glibc passes them to every entry of `.init_array`, so one of ours keeps them.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

/// Written once before `main`, read by loads (Relaxed: `main` and all threads start later).
static ARGC: AtomicI32 = AtomicI32::new(0);
/// As [`ARGC`].
static ARGV: AtomicPtr<*mut c_char> = AtomicPtr::new(std::ptr::null_mut());

/// Value of `LD_LIBRARY_PATH`, null where there is none. As [`ARGC`].
static LIBRARY_PATH: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn keep(argc: c_int, argv: *mut *mut c_char, envp: *mut *mut c_char) {
    ARGC.store(argc, Ordering::Relaxed);
    ARGV.store(argv, Ordering::Relaxed);
    // SAFETY: glibc passes the environment as it is before main.
    let value = unsafe { value_of(c"LD_LIBRARY_PATH=", envp) };
    LIBRARY_PATH.store(value, Ordering::Relaxed);
}

/// The value of the variable in `envp` that begins with `name`; null where there is none.
///
/// # Safety
/// - `envp` is null or a list of terminated strings that ends in null.
unsafe fn value_of(name: &CStr, mut envp: *mut *mut c_char) -> *mut c_char {
    while !envp.is_null() {
        // SAFETY: not beyond the null that ends the list.
        let entry = unsafe { *envp };
        if entry.is_null() {
            break;
        }
        // SAFETY: a terminated string, by our caller's word.
        let text = unsafe { CStr::from_ptr(entry) };
        if text.to_bytes().starts_with(name.to_bytes()) {
            return entry.wrapping_add(name.count_bytes());
        }
        envp = envp.wrapping_add(1);
    }
    std::ptr::null_mut()
}

/// `LD_LIBRARY_PATH` as ld.so read it: what the program makes of it later does not count. A program
/// with more rights than its user has none, as ld.so took it away.
pub(crate) fn library_path() -> Option<&'static [u8]> {
    // Relaxed: written before main.
    let value = LIBRARY_PATH.load(Ordering::Relaxed);
    // SAFETY: a string of the process's first environment, which stays: setenv() puts another in
    // its place.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_bytes())
}

#[used]
#[unsafe(link_section = ".init_array")]
static KEEP: extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) = keep;

/// Arguments for a constructor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments {
    pub(crate) argc: c_int,
    pub(crate) argv: *mut *mut c_char,
    pub(crate) envp: *mut *mut c_char,
}

unsafe extern "C" {
    static environ: *mut *mut c_char;
}

/// The process's arguments and its present environment.
pub(crate) fn arguments() -> Arguments {
    Arguments {
        // Relaxed: written before main.
        argc: ARGC.load(Ordering::Relaxed),
        // Relaxed: as above.
        argv: ARGV.load(Ordering::Relaxed),
        // SAFETY: `environ` is libc's variable; reading the pointer races only with a setenv on
        // another thread, which the C library itself passes on to constructors unguarded.
        envp: unsafe { environ },
    }
}
