//! What a whole probe takes: the program's start, the copy, load, unload and end.

use std::path::{Path, PathBuf};

use benches::measure::{Plan, Series};
use plug_loader::image::Opened;
use plug_loader::probe::{self, Probe, Verdict};
use plug_loader::{Params, Policy};

use crate::sample::compile;

/// Compiles a plugin that does nothing into `dir`.
pub fn small_plugin(dir: &Path) -> Result<PathBuf, String> {
    let source = "#include \"plugin_api.h\"
        static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
        static void stop(void) {}
        PLUG_PLUGIN(\"small\", \"1.0.0\", \"for a benchmark\", \"MIT\", init, stop);\n";
    compile(dir, "small", source, &["-O2"])
}

/// Probes of the file at `path` by this very program, whose `main` begins with
/// [`probe::serve`]; in milliseconds.
pub fn series(plan: Plan, path: &Path) -> Result<Series, String> {
    let opened = Opened::open(path).map_err(|error| error.to_string())?;
    let (policy, params) = (Policy::default(), Params::new());
    let mut series = Series::new("probe of a small plugin");
    for _ in 0..plan.rounds() * 6 {
        let report = probe::run(&Probe::default(), &opened, &policy, &params, false);
        let report = report.map_err(|error| error.to_string())?;
        if report.verdict != Verdict::Passed {
            return Err(report.to_string());
        }
        series.rounds.push(report.took.as_secs_f64() * 1e3);
    }
    Ok(series)
}
