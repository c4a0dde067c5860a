//! What a plugin leaves in this process, and its undoing: destructors of thread-locals, keys, and
//! threads.
//!
//! Before any of a plugin's code runs, the words of its image that hold the addresses of certain
//! imported functions are redirected to functions of the loader's ([`hooks`]). glibc, which would
//! keep the plugin mapped for as long as a thread owes it a destructor, never hears of them; the
//! loader runs them where they belong ([`ledger`]).

pub(crate) mod account;
pub(crate) mod blocks;
pub(crate) mod counting;
pub(crate) mod descriptors;
pub(crate) mod hooks;
pub(crate) mod keys;
pub(crate) mod ledger;

#[cfg(feature = "measuring")]
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind};
use crate::image::Facts;
use crate::sys::{code, slots};

/// Redirects the imports of a plugin that is mapped at `bias`.
///
/// # Errors
/// [`ErrorKind::Map`] when the words cannot be made writable.
///
/// # Safety
/// - The plugin is relocated, none of its code has run, and `facts` are those of its file.
pub(crate) unsafe fn redirect(facts: &Facts, bias: usize) -> Result<(), Error> {
    if facts.imports.is_empty() || !is_redirecting() {
        return Ok(());
    }
    let protected = protected(facts, bias);
    let imports = facts.imports.iter().map(|slot| {
        let word = code::run_time(bias, slot.vaddr);
        // SAFETY: a word of the relocated image.
        hooks::was_bound(slot.import, unsafe { slots::word(word) });
        (word, hooks::address(slot.import))
    });
    // SAFETY: words that ld.so relocated with the address of the import that each hook stands in
    // for; the rest is our caller's word.
    unsafe { slots::redirect(imports, protected) }.map_err(|error| {
        Error::new(ErrorKind::Map, "the imports cannot be redirected").because(error)
    })
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
