//! Workers that do small pieces of work, read the list of plugins before each, and note when a
//! piece took longer than it should.

use std::hint::black_box;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use benches::measure::{Pinned, now, ns_per_tick};
use benches::work::piece;
use plug_loader::Loader;
use plug_readside::{snapshot, thread_pointer};

/// A pause this long between two pieces of work of about 90 ns is a gap.
const GAP: Duration = Duration::from_nanos(500);

/// How workers read the list of plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reads {
    /// They do not work at all.
    Asleep,
    /// In a section of Plug's.
    Plug,
    /// By `ArcSwap::load`.
    ArcSwap,
    /// With no protection: they look whether they shall stop, and stop.
    Stoppable,
    /// They end.
    Ended,
}

/// What one worker tells.
#[repr(align(128))]
#[derive(Default)]
struct Tally {
    /// Pieces of work done, and gaps seen. Written by the worker alone; read at both ends of a
    /// window (all Relaxed: numbers).
    done: AtomicU64,
    gaps: AtomicU64,
}

/// What workers and the loader share.
pub struct Shared {
    reads: AtomicU8,
    /// How many stops were asked for, and whether one is in force.
    stop: AtomicBool,
    stopped: AtomicU64,
    tallies: Vec<Tally>,
    list: ArcSwap<Vec<[usize; 7]>>,
}

/// A pool of workers, asleep between windows.
pub struct Workers {
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What was seen in one window.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Gaps in a second of the workers' own processor time, so that a neighbour who takes half of
    /// it does not halve them.
    pub gaps: f64,
    /// Processor time for one piece of work, in nanoseconds.
    pub work: f64,
    /// Publications or loads a second.
    pub rate: f64,
    /// Resident memory of the process at the end.
    pub resident: f64,
    /// How much of the window strangers took from the loader or from the workers: 0 is none.
    pub lost: f64,
}

impl Workers {
    /// Starts `n` workers of `loader`, which go to sleep.
    pub fn start(loader: &Loader, n: usize) -> Self {
        let shared = Arc::new(Shared {
            reads: AtomicU8::new(Reads::Asleep as u8),
            stop: AtomicBool::new(false),
            stopped: AtomicU64::new(0),
            tallies: (0..n).map(|_| Tally::default()).collect(),
            list: ArcSwap::from_pointee(vec![[0; 7]; super::disturbance::SHOWN]),
        });
        let ticks = (GAP.as_nanos() as f64 / ns_per_tick()) as u64;
        let ready = Arc::new(Barrier::new(n + 1));
        let threads = (0..n)
            .map(|number| {
                let (loader, shared) = (loader.clone(), Arc::clone(&shared));
                let ready = Arc::clone(&ready);
                let run = move || {
                    let _pinned = Pinned::off(0);
                    let _worker = loader.worker("storm").expect("room for a worker");
                    ready.wait();
                    live(&shared, &shared.tallies[number], ticks);
                };
                thread::Builder::new().spawn(run).expect("a thread")
            })
            .collect();
        ready.wait();
        Self { shared, threads }
    }

    pub fn len(&self) -> usize {
        self.threads.len()
    }

    /// Lets the workers work for `window` while `disturb`, told the number of the time, runs
    /// `rate` times a second on this thread.
    pub fn window(
        &self,
        reads: Reads,
        window: Duration,
        rate: f64,
        mut disturb: impl FnMut(usize),
    ) -> Sample {
        self.tell(reads);
        // Until most had the processor once.
        thread::sleep(Duration::from_millis(20) + Duration::from_millis(2) * self.len() as u32);
        let (done, gaps, used) = self.read();
        let waited = waited_so_far();
        let began = Instant::now();
        let interval = Duration::from_secs_f64(1.0 / rate);
        let (mut next, mut times) = (began, 0);
        while began.elapsed() < window {
            wait_until(next);
            let began = Instant::now();
            disturb(times);
            times += 1;
            // Who was kept off the processor catches up at twice the rate, not all at once.
            next = (next + interval).max(began + interval / 2);
        }
        let took = began.elapsed().as_secs_f64();
        let (done_after, gaps_after, used_after) = self.read();
        let waited = (waited_so_far() - waited).as_secs_f64() / took;
        self.tell(Reads::Asleep);
        let used = (used_after - used).as_secs_f64();
        let processors = thread::available_parallelism().map_or(1, |n| n.get());
        let room = took * self.len().min((processors - 1).max(1)) as f64;
        Sample {
            gaps: (gaps_after - gaps) as f64 / used.max(f64::MIN_POSITIVE),
            work: used * 1e9 / (done_after - done).max(1) as f64,
            rate: times as f64 / took,
            resident: resident(),
            lost: waited.max(1.0 - used / room),
        }
    }

    fn tell(&self, reads: Reads) {
        self.shared.reads.store(reads as u8, Ordering::SeqCst);
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }

    /// Pieces of work, gaps and processor time of all workers so far.
    fn read(&self) -> (u64, u64, Duration) {
        let sum = |of: fn(&Tally) -> &AtomicU64| {
            let all = self.shared.tallies.iter();
            all.map(|tally| of(tally).load(Ordering::Relaxed)).sum()
        };
        let used = self.threads.iter().map(processor_time_of).sum();
        (sum(|tally| &tally.done), sum(|tally| &tally.gaps), used)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.tell(Reads::Ended);
        for thread in self.threads.drain(..) {
            thread.join().expect("a worker that ends");
        }
    }
}

impl Shared {
    /// Puts another list in force, as a loader on top of arc-swap would.
    pub fn store(&self) {
        let list = Vec::clone(&self.list.load());
        self.list.store(Arc::new(list));
    }

    /// Stops all workers, as a loader without any protection would have to, and lets them go on.
    pub fn stop_all(&self) {
        let n = self.tallies.len() as u64;
        self.stopped.store(0, Ordering::SeqCst);
        self.stop.store(true, Ordering::SeqCst);
        spin_until(|| self.stopped.load(Ordering::SeqCst) == n);
        self.stop.store(false, Ordering::SeqCst);
        // Nobody may take the next stop for this one.
        spin_until(|| self.stopped.load(Ordering::SeqCst) == 0);
    }

    /// The worker's part of [`Shared::stop_all`].
    #[inline]
    fn stop_if_asked(&self) {
        if self.stop.load(Ordering::Relaxed) {
            self.stopped.fetch_add(1, Ordering::SeqCst);
            spin_until(|| !self.stop.load(Ordering::SeqCst));
            self.stopped.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A worker's life.
fn live(shared: &Shared, tally: &Tally, ticks: u64) {
    loop {
        match shared.reads.load(Ordering::SeqCst) {
            reads if reads == Reads::Plug as u8 => work(shared, tally, ticks, Reads::Plug, || {
                let section = snapshot::sections().enter(thread_pointer());
                black_box(snapshot::view(&section).map_or(0, |view| view.n_rows));
            }),
            reads if reads == Reads::ArcSwap as u8 => {
                work(shared, tally, ticks, Reads::ArcSwap, || {
                    black_box(shared.list.load().len());
                });
            }
            reads if reads == Reads::Stoppable as u8 => {
                work(shared, tally, ticks, Reads::Stoppable, || {
                    shared.stop_if_asked();
                });
            }
            reads if reads == Reads::Ended as u8 => return,
            _ => thread::park(),
        }
    }
}

/// Pieces of work until the workers are told to do something else.
#[inline]
fn work(shared: &Shared, tally: &Tally, ticks: u64, reads: Reads, read: impl Fn()) {
    let mut last = now();
    while shared.reads.load(Ordering::Relaxed) == reads as u8 {
        read();
        black_box(piece());
        let done = tally.done.load(Ordering::Relaxed);
        tally.done.store(done + 1, Ordering::Relaxed);
        let at = now();
        if at.wrapping_sub(last) > ticks {
            let gaps = tally.gaps.load(Ordering::Relaxed);
            tally.gaps.store(gaps + 1, Ordering::Relaxed);
        }
        last = at;
    }
}

fn spin_until(is_so: impl Fn() -> bool) {
    let mut looks = 0;
    while !is_so() {
        looks += 1;
        if looks < 200 {
            std::hint::spin_loop();
        } else {
            // Others may need this processor to make it so.
            thread::yield_now();
        }
    }
}

/// Sleeps while it is long, then spins.
fn wait_until(at: Instant) {
    loop {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        match left.checked_sub(Duration::from_micros(100)) {
            Some(long) => thread::sleep(long),
            None => std::hint::spin_loop(),
        }
    }
}

/// How long this thread has waited for a processor that others had.
fn waited_so_far() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited = schedstat
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

fn processor_time_of(thread: &JoinHandle<()>) -> Duration {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the thread is not joined yet; there is room for a result.
    let failed = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) };
    assert_eq!(failed, 0, "a thread's clock");
    // SAFETY: there is room for a result.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes of the process that are in memory.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|word| word.parse().ok());
    pages.unwrap_or(f64::NAN) * 4096.0
}
