//! The plugin that is tortured, and what callers have of one load of it.

use std::ffi::c_void;
use std::path::{Path, PathBuf};

use plug_loader::{Params, Plugin, PluginFn, PluginInterface, Source};
use plug_tests::host::Host;
use plug_tests::standalone::{Scratch, c_plugin};

/// What a plugin answers from while it lives, and after its exit.
pub const ALIVE: u64 = 0x600d_600d_600d_600d;

const SOURCE: &str = r#"
#include "plugin_api.h"

#define ALIVE 0x600d600d600d600du
#define DEAD 0xdeaddeaddeaddeadu

static volatile uint64_t state;

static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    state = ALIVE;
    return PLUG_OK;
}

static void stop(void) { state = DEAD; }

/* The state as it was all along, or that of the dead. */
PLUG_EXPORT(uint64_t, compute, (uint64_t turns)) {
    uint64_t all = state;
    for (uint64_t n = 0; n < turns; n++) {
        all &= state;
    }
    return all == state ? all : DEAD;
}

/* The same, with the host in between. */
PLUG_EXPORT(uint64_t, through, (void (*next)(void *), void *argument)) {
    uint64_t before = state;
    next(argument);
    return before == state ? before : DEAD;
}

typedef struct torture_v1 {
    uint64_t (*compute)(uint64_t turns);
} torture_v1;

static const torture_v1 TABLE = {compute};

PLUG_INTERFACES((INTERFACE, "plug.torture", 1, 0, TABLE));
PLUG_PLUGIN_WITH_INTERFACES("torture", "1.0.0", "says whether it lives", "MIT", init, stop);
"#;

plug_api::interface! {
    /// The plugin's table.
    #[derive(Clone, Copy, Debug)]
    pub struct TortureV1("plug.torture", 1, 0) {
        /// As the exported function.
        pub compute: unsafe extern "C-unwind" fn(turns: u64) -> u64,
    }
}

/// `compute`.
pub type Compute = unsafe extern "C" fn(u64) -> u64;
/// `through`.
pub type Through = unsafe extern "C" fn(extern "C-unwind" fn(*mut c_void), *mut c_void) -> u64;

/// What callers have of one load.
#[derive(Clone, Debug)]
pub struct Handle {
    pub plugin: Plugin,
    /// The function's address, which nobody should call.
    pub bare: usize,
    pub compute: PluginFn<Compute>,
    pub through: PluginFn<Through>,
    pub table: PluginInterface<TortureV1>,
}

impl Handle {
    /// Loads the plugin under this name.
    pub fn load(host: &Host, name: &str, file: &Path) -> Self {
        let source = Source::path(file).named(name);
        let plugin = host.loader.load(&host.trust, source, &Params::new());
        let plugin = plugin.unwrap_or_else(|error| panic!("load {name}: {error:#}"));
        Self {
            bare: plugin.address_of("compute").expect("exported"),
            compute: plugin.function("compute").expect("exported"),
            through: plugin.function("through").expect("exported"),
            table: plugin.interface().expect("exported"),
            plugin,
        }
    }
}

/// Builds the plugin.
pub fn build(scratch: &Scratch) -> PathBuf {
    c_plugin(scratch, "torture", SOURCE)
}
