//! The one file that knows how Plug is asked.

use std::hint::black_box;
use std::time::{Duration, Instant};

use plug_loader::{
    Config, CrashOptions, Deadline, Loader, Params, Plugin, Policy, Source, SymbolReader, Trust,
    Unloaded, Worker,
};

use plug_readside::{snapshot, thread_pointer};

use crate::library::Library;

/// The process's loader, and the right to load synthetic libraries.
pub struct Plug {
    loader: Loader,
    trust: Trust,
}

impl Plug {
    pub fn start() -> Self {
        let mut config = Config::default();
        // Nobody asks after plugins that are gone, and the exit need not take the 5,000 apart.
        config.history = 0;
        config.run_exits_at_process_exit = false;
        let loader = Loader::new(config).expect("the only loader");
        // SAFETY: the libraries hold functions that nobody calls.
        let trust = unsafe { Trust::new(Policy::default()) };
        Self { loader, trust }
    }

    pub fn load(&self, library: &Library, name: &str) -> Plugin {
        let source = Source::path(&library.path).named(name);
        self.loader
            .load(&self.trust, source, &Params::new())
            .expect("a plain library")
    }

    pub fn unload(&self, plugin: &Plugin) {
        let deadline = Deadline::after(Duration::from_secs(60));
        let unloaded = self.loader.unload_exactly(plugin, deadline);
        assert!(matches!(unloaded, Ok(Unloaded::Gone(_))), "{unloaded:?}");
    }

    /// Waits until nothing is built or freed behind the scenes.
    pub fn settle(&self) {
        self.loader.settle_indexes();
        self.loader.reclaim();
    }

    /// Makes this thread a worker, as threads are that call plugins: profilers interrupt them.
    pub fn worker(&self) -> Worker {
        self.loader.worker("bench").expect("room for a worker")
    }

    /// Has crashes reported, to stderr alone.
    pub fn install_crash_handler(&self) -> Result<(), String> {
        self.loader
            .install_crash_handler(CrashOptions::default())
            .map_err(|error| error.to_string())
    }

    /// Loads and waits for the index; how long the load took, and load and index together.
    pub fn load_ready(&self, library: &Library, name: &str) -> (Plugin, Duration, Duration) {
        let began = Instant::now();
        let plugin = self.load(library, name);
        let loaded = began.elapsed();
        self.loader.settle_indexes();
        (plugin, loaded, began.elapsed())
    }
}

/// What every lookup begins and ends with.
#[inline]
pub fn section(_address: usize) {
    let section = snapshot::sections().enter(thread_pointer());
    black_box(snapshot::view(&section));
}

/// Address to plugin and number of the symbol, nothing copied.
#[inline]
pub fn locate(address: usize) {
    black_box(SymbolReader::new().locate(black_box(address)));
}

/// Address to everything, copied out.
#[inline]
pub fn resolve(address: usize) {
    black_box(SymbolReader::new().resolve(black_box(address)));
}

/// Start of the symbol that covers an address.
pub fn symbol_start(address: usize) -> Option<usize> {
    let resolved = SymbolReader::new().resolve(address)?;
    (!resolved.symbol.as_bytes().is_empty()).then_some(resolved.symbol_start)
}

/// Name to address.
#[inline]
pub fn address_of(plugin: &Plugin, name: &str) -> Option<usize> {
    plugin.address_of(name)
}

/// Bytes that the loader says it holds for the plugin's symbols.
pub fn index_bytes(plugin: &Plugin) -> usize {
    plugin.index_bytes()
}
