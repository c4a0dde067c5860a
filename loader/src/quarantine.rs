//! What becomes of a call that comes too late: it faults for certain while the plugin is still
//! mapped, and probably for a while after that, instead of running whatever is there by then.

use std::ffi::CString;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::crash::headers::Object;
use crate::crash::memory::{Memory, PAGE};
use crate::record::Record;
use crate::sys::clock;
use crate::sys::pages::{Reserved, protect};

/// A plugin whose code is inaccessible; accessible again when dropped.
#[derive(Debug)]
#[must_use = "the code is accessible again when this is dropped"]
pub(crate) struct Quarantine(Vec<Range<usize>>);

impl Quarantine {
    /// Makes `record`'s code inaccessible and waits for as long as `config` says; none where that is
    /// not at all.
    ///
    /// Readers still see the plugin, so that a crash report names it and the symbol.
    ///
    /// # Safety
    /// - The plugin is mapped, and none of its code is to run any more.
    pub(crate) unsafe fn hold(config: &Config, record: &Record) -> Option<Self> {
        if config.quarantine.is_zero() {
            return None;
        }
        let mut held = Self(Vec::new());
        for part in record.ranges() {
            let Some(object) = Object::at(&Memory::by_kernel(), part.start) else {
                continue;
            };
            // Where the headers lie among the code, so do names that ld.so reads whenever somebody
            // opens a library: such code stays accessible.
            let code = object.executable().filter(|code| code.start > part.start);
            let pages = code.map(|code| {
                let start = code.start;
                start - start % PAGE..code.end.next_multiple_of(PAGE)
            });
            for pages in pages.filter(|pages| !pages.is_empty()) {
                // SAFETY: pages of the plugin's code; nobody runs it by our caller's word.
                if unsafe { protect(&pages, false) } {
                    held.0.push(pages);
                }
            }
        }
        clock::nap(config.quarantine);
        Some(held)
    }

    /// Parts of the plugin may be unmapped: only those of `record` that are still there become
    /// accessible again.
    pub(crate) fn end(mut self, record: &Record) {
        let still: Vec<Range<usize>> = record.ranges().collect();
        let is_there = |pages: &Range<usize>| still.iter().any(|part| part.contains(&pages.start));
        self.0.retain(is_there);
    }

    /// The plugin is unmapped.
    pub(crate) fn over(mut self) {
        self.0.clear();
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        for pages in &self.0 {
            // SAFETY: what hold() made inaccessible, of a plugin that is still mapped.
            let _done = unsafe { protect(pages, true) };
        }
    }
}

/// Addresses that are kept, each until when. Nobody waits for the lock: whoever does not get it does
/// without, so that a forked child whose parent held it goes on.
static KEPT: Mutex<Vec<(Reserved, Instant)>> = Mutex::new(Vec::new());

/// Keeps others from mapping anything where `record`'s plugin was, for as long as `config` says; as
/// far as nobody has by now.
pub(crate) fn keep(config: &Config, record: &Record) {
    if config.reservation.is_zero() {
        return;
    }
    for part in &record.parts {
        reserve(config, record, part.start..part.end);
    }
}

/// Keeps one part's addresses.
fn reserve(config: &Config, record: &Record, part: Range<usize>) {
    /// Plugins whose addresses are kept at once, the oldest ones being given up.
    const MOST: usize = 256;
    let pages = part.start - part.start % PAGE..part.end.next_multiple_of(PAGE);
    let name = CString::new(format!("plug: {} was here", record.name)).unwrap_or_default();
    let Some(reserved) = Reserved::take(pages, &name) else {
        tracing::debug!(target: "plug::unload", plugin = &*record.name, "its addresses are in use again");
        return;
    };
    let until = Instant::now() + config.reservation.min(Duration::from_secs(3 << 30));
    if let Ok(mut kept) = KEPT.try_lock() {
        if kept.len() >= MOST {
            kept.remove(0);
        }
        kept.push((reserved, until));
    }
}

/// Gives addresses back that have been kept for long enough. A try of a lock where there are none.
pub(crate) fn give_back() {
    let now = Instant::now();
    if let Ok(mut kept) = KEPT.try_lock() {
        kept.retain(|(_, until)| *until > now);
    }
}
