//! A host for tests.

use std::path::PathBuf;
use std::time::Duration;

use plug_loader::{
    Config, Deadline, Error, Loader, Params, Plugin, Policy, Source, Trust, UnloadReport, Unloaded,
};

/// The process's loader and its trust.
#[derive(Debug)]
pub struct Host {
    /// The loader.
    pub loader: Loader,
    /// Admits everything.
    pub trust: Trust,
}

impl Host {
    /// Makes the process's loader.
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    /// Makes the process's loader as `config` says.
    pub fn with(config: Config) -> Self {
        // SAFETY: tests load the example plugins of this repository and system libraries.
        let trust = unsafe { Trust::new(Policy::default()) };
        Self {
            loader: Loader::new(config).expect("first loader"),
            trust,
        }
    }

    /// Makes the process's loader with a history that is soon full, so that it no longer grows.
    pub fn forgetful() -> Self {
        let mut config = Config::default();
        config.history = 4;
        Self::with(config)
    }

    /// Loads the file at `path` without parameters.
    pub fn load(&self, path: impl Into<PathBuf>) -> Result<Plugin, Error> {
        self.loader
            .load(&self.trust, Source::path(path.into()), &Params::new())
    }

    /// Loads a useful example plugin.
    pub fn useful(&self, name: &str) -> Plugin {
        self.load(useful(name)).expect("a useful plugin loads")
    }

    /// Loads a hostile example plugin.
    pub fn hostile(&self, name: &str) -> Result<Plugin, Error> {
        self.load(hostile(name))
    }

    /// Unloads and expects the plugin to be gone.
    pub fn unload(&self, name: &str) -> UnloadReport {
        match self.loader.unload(name, seconds(10)) {
            Ok(Unloaded::Gone(report)) => report,
            other => panic!("unload {name}: {other:?}"),
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// A deadline in so many seconds.
pub fn seconds(n: u64) -> Deadline {
    Deadline::after(Duration::from_secs(n))
}

/// The file of a useful example plugin.
pub fn useful(name: &str) -> PathBuf {
    plug_example_plugins::path(name).expect("built by the workspace")
}

/// The file of a hostile example plugin.
pub fn hostile(name: &str) -> PathBuf {
    plug_example_plugins::hostile(name).expect("built by the workspace")
}
