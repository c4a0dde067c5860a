//! What a loader may do to its workers for each plugin.

use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use benches::measure::Plan;
use plug_loader::{
    Config, Deadline, Loader, Params, Plugin, Policy, Source, Trust, Unloaded, measuring,
};

use super::files::Files;
use super::workers::{Reads, Sample, Workers};

/// Plugins that are loaded all the time, so that a publication has something to copy.
pub const SHOWN: usize = 16;

/// One of the things that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: what the machine does to workers anyway.
    Nothing,
    /// Plug's publication; the drainer frees in the background.
    Publish,
    /// The same, and a grace period with its membarrier and the freeing at once.
    PublishAndWait,
    /// Nothing, while workers read by arc-swap.
    ArcSwapNothing,
    /// `ArcSwap::store` of a copy.
    ArcSwapStore,
    /// Nothing, while workers look whether to stop.
    StoppableNothing,
    /// All workers stop and go on.
    StopTheWorld,
    /// dlopen of another file each time.
    BareLoad,
    /// Plug's load.
    Load,
    /// dlopen that fails, because a symbol is not defined anywhere.
    BareFailing,
    /// Plug's load of the same file, which fails as late.
    Failing,
}

impl Kind {
    /// As tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Publish => "Plug: publish",
            Self::PublishAndWait => "Plug: publish and one membarrier",
            Self::ArcSwapNothing => "nothing, arc-swap readers",
            Self::ArcSwapStore => "arc-swap: store",
            Self::StoppableNothing => "nothing, stoppable workers",
            Self::StopTheWorld => "stop the world",
            Self::BareLoad => "dlopen",
            Self::Load => "Plug: load",
            Self::BareFailing => "dlopen, failing",
            Self::Failing => "Plug: load, failing",
        }
    }

    fn reads(self) -> Reads {
        match self {
            Self::ArcSwapNothing | Self::ArcSwapStore => Reads::ArcSwap,
            Self::StoppableNothing | Self::StopTheWorld => Reads::Stoppable,
            _ => Reads::Plug,
        }
    }
}

/// The process's loader, and what it loads.
pub struct Disturber {
    pub loader: Loader,
    plan: Plan,
    trust: Trust,
    good: Files,
    undefined: Files,
    _shown: Vec<Plugin>,
}

impl Disturber {
    /// Makes the loader and loads what is always there; `copies` is the most that is loaded by
    /// dlopen in a window.
    pub fn start(plan: Plan, copies: usize) -> Self {
        let mut config = Config::default();
        config.history = 0;
        config.run_exits_at_process_exit = false;
        let loader = Loader::new(config).expect("the only loader");
        // SAFETY: the libraries are ours and nobody calls them.
        let trust = unsafe { Trust::new(Policy::default()) };
        let mut disturber = Self {
            loader,
            plan,
            trust,
            good: Files::good(copies),
            undefined: Files::undefined(),
            _shown: Vec::new(),
        };
        disturber._shown = (0..SHOWN)
            .map(|number| disturber.load(&format!("shown-{number}")))
            .collect();
        disturber.loader.settle_indexes();
        disturber
    }

    fn load(&self, name: &str) -> Plugin {
        self.try_load(&self.good, name).expect("a plain library")
    }

    fn try_load(&self, files: &Files, name: &str) -> Result<Plugin, plug_loader::Error> {
        let source = Source::path(&files.path).named(name);
        self.loader.load(&self.trust, source, &Params::new())
    }

    /// One window of a storm, of up to three the one in which strangers took the least of the
    /// processors: a window of which they had much shows them and not the storm.
    pub fn window(&self, workers: &Workers, kind: Kind, window: Duration, rate: f64) -> Sample {
        let mut best = self.try_window(workers, kind, window, rate);
        for _ in 0..self.plan.size(2, 0) {
            if best.lost < 0.1 {
                break;
            }
            let next = self.try_window(workers, kind, window, rate);
            if next.lost < best.lost {
                best = next;
            }
        }
        best
    }

    /// What it loaded is unloaded before it returns.
    fn try_window(&self, workers: &Workers, kind: Kind, window: Duration, rate: f64) -> Sample {
        // What an earlier window left to the drainer is not this one's.
        self.loader.reclaim();
        let patience = Deadline::after(Duration::from_secs(60));
        let mut plugins = Vec::with_capacity(1 << 12);
        let mut handles = Vec::with_capacity(1 << 12);
        let shared = &workers.shared;
        let sample = workers.window(kind.reads(), window, rate, |number| match kind {
            Kind::Nothing | Kind::ArcSwapNothing | Kind::StoppableNothing => {}
            Kind::Publish => measuring::republish(&self.loader),
            Kind::PublishAndWait => {
                measuring::republish(&self.loader);
                measuring::grace(patience).expect("readers that leave");
            }
            Kind::ArcSwapStore => shared.store(),
            Kind::StopTheWorld => shared.stop_all(),
            Kind::BareLoad => {
                let handle = open(self.good.copy(number));
                handles.push(handle.expect("a plain library"));
            }
            Kind::Load => plugins.push(self.load(&format!("storm-{number}"))),
            Kind::BareFailing => assert!(open(&self.undefined.path).is_none()),
            Kind::Failing => {
                let failed = self
                    .try_load(&self.undefined, "storm")
                    .expect_err("undefined");
                assert_eq!(failed.stage(), Some(plug_loader::Stage::Map), "{failed}");
            }
        });
        for handle in handles {
            // SAFETY: opened in this window and closed once.
            unsafe { libc::dlclose(handle) };
        }
        for plugin in plugins {
            let gone = self.loader.unload_exactly(&plugin, patience);
            assert!(matches!(gone, Ok(Unloaded::Gone(_))), "{gone:?}");
        }
        sample
    }
}

fn open(path: &Path) -> Option<*mut c_void> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no zero byte");
    // SAFETY: the libraries are ours; their constructors are the compiler's.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    (!handle.is_null()).then_some(handle)
}
