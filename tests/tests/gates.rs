//! Ways in and out of plugins' gates: nested, recursive, by a panic, by an early return; and that a
//! gate that stays occupied is nobody else's business.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plug_filter::FilterV1;
use plug_loader::{CallError, Deadline, ErrorKind, Params, Plugin, Proof, Source, Unloaded};
use plug_tests::host::{Host, hostile, seconds, useful};
use plug_tests::isolated;
use plug_tests::relay::{calls_back, relay, within};
use plug_tests::standalone::Scratch;

/// How deep the running worker is inside `plugin`, as holders tell it.
fn depth(host: &Host, plugin: &Plugin) -> u64 {
    let holders = host.loader.holders(plugin);
    holders.iter().map(|holder| holder.count).sum()
}

/// As a worker, and as a thread that is none.
fn both_ways(host: &Host, body: impl Fn(&str)) {
    body("unregistered");
    let _worker = host.loader.worker("calls").expect("worker");
    body("registered");
}

#[test]
fn calls_nested_across_plugins_and_recursive_count_back_to_zero() {
    isolated!({
        let scratch = Scratch::new("gates");
        let host = Host::new();
        let a = host.load(relay(&scratch, "a")).expect("loads");
        let b = host.load(relay(&scratch, "b")).expect("loads");
        let (to_a, to_b) = (calls_back(&a), calls_back(&b));
        both_ways(&host, |how| {
            within(to_a, || {
                within(to_b, || {
                    within(to_a, || {
                        assert_eq!((depth(&host, &a), depth(&host, &b)), (2, 1), "{how}");
                        let refused = host.loader.unload("b", Deadline::now());
                        let refused = refused.expect_err("from inside");
                        assert_eq!(refused.kind(), ErrorKind::SelfDeadlock);
                    });
                    assert_eq!((depth(&host, &a), depth(&host, &b)), (1, 1), "{how}");
                });
                assert_eq!((depth(&host, &a), depth(&host, &b)), (1, 0), "{how}");
            });
            assert_eq!((depth(&host, &a), depth(&host, &b)), (0, 0), "{how}");

            fn recur(to_a: plug_loader::PluginFn<plug_tests::relay::CallsBack>, levels: u32) {
                if levels > 0 {
                    within(to_a, || recur(to_a, levels - 1));
                }
            }
            recur(to_a, 1000);
            assert_eq!(depth(&host, &a), 0, "{how}");
        });
        let calls = 2 * (2 + 1000);
        assert_eq!(host.loader.calls(&a), calls);
        host.unload("a");
        host.unload("b");
    });
}

#[test]
fn panics_through_nested_gates_leave_all_of_them() {
    isolated!({
        let scratch = Scratch::new("gates");
        let host = Host::new();
        let a = host.load(relay(&scratch, "a")).expect("loads");
        let b = host.load(relay(&scratch, "b")).expect("loads");
        let (to_a, to_b) = (calls_back(&a), calls_back(&b));
        both_ways(&host, |how| {
            let outcome = catch_unwind(|| {
                within(to_a, || {
                    within(to_b, || {
                        within(to_a, || resume_unwind(Box::new("of the host's")));
                    });
                });
            });
            let payload = outcome.expect_err("it panicked");
            assert_eq!(payload.downcast_ref(), Some(&"of the host's"));
            assert_eq!((depth(&host, &a), depth(&host, &b)), (0, 0), "{how}");

            // Caught half-way: only the inner ones are left.
            within(to_a, || {
                let outcome = catch_unwind(|| within(to_b, || resume_unwind(Box::new(()))));
                assert!(outcome.is_err());
                assert_eq!((depth(&host, &a), depth(&host, &b)), (1, 0), "{how}");
            });
            assert_eq!(depth(&host, &a), 0, "{how}");
        });
        for name in ["a", "b"] {
            let report = host.unload(name);
            assert!(report.workers.iter().all(|w| w.proof == Proof::Idle));
        }
    });
}

#[test]
fn interfaces_left_early_or_by_a_panic_leave_their_gates() {
    isolated!({
        let host = Host::new();
        let plugin = host.useful("checksum");
        let filter = plugin.interface::<FilterV1>().expect("a filter");
        let worker = host.loader.worker("calls").expect("worker");
        for n in 0..100 {
            // SAFETY, here and below: the closures call nothing of the table's.
            let left = unsafe {
                filter.call_raw_on(&worker, |_, _| {
                    if n % 2 == 0 {
                        return Err("early");
                    }
                    Ok(depth(&host, &plugin))
                })
            };
            let expected = if n % 2 == 0 { Err("early") } else { Ok(1) };
            assert_eq!(left, Ok(expected));
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let called = unsafe { filter.call_raw(|_, _| resume_unwind(Box::new(n))) };
                called.map(|never: ()| never)
            }));
            assert!(outcome.is_err());
            assert_eq!(depth(&host, &plugin), 0);
        }
        host.unload("checksum");
        let late = unsafe { filter.call_raw(|_, _| ()) };
        assert_eq!(late, Err(CallError::Gone));
    });
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn call_that_does_not_return_delays_nothing_of_another_plugin() {
    isolated!({
        static RELEASED: AtomicU32 = AtomicU32::new(0);
        const OTHERS: usize = 40;
        const ROUNDS: usize = 60;
        let host = Host::new();
        // Five plugins with a worker each that stays inside.
        let stuck: Vec<_> = (0..5)
            .map(|n| {
                let source = Source::path(hostile("never-returns")).named(format!("stuck-{n}"));
                let loaded = host.loader.load(&host.trust, source, &Params::new());
                loaded.expect("loads")
            })
            .collect();
        let load = |name: String| {
            let source = Source::path(useful("base64")).named(name);
            let loaded = host.loader.load(&host.trust, source, &Params::new());
            loaded.expect("loads")
        };
        for n in 0..OTHERS {
            load(format!("other-{n}"));
        }
        let (mut loads, mut unloads, mut reads) =
            ([vec![], vec![]], [vec![], vec![]], [vec![], vec![]]);
        for round in 0..ROUNDS {
            // Every other round nobody is stuck.
            let is_stuck = round % 2;
            RELEASED.store(1, Ordering::SeqCst);
            thread::scope(|scope| {
                if is_stuck == 1 {
                    RELEASED.store(0, Ordering::SeqCst);
                    for plugin in &stuck {
                        let host = &host;
                        scope.spawn(move || {
                            let worker = host.loader.worker("stuck").expect("worker");
                            let function = plugin
                                .function::<unsafe extern "C" fn(*const u32) -> u64>(
                                    "never_returns",
                                )
                                .expect("exported");
                            // SAFETY: the flag is a static.
                            let args = (RELEASED.as_ptr().cast_const(),);
                            assert!(unsafe { function.call_on(&worker, args) }.is_ok());
                        });
                    }
                    while !stuck.iter().all(|plugin| depth(&host, plugin) == 1) {
                        thread::yield_now();
                    }
                }
                let began = Instant::now();
                let plugin = load("passes".into());
                loads[is_stuck].push(began.elapsed());
                let began = Instant::now();
                assert!(host.loader.reader().resolve(plugin.range().0).is_some());
                reads[is_stuck].push(began.elapsed());
                let began = Instant::now();
                host.unload("passes");
                unloads[is_stuck].push(began.elapsed());
                host.unload(&format!("other-{}", round % OTHERS));
                load(format!("other-{}", round % OTHERS));
                if is_stuck == 1 {
                    assert!(stuck.iter().all(|plugin| depth(&host, plugin) == 1));
                }
                RELEASED.store(1, Ordering::SeqCst);
            });
        }
        for (what, [free, held]) in [("load", loads), ("read", reads), ("unload", unloads)] {
            let worst = held.iter().max().copied().unwrap_or_default();
            let (free, held) = (median(free), median(held));
            println!(
                "{what}: {free:.1?} with nobody stuck, {held:.1?} with five (at most {worst:.1?})"
            );
            // Twice the workers to look at, on a machine with other things to do; a wait would be
            // as long as the call, which ends after the measurement.
            assert!(held < free * 5 + Duration::from_millis(5), "{what}");
        }
    });
}

#[test]
fn callers_that_are_refused_do_not_hold_an_unload_up() {
    isolated!({
        const CALLERS: usize = 96;
        let host = Host::new();
        let done = AtomicBool::new(false);
        for workers in [CALLERS, 0] {
            let plugin = host.useful("checksum");
            let filter = plugin.interface::<FilterV1>().expect("a filter");
            let (refused, ready) = (AtomicU32::new(0), AtomicU32::new(0));
            done.store(false, Ordering::SeqCst);
            thread::scope(|scope| {
                for n in 0..CALLERS {
                    let (host, filter, refused, ready, done) =
                        (&host, &filter, &refused, &ready, &done);
                    scope.spawn(move || {
                        let _worker = (n < workers).then(|| host.loader.worker("asks"));
                        ready.fetch_add(1, Ordering::SeqCst);
                        while !done.load(Ordering::Relaxed) {
                            // SAFETY: nothing is done with the table.
                            if unsafe { filter.call_raw(|_, _| ()) }.is_err() {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
                while ready.load(Ordering::SeqCst) < CALLERS as u32 {
                    thread::yield_now();
                }
                let began = Instant::now();
                let unloaded = host.loader.unload("checksum", seconds(30));
                println!(
                    "{workers} workers: {:?}, {} refused",
                    began.elapsed(),
                    refused.load(Ordering::Relaxed)
                );
                done.store(true, Ordering::SeqCst);
                assert!(matches!(unloaded, Ok(Unloaded::Gone(_))), "{unloaded:?}");
            });
        }
    });
}
