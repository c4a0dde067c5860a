//! Workers that call at a pace while the plugin is replaced, beside the same while nothing happens.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use benches::measure::{Plan, Series, ratio, table};
use plug_loader::{CallError, PluginFn};

use crate::{Host, LIMITS, compiled};

type Version = unsafe extern "C" fn() -> u64;

const WORKERS: usize = 4;
/// Between two calls, so that the machine is not full of callers.
const PACE: Duration = Duration::from_micros(50);

/// What callers met, and what they are compared with.
#[derive(Default)]
struct Met {
    calls: AtomicU64,
    lost: AtomicU64,
    errors: AtomicU64,
    backwards: AtomicU64,
    /// Replaces that began, and those that ended. The plugin's answer after n of them is n % 2.
    began: AtomicU64,
    ended: AtomicU64,
    over: AtomicBool,
}

pub fn run(plan: Plan) {
    let host = Host::start();
    let versions = [0, 1].map(compiled);
    let names = ["99.9th of a call, replaces", "99.9th of a call, quiet"];
    let mut all = names.map(Series::new);
    let met = Met::default();
    let loaded = host.load(&versions[0]);
    let version = loaded.function::<Version>("version").expect("exported");
    let times = plan.size(90, 2);
    for round in 0..=plan.rounds() {
        let mut took = Duration::ZERO;
        let during = watched(&host, version, &met, || {
            let began = Instant::now();
            for _ in 0..times {
                let next = met.began.fetch_add(1, Ordering::SeqCst) + 1;
                let _plugin = host.replace(&versions[usize::from(next % 2 == 1)]);
                met.ended.fetch_add(1, Ordering::SeqCst);
            }
            took = began.elapsed();
        });
        let quiet = watched(&host, version, &met, || thread::sleep(took));
        if round > 0 {
            all[0].rounds.push(during);
            all[1].rounds.push(quiet);
        }
    }
    table("four workers", "ns", &all);
    let count = |count: &AtomicU64| count.load(Ordering::SeqCst);
    println!(
        "{} replaces, {} calls",
        count(&met.ended),
        count(&met.calls)
    );
    LIMITS.tell_count("calls_lost", count(&met.lost));
    LIMITS.tell_count("call_errors", count(&met.errors));
    LIMITS.tell_count("version_order_violations", count(&met.backwards));
    let ratio = ratio(&all, names[0], names[1]);
    LIMITS.tell("p999_during_replace_vs_quiet", ratio);
}

/// The 99.9th percentile of what a call takes while `meanwhile` runs, in nanoseconds.
fn watched(host: &Host, version: PluginFn<Version>, met: &Met, meanwhile: impl FnOnce()) -> f64 {
    met.over.store(false, Ordering::SeqCst);
    let mut times = thread::scope(|scope| {
        let callers: Vec<_> = (0..WORKERS)
            .map(|n| scope.spawn(move || call_on_and_on(host, n, version, met)))
            .collect();
        meanwhile();
        met.over.store(true, Ordering::SeqCst);
        let times = callers.into_iter().map(|it| it.join().expect("ends"));
        times.flatten().collect::<Vec<u64>>()
    });
    times.sort_unstable();
    times
        .get(times.len() * 999 / 1000)
        .map_or(f64::NAN, |it| *it as f64)
}

fn call_on_and_on(host: &Host, n: usize, version: PluginFn<Version>, met: &Met) -> Vec<u64> {
    let worker = host
        .loader
        .worker(&format!("caller-{n}"))
        .expect("a worker");
    let mut times = Vec::new();
    let mut last = met.ended.load(Ordering::SeqCst);
    while !met.over.load(Ordering::SeqCst) {
        let ended = met.ended.load(Ordering::SeqCst);
        let began = Instant::now();
        // SAFETY: the signature is the plugin's.
        let answer = unsafe { version.call_on(&worker, ()) };
        let took = began.elapsed().as_nanos();
        times.push(u64::try_from(took).unwrap_or(u64::MAX));
        met.calls.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(answer) => {
                // The first version from the last one on, and from all that was over before the
                // call, that answers so: it must have begun.
                let least = last.max(ended);
                last = least + u64::from(least % 2 != answer);
                if answer > 1 || last > met.began.load(Ordering::SeqCst) {
                    met.backwards.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(CallError::Gone) => _ = met.lost.fetch_add(1, Ordering::Relaxed),
            Err(_) => _ = met.errors.fetch_add(1, Ordering::Relaxed),
        }
        thread::sleep(PACE);
    }
    times
}
