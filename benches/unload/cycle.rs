//! Load, call and unload of a plugin in Rust, which leaves a thread-local on the calling thread,
//! beside a library in C by libc alone; and what all those cycles leave.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use benches::measure::{Plan, Series, median, ratio, table};

use crate::files::Files;
use crate::host::{self, Host};
use crate::verdict;

/// What is freed behind the scenes is freed once a second: until that has been seen a few times, the
/// allocator has not had all that it will need.
fn warm_up(host: &Host, files: &Files, plan: Plan) {
    let enough = Duration::from_millis(plan.size(5000, 100) as u64);
    let began = Instant::now();
    while began.elapsed() < enough {
        let plugin = host.load(&files.rust);
        host::call(&plugin, "add", 1);
        assert!(host.unload(&plugin));
    }
}

pub fn run(plan: Plan) {
    let (host, files) = (Host::start(), Files::make());
    let worker = host.loader.worker("caller").expect("a worker");
    let names = [
        "Plug: load, call, unload (Rust)",
        "dlopen, call, dlclose (C)",
    ];
    let mut all = names.map(Series::new);
    let mut parts = BTreeMap::<(bool, String), Vec<f64>>::new();
    let times = plan.size(200, 3);
    let mut zombies = 0;
    let mut resident = 0;
    for round in 0..=plan.rounds() {
        if round == 1 {
            warm_up(&host, &files, plan);
            host.loader.reclaim();
            resident = host::resident();
        }
        let mut tries: [Vec<f64>; 2] = Default::default();
        for time in 0..times {
            for turn in 0..2 {
                let which = (turn + time + round) % 2;
                let began = Instant::now();
                if which == 1 {
                    host::plain_cycle(&files.c, time as u64);
                    tries[1].push(began.elapsed().as_nanos() as f64 / 1e3);
                    continue;
                }
                let plugin = host.load(&files.rust);
                host::call(&plugin, "work", time as u64);
                worker.quiescent();
                let deadline = plug_loader::Deadline::after(Duration::from_secs(60));
                let unloaded = host.loader.unload_exactly(&plugin, deadline);
                tries[0].push(began.elapsed().as_nanos() as f64 / 1e3);
                match unloaded.expect("nobody is inside") {
                    // What is noted of all rounds would be taken for what cycles leave.
                    plug_loader::Unloaded::Gone(_) if round < plan.rounds() => {}
                    plug_loader::Unloaded::Gone(report) => {
                        let of_load = plugin.load_times().iter().map(|part| (true, part));
                        let of_unload = report.stages.iter().map(|part| (false, part));
                        for (is_load, (stage, took)) in of_load.chain(of_unload) {
                            let times = parts.entry((is_load, stage.to_string())).or_default();
                            times.push(took.as_nanos() as f64 / 1e3);
                        }
                    }
                    _ => zombies += 1,
                }
            }
        }
        if round > 0 {
            for (series, tries) in all.iter_mut().zip(&tries) {
                series.rounds.push(median(tries));
            }
        }
    }
    host.loader.reclaim();
    let growth = host::resident().saturating_sub(resident);
    let title = format!("a whole life, {} bytes each", files.bytes);
    table(&title, "us", &all);
    for (is_load, what) in [(true, "load"), (false, "unload")] {
        let of = parts.iter().filter(|((load, _), _)| *load == is_load);
        let texts: Vec<String> = of
            .map(|((_, stage), times)| format!("{stage} {:.1}", median(times)))
            .collect();
        println!("  of the {what}, us: {}", texts.join(", "));
    }
    let cycles = times * plan.rounds();
    println!("  after {cycles} cycles: {growth} KiB more resident");
    verdict::ratio(
        "rust_cycle_vs_plain_c_dlopen_dlclose_same_size",
        ratio(&all, names[0], names[1]),
    );
    verdict::count("zombies", zombies + host.loader.zombies().len() as u64);
    verdict::count("still_mapped", host::staged_mappings());
    verdict::count("rss_growth_kb", growth);
}
