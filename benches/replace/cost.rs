//! A replace beside a load and an unload of the same file, nobody inside.

use std::time::Instant;

use benches::measure::{Plan, Series, median, ratio, table};

use crate::{Host, LIMITS, compiled};

pub fn run(plan: Plan) {
    let (host, file) = (Host::start(), compiled(2));
    let names = ["replace", "load and unload"];
    let mut all = names.map(Series::new);
    let times = plan.size(40, 2);
    for round in 0..=plan.rounds() {
        let mut tries: [Vec<f64>; 2] = Default::default();
        for _ in 0..times {
            let _plugin = host.load(&file);
            let began = Instant::now();
            let _successor = host.replace(&file);
            tries[0].push(micros(began));
            host.unload();
            let began = Instant::now();
            let _plugin = host.load(&file);
            host.unload();
            tries[1].push(micros(began));
        }
        // The first round only warms up.
        if round > 0 {
            for (series, tries) in all.iter_mut().zip(&tries) {
                series.rounds.push(median(tries));
            }
        }
    }
    table("nobody inside", "us", &all);
    let ratio = ratio(&all, names[0], names[1]);
    LIMITS.tell("replace_vs_load_plus_unload", ratio);
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_nanos() as f64 / 1e3
}
