//! The same blocks through the plugins' gates and through the same filters linked statically.
//!
//! Both sides run on the same threads in turns, in the order A B, B A, so that what else happens
//! on the machine happens to both.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::Worker;

use crate::compare;
use crate::fleet::{Fleet, Live};
use crate::input::Input;
use crate::stream::{Fault, Gate, Linked, Stream};
use crate::tally::{Pace, Tally};
use crate::worker::Pinned;

/// Rounds of both sides; odd, so that there is a middle one. Many short ones: what else happens on
/// the machine comes in bursts, and the median steps over a burst but not over a slow half.
pub const ROUNDS: usize = 41;

/// The most blocks of a pass, so that a round through a large input ends.
const LONGEST_PASS: usize = 256;

/// Medians over all rounds, in bytes a second, of all threads together.
#[derive(Debug)]
pub struct Throughput {
    pub plugins: f64,
    /// Without filters that are not linked there is nothing to compare with.
    pub linked: Option<f64>,
    /// Median of the rounds' own ratios, plugins to linked.
    pub ratio: Option<f64>,
    /// The same by the processor time of the threads, which other programs' load does not enter.
    pub cpu_ratio: Option<f64>,
}

/// Measures for `ROUNDS` rounds of `round` for each side, and notes the plugins' results.
pub fn measure(
    fleet: &Fleet,
    input: &Input,
    lanes: &[Vec<usize>],
    workers: usize,
    round: Duration,
    tally: &mut Tally,
) -> Throughput {
    let barrier = Barrier::new(workers);
    let runs = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|n| {
                let bench = Bench {
                    live: fleet.live(),
                    input,
                    lanes,
                    round,
                };
                let (fleet, barrier) = (&fleet, &barrier);
                scope.spawn(move || bench.run(fleet, n, barrier))
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        threads.into_iter().map(join).collect::<Vec<Run>>()
    });
    let mut plugins = vec![Speed::default(); ROUNDS];
    let mut linked = vec![Speed::default(); ROUNDS];
    for run in runs {
        tally.add(run.tally);
        for at in 0..ROUNDS {
            plugins[at].add(run.plugins.get(at));
            linked[at].add(run.linked.get(at));
        }
    }
    let known = |value: f64| (!value.is_nan()).then_some(value);
    let each = |speeds: &[Speed], by: fn(&Speed) -> f64| speeds.iter().map(by).collect();
    let ratios = |by: fn(&Speed) -> f64| {
        let pairs = plugins.iter().zip(&linked);
        known(median(pairs.map(|(a, b)| by(a) / by(b)).collect()))
    };
    Throughput {
        plugins: median(each(&plugins, |speed| speed.wall)),
        linked: known(median(each(&linked, |speed| speed.wall))),
        ratio: ratios(|speed| speed.wall),
        cpu_ratio: ratios(|speed| speed.cpu),
    }
}

/// Bytes a second, by the clock and by the thread's processor time.
#[derive(Clone, Copy, Debug, Default)]
struct Speed {
    wall: f64,
    cpu: f64,
}

impl Speed {
    fn add(&mut self, other: Option<&Self>) {
        self.wall += other.map_or(f64::NAN, |other| other.wall);
        self.cpu += other.map_or(f64::NAN, |other| other.cpu);
    }
}

/// Seconds of processor time that the running thread has used.
fn processor_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a value that lives for the call. Every Linux has this clock, and
    // the time stays 0 on one that has not.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[derive(Default)]
struct Run {
    plugins: Vec<Speed>,
    linked: Vec<Speed>,
    tally: Tally,
}

struct Bench<'a> {
    live: Vec<Option<Live>>,
    input: &'a Input,
    lanes: &'a [Vec<usize>],
    round: Duration,
}

impl Bench<'_> {
    fn run(&self, fleet: &Fleet, n: usize, barrier: &Barrier) -> Run {
        let mut run = Run::default();
        let worker = fleet.loader.worker(&format!("bench-{n}"));
        if let Err(error) = &worker {
            run.tally.faults.push(error.to_string());
        }
        let pace = Pace::default();
        let tables = compare::linked(fleet);
        let mut unheard = Tally::default();
        // Round 0 only warms up.
        for round in 0..=ROUNDS {
            for side in [round % 2, (round + 1) % 2] {
                // Even a thread without work comes here: the others wait for it.
                barrier.wait();
                let Ok(worker) = &worker else { continue };
                let speed = match side {
                    0 => self.speed(&mut run.tally, worker, |filter| {
                        Pinned::new(self.live[filter].as_ref()?, worker, &pace)
                    }),
                    _ => self.speed(&mut unheard, worker, |filter| Some(Linked(tables[filter]?))),
                };
                match (round, side, speed) {
                    (0, ..) => {}
                    (_, 0, speed) => run.plugins.extend(speed),
                    (_, _, speed) => run.linked.extend(speed),
                }
            }
        }
        run
    }

    /// Bytes a second of passes for the time of a round; none where a filter is not there.
    fn speed<G: Gate>(
        &self,
        tally: &mut Tally,
        worker: &Worker,
        gate: impl Fn(usize) -> Option<G>,
    ) -> Option<Speed> {
        let (began, used) = (Instant::now(), processor_time());
        let mut bytes = 0;
        while began.elapsed() < self.round {
            let mut streams = Vec::with_capacity(self.lanes.len());
            for lane in self.lanes {
                let gates: Option<Vec<_>> = lane.iter().map(|&f| Some((f, gate(f)?))).collect();
                match Stream::start(gates?, 0) {
                    Ok(stream) => streams.push(stream),
                    Err(fault) => tally.fault(&fault),
                }
            }
            let before = tally.bytes;
            if let Err(fault) = self.pass(&mut streams, worker, tally) {
                tally.fault(&fault);
            }
            bytes += tally.bytes - before;
            for stream in streams {
                tally.note(stream.end());
            }
        }
        let bytes = bytes as f64;
        Some(Speed {
            wall: bytes / began.elapsed().as_secs_f64(),
            cpu: bytes / (processor_time() - used),
        })
    }

    fn pass<G: Gate>(
        &self,
        streams: &mut [Stream<G>],
        worker: &Worker,
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        for block in 0..self.input.blocks().min(LONGEST_PASS) {
            worker.quiescent();
            let block = self.input.block(block);
            for stream in &mut *streams {
                tally.offered += 1;
                tally.bytes += block.len() as u64;
                stream.process(block)?;
            }
        }
        Ok(())
    }
}
