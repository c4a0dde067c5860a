//! The loader's one function that runs when the process exits.

use std::process;
use std::sync::OnceLock;

/// What to run, and the process that asked for it.
static AT_EXIT: OnceLock<(u32, fn())> = OnceLock::new();

extern "C" fn run() {
    // A forked child that exits is not the host: plugins' exits are not its to run.
    if let Some((_, function)) = AT_EXIT.get().filter(|(pid, _)| *pid == process::id()) {
        function();
    }
}

/// Runs `function` when the process exits through `exit` or a return from `main`.
pub(crate) fn at_exit(function: fn()) {
    if AT_EXIT.set((process::id(), function)).is_ok() {
        // SAFETY: `run` is a plain function of the host that stays mapped; its failure (no
        // memory for the entry) only means that plugins' exits do not run.
        let _registered = unsafe { libc::atexit(run) };
    }
}

/// Makes the reader's table usable in the child of a fork, where only the forking thread lives.
pub(crate) fn at_fork() {
    extern "C" fn child() {
        // SAFETY: run by fork in the child; forks from inside a read section are not allowed
        // (sections run no code that could fork but a walk's visitor, whose documentation says so).
        unsafe {
            plug_readside::snapshot::sections().reset_after_fork(plug_readside::thread_pointer());
        }
    }
    // SAFETY: the handler only stores to the reader's table, which is allowed in a forked child.
    let _registered = unsafe { libc::pthread_atfork(None, None, Some(child)) };
}
