//! What is retired stays readable for those who kept it, and is freed when nobody does.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{Params, Plugin, Snapshot, Source};
use plug_tests::host::{Host, useful};
use plug_tests::isolated;
use plug_tests::oracle::{self, Oracle};

fn load_as(host: &Host, name: &str) -> Plugin {
    let source = Source::path(useful("wordcount")).named(name);
    host.loader
        .load(&host.trust, source, &Params::new())
        .expect("loads")
}

/// The checksum of everything that a snapshot shows of its only plugin.
fn checksum(snapshot: &Snapshot) -> u64 {
    assert_eq!(snapshot.plugins().count(), 1);
    snapshot
        .plugins()
        .flat_map(|view| view.symbols())
        .fold(0, |sum: u64, symbol| {
            sum.wrapping_add(oracle::share(symbol.name, symbol.address as u64))
        })
}

#[test]
fn snapshot_kept_across_unload_stays_readable_and_is_freed_when_dropped() {
    isolated!({
        let host = Host::new();
        let oracle = Oracle::read(&useful("wordcount"));
        let plugin = host.useful("wordcount");
        let expected = oracle.checksum(plugin.range().0 as u64);
        let kept = host.loader.snapshot();
        host.unload("wordcount");
        for n in 0..50 {
            load_as(&host, &format!("successor-{n}"));
            host.unload(&format!("successor-{n}"));
        }
        host.loader.reclaim();
        assert!(host.loader.retired_bytes() > 0, "it is held");
        assert_eq!(checksum(&kept), expected);
        let view = kept.find(plugin.range().0).expect("still in it");
        assert_eq!(view.generation(), plugin.generation());
        assert_eq!(host.loader.snapshot().plugins().count(), 0);
        drop(kept);
        host.loader.reclaim();
        assert_eq!(host.loader.retired_bytes(), 0);
    });
}

#[test]
fn snapshot_reached_through_a_weak_reference_stays_readable() {
    isolated!({
        let host = Host::new();
        let oracle = Oracle::read(&useful("wordcount"));
        let plugin = host.useful("wordcount");
        let expected = oracle.checksum(plugin.range().0 as u64);
        let weak: Weak<Snapshot> = Arc::downgrade(&host.loader.snapshot());
        host.unload("wordcount");
        thread::scope(|scope| {
            let read = scope.spawn(|| {
                let mut read = 0_u64;
                while let Some(snapshot) = weak.upgrade() {
                    assert_eq!(checksum(&snapshot), expected);
                    drop(snapshot);
                    read += 1;
                    if read > 2_000 {
                        break;
                    }
                    thread::yield_now();
                }
                read
            });
            while !read.is_finished() {
                host.loader.reclaim();
            }
            read.join().expect("every read was right");
        });
        drop(weak);
        host.loader.reclaim();
        assert_eq!(host.loader.retired_bytes(), 0);
    });
}

#[test]
fn loads_alone_are_drained_in_the_background() {
    isolated!({
        let host = Host::new();
        // The second time the drainer is at rest when they begin.
        for numbers in [0..100, 100..200] {
            for n in numbers {
                load_as(&host, &format!("copy-{n}"));
            }
            // Nobody asks for it: within its second, the drainer frees the snapshots replaced.
            let began = Instant::now();
            while host.loader.retired_bytes() > 0 {
                assert!(
                    began.elapsed() < Duration::from_secs(5),
                    "the drainer does not come"
                );
                thread::sleep(Duration::from_millis(10));
            }
            // It goes back to its rest.
            thread::sleep(Duration::from_millis(100));
        }
        for n in 0..200 {
            host.unload(&format!("copy-{n}"));
        }
    });
}

#[test]
fn loads_and_unloads_for_long_keep_memory_bounded() {
    isolated!({
        let host = Host::new();
        let mut most = 0;
        for _ in 0..1_000 {
            host.useful("base64");
            host.unload("base64");
            most = most.max(host.loader.retired_bytes());
        }
        // 16 MiB and a second's worth are what the drainer lets lie.
        assert!(most < 20 << 20, "{most} bytes were retired at a time");
        host.loader.reclaim();
        assert_eq!(host.loader.retired_bytes(), 0);
    });
}
