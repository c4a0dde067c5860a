//! The host as a plugin sees it: parameters, log, services, and the word for why a call failed.
//!
//! Everything here runs in thread context only: the host may lock and allocate behind it.

use core::ffi::c_void;
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::abi::{self, HostContext, Interface, Str};

/// The host's context between a successful start of `init` and the end of `exit`, else null.
/// Written by the init and exit wrappers (Release), read by exported functions (Acquire).
///
/// It is a static of this crate, of which every loaded plugin has its own copy.
static CURRENT: AtomicPtr<HostContext> = AtomicPtr::new(ptr::null_mut());

/// How much a log event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something is wrong, and the work goes on.
    Warn = 2,
    /// Something worth knowing changed.
    Info = 3,
    /// For the plugin's author.
    Debug = 4,
    /// Every step.
    Trace = 5,
}

/// The host, handed to `init`.
///
/// References to it come only from the host; usable from any thread until `exit` has returned,
/// never from a signal handler.
#[derive(Debug)]
#[repr(transparent)]
pub struct Context(HostContext);

// SAFETY: the raw `host` pointer is only ever passed back to the host's own functions, which
// HostContext documents as callable from any thread.
unsafe impl Send for Context {}

// SAFETY: as for Send; no method writes through `self`.
unsafe impl Sync for Context {}

impl Context {
    /// The context at `raw`; `None` when it is null, or from a host that speaks another ABI.
    ///
    /// # Safety
    /// - `raw` is null, or points to a [`HostContext`] that stays valid and unchanged for `'a`.
    pub unsafe fn from_raw<'a>(raw: *const HostContext) -> Option<&'a Context> {
        if raw.is_null() {
            return None;
        }
        // SAFETY: not null, and the caller promises that it stays valid for `'a`; Context is
        // transparent over HostContext.
        let context: &'a Context = unsafe { &*raw.cast() };
        let complete = context.0.size as usize >= size_of::<HostContext>();
        (context.0.abi_version == abi::ABI_VERSION && complete).then_some(context)
    }

    /// The pointer this context came from, to pass on to a table's functions.
    pub fn as_raw(&self) -> *const HostContext {
        &raw const self.0
    }

    /// What the host's functions take first.
    pub(crate) fn host(&self) -> *mut c_void {
        self.0.host
    }

    /// The value of the parameter `key`, if the host was given one that is UTF-8.
    pub fn param(&self, key: &str) -> Option<&str> {
        let mut value = Str::EMPTY;
        // SAFETY: `host` belongs to this function by the contract of HostContext; `value` is
        // writable for the length of the call.
        let found = unsafe { (self.0.param)(self.0.host, Str::new(key), &raw mut value) };
        if found != 1 {
            return None;
        }
        // SAFETY: the host answered 1, so `value` is set, and valid as long as the context.
        unsafe { value.as_str() }
    }

    /// All parameters in the order given; those that are not UTF-8 are left out.
    pub fn params(&self) -> Params<'_> {
        Params {
            context: self,
            index: 0,
        }
    }

    /// The host's service described by `S`, with the same major and at least the same minor.
    ///
    /// The table stays valid until this plugin's `exit` has returned. `'static` is honest only
    /// seen from inside: this code and its statics do not outlive `exit` either, and a thread
    /// that does has broken the contract already.
    pub fn service<S: Interface>(&self) -> Option<&'static S> {
        let name = Str::new(S::NAME);
        // SAFETY: `host` belongs to this function by the contract of HostContext.
        let table = unsafe { (self.0.service)(self.0.host, name, S::MAJOR, S::MINOR) };
        // SAFETY: the host hands out a table of this name, major and at least this minor, which
        // begins with the fields of `S` by the contract of Interface and lives until `exit`.
        unsafe { table.cast::<S>().as_ref() }
    }

    /// Writes one event to the host's log.
    pub fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        match message.as_str() {
            Some(text) => self.log_str(level, text),
            None => self.log_str(level, &message.to_string()),
        }
    }

    /// Logs at [`Level::Error`].
    pub fn error(&self, message: &str) {
        self.log_str(Level::Error, message);
    }

    /// Logs at [`Level::Warn`].
    pub fn warn(&self, message: &str) {
        self.log_str(Level::Warn, message);
    }

    /// Logs at [`Level::Info`].
    pub fn info(&self, message: &str) {
        self.log_str(Level::Info, message);
    }

    /// Logs at [`Level::Debug`].
    pub fn debug(&self, message: &str) {
        self.log_str(Level::Debug, message);
    }

    /// Logs at [`Level::Trace`].
    pub fn trace(&self, message: &str) {
        self.log_str(Level::Trace, message);
    }

    /// Says why the call in progress on this thread fails; the last message of a call counts.
    ///
    /// The macros do this for errors and panics; authors of tables written by hand do it here.
    pub fn raise(&self, message: &str) {
        // SAFETY: `host` belongs to this function by the contract of HostContext.
        unsafe { (self.0.raise)(self.0.host, Str::new(message)) }
    }

    fn log_str(&self, level: Level, message: &str) {
        // SAFETY: `host` belongs to this function by the contract of HostContext.
        unsafe { (self.0.log)(self.0.host, level as i32, Str::new(message)) }
    }
}

/// Iterator over the parameters of a [`Context`].
#[derive(Clone, Debug)]
pub struct Params<'a> {
    context: &'a Context,
    index: usize,
}

impl<'a> Iterator for Params<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let raw = &self.context.0;
        loop {
            let (mut key, mut value) = (Str::EMPTY, Str::EMPTY);
            // SAFETY: `host` belongs to this function by the contract of HostContext; `key` and
            // `value` are writable for the length of the call.
            let found =
                unsafe { (raw.param_at)(raw.host, self.index, &raw mut key, &raw mut value) };
            if found != 1 {
                return None;
            }
            self.index += 1;
            // SAFETY: the host answered 1, so `key` is set, and valid as long as the context.
            let key = unsafe { key.as_str() };
            // SAFETY: as for `key`.
            let value = unsafe { value.as_str() };
            if let (Some(key), Some(value)) = (key, value) {
                return Some((key, value));
            }
        }
    }
}

/// Runs `f` with the host's context, or returns `None` outside of `init` to `exit`.
///
/// For exported functions and tables, which are not handed one. In a plugin linked statically
/// into its host there is a context only if the host calls the descriptor's `init`.
pub fn with_context<R>(f: impl FnOnce(&Context) -> R) -> Option<R> {
    current().map(f)
}

/// The stored context, for a caller that does not keep it past its own call.
pub(crate) fn current<'a>() -> Option<&'a Context> {
    // Acquire: makes the host's context visible; pairs with Release in set_current().
    let raw = CURRENT.load(Ordering::Acquire);
    // SAFETY: CURRENT is null, or what the host passed to `init`, valid until `exit` returned;
    // calls into the plugin end before that.
    unsafe { Context::from_raw(raw) }
}

/// Stores what `init` was given, or null.
pub(crate) fn set_current(raw: *const HostContext) {
    // Release: publishes the host's context; pairs with Acquire in current().
    CURRENT.store(raw.cast_mut(), Ordering::Release);
}
