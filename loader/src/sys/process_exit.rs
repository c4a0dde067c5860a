//! The loader's one function that runs when the process exits.

use std::sync::OnceLock;

static AT_EXIT: OnceLock<fn()> = OnceLock::new();

extern "C" fn run() {
    if let Some(function) = AT_EXIT.get() {
        function();
    }
}

/// Runs `function` when the process exits through `exit` or a return from `main`.
pub(crate) fn at_exit(function: fn()) {
    if AT_EXIT.set(function).is_ok() {
        // SAFETY: `run` is a plain function of the host that stays mapped; its failure (no
        // memory for the entry) only means that plugins' exits do not run.
        let _registered = unsafe { libc::atexit(run) };
    }
}

/// Makes the reader's table usable in the child of a fork, where only the forking thread lives.
pub(crate) fn at_fork() {
    extern "C" fn child() {
        plug_readside::snapshot::sections().reset_after_fork(plug_readside::thread_pointer());
    }
    // SAFETY: the handler only stores to the reader's table, which is allowed in a forked child.
    let _registered = unsafe { libc::pthread_atfork(None, None, Some(child)) };
}
