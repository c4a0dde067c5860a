//! Named points inside load, publish, unload and reclaim where a test may stop or fail the loader.
//!
//! Without the feature `testing` every point is an empty inline function. With it, a hook of the
//! test is called at each point: it may block for ever, or ask for a failure.

#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind};

/// The points, in the order of a load, an unload and a reclaim.
///
/// Only those that start with `load.` (before Live) can be failed; all can be stopped at.
#[cfg(feature = "testing")]
pub const POINTS: &[&str] = &[
    "load.open",
    "load.stage",
    "load.verify",
    "load.facts",
    "load.metadata",
    "load.needed",
    "load.probe",
    "load.claim",
    "load.imports",
    "load.rewrite",
    "load.link",
    "load.symbols",
    "load.map",
    "load.describe",
    "publish.built",
    "publish.head",
    "publish.swapped",
    "publish.retired",
    "load.publish",
    "load.constructor",
    "load.constructors",
    "load.bind",
    "load.init",
    "load.activate",
    "load.live",
    "unload.going",
    "unload.drain",
    "unload.drained",
    "unload.exit",
    "unload.destructors",
    "unload.unpublish",
    "index.detach",
    "index.detached",
    "unload.grace",
    "unload.close",
    "unload.observe",
    "history.add",
    "history.departed",
    "unload.release",
    "reclaim.taken",
    "reclaim.grace",
    "reclaim.free",
    "index.begin",
    "index.built",
    "index.stored",
];

/// The points of a replace, beside those of the load in it, in their order; all can be failed. They
/// come before `load.activate`, but for `replace.switch`, which follows it.
#[cfg(feature = "testing")]
pub const REPLACE_POINTS: &[&str] = &[
    "replace.begin",
    "replace.save",
    "replace.restore",
    "replace.switch",
];

#[cfg(feature = "testing")]
mod hook {
    use std::sync::RwLock;

    /// What a test wants at a point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Verdict {
        /// Go on.
        Pass,
        /// Fail here.
        Fail,
    }

    /// Called with the name of the point.
    type Hook = Box<dyn Fn(&'static str) -> Verdict + Send + Sync>;

    static HOOK: RwLock<Option<&'static Hook>> = RwLock::new(None);

    /// Installs the process's hook; it stays until replaced.
    pub fn set_hook(hook: impl Fn(&'static str) -> Verdict + Send + Sync + 'static) {
        // Immortal: a thread may be stopped inside the old hook for good.
        let hook: &'static Hook = Box::leak(Box::new(Box::new(hook) as Hook));
        *HOOK
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(hook);
    }

    pub(super) fn ask(point: &'static str) -> Verdict {
        let hook = *HOOK
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        hook.map_or(Verdict::Pass, |hook| hook(point))
    }
}

#[cfg(feature = "testing")]
mod crash_hook {
    use std::sync::OnceLock;

    static HOOK: OnceLock<CrashHook> = OnceLock::new();

    /// Called in the crash handler with the name of each step before that is made.
    pub type CrashHook = fn(&'static str);

    /// Installs the one hook of the crash handler, which keeps to what is allowed there, or faults.
    pub fn set_crash_hook(hook: CrashHook) {
        let _first = HOOK.set(hook);
    }

    pub(crate) fn crash_step(name: &'static str) {
        if let Some(hook) = HOOK.get() {
            hook(name);
        }
    }
}

#[cfg(feature = "testing")]
pub(crate) use crash_hook::crash_step;
#[cfg(feature = "testing")]
pub use crash_hook::{CrashHook, set_crash_hook};
#[cfg(feature = "testing")]
pub use hook::{Verdict, set_hook};

/// Passes a point that can fail.
#[cfg(feature = "testing")]
pub(crate) fn pass(point: &'static str) -> Result<(), Error> {
    let mut listed = POINTS.iter().chain(REPLACE_POINTS);
    debug_assert!(listed.any(|it| *it == point), "{point} is not listed");
    match hook::ask(point) {
        Verdict::Pass => Ok(()),
        Verdict::Fail => Err(Error::new(
            ErrorKind::Injected,
            format!("failed at {point} by a test"),
        )),
    }
}

/// Passes a point that cannot fail.
#[cfg(feature = "testing")]
pub(crate) fn note(point: &'static str) {
    debug_assert!(POINTS.contains(&point), "{point} is not listed");
    let _stopped_here = hook::ask(point);
}

/// Passes a point that can fail.
#[cfg(not(feature = "testing"))]
#[inline(always)]
#[expect(clippy::unnecessary_wraps, reason = "the testing form can fail")]
pub(crate) fn pass(_point: &'static str) -> Result<(), Error> {
    let _ = ErrorKind::Injected;
    Ok(())
}

/// Passes a point that cannot fail.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) fn note(_point: &'static str) {}

/// Passes a step of a crash report. Async-signal-safe, if the hook is.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) fn crash_step(_name: &'static str) {}
