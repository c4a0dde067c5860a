//! How long it takes to know that nobody reads any more what was replaced.
//!
//! One pool of threads serves all who are compared, in turns: it is told whose readers to be. Idle
//! readers are registered and asleep. Busy ones always have something to do: a request takes a
//! thread about a millisecond, the first twentieth of which it reads, in sections of a tenth of a
//! microsecond; then it lets the others have the processor. 128 of them on two processors so wait
//! some 60 ms for their turn, and mostly wait outside of sections.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use benches::measure::{Plan, Series, is_wanted, median, ratio, table};
use benches::work::piece;
use left_right::ReadHandle;
use plug_loader::{Deadline, Loader, Plugin, PluginFn, Worker, measuring};
use plug_readside::{snapshot, thread_pointer};

use crate::objects::{Object, Objects};
use crate::peers::Twice;
use crate::storm::Disturber;
use crate::urcu::{self, Flavour, Told};
use crate::verdict;

/// How long a request reads, and how long it takes.
const READING: Duration = Duration::from_micros(50);
const REQUEST: Duration = Duration::from_millis(1);

/// Sections between two looks at the time.
const SECTIONS: usize = 16;

/// What everybody shares.
struct Ground {
    loader: Loader,
    plugin: Plugin,
    twice: PluginFn<Twice>,
    objects: &'static Objects,
}

/// What a reader has of its own.
struct Mine {
    worker: Worker,
    left: ReadHandle<Object>,
}

type Read = dyn Fn(&Ground, &Mine) + Send + Sync;
type Wait = dyn Fn(&Ground) + Send + Sync;

/// One of those who are compared: how its readers read, and how its writer waits for them.
struct Peer {
    name: &'static str,
    read: Box<Read>,
    wait: Box<Wait>,
    /// For those whose readers tell where they are.
    told: Option<&'static Told>,
}

impl Peer {
    fn new(
        name: &'static str,
        read: impl Fn(&Ground, &Mine) + Send + Sync + 'static,
        wait: impl Fn(&Ground) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            read: Box::new(read),
            wait: Box::new(wait),
            told: None,
        }
    }

    fn urcu(flavour: &'static Flavour) -> Self {
        let read = |_: &Ground, _: &Mine| {
            // SAFETY: the thread is registered.
            unsafe { (flavour.enter)() };
            black_box(piece());
            // SAFETY: entered above.
            unsafe { (flavour.leave)() };
        };
        // SAFETY: not from within a section.
        let wait = |_: &Ground| unsafe { (flavour.synchronize)() };
        Self {
            told: flavour.told.as_ref(),
            ..Self::new(flavour.name, read, wait)
        }
    }
}

const PLUG: &str = "Plug: grace period";

fn peers() -> Vec<Peer> {
    let mut peers = vec![
        Peer::new(
            PLUG,
            |_, _| {
                let _section = snapshot::sections().enter(thread_pointer());
                black_box(piece());
            },
            |_| measuring::grace(patience()).expect("readers that leave"),
        ),
        Peer::new(
            "Plug: gates of a plugin",
            |ground, mine| {
                // SAFETY: the function is what it is declared to be.
                let answer = unsafe { ground.twice.call_on(&mine.worker, (1,)) };
                // While the gates are closed there is none.
                black_box(answer.unwrap_or_default());
            },
            |ground| {
                measuring::drain(&ground.loader, &ground.plugin, patience())
                    .expect("callers that leave");
            },
        ),
        Peer::new(
            "crossbeam-epoch: until it is dropped",
            |_, _| {
                let _guard = crossbeam_epoch::pin();
                black_box(piece());
            },
            |_| wait_for_crossbeam(),
        ),
        Peer::new(
            "left-right: publish",
            |_, mine| {
                let _guard = mine.left.enter();
                black_box(piece());
            },
            |ground| ground.objects.put(),
        ),
        Peer::new(
            "std RwLock: write",
            |ground, _| {
                let _guard = ground.objects.std_lock.read().expect("nobody panicked");
                black_box(piece());
            },
            |ground| drop(ground.objects.std_lock.write().expect("nobody panicked")),
        ),
        Peer::new(
            "parking_lot RwLock: write",
            |ground, _| {
                let _guard = ground.objects.parking_lock.read();
                black_box(piece());
            },
            |ground| drop(ground.objects.parking_lock.write()),
        ),
        Peer::new(
            "arc-swap: store, which waits for nobody",
            |ground, _| {
                let _guard = ground.objects.arc_swap.load();
                black_box(piece());
            },
            |ground| ground.objects.arc_swap.store(Arc::default()),
        ),
    ];
    peers.extend(urcu::flavours().unwrap_or_default().iter().map(Peer::urcu));
    peers.retain(|peer| is_wanted(peer.name));
    peers
}

fn patience() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Crossbeam frees when it gets round to it; nobody is inside any more when it does.
fn wait_for_crossbeam() {
    let done = Arc::new(AtomicBool::new(false));
    let guard = crossbeam_epoch::pin();
    let told = Arc::clone(&done);
    guard.defer(move || told.store(true, Ordering::SeqCst));
    guard.flush();
    drop(guard);
    while !done.load(Ordering::SeqCst) {
        crossbeam_epoch::pin().flush();
        thread::yield_now();
    }
}

/// What the pool is told instead of the number of a peer.
const ASLEEP: usize = usize::MAX;
const ENDED: usize = usize::MAX - 1;

/// Readers, asleep unless told to be somebody's.
struct Pool {
    whose: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn start(ground: &Arc<Ground>, peers: &Arc<Vec<Peer>>, n: usize) -> Self {
        let whose = Arc::new(AtomicUsize::new(ASLEEP));
        let ready = Arc::new(Barrier::new(n + 1));
        let threads = (0..n)
            .map(|_| {
                let (ground, peers) = (Arc::clone(ground), Arc::clone(peers));
                let (whose, ready) = (Arc::clone(&whose), Arc::clone(&ready));
                thread::spawn(move || {
                    let mine = Mine {
                        worker: ground.loader.worker("reader").expect("room for a worker"),
                        left: ground.objects.left.handle(),
                    };
                    for flavour in urcu::flavours().unwrap_or_default() {
                        // SAFETY: once a thread, which gives it back below.
                        unsafe { (flavour.register)() };
                        offline(flavour.told.as_ref());
                    }
                    ready.wait();
                    live(&ground, &mine, &peers, &whose);
                    for flavour in urcu::flavours().unwrap_or_default() {
                        // SAFETY: registered above, outside of sections.
                        unsafe { (flavour.unregister)() };
                    }
                })
            })
            .collect();
        ready.wait();
        Self { whose, threads }
    }

    fn tell(&self, whose: usize) {
        self.whose.store(whose, Ordering::SeqCst);
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.tell(ENDED);
        for thread in self.threads.drain(..) {
            thread.join().expect("a reader that ends");
        }
    }
}

fn offline(told: Option<&Told>) {
    if let Some(told) = told {
        // SAFETY: a registered thread, outside of sections.
        unsafe { (told.offline)() };
    }
}

/// A reader's life.
fn live(ground: &Ground, mine: &Mine, peers: &[Peer], whose: &AtomicUsize) {
    loop {
        let number = whose.load(Ordering::SeqCst);
        let Some(peer) = peers.get(number) else {
            match number {
                ENDED => return,
                _ => thread::park(),
            }
            continue;
        };
        if let Some(told) = peer.told {
            // SAFETY: a registered thread.
            unsafe { (told.online)() };
        }
        while whose.load(Ordering::Relaxed) == number {
            let began = Instant::now();
            while began.elapsed() < READING {
                for _ in 0..SECTIONS {
                    (peer.read)(ground, mine);
                }
            }
            while began.elapsed() < REQUEST {
                black_box(piece());
            }
            if let Some(told) = peer.told {
                // SAFETY: a registered thread, outside of sections.
                unsafe { (told.quiescent)() };
            }
            thread::yield_now();
        }
        offline(peer.told);
    }
}

pub fn run(plan: Plan, n: usize) {
    let disturber = Disturber::start(plan, 0);
    let plugin = disturber.loader.plugin("shown-0").expect("always there");
    let ground = Arc::new(Ground {
        twice: plugin.function("twice").expect("a function of it"),
        loader: disturber.loader.clone(),
        objects: Objects::make(),
        plugin,
    });
    let peers = Arc::new(peers());
    let n = plan.size(n, n.min(8));
    let pool = Pool::start(&ground, &peers, n);
    println!("seize and haphazard have no call that waits for readers");
    let idle = measure(plan, &ground, &peers, &pool, false);
    table(&format!("nobody reads any more: {n} idle"), "us", &idle);
    let busy = measure(plan, &ground, &peers, &pool, true);
    table(&format!("nobody reads any more: {n} busy"), "us", &busy);
    if n == 1 {
        return;
    }
    let over = |all: &[Series], other| match urcu::flavours() {
        Ok(_) => ratio(all, PLUG, other),
        Err(reason) => Err(reason.to_owned()),
    };
    verdict::tell("grace_128_idle_vs_urcu_memb", over(&idle, urcu::MEMB));
    verdict::tell("quiesce_128_busy_vs_urcu_memb", over(&busy, urcu::MEMB));
    verdict::tell("quiesce_128_busy_vs_qsbr", over(&busy, urcu::QSBR));
}

fn measure(plan: Plan, ground: &Ground, peers: &[Peer], pool: &Pool, busy: bool) -> Vec<Series> {
    let mut all: Vec<Series> = peers.iter().map(|peer| Series::new(peer.name)).collect();
    let samples = plan.size(if busy { 5 } else { 101 }, 1);
    for round in 0..plan.rounds() {
        for turn in 0..peers.len() {
            let which = (round + turn) % peers.len();
            if busy {
                pool.tell(which);
                // Two turns of everybody.
                thread::sleep(REQUEST * 2 + REQUEST * pool.threads.len() as u32);
            }
            let times: Vec<f64> = (0..samples)
                .map(|_| {
                    if busy {
                        thread::sleep(Duration::from_millis(3));
                    }
                    let began = Instant::now();
                    (peers[which].wait)(ground);
                    began.elapsed().as_nanos() as f64 / 1e3
                })
                .collect();
            all[which].rounds.push(median(&times));
        }
    }
    pool.tell(ASLEEP);
    all
}
