//! A call of a function of another plugin, as a plugin imports it, beside the host's own call of it.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use benches::measure::{Plan, Series, ratio, table};
use plug_loader::{Params, Plugin, Source};

use crate::{Host, LIMITS};

type Add = unsafe extern "C" fn(u64) -> u64;
type Walk = unsafe extern "C" fn(u64, u64) -> u64;

const PROVIDER: &str = r#"
#include "plugin_api.h"
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("provider", "1.0.0", "adds", "MIT", init, stop);
PLUG_EXPORT(uint64_t, add, (uint64_t n)) { return n + 1; }
"#;

const USER: &str = r#"
#include "plugin_api.h"
PLUG_IMPORT("provider", "^1", uint64_t, add, (uint64_t n), (n));
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("user", "1.0.0", "adds", "MIT", init, stop);
PLUG_EXPORT(uint64_t, walk, (uint64_t n, uint64_t times)) {
    while (times-- > 0) { n = add(n); }
    return n;
}
"#;

pub fn run(plan: Plan) {
    let host = Host::start();
    let provider = load(&host, "provider", PROVIDER);
    let user = load(&host, "user", USER);
    let add = provider.function::<Add>("add").expect("exported");
    let walk = user.function::<Walk>("walk").expect("exported");
    let worker = host.loader.worker("caller").expect("a worker");
    let names = ["import", "PluginFn::call", "PluginFn::call_on"];
    let mut all = names.map(Series::new);
    let times = plan.size(3_000_000, 1_000) as u64;
    for round in 0..=plan.rounds() {
        let mut took = [0.0; 3];
        let began = Instant::now();
        // SAFETY: the signature is the plugin's.
        let sum = unsafe { walk.call_on(&worker, (0, times)) };
        took[0] = nanos(began, times);
        assert_eq!(sum, Ok(times));
        let began = Instant::now();
        let mut n = 0;
        for _ in 0..times {
            // SAFETY: the signature is the plugin's.
            n = unsafe { add.call((n,)) }.expect("Live");
        }
        took[1] = nanos(began, times);
        assert_eq!(black_box(n), times);
        let began = Instant::now();
        let mut n = 0;
        for _ in 0..times {
            // SAFETY: the signature is the plugin's.
            n = unsafe { add.call_on(&worker, (n,)) }.expect("Live");
        }
        took[2] = nanos(began, times);
        assert_eq!(black_box(n), times);
        // The first round only warms up.
        if round > 0 {
            for (series, took) in all.iter_mut().zip(took) {
                series.rounds.push(took);
            }
        }
    }
    table("on a worker's thread", "ns", &all);
    let ratio = ratio(&all, names[0], names[1]);
    LIMITS.tell("import_call_vs_function_call", ratio);
}

fn nanos(began: Instant, times: u64) -> f64 {
    began.elapsed().as_nanos() as f64 / times as f64
}

fn load(host: &Host, name: &str, source: &str) -> Plugin {
    let source = Source::path(compiled(name, source));
    let loaded = host.loader.load(&host.trust, source, &Params::new());
    loaded.expect("a plugin")
}

fn compiled(name: &str, text: &str) -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (source, library) = (base.with_extension("c"), base.with_extension("so"));
    fs::write(&source, text).expect("a folder");
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-api/include");
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-O2", "-I"]).arg(include);
    let status = gcc.arg("-o").arg(&library).arg(&source).status();
    assert!(status.expect("gcc").success());
    library
}
