//! Address to plugin and symbol among many plugins.

use std::time::Instant;

use fastrand::Rng;
use plug_loader::Plugin;

use crate::library::Library;
use crate::peers::{self, Blazesym, ask};
use crate::plug::{self, Plug};
use crate::single::stranger;
use crate::verdict;
use benches::measure::{Contender, Plan, Series, compare, median, ratio, table};

/// Symbols of each of the first thousand plugins.
const BIG: usize = 1001;
/// And of those after them.
const SMALL: usize = 100;

pub fn run(plan: Plan, plug: &Plug, n: usize, judged: bool) {
    let (big, small) = (Library::with_functions(BIG), Library::with_functions(SMALL));
    let mut loaded: Vec<(&Library, Plugin)> = Vec::with_capacity(n);
    let mut times = Vec::with_capacity(n);
    for number in 0..n {
        let library = if number < 1000 { &big } else { &small };
        let began = Instant::now();
        let plugin = plug.load(library, &format!("many-{number}"));
        times.push(began.elapsed().as_nanos() as f64 / 1e3);
        loaded.push((library, plugin));
    }
    plug.settle();
    let last = &times[n - n.min(10)..];
    println!(
        "  loads, us: median {:.0}, of the last ten {:.0}",
        median(&times),
        median(last)
    );
    let vec = global(&loaded);
    for (word, hot) in [("90 % in 256 hot ones", 256), ("all alike", 0)] {
        let addresses = addresses(&loaded, hot);
        let worker = plug.worker();
        let mut all = ask_all(plan, &loaded, &addresses, &vec);
        drop(worker);
        all.extend(stranger(plan, &addresses));
        table(
            &format!("address to plugin and symbol, {n} plugins, addresses: {word}"),
            "ns",
            &all,
        );
        if judged && hot != 0 {
            let over = |other| ratio(&all, "Plug: locate", other);
            verdict::tell("addr_vs_dlfo_1000x1000", over("_dl_find_object"));
            verdict::tell("addr_vs_dladdr_1000x1000", over("dladdr"));
        }
    }
}

/// Addresses as a profiler sees them: most of them in `hot` places, the rest anywhere.
fn addresses(loaded: &[(&Library, Plugin)], hot: usize) -> Vec<usize> {
    let mut random = Rng::with_seed(3);
    let anywhere = |random: &mut Rng| {
        let (library, plugin) = &loaded[random.usize(..loaded.len())];
        let symbol = &library.symbols[random.usize(..library.symbols.len())];
        let start = plugin.range().0 + symbol.svma as usize;
        let address = start + random.usize(..symbol.size as usize);
        (start, address)
    };
    let hot: Vec<usize> = (0..hot).map(|_| anywhere(&mut random).1).collect();
    (0..1 << 16)
        .map(|number| {
            if !hot.is_empty() && random.usize(..10) != 0 {
                return hot[random.usize(..hot.len())];
            }
            let (start, address) = anywhere(&mut random);
            if number < 1000 {
                assert_eq!(plug::symbol_start(address), Some(start), "a wrong answer");
            }
            address
        })
        .collect()
}

/// One table over all plugins, which every load would have to make again.
fn global(loaded: &[(&Library, Plugin)]) -> Vec<(u64, u32)> {
    let began = Instant::now();
    let mut table = Vec::new();
    for (library, plugin) in loaded {
        for symbol in &library.symbols {
            let number = u32::try_from(table.len()).expect("32 bits");
            table.push((plugin.range().0 as u64 + symbol.svma, number));
        }
    }
    table.sort_unstable();
    println!(
        "  one Vec<(u64, u32)> over all: {} symbols in {:.1?}",
        table.len(),
        began.elapsed()
    );
    table
}

fn ask_all(
    plan: Plan,
    loaded: &[(&Library, Plugin)],
    addresses: &[usize],
    vec: &[(u64, u32)],
) -> Vec<Series> {
    let first = addresses[0];
    let process = Blazesym::process();
    let mut contenders = vec![
        Contender::new("Plug: locate", addresses, plug::locate),
        Contender::new("Plug: resolve", addresses, plug::resolve),
        Contender::new("_dl_find_object", addresses, ask(peers::find_object)),
        Contender::new("dladdr", addresses, ask(peers::dladdr)),
        Contender::new(
            "one Vec<(u64, u32)> over all",
            addresses,
            ask(|address: usize| peers::search(vec, address as u64)),
        ),
    ];
    if peers::backtrace(first) == 0 {
        println!("skipped backtrace-rs finds no name");
    } else {
        contenders.push(Contender::new(
            "backtrace-rs",
            addresses,
            ask(peers::backtrace),
        ));
    }
    match process.as_ref().map(|process| process.name_of(first)) {
        Ok(Ok(_)) => {
            let process = process.as_ref().expect("checked");
            // It keeps what it read of every file: what counts is how it goes on.
            for (library, plugin) in loaded {
                let start = plugin.range().0 + library.symbols[0].svma as usize;
                process.name_of(start).expect("as the others");
            }
            contenders.push(Contender::new(
                "blazesym Process",
                addresses,
                ask(|address: usize| process.name_of(address)),
            ));
        }
        Ok(Err(reason)) => println!("skipped blazesym-process {reason}"),
        Err(reason) => println!("skipped blazesym-process {reason}"),
    }
    compare(plan, contenders)
}
