//! What publications and loads do to workers, as verdicts. The whole table is the benchmark
//! `claim`'s.

use std::time::Duration;

use benches::measure::{Pinned, Plan, Series, is_wanted, ratio, table};

use crate::storm::{Disturber, Kind, Sample, Workers};
use crate::verdict;

/// Windows of `kinds` in turns, each round beginning with another one.
fn turns(
    plan: Plan,
    disturber: &Disturber,
    workers: &[(&str, &Workers, Kind)],
    rate: f64,
) -> [Vec<Series>; 5] {
    let window = Duration::from_millis(if plan.quick { 20 } else { 400 });
    let mut workers = workers.to_vec();
    workers.retain(|row| is_wanted(row.0));
    let mut all: [Vec<Series>; 5] =
        [(); 5].map(|()| workers.iter().map(|row| Series::new(row.0)).collect());
    for round in 0..plan.rounds() {
        for turn in 0..workers.len() {
            let which = (round + turn) % workers.len();
            let (_, workers, kind) = workers[which];
            let Sample {
                gaps,
                work,
                rate,
                resident,
                lost,
            } = disturber.window(workers, kind, window, rate);
            let values = [
                gaps,
                work,
                rate,
                resident / f64::from(1 << 20),
                lost * 100.0,
            ];
            for (series, value) in all.iter_mut().zip(values) {
                series[which].rounds.push(value);
            }
        }
    }
    all
}

fn tables(title: &str, [gaps, work, rate, resident, lost]: &[Vec<Series>; 5]) {
    table(
        &format!("{title}: gaps over 0.5 us"),
        "a second of work",
        gaps,
    );
    table(&format!("{title}: work per operation"), "ns", work);
    table(&format!("{title}: what was done"), "a second", rate);
    table(&format!("{title}: resident memory"), "MiB", resident);
    table(&format!("{title}: what strangers took"), "%", lost);
}

pub fn publications(plan: Plan) {
    let _pinned = Pinned::to(0);
    let disturber = Disturber::start(plan, 0);
    let workers = Workers::start(&disturber.loader, 1);
    let rows = [
        Kind::Nothing,
        Kind::Publish,
        Kind::PublishAndWait,
        Kind::ArcSwapNothing,
        Kind::ArcSwapStore,
        Kind::StoppableNothing,
        Kind::StopTheWorld,
    ]
    .map(|kind| (kind.name(), &workers, kind));
    let all = turns(plan, &disturber, &rows, 50_000.0);
    tables("50,000 publications a second", &all);
    let [gaps, work, ..] = all;
    let name = Kind::Publish.name();
    let over = |all| ratio(all, name, Kind::Nothing.name());
    verdict::tell("publish_gaps_50k_vs_none", over(&gaps));
    verdict::tell("publish_cpu_50k_vs_none", over(&work));
}

pub fn loads(plan: Plan) {
    let _pinned = Pinned::to(0);
    let disturber = Disturber::start(plan, 600);
    let one = Workers::start(&disturber.loader, 1);
    let many = Workers::start(&disturber.loader, 128);
    // As many a second as the slowest of them does, up to a thousand.
    let probe = Duration::from_millis(if plan.quick { 20 } else { 300 });
    let rate = [Kind::Load, Kind::Failing]
        .map(|kind| disturber.window(&one, kind, probe, 1000.0).rate)
        .into_iter()
        .fold(1000.0, f64::min);
    let rows = [
        ("dlopen", &one, Kind::BareLoad),
        ("Plug: load", &one, Kind::Load),
        ("dlopen, failing", &one, Kind::BareFailing),
        ("Plug: load, failing", &one, Kind::Failing),
        ("nothing", &one, Kind::Nothing),
        ("Plug: load, 128 workers", &many, Kind::Load),
    ];
    let all = turns(plan, &disturber, &rows, rate);
    tables(&format!("{rate:.0} loads a second"), &all);
    let [gaps, ..] = all;
    let over = |a, b| ratio(&gaps, a, b);
    verdict::tell("load_gaps_1k_vs_bare_dlopen", over("Plug: load", "dlopen"));
    verdict::tell(
        "failing_load_gaps_1k_vs_bare_dlopen",
        over("Plug: load, failing", "dlopen, failing"),
    );
    verdict::tell(
        "load_gaps_growth_1_to_128_workers",
        over("Plug: load, 128 workers", "Plug: load"),
    );
}
