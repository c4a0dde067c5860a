//! The process's own `argc`, `argv` and `envp`, which constructors are given.
//!
//! glibc passes them to every entry of `.init_array`, so one of ours keeps them.

use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

/// Written once before `main`, read by loads (Relaxed: `main` and all threads start later).
static ARGC: AtomicI32 = AtomicI32::new(0);
/// As [`ARGC`].
static ARGV: AtomicPtr<*mut c_char> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn keep(argc: c_int, argv: *mut *mut c_char, _envp: *mut *mut c_char) {
    ARGC.store(argc, Ordering::Relaxed);
    ARGV.store(argv, Ordering::Relaxed);
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
