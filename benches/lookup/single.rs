//! Address to symbol in one plugin of many symbols.

use std::time::{Duration, Instant};

use fastrand::Rng;
use plug_loader::Plugin;

use crate::library::Library;
use crate::memory::{self, Traces};
use crate::peers::{self, Blazesym, Handle, ask};
use crate::plug::{self, Plug};
use crate::verdict;
use benches::measure::{Contender, Pinned, Plan, Series, Stamps, compare, median, ratio, table};

/// Parts of the index smaller than this are not per symbol.
const PAGE: usize = 4096;

pub fn run(plan: Plan, plug: &Plug, word: &str, n: usize) {
    let library = Library::with_functions(n);
    let name = format!("addresses-{word}");
    let ((plugin, loaded, ready), traces) = Traces::of(|| plug.load_ready(&library, &name));
    let place = Place::new(&library, &plugin);

    let bytes = bytes(&place, &traces, loaded, ready);
    if word == "500k" {
        verdict::tell("index_bytes_per_symbol", Ok(bytes));
    }
    let (vec, took, held) = watch(|| library.address_table());
    build("Vec<(u64, u32)>", took, held, n);

    let worker = plug.worker();
    let mut warm = warm(plan, &place, &vec);
    drop(worker);
    warm.extend(stranger(plan, &place.addresses));
    table(
        &format!("address to symbol, {n} symbols, random addresses, warm"),
        "ns",
        &warm,
    );
    if word == "10k" || word == "500k" {
        let value = ratio(&warm, "Plug: locate", "Vec<(u64, u32)>");
        verdict::tell(&format!("addr_vs_vec_{word}"), value);
    }
    let worker = plug.worker();
    let cold = cold(plan, &place, &traces, &vec);
    drop(worker);
    table(
        &format!("address to symbol, {n} symbols, flushed before each"),
        "ns",
        &cold,
    );
    if word == "10k" {
        let value = ratio(&cold, "Plug: locate", "Vec<(u64, u32)>");
        verdict::tell("addr_cold_vs_vec_10k", value);
    }
}

/// A plugin where it lies, and addresses in it.
struct Place<'a> {
    library: &'a Library,
    plugin: &'a Plugin,
    bias: usize,
    addresses: Vec<usize>,
}

impl<'a> Place<'a> {
    fn new(library: &'a Library, plugin: &'a Plugin) -> Self {
        let mut place = Self {
            library,
            plugin,
            // The linker lays shared libraries out from 0.
            bias: plugin.range().0,
            addresses: Vec::new(),
        };
        let mut random = Rng::with_seed(1);
        for _ in 0..1 << 16 {
            let symbol = &library.symbols[random.usize(..library.symbols.len())];
            let start = place.bias + symbol.svma as usize;
            let address = start + random.usize(..symbol.size as usize);
            if place.addresses.len() < 1000 {
                assert_eq!(plug::symbol_start(address), Some(start), "a wrong answer");
            }
            place.addresses.push(address);
        }
        place
    }
}

/// What the plugin costs in time and memory.
fn bytes(place: &Place<'_>, traces: &Traces, loaded: Duration, ready: Duration) -> f64 {
    let n = place.library.symbols.len();
    println!("  Plug: load {loaded:.1?}, with its index {ready:.1?}");
    let heap: usize = traces.ranges(1).iter().map(|range| range.1).sum();
    let told = plug::index_bytes(place.plugin);
    println!(
        "  Plug: {:.2} bytes per symbol by its own word; {:.2} left on the heap by the load",
        told as f64 / n as f64,
        heap as f64 / n as f64
    );
    // Whichever is more: what is held is held, whatever it is called.
    told.max(heap) as f64 / n as f64
}

/// What `make` makes, how long it takes, and how many bytes it holds.
fn watch<T>(make: impl FnOnce() -> T) -> (T, Duration, isize) {
    let began = Instant::now();
    let (made, held) = memory::held(make);
    (made, began.elapsed(), held)
}

fn build(name: &str, took: Duration, held: isize, n: usize) {
    println!(
        "  {name}: built in {took:.1?}, {:.2} bytes per symbol",
        held as f64 / n as f64
    );
}

fn warm(plan: Plan, place: &Place<'_>, vec: &[(u64, u32)]) -> Vec<Series> {
    let addresses = &place.addresses[..];
    let n = place.library.symbols.len();
    let (bias, first) = (place.bias, addresses[0]);
    let file = Blazesym::file(&place.library.path);
    let process = Blazesym::process();
    let mut contenders = vec![
        Contender::new("Plug: locate", addresses, plug::locate),
        Contender::new("Plug: a section alone", addresses, plug::section),
        Contender::new("Plug: resolve", addresses, plug::resolve),
        Contender::new(
            "Vec<(u64, u32)>",
            addresses,
            ask(|address: usize| peers::search(vec, (address - bias) as u64)),
        ),
        Contender::new("_dl_find_object", addresses, ask(peers::find_object)),
        Contender::new("dladdr", addresses, ask(peers::dladdr)),
    ];

    let (len, took, held) = watch(|| peers::backtrace(first));
    if len == 0 {
        println!("skipped backtrace-rs finds no name");
    } else {
        build("backtrace-rs, first lookup", took, held, n);
        contenders.push(Contender::new(
            "backtrace-rs",
            addresses,
            ask(peers::backtrace),
        ));
    }

    let (len, took, held) = watch(|| file.name_of(first - bias));
    match len {
        Ok(_) => {
            build("blazesym Elf, first lookup", took, held, n);
            contenders.push(Contender::new(
                "blazesym Elf",
                addresses,
                ask(|address: usize| file.name_of(address - bias)),
            ));
        }
        Err(reason) => println!("skipped blazesym-elf {reason}"),
    }

    let answer = |process: &Result<Blazesym, String>, address| match process {
        Ok(process) => process.name_of(address),
        Err(reason) => Err(reason.clone()),
    };
    let (result, took, held) = watch(|| answer(&process, first));
    match result {
        Ok(_) => {
            build("blazesym Process, first lookup", took, held, n);
            contenders.push(Contender::new(
                "blazesym Process",
                addresses,
                ask(|address: usize| answer(&process, address)),
            ));
        }
        Err(reason) => println!("skipped blazesym-process {reason}"),
    }
    compare(plan, contenders)
}

/// A thread that nobody made a worker.
pub fn stranger(plan: Plan, addresses: &[usize]) -> Vec<Series> {
    let name = "Plug: locate, not on a worker";
    compare(plan, vec![Contender::new(name, addresses, plug::locate)])
}

/// Single lookups, each after the index was thrown out of the caches.
fn cold(plan: Plan, place: &Place<'_>, traces: &Traces, vec: &[(u64, u32)]) -> Vec<Series> {
    let _pinned = Pinned::to(0);
    let stamps = Stamps::calibrated();
    let index = traces.ranges(PAGE);
    if index.is_empty() {
        println!("skipped cold: no index of Plug's is on the heap");
        return Vec::new();
    }
    let mut all = traces.ranges(1);
    let file = memory::mapped(&format!("memfd:{}", place.plugin.name()));
    // Tens of megabytes take too long.
    if place.library.symbols.len() <= 10_000 {
        all.extend(file);
    }
    let table = [(vec.as_ptr() as usize, size_of_val(vec))];
    let bias = place.bias;
    let search = ask(|address: usize| peers::search(vec, (address - bias) as u64));
    type Row<'a> = (&'a str, &'a [(usize, usize)], &'a dyn Fn(usize));
    let rows: [Row<'_>; 3] = [
        ("Plug: locate", &index, &plug::locate),
        ("Plug: locate, all of the load", &all, &plug::locate),
        ("Vec<(u64, u32)>", &table, &search),
    ];
    let samples = plan.size(if vec.len() > 50_000 { 16 } else { 128 }, 8);
    let mut series = rows.map(|row| Series::new(row.0));
    for round in 0..plan.rounds() {
        for turn in 0..rows.len() {
            let which = (round + turn) % rows.len();
            let (_, ranges, lookup) = rows[which];
            let addresses = place.addresses.iter().skip(round * samples);
            let times = addresses.take(samples).map(|address| {
                memory::flush(ranges);
                stamps.time(|| lookup(*address))
            });
            series[which]
                .rounds
                .push(median(&times.collect::<Vec<_>>()));
        }
    }
    series.into()
}

/// The handle that dlsym takes for a plugin which Plug loaded.
pub fn handle(plugin: &Plugin) -> Result<Handle, String> {
    Handle::around(plugin.range().0)
}
