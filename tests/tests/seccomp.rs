//! Systems without membarrier, from the start or from some moment on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use plug_loader::{ErrorKind, PluginFn, State, SymbolReader};
use plug_tests::confinement::refuse;
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::storm::{self, Storm};

type Checksum = unsafe extern "C" fn(*const u8, usize) -> u64;

static STOP: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static READS: AtomicU64 = AtomicU64::new(0);

fn sum_of(host: &Host, plugin: &str) -> PluginFn<Checksum> {
    host.useful(plugin)
        .function("checksum_of")
        .expect("exported")
}

/// Calls whatever `checksum` is there and reads, registered or not, until told to stop.
fn work(host: &Host, registered: bool) {
    let _shelter = storm::shelter();
    let _worker = registered.then(|| host.loader.worker("works").expect("worker"));
    let mut sum: Option<PluginFn<Checksum>> = None;
    while !STOP.load(Ordering::Relaxed) {
        host.loader.reader().walk(|_| true);
        // SAFETY: the example's signature; the text is 'static.
        let called = sum.map(|sum| unsafe { sum.call((b"text".as_ptr(), 4)) });
        if called.is_some_and(|called| called.is_ok()) {
            CALLS.fetch_add(1, Ordering::Relaxed);
        } else {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            let plugin = host.loader.plugin("checksum");
            sum = plugin.and_then(|plugin| plugin.function("checksum_of").ok());
        }
    }
}

fn on_signal(pc: usize) {
    let reader = SymbolReader::new();
    let _found = reader.resolve(pc);
    if reader.walk(|_| true) > 0 {
        READS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Loads and unloads `rounds` times under workers, readers and handlers.
fn churn(host: &Host, rounds: u32, midway: impl FnOnce()) {
    let mut midway = Some(midway);
    storm::prepare(on_signal);
    let storm = Storm::start();
    thread::scope(|scope| {
        for registered in [true, true, false] {
            scope.spawn(move || work(host, registered));
        }
        for round in 0..rounds {
            if round == rounds / 2
                && let Some(midway) = midway.take()
            {
                midway();
            }
            let plugin = host.useful("checksum");
            let before = CALLS.load(Ordering::Relaxed);
            while CALLS.load(Ordering::Relaxed) < before + 10 {
                thread::yield_now();
            }
            assert_eq!(plugin.state(), State::Live);
            host.unload("checksum");
        }
        STOP.store(true, Ordering::SeqCst);
    });
    let signals = storm.stop();
    host.loader.reclaim();
    assert_eq!(host.loader.retired_bytes(), 0);
    let count = |n: &AtomicU64| n.load(Ordering::SeqCst);
    println!(
        "{rounds} loads, {signals} signals, {} calls, {} refused, {} reads in handlers",
        count(&CALLS),
        count(&REFUSED),
        count(&READS)
    );
    assert!(count(&READS) > 0 && count(&REFUSED) > 0);
}

#[test]
fn loader_without_membarrier_at_start_fences() {
    isolated!({
        refuse(libc::SYS_membarrier, libc::ENOSYS);
        let host = Host::new();
        let found = host.loader.capabilities();
        assert!(!found.membarrier && found.dead_readers, "{found:?}");
        churn(&host, 50, || {});
        host.loader.assume_seccomp().expect("nothing to give up");
    });
}

#[test]
fn membarrier_that_fails_later_fails_unloads_and_nothing_else() {
    isolated!({
        let host = Host::new();
        assert!(host.loader.capabilities().membarrier);
        let sum = sum_of(&host, "checksum");
        let worker = host.loader.worker("works").expect("worker");
        refuse(libc::SYS_membarrier, libc::EPERM);
        let refused = host.loader.unload("checksum", seconds(5));
        let refused = refused.expect_err("nobody can be proved outside");
        assert_eq!(refused.kind(), ErrorKind::Barrier);
        assert!(refused.blockers().is_empty());
        let text = format!("{refused:#}");
        assert!(text.contains("assume_seccomp"), "the remedy: {text}");
        assert!(text.contains("not permitted"), "the cause: {text}");
        let plugin = host.loader.plugin("checksum").expect("still there");
        assert_eq!(plugin.state(), State::Live);
        // SAFETY: the example's signature; the text is 'static.
        assert!(unsafe { sum.call_on(&worker, (b"text".as_ptr(), 4)) }.is_ok());
        host.useful("base64");
        let before = host.loader.retired_bytes();
        host.loader.reclaim();
        assert!(
            before > 0 && host.loader.retired_bytes() >= before,
            "no grace period completed"
        );
        let late = host.loader.assume_seccomp().expect_err("too late");
        assert_eq!(late.kind(), ErrorKind::Barrier);
        assert!(
            host.loader.capabilities().membarrier,
            "writers may not do without"
        );
        let refused = host.loader.unload("checksum", seconds(5));
        assert_eq!(refused.expect_err("as before").kind(), ErrorKind::Barrier);
    });
}

#[test]
fn membarrier_given_up_under_load_is_not_needed_any_more() {
    isolated!({
        let host = Host::new();
        assert!(host.loader.capabilities().membarrier);
        churn(&host, 60, || {
            host.loader.assume_seccomp().expect("one last barrier");
            assert!(!host.loader.capabilities().membarrier);
            refuse(libc::SYS_membarrier, libc::EPERM);
        });
        host.loader.assume_seccomp().expect("done already");
        thread::sleep(Duration::from_millis(1));
    });
}
