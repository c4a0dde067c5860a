//! An unload with 128 workers beside one with a single one: all are registered, each has called the
//! plugin once in this life of it, and waits for work at the moment of the unload, as the threads of a
//! pool do.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use benches::measure::{Plan, Series, median, ratio, table};

use crate::files::Files;
use crate::host::{self, Host};
use crate::verdict;

pub fn run(plan: Plan) {
    let (host, files) = (Host::start(), Files::make());
    let names = ["unload, 128 workers", "unload, 1 worker"];
    let mut all = names.map(Series::new);
    let times = plan.size(40, 2);
    let alone = host.loader.worker("alone").expect("a worker");
    for round in 0..=plan.rounds() {
        let one = (0..times).map(|_| {
            let plugin = host.load(&files.rust);
            host::call(&plugin, "add", 1);
            alone.quiescent();
            unload(&host, &plugin)
        });
        let one = median(&one.collect::<Vec<_>>());
        let many = median(&with_many(&host, &files, times));
        // The first round only warms up.
        if round > 0 {
            all[0].rounds.push(many);
            all[1].rounds.push(one);
        }
    }
    table("an unload, nobody inside", "us", &all);
    verdict::ratio("unload_128_workers_vs_1", ratio(&all, names[0], names[1]));
}

fn unload(host: &Host, plugin: &plug_loader::Plugin) -> f64 {
    let began = Instant::now();
    assert!(host.unload(plugin));
    began.elapsed().as_nanos() as f64 / 1e3
}

/// As many unloads while 127 other workers are registered.
fn with_many(host: &Host, files: &Files, times: usize) -> Vec<f64> {
    const OTHERS: usize = 127;
    // One more for the thread that unloads.
    let (work, done) = (Barrier::new(OTHERS + 1), Barrier::new(OTHERS + 1));
    thread::scope(|scope| {
        for number in 0..OTHERS {
            let (work, done) = (&work, &done);
            scope.spawn(move || {
                let name = format!("pool-{number}");
                let worker = host.loader.worker(&name).expect("a worker");
                for _ in 0..times {
                    let asleep = worker.asleep();
                    work.wait();
                    drop(asleep);
                    let plugin = host.loader.plugin("cycled").expect("loaded");
                    host::call(&plugin, "add", 1);
                    let asleep = worker.asleep();
                    done.wait();
                    drop(asleep);
                }
            });
        }
        let times = (0..times).map(|_| {
            let plugin = host.load(&files.rust);
            work.wait();
            done.wait();
            // Until the last one sleeps again.
            thread::sleep(std::time::Duration::from_millis(3));
            unload(host, &plugin)
        });
        times.collect()
    })
}
