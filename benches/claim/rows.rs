//! The figures, and how one process tells them to another.

use std::time::Duration;

use benches::measure::{Pinned, Plan, median};

use crate::storm::{Disturber, Kind, Sample, Workers};

/// What the figures of one process begin with.
const PREFIX: &str = "=row ";

/// Something that a loader does, and how often a second; 0 where it does nothing.
pub type What = (Kind, f64);

/// All that is measured, in the order of the tables.
pub const ALL: [What; 15] = [
    (Kind::Nothing, 0.0),
    (Kind::Publish, 1e3),
    (Kind::PublishAndWait, 1e3),
    (Kind::Publish, 5e4),
    (Kind::PublishAndWait, 5e4),
    (Kind::ArcSwapNothing, 0.0),
    (Kind::ArcSwapStore, 1e3),
    (Kind::ArcSwapStore, 5e4),
    (Kind::StoppableNothing, 0.0),
    (Kind::StopTheWorld, 1e3),
    (Kind::StopTheWorld, 5e4),
    (Kind::BareLoad, 1e3),
    (Kind::Load, 1e3),
    (Kind::BareFailing, 1e3),
    (Kind::Failing, 1e3),
];

/// Most that are loaded in a window.
const LOADS: usize = 600;

/// What one of them did to so many workers.
pub struct Row {
    pub workers: usize,
    /// Its place in [`ALL`].
    pub what: usize,
    /// Gaps in a second of work: median, least and most.
    pub gaps: [f64; 3],
    /// Processor time for a piece of work in nanoseconds: median, least and most.
    pub work: [f64; 3],
    /// How often a second it was done, at the median.
    pub rate: f64,
    /// Resident memory in MiB, at the most.
    pub resident: f64,
    /// How much of the processors strangers had, in percent, at the median.
    pub lost: f64,
}

impl Row {
    fn of(workers: usize, what: usize, samples: &[Sample]) -> Self {
        let all = |of: fn(&Sample) -> f64| samples.iter().map(of).collect::<Vec<_>>();
        let spread = |values: Vec<f64>| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            [median(&values), least, most]
        };
        Self {
            workers,
            what,
            gaps: spread(all(|sample| sample.gaps)),
            work: spread(all(|sample| sample.work)),
            rate: median(&all(|sample| sample.rate)),
            resident: spread(all(|sample| sample.resident / f64::from(1 << 20)))[2],
            lost: median(&all(|sample| sample.lost * 100.0)),
        }
    }

    fn tell(&self) {
        let ([a, b, c], [d, e, f]) = (self.gaps, self.work);
        let (rate, resident, lost) = (self.rate, self.resident, self.lost);
        println!(
            "{PREFIX}{} {a} {b} {c} {d} {e} {f} {rate} {resident} {lost}",
            self.what
        );
    }

    /// The row in a line of the process that measures with so many workers.
    pub fn told(workers: usize, line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(PREFIX)?.split(' ');
        let what = words.next()?.parse().ok()?;
        let mut next = || words.next()?.parse().ok();
        Some(Self {
            workers,
            what,
            gaps: [next()?, next()?, next()?],
            work: [next()?, next()?, next()?],
            rate: next()?,
            resident: next()?,
            lost: next()?,
        })
    }
}

/// Measures everything with `n` workers and tells the rows.
pub fn measure(plan: Plan, n: usize) {
    let _pinned = Pinned::to(0);
    let disturber = Disturber::start(plan, LOADS);
    let workers = Workers::start(&disturber.loader, n);
    let window = Duration::from_millis(if plan.quick { 20 } else { 400 });
    // All loads are made as often as the slowest kind can be.
    let loads = [Kind::Load, Kind::Failing]
        .map(|kind| disturber.window(&workers, kind, window, 1e3).rate)
        .into_iter()
        .fold(1e3, f64::min);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); ALL.len()];
    for round in 0..plan.rounds() {
        for turn in 0..ALL.len() {
            let which = (round + turn) % ALL.len();
            let (kind, rate) = ALL[which];
            let rate = match kind {
                Kind::BareLoad | Kind::Load | Kind::BareFailing | Kind::Failing => loads,
                _ if rate == 0.0 => 1e3,
                _ => rate,
            };
            samples[which].push(disturber.window(&workers, kind, window, rate));
        }
    }
    for (what, samples) in samples.iter().enumerate() {
        Row::of(n, what, samples).tell();
    }
}
