//! Replaces of a plugin under calls: what callers notice, what a replace costs beside a load and an
//! unload, and what a call through an import costs beside the host's own.
//!
//! `cargo bench -p benches --bench replace`; with `PLUG_BENCH_QUICK=1` a short run, which shows that
//! everything runs and whose ratios mean nothing. The last lines are `ratio NAME VALUE LIMIT` and
//! `count NAME VALUE LIMIT`, met where VALUE <= LIMIT.

mod calls;
mod cost;
mod imports;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use benches::measure::Plan;
use benches::scenario;
use benches::verdict::Limits;
use plug_loader::{
    Config, Deadline, Loader, Params, Plugin, Policy, Replaced, Source, Trust, Unloaded,
};

/// Every verdict in the order in which it is printed, and its limit.
pub const LIMITS: Limits = Limits(&[
    ("calls_lost", 0.0),
    ("call_errors", 0.0),
    ("version_order_violations", 0.0),
    ("p999_during_replace_vs_quiet", 2.0),
    ("import_call_vs_function_call", 1.2),
    ("replace_vs_load_plus_unload", 1.3),
]);

fn main() -> ExitCode {
    scenario::run_all(
        &["calls", "cost", "imports"],
        LIMITS,
        |plan: Plan, group| match group {
            "calls" => calls::run(plan),
            "cost" => cost::run(plan),
            "imports" => imports::run(plan),
            other => panic!("no group {other}"),
        },
    )
}

/// The process's loader, and the right to load.
struct Host {
    loader: Loader,
    trust: Trust,
}

impl Host {
    fn start() -> Self {
        let mut config = Config::default();
        config.history = 4;
        let loader = Loader::new(config).expect("the only loader");
        // SAFETY: the library is made by this benchmark.
        let trust = unsafe { Trust::new(Policy::default()) };
        Self { loader, trust }
    }

    fn load(&self, path: &Path) -> Plugin {
        let source = Source::path(path).named("cycled");
        let loaded = self.loader.load(&self.trust, source, &Params::new());
        loaded.expect("a plain library")
    }

    fn unload(&self) {
        let deadline = Deadline::after(Duration::from_secs(60));
        let unloaded = self.loader.unload("cycled", deadline);
        assert!(matches!(unloaded, Ok(Unloaded::Gone(_))), "{unloaded:?}");
    }

    fn replace(&self, path: &Path) -> Plugin {
        let deadline = Deadline::after(Duration::from_secs(60));
        let (source, params) = (Source::path(path), Params::new());
        let replaced = self
            .loader
            .replace(&self.trust, "cycled", source, &params, deadline);
        let Replaced { plugin, former, .. } = replaced.expect("a plain library");
        assert!(matches!(former, Ok(Unloaded::Gone(_))), "{former:?}");
        plugin
    }
}

/// A library whose `version` answers `answer`.
fn compiled(answer: u32) -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("version-{answer}"));
    let (source, library) = (base.with_extension("c"), base.with_extension("so"));
    let text = format!("unsigned long version(void) {{ return {answer}; }}\n");
    fs::write(&source, text).expect("a folder");
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-O2", "-o"]);
    let status = gcc.arg(&library).arg(&source).status();
    assert!(status.expect("gcc").success());
    library
}
