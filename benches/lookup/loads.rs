//! A load beside what it cannot do without: a private copy of the file, and dlopen.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use crate::library::Library;
use crate::peers::{Handle, Staged};
use crate::plug::Plug;
use crate::verdict;
use benches::measure::{Plan, Series, median, ratio, table};

pub fn run(plan: Plan, plug: &Plug, word: &str, n: usize) {
    let times = if word == "500k" { 1 } else { plan.size(40, 2) };
    let library = Library::with_functions(n);
    let path = CString::new(library.path.as_os_str().as_bytes()).expect("no zero byte");
    let names = ["Plug: load", "staging + dlopen", "staging", "dlopen"];
    let mut all = names.map(Series::new);
    let mut stages = BTreeMap::<String, Vec<f64>>::new();
    for round in 0..plan.rounds() {
        let mut tries: [Vec<f64>; 4] = Default::default();
        for time in 0..times {
            for turn in 0..names.len() {
                let which = (turn + time + round) % names.len();
                let name = format!("load-{word}-{round}-{time}");
                // Nobody begins with what the one before left in the caches, or slept away.
                drop(Handle::open(&path));
                let began = Instant::now();
                let took = match which {
                    0 => {
                        let plugin = plug.load(&library, &name);
                        let took = began.elapsed();
                        for (stage, time) in plugin.load_times() {
                            let times = stages.entry(format!("{stage:?}")).or_default();
                            times.push(time.as_nanos() as f64 / 1e3);
                        }
                        plug.unload(&plugin);
                        plug.settle();
                        took
                    }
                    1 => {
                        let staged = Staged::copy(&path);
                        let handle = staged.open();
                        let took = began.elapsed();
                        drop(handle.expect("a plain library"));
                        took
                    }
                    2 => {
                        black_box(Staged::copy(&path));
                        began.elapsed()
                    }
                    _ => {
                        let handle = Handle::open(&path);
                        let took = began.elapsed();
                        drop(handle.expect("a plain library"));
                        took
                    }
                };
                tries[which].push(took.as_nanos() as f64 / 1e3);
            }
        }
        for (series, tries) in all.iter_mut().zip(&tries) {
            series.rounds.push(median(tries));
        }
    }
    table(&format!("load of {n} symbols"), "us", &all);
    let stages: Vec<String> = stages
        .iter()
        .map(|(stage, times)| format!("{stage} {:.1}", median(times)))
        .collect();
    println!("  of Plug's, us: {}", stages.join(", "));
    verdict::tell(
        &format!("load_vs_dlopen_plus_staging_{word}"),
        ratio(&all, "Plug: load", "staging + dlopen"),
    );
}
