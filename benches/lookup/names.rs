//! Name to address: one thread, then two at once.

use std::ffi::CStr;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use hashbrown::HashMap;

use crate::library::Library;
use crate::memory;
use crate::peers::ask;
use crate::plug::{self, Plug};
use crate::single::handle;
use crate::verdict;
use benches::measure::{Contender, Pinned, Plan, Series, compare, ratio, table};

pub fn run(plan: Plan, plug: &Plug, word: &str, n: usize) {
    let library = Library::with_functions(n);
    let (plugin, ..) = plug.load_ready(&library, &format!("names-{word}"));
    let handle = handle(&plugin).expect("loaded by ld.so");
    let names = Names::new(&library);
    let began = Instant::now();
    let (map, held) = memory::held(|| {
        let symbols = library.symbols.iter().zip(0u32..);
        symbols
            .map(|(symbol, number)| (library.name_of(symbol), number))
            .collect::<HashMap<&str, u32>>()
    });
    println!(
        "  hashbrown: built in {:.1?}, {:.2} bytes per symbol \
         beside the names",
        began.elapsed(),
        held as f64 / n as f64
    );
    for name in names.hits.iter().take(1000) {
        let expected = handle.symbol(name.c);
        assert!(expected.is_some(), "dlsym does not know {}", name.text);
        assert_eq!(plug::address_of(&plugin, name.text), expected);
    }
    let name = &names.misses[0];
    assert_eq!(plug::address_of(&plugin, name.text), None);

    let by_plug = |name: Name<'_>| plug::address_of(&plugin, name.text);
    let by_dlsym = |name: Name<'_>| handle.symbol(name.c);
    let by_map = |name: Name<'_>| map.get(name.text).copied();
    let all = compare(
        plan,
        vec![
            Contender::new("Plug: address_of", &names.hits, ask(by_plug)),
            Contender::new("dlsym", &names.hits, ask(by_dlsym)),
            Contender::new("hashbrown", &names.hits, ask(by_map)),
            Contender::new(
                "Plug: address_of, no such name",
                &names.misses,
                ask(by_plug),
            ),
            Contender::new("dlsym, no such name", &names.misses, ask(by_dlsym)),
            Contender::new("hashbrown, no such name", &names.misses, ask(by_map)),
        ],
    );
    table(&format!("name to address, {n} symbols"), "ns", &all);
    if word == "1k" {
        verdict::tell("name_vs_dlsym_1k", ratio(&all, "Plug: address_of", "dlsym"));
        let speedups = speedups(plan, &names, by_dlsym, by_plug);
        table(
            "two threads over one, both asking one plugin of 1000 symbols",
            "times as fast",
            &speedups,
        );
        let value = ratio(&speedups, "dlsym", "Plug: address_of");
        verdict::tell("dlsym_2thread_speedup_vs_ours", value);
    }
}

/// A name in the two forms in which it is asked for.
#[derive(Clone, Copy)]
struct Name<'a> {
    text: &'a str,
    c: &'a CStr,
}

struct Names<'a> {
    hits: Vec<Name<'a>>,
    misses: Vec<Name<'a>>,
}

impl<'a> Names<'a> {
    fn new(library: &'a Library) -> Self {
        let mut random = Rng::with_seed(2);
        let mut pick = |skip: usize| {
            let symbol = &library.symbols[random.usize(..library.symbols.len())];
            let c = &library.c_name_of(symbol)[skip..];
            Name {
                text: &library.name_of(symbol)[skip..],
                c: CStr::from_bytes_with_nul(c).expect("one zero byte"),
            }
        };
        Self {
            hits: (0..1 << 16).map(|_| pick(0)).collect(),
            // Without its first letter no name is one.
            misses: (0..1 << 16).map(|_| pick(1)).collect(),
        }
    }
}

/// How many times as many lookups two threads make as one does.
fn speedups<'a>(
    plan: Plan,
    names: &Names<'a>,
    dlsym: impl Fn(Name<'a>) -> Option<usize> + Sync,
    plug: impl Fn(Name<'a>) -> Option<usize> + Sync,
) -> Vec<Series> {
    let mut series = vec![Series::new("dlsym"), Series::new("Plug: address_of")];
    for _ in 0..plan.rounds() {
        series[0].rounds.push(speedup(plan, names, &dlsym));
        series[1].rounds.push(speedup(plan, names, &plug));
    }
    series
}

/// A neighbour on either processor can only cost time, so the best of some tries counts, for one
/// thread and for two.
fn speedup<'a>(
    plan: Plan,
    names: &Names<'a>,
    lookup: &(impl Fn(Name<'a>) -> Option<usize> + Sync),
) -> f64 {
    let n = plan.size(60_000, 2_000);
    let best = |n_threads| {
        let tries = (0..plan.size(7, 1)).map(|_| together(n_threads, n, names, lookup));
        tries.min().expect("a try").as_secs_f64()
    };
    2.0 * best(1) / best(2)
}

/// How long the slowest of the threads takes for `n` lookups.
fn together<'a>(
    n_threads: usize,
    n: usize,
    names: &Names<'a>,
    lookup: &(impl Fn(Name<'a>) -> Option<usize> + Sync),
) -> Duration {
    let barrier = Barrier::new(n_threads);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads)
            .map(|cpu| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let _pinned = Pinned::to(cpu);
                    let mut hits = names.hits.iter().skip(cpu * 1000).cycle();
                    for name in hits.by_ref().take(n / 4) {
                        black_box(lookup(black_box(*name)));
                    }
                    barrier.wait();
                    let began = Instant::now();
                    for name in hits.take(n) {
                        black_box(lookup(black_box(*name)));
                    }
                    began.elapsed()
                })
            })
            .collect();
        let times = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        times.max().expect("a thread")
    })
}
