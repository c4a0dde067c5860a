//! The host as a plugin sees it: parameters, log, services, and the way to say why a call fails.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use plug_api::abi::{ABI_VERSION, HostContext, Interface, Str};
use plug_api::threads::ThreadsV1;

use crate::calls;
use crate::deadline::{Deadline, lock_until};
use crate::faults::Faults;
use crate::params::Params;
use crate::roll::Roll;
use crate::sys::code;
use crate::threads::{PluginThreads, Run};
use crate::witness;

/// One service that the host offers to plugins.
#[derive(Clone, Copy, Debug)]
struct Service {
    name: &'static str,
    major: u32,
    minor: u32,
    table: *const c_void,
}

// SAFETY: `table` comes from a `&'static S` with `S: Sync`.
unsafe impl Send for Service {}

/// The services that the host offers.
#[derive(Debug, Default)]
pub(crate) struct Services(Mutex<Vec<Service>>);

impl Services {
    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        lock_until(&self.0, deadline)
    }

    pub(crate) fn offer<S: Interface + Sync>(&self, table: &'static S) {
        let table: *const S = table;
        let service = Service {
            name: S::NAME,
            major: S::MAJOR,
            minor: S::MINOR,
            table: table.cast(),
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(service);
    }

    fn find(&self, name: &str, major: u32, minor: u32) -> *const c_void {
        let services = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        services
            .iter()
            .filter(|s| s.name == name && s.major == major && s.minor >= minor)
            .map(|service| service.table)
            .next_back()
            .unwrap_or(std::ptr::null())
    }
}

/// What stands behind one plugin's [`HostContext`].
#[derive(Debug)]
struct HostState {
    plugin: Box<str>,
    params: Params,
    services: &'static Services,
    threads: PluginThreads,
    roll: Roll,
    faults: Faults,
}

/// The service that every plugin finds without the host's doing.
static THREADS: ThreadsV1 = ThreadsV1 {
    spawn,
    should_stop,
    sleep,
    stop_fd,
};

/// One plugin's context and what it points at; stays in place until the plugin is gone.
#[derive(Debug)]
pub(crate) struct Context {
    table: Box<HostContext>,
    state: Box<HostState>,
}

// SAFETY: `table.host` points at `state`, which is only read after it was made, apart from the
// services, the threads, the roll and the faults, which have their own locks.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn new(
        plugin: &str,
        params: &Params,
        services: &'static Services,
        threads: PluginThreads,
    ) -> Self {
        let mut state = Box::new(HostState {
            plugin: plugin.into(),
            params: params.clone(),
            services,
            threads,
            roll: Roll::default(),
            faults: Faults::default(),
        });
        let host: *mut HostState = &raw mut *state;
        let table = Box::new(HostContext {
            abi_version: ABI_VERSION,
            // The struct has 56 bytes.
            size: u32::try_from(size_of::<HostContext>()).unwrap_or(0),
            host: host.cast(),
            param,
            param_at,
            log,
            service,
            raise,
        });
        Self { table, state }
    }

    /// The threads that the plugin had the loader start.
    pub(crate) fn threads(&self) -> &PluginThreads {
        &self.state.threads
    }

    /// What of the plugin's can be cancelled.
    pub(crate) fn roll(&self) -> &Roll {
        &self.state.roll
    }

    /// Calls of the plugin's that failed.
    pub(crate) fn faults(&self) -> &Faults {
        &self.state.faults
    }

    pub(crate) fn as_ptr(&self) -> *const HostContext {
        &raw const *self.table
    }
}

/// The state behind `host`.
///
/// # Safety
/// - `host` is the pointer a [`Context`] that still lives gave to its plugin.
unsafe fn state<'a>(host: *mut c_void) -> &'a HostState {
    // SAFETY: the caller vouches for the pointer; the state is never changed.
    unsafe { &*host.cast::<HostState>() }
}

fn borrowed(text: &str) -> Str {
    Str {
        ptr: text.as_ptr(),
        len: text.len(),
    }
}

unsafe extern "C" fn param(host: *mut c_void, key: Str, value: *mut Str) -> i32 {
    // SAFETY: plugins pass back the pointer they were given.
    let state = unsafe { state(host) };
    // SAFETY: the plugin lends the key for the call.
    let key = unsafe { code::text(key) };
    match state.params.get(&key) {
        Some(found) => {
            if !value.is_null() {
                // SAFETY: not null, and the plugin gives room for one Str.
                unsafe { value.write(borrowed(found)) };
            }
            1
        }
        None => 0,
    }
}

unsafe extern "C" fn param_at(
    host: *mut c_void,
    index: usize,
    key: *mut Str,
    value: *mut Str,
) -> i32 {
    // SAFETY: plugins pass back the pointer they were given.
    let state = unsafe { state(host) };
    let Some((k, v)) = state.params.iter().nth(index) else {
        return 0;
    };
    if !key.is_null() {
        // SAFETY: not null, and the plugin gives room for one Str.
        unsafe { key.write(borrowed(k)) };
    }
    if !value.is_null() {
        // SAFETY: as above.
        unsafe { value.write(borrowed(v)) };
    }
    1
}

unsafe extern "C" fn log(host: *mut c_void, level: i32, message: Str) {
    // SAFETY: plugins pass back the pointer they were given.
    let plugin = &*unsafe { state(host) }.plugin;
    // SAFETY: the plugin lends the message for the call.
    let message = unsafe { code::text(message) };
    match level {
        1 => tracing::error!(target: "plug::plugin", plugin, "{message}"),
        2 => tracing::warn!(target: "plug::plugin", plugin, "{message}"),
        3 => tracing::info!(target: "plug::plugin", plugin, "{message}"),
        4 => tracing::debug!(target: "plug::plugin", plugin, "{message}"),
        _ => tracing::trace!(target: "plug::plugin", plugin, "{message}"),
    }
}

unsafe extern "C" fn service(
    host: *mut c_void,
    name: Str,
    major: u32,
    minor: u32,
) -> *const c_void {
    // SAFETY: plugins pass back the pointer they were given.
    let state = unsafe { state(host) };
    // SAFETY: the plugin lends the name for the call.
    let name = unsafe { code::text(name) };
    let of_threads = (ThreadsV1::NAME, ThreadsV1::MAJOR, ThreadsV1::MINOR);
    if (name.as_str(), major, minor) == of_threads {
        return (&raw const THREADS).cast();
    }
    let table = state.services.find(&name, major, minor);
    if table.is_null() {
        witness::lacks(&name);
    }
    table
}

unsafe extern "C" fn raise(host: *mut c_void, message: Str) {
    // SAFETY: plugins pass back the pointer they were given.
    let state = unsafe { state(host) };
    // SAFETY: the plugin lends the message for the call.
    let message: Box<str> = unsafe { code::text(message) }.into();
    if let Some(address) = calls::failing() {
        state.faults.note(address, &message);
    }
    calls::raise(message);
}

unsafe extern "C" fn spawn(host: *mut c_void, name: Str, run: Run, data: *mut c_void) -> i32 {
    // SAFETY: plugins pass back the pointer they were given.
    let state = unsafe { state(host) };
    // SAFETY: the plugin lends the name for the call.
    let name = unsafe { code::text(name) };
    // SAFETY: what the service asks of the plugin.
    unsafe { state.threads.spawn(&name, run, data) }
}

unsafe extern "C" fn should_stop(host: *mut c_void) -> i32 {
    // SAFETY: plugins pass back the pointer they were given.
    i32::from(unsafe { state(host) }.threads.should_stop())
}

unsafe extern "C" fn sleep(host: *mut c_void, nanoseconds: u64) -> i32 {
    let time = match nanoseconds {
        u64::MAX => Duration::MAX,
        nanoseconds => Duration::from_nanos(nanoseconds),
    };
    // SAFETY: plugins pass back the pointer they were given.
    i32::from(unsafe { state(host) }.threads.sleep(time))
}

unsafe extern "C" fn stop_fd(host: *mut c_void) -> i32 {
    // SAFETY: plugins pass back the pointer they were given.
    unsafe { state(host) }.threads.stop_fd()
}
