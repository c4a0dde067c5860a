//! The one file that knows how Plug is asked, and what is compared with.

use std::ffi::{CStr, c_void};
use std::fs;
use std::path::Path;
use std::time::Duration;

use plug_loader::{
    Accounting, Config, Deadline, Loader, Params, Plugin, Policy, Source, Trust, Unloaded,
};

/// The process's loader, and the right to load.
pub struct Host {
    pub loader: Loader,
    trust: Trust,
}

impl Host {
    pub fn start() -> Self {
        let mut config = Config::default();
        // What the history keeps of each plugin is not what a cycle leaves.
        config.history = 0;
        let loader = Loader::new(config).expect("the only loader");
        // SAFETY: the library is made by this benchmark.
        let trust = unsafe { Trust::new(Policy::default()) };
        Self { loader, trust }
    }

    pub fn load(&self, path: &Path) -> Plugin {
        self.load_accounted(path, Accounting::Off)
    }

    pub fn load_accounted(&self, path: &Path, accounting: Accounting) -> Plugin {
        let source = Source::path(path).named("cycled").accounted(accounting);
        self.loader
            .load(&self.trust, source, &Params::new())
            .expect("a plain library")
    }

    /// Unloads it; false if it is still there.
    pub fn unload(&self, plugin: &Plugin) -> bool {
        let deadline = Deadline::after(Duration::from_secs(60));
        let unloaded = self.loader.unload_exactly(plugin, deadline);
        matches!(unloaded.expect("nobody is inside"), Unloaded::Gone(_))
    }
}

/// Calls the plugin's function `name` from whatever thread this is.
pub fn call(plugin: &Plugin, name: &str, n: u64) {
    let function = plugin
        .function::<unsafe extern "C" fn(u64) -> u64>(name)
        .expect("exported");
    // SAFETY: the signature is the plugin's.
    let answer = unsafe { function.call((n,)) };
    assert_eq!(answer, Ok(n + 1));
}

/// Opens the library, calls it and closes it, by libc alone.
pub fn plain_cycle(path: &CStr, n: u64) {
    // SAFETY: a terminated path of a library without constructors.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null());
    // SAFETY: an open handle and a terminated name.
    let add = unsafe { libc::dlsym(handle, c"add".as_ptr()) };
    assert!(!add.is_null());
    // SAFETY: the function of that name has this type.
    let add = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u64) -> u64>(add) };
    // SAFETY: the library is open.
    assert_eq!(unsafe { add(n) }, n + 1);
    // SAFETY: opened above, and nobody else has the handle.
    assert_eq!(unsafe { libc::dlclose(handle) }, 0);
}

/// Resident memory of the process, in KiB.
pub fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.and_then(|rest| rest.split_whitespace().next());
    words.and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Mappings of the process that begin with staged copies: what `/proc/self/maps` shows of memory
/// files.
pub fn staged_mappings() -> u64 {
    let maps = fs::read_to_string("/proc/self/maps").expect("proc");
    maps.lines().filter(|line| line.contains("/memfd:")).count() as u64
}
