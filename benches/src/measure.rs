//! Measures contenders in turns, so that a busy neighbour hurts them all alike.

use std::arch::x86_64::{__rdtscp, _mm_lfence, _rdtsc};
use std::mem;
use std::time::{Duration, Instant};

/// How long to measure.
#[derive(Clone, Copy)]
pub struct Plan {
    /// One short round over small sizes, to see that all of it runs.
    pub quick: bool,
}

impl Plan {
    pub fn from_environment() -> Self {
        let quick = std::env::var_os("PLUG_BENCH_QUICK").is_some_and(|value| value == "1");
        Self { quick }
    }

    pub fn rounds(self) -> usize {
        if self.quick { 1 } else { 11 }
    }

    fn batch(self) -> Duration {
        Duration::from_micros(if self.quick { 300 } else { 4000 })
    }

    /// As many operations as take about as long as a batch should.
    pub fn fitting(self, mut run: impl FnMut(usize)) -> usize {
        let mut n = 1;
        loop {
            let began = processor_time();
            run(n);
            let took = processor_time().saturating_sub(began);
            if took * 16 >= self.batch() || n >= 1 << 22 {
                let fit = self.batch().as_nanos() * n as u128 / took.as_nanos().max(1);
                return usize::try_from(fit).unwrap_or(n).clamp(1, 1 << 24);
            }
            n *= 2;
        }
    }

    /// `full`, or `small` in the quick mode.
    pub fn size(self, full: usize, small: usize) -> usize {
        if self.quick { small } else { full }
    }
}

/// What one contender took per operation in each round, in nanoseconds unless its table says
/// otherwise.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub rounds: Vec<f64>,
}

impl Series {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            rounds: Vec::new(),
        }
    }

    pub fn median(&self) -> f64 {
        median(&self.rounds)
    }

    /// The median of the ratios within a round: what disturbs a whole round cancels out.
    pub fn over(&self, other: &Self) -> f64 {
        let ratios = self.rounds.iter().zip(&other.rounds).map(|(a, b)| a / b);
        median(&ratios.collect::<Vec<_>>())
    }
}

/// How much faster or slower `name` is than `other`; the reason where one is missing.
pub fn ratio(all: &[Series], name: &str, other: &str) -> Result<f64, String> {
    let find = |name| {
        let found = all.iter().find(|series| series.name == name);
        found.ok_or_else(|| format!("no {name}"))
    };
    Ok(find(name)?.over(find(other)?))
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Prints a table of medians, least and most.
pub fn table(title: &str, unit: &str, all: &[Series]) {
    println!(
        "\n{title}\n  {:<34} {:>12} {:>12} {:>12}",
        unit, "median", "min", "max"
    );
    for series in all {
        let least = series.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = series.rounds.iter().copied().fold(0.0, f64::max);
        println!(
            "  {:<34} {:>12.1} {least:>12.1} {most:>12.1}",
            series.name,
            series.median()
        );
    }
}

/// Somebody who is measured; called with the number of the first operation and how many.
pub struct Contender<'a> {
    name: String,
    run: Box<dyn FnMut(usize, usize) + 'a>,
}

impl<'a> Contender<'a> {
    /// Looks up `items` in turn, from the start again after the last. The whole loop is compiled
    /// for this one lookup.
    pub fn new<T: Copy>(
        name: impl Into<String>,
        items: &'a [T],
        mut lookup: impl FnMut(T) + 'a,
    ) -> Self {
        assert!(items.len().is_power_of_two());
        let mask = items.len() - 1;
        Self {
            name: name.into(),
            run: Box::new(move |first, n| {
                for at in first..first + n {
                    lookup(items[at & mask]);
                }
            }),
        }
    }
}

/// Whether a contender of this name takes part: for a profiler, only those whose name contains
/// what `PLUG_BENCH_ONLY` says.
pub fn is_wanted(name: &str) -> bool {
    std::env::var("PLUG_BENCH_ONLY").map_or(true, |only| name.contains(&only))
}

/// Runs all contenders in each round, each time beginning with another one.
pub fn compare(plan: Plan, mut contenders: Vec<Contender<'_>>) -> Vec<Series> {
    let _pinned = Pinned::to(0);
    contenders.retain(|contender| is_wanted(&contender.name));
    let batches: Vec<usize> = contenders
        .iter_mut()
        .map(|contender| plan.fitting(|n| (contender.run)(0, n)))
        .collect();
    let mut all: Vec<Series> = contenders.iter().map(|c| Series::new(&c.name)).collect();
    for round in 0..plan.rounds() {
        for turn in 0..contenders.len() {
            let which = (round + turn) % contenders.len();
            let (run, n) = (&mut contenders[which].run, batches[which]);
            // Wins back the caches from the one before.
            run(round * n, n);
            let began = processor_time();
            run(round * n, n);
            let took = processor_time().saturating_sub(began);
            all[which].rounds.push(took.as_nanos() as f64 / n as f64);
        }
    }
    all
}

/// What this thread had of the processor: without the times in which a neighbour had it.
pub fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: there is room for a result.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Keeps the thread on one processor until dropped. Threads made meanwhile inherit that.
pub struct Pinned {
    before: libc::cpu_set_t,
}

impl Pinned {
    pub fn to(cpu: usize) -> Self {
        Self::on(|other| other == cpu)
    }

    /// Keeps the thread off one processor, where there are others.
    pub fn off(cpu: usize) -> Self {
        Self::on(|other| other != cpu)
    }

    fn on(allows: impl Fn(usize) -> bool) -> Self {
        // SAFETY: all zeros are the empty set.
        let mut before: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: `before` has room for as many bytes as are announced.
        unsafe { libc::sched_getaffinity(0, size_of_val(&before), &raw mut before) };
        // SAFETY: all zeros are the empty set.
        let mut only: libc::cpu_set_t = unsafe { mem::zeroed() };
        for cpu in (0..libc::CPU_SETSIZE as usize).filter(|cpu| allows(*cpu)) {
            // SAFETY: `only` is a set of as many processors.
            unsafe { libc::CPU_SET(cpu, &mut only) };
        }
        // Processors we may not use leave things as they are.
        // SAFETY: `only` has as many bytes as are announced.
        unsafe { libc::sched_setaffinity(0, size_of_val(&only), &raw const only) };
        Self { before }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: `before` has as many bytes as are announced.
        unsafe { libc::sched_setaffinity(0, size_of_val(&self.before), &raw const self.before) };
    }
}

/// Measures single operations by the processor's time stamps.
pub struct Stamps {
    per_tick: f64,
    /// Ticks of measuring nothing.
    floor: u64,
}

impl Stamps {
    pub fn calibrated() -> Self {
        let per_tick = ns_per_tick();
        let mut empty: Vec<u64> = (0..1001).map(|_| Self::ticks(|| ())).collect();
        empty.sort_unstable();
        let floor = empty[empty.len() / 2];
        Self { per_tick, floor }
    }

    /// Nanoseconds of one run of `what`, without those of the measurement.
    pub fn time(&self, what: impl FnOnce()) -> f64 {
        Self::ticks(what).saturating_sub(self.floor) as f64 * self.per_tick
    }

    fn ticks(what: impl FnOnce()) -> u64 {
        // SAFETY: every x86-64 processor has it.
        unsafe { _mm_lfence() };
        let began = now();
        // SAFETY: as above.
        unsafe { _mm_lfence() };
        what();
        let mut processor = 0;
        // Waits until everything before it is done.
        // SAFETY: every processor since 2008 has it.
        let ended = unsafe { __rdtscp(&raw mut processor) };
        ended.saturating_sub(began)
    }
}

/// Nanoseconds between two of the processor's time stamps that follow each other.
pub fn ns_per_tick() -> f64 {
    let (began, first) = (Instant::now(), now());
    while began.elapsed() < Duration::from_millis(20) {}
    began.elapsed().as_nanos() as f64 / (now() - first) as f64
}

/// The processor's time stamp.
#[inline]
pub fn now() -> u64 {
    // SAFETY: every x86-64 processor has it.
    unsafe { _rdtsc() }
}
