//! What a read and a call cost: alone, beside another thread that does the same, and nested.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use benches::measure::{Pinned, Plan, Series, is_wanted, processor_time, ratio, table};

use crate::objects::Objects;
use crate::peers::{self, Ground, Loop, Peer};
use crate::storm::Disturber;
use crate::urcu;
use crate::verdict;

/// What one group of peers took, in nanoseconds of the threads' own processor time.
struct Costs {
    alone: Vec<Series>,
    two: Vec<Series>,
    nested: Vec<Series>,
}

pub fn run(plan: Plan) {
    let disturber = Disturber::start(plan, 0);
    let plugin = disturber.loader.plugin("shown-0").expect("always there");
    let address = plugin.address_of("twice").expect("a function of it");
    let ground = Ground {
        objects: Objects::make(),
        loader: disturber.loader.clone(),
        twice: plugin.function("twice").expect("a function of it"),
        // SAFETY: that is its signature.
        address: unsafe { std::mem::transmute::<usize, peers::Twice>(address) },
    };
    if let Err(reason) = urcu::flavours() {
        println!("skipped liburcu {reason}");
    }
    let reads = costs(plan, &ground, peers::readers);
    tables("a read", &reads);
    let calls = costs(plan, &ground, peers::callers);
    tables("a call of a plugin's function", &calls);

    let over = |name, other| ratio(&reads.alone, name, other);
    let urcu = |value: Result<f64, String>| match urcu::flavours() {
        Ok(_) => value,
        Err(reason) => Err(reason.to_owned()),
    };
    verdict::tell(
        "handler_read_vs_arcswap",
        over(peers::CLAIMED, peers::ARC_SWAP),
    );
    verdict::tell(
        "registered_read_vs_arcswap",
        over(peers::REGISTERED, peers::ARC_SWAP),
    );
    verdict::tell(
        "registered_read_vs_urcu_memb",
        urcu(over(peers::REGISTERED, urcu::MEMB)),
    );
    let extra = |name| extra(&calls.alone, name);
    let gate = extra(peers::GATE);
    verdict::tell(
        "gate_extra_ns",
        gate.as_ref().map(Series::median).map_err(Clone::clone),
    );
    let module = extra(peers::MODULE);
    verdict::tell(
        "gate_vs_try_module_get",
        gate.and_then(|gate| Ok(gate.over(&module?))),
    );
    // The worst of Plug's paths.
    let growth = [
        (&reads, peers::REGISTERED),
        (&reads, peers::CLAIMED),
        (&calls, peers::GATE),
    ]
    .map(|(costs, name)| {
        let find = |all: &[Series]| all.iter().find(|series| series.name == name).cloned();
        let (two, alone) = find(&costs.two)
            .zip(find(&costs.alone))
            .ok_or("not measured")?;
        Ok(two.over(&alone))
    });
    let worst = growth
        .into_iter()
        .try_fold(0.0, |worst, value: Result<f64, String>| {
            Ok(value?.max(worst))
        });
    verdict::tell("reader_1_to_2_threads", worst);
}

fn tables(what: &str, costs: &Costs) {
    table(&format!("{what}: 1 thread"), "ns", &costs.alone);
    table(&format!("{what}: 2 threads at a time"), "ns", &costs.two);
    if !costs.nested.is_empty() {
        table(&format!("{what}: nested, 1 thread"), "ns", &costs.nested);
    }
}

/// What a call took longer than a bare one, in each round.
fn extra(all: &[Series], name: &str) -> Result<Series, String> {
    let find = |name: &str| {
        let found = all.iter().find(|series| series.name == name);
        found.ok_or_else(|| format!("no {name}"))
    };
    let rounds = find(name)?.rounds.iter().zip(&find(peers::BARE)?.rounds);
    Ok(Series {
        name: name.to_owned(),
        rounds: rounds.map(|(with, without)| with - without).collect(),
    })
}

/// Two threads on two processors take the same steps at the same time.
fn costs(plan: Plan, ground: &Ground, make: fn(&Ground) -> Vec<Peer>) -> Costs {
    let meeting = Meeting::default();
    let batches: [AtomicUsize; 32] = Default::default();
    let mine = |ground: &Ground| {
        let mut peers = make(ground);
        peers.retain(|peer| is_wanted(&peer.name));
        peers
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let _pinned = Pinned::to(1);
            let mut peers = mine(ground);
            let mut took = vec![Vec::new(); peers.len()];
            meeting.wait();
            for which in order(plan, peers.len()) {
                meeting.wait();
                let n = batches[which].load(Ordering::SeqCst);
                took[which].push(time(&mut peers[which].plain, n));
            }
            took
        });
        let _pinned = Pinned::to(0);
        let mut peers = mine(ground);
        for (peer, batch) in peers.iter_mut().zip(&batches) {
            let n = plan.fitting(|n| (peer.plain)(n));
            batch.store(n, Ordering::SeqCst);
        }
        let named = |peers: &[Peer], wanted: fn(&Peer) -> bool| -> Vec<Series> {
            let all = peers.iter().filter(|peer| wanted(peer));
            all.map(|peer| Series::new(&peer.name)).collect()
        };
        let mut costs = Costs {
            alone: named(&peers, |_| true),
            two: named(&peers, |_| true),
            nested: named(&peers, |peer| peer.nested.is_some()),
        };
        meeting.wait();
        for which in order(plan, peers.len()) {
            let n = batches[which].load(Ordering::SeqCst);
            let peer = &mut peers[which];
            costs.alone[which].rounds.push(time(&mut peer.plain, n));
            if let Some(nested) = &mut peer.nested {
                let series = costs.nested.iter_mut().find(|s| s.name == peer.name);
                series.expect("named").rounds.push(time(nested, n));
            }
            meeting.wait();
            costs.two[which].rounds.push(time(&mut peer.plain, n));
        }
        let other = other.join().expect("no panic");
        for (series, other) in costs.two.iter_mut().zip(&other) {
            for (mine, other) in series.rounds.iter_mut().zip(other) {
                *mine = f64::midpoint(*mine, *other);
            }
        }
        costs
    })
}

/// Whose turn it is: all in each round, each time beginning with another one.
fn order(plan: Plan, n: usize) -> impl Iterator<Item = usize> {
    (0..plan.rounds()).flat_map(move |round| (0..n).map(move |turn| (round + turn) % n))
}

/// Nanoseconds of the thread's own for each of `n` operations.
fn time(run: &mut Loop, n: usize) -> f64 {
    // Wins back the caches from the one before.
    run(n / 8);
    let began = processor_time();
    run(n);
    processor_time().saturating_sub(began).as_nanos() as f64 / n as f64
}

/// Where two threads wait for each other.
#[derive(Default)]
struct Meeting {
    came: AtomicUsize,
}

impl Meeting {
    fn wait(&self) {
        let mine = self.came.fetch_add(1, Ordering::SeqCst);
        let both = (mine / 2 + 1) * 2;
        while self.came.load(Ordering::SeqCst) < both {
            // The other may need this processor.
            thread::yield_now();
        }
    }
}
