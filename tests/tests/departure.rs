//! Unloads that are begun, watched, given up, waited for and awaited.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_lite::future::{block_on, poll_once};
use plug_loader::{
    CallError, Deadline, Departure, Error, ErrorKind, EventKind, HolderKind, Plugin, PluginFn,
    Stage, State, Unloaded,
};
use plug_tests::host::{Host, seconds};
use plug_tests::standalone::{Scratch, c_plugin};
use plug_tests::{isolated, process, storm};

/// A thread that stays inside `never-returns` until it is let go.
struct Stuck {
    released: &'static AtomicU32,
    thread: JoinHandle<Result<u64, CallError>>,
}

impl Stuck {
    /// A worker of that name, or an unregistered thread.
    fn new(host: &Host, plugin: &Plugin, worker: Option<&'static str>) -> Self {
        let released: &'static AtomicU32 = Box::leak(Box::default());
        let stuck = plugin
            .function::<unsafe extern "C" fn(*const u32) -> u64>("never_returns")
            .expect("exported");
        let loader = host.loader.clone();
        let before = host.loader.holders(plugin).len();
        let thread = thread::spawn(move || {
            let worker = worker.map(|name| loader.worker(name).expect("worker"));
            let args = (released.as_ptr().cast_const(),);
            match &worker {
                // SAFETY: the flag is never freed.
                Some(worker) => unsafe { stuck.call_on(worker, args) },
                // SAFETY: as above.
                None => unsafe { stuck.call(args) },
            }
        });
        while host.loader.holders(plugin).len() == before {
            thread::yield_now();
        }
        Self { released, thread }
    }

    fn release(self) {
        self.released.store(1, Ordering::Release);
        let returned = self.thread.join().expect("no panic");
        assert!(returned.is_ok(), "{returned:?}");
    }
}

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(departure: &mut Departure, waker: &Waker) -> Poll<Result<Unloaded, Error>> {
    Pin::new(departure).poll(&mut Context::from_waker(waker))
}

#[test]
fn a_departure_tells_its_blockers_and_goes_back_when_it_is_cancelled_or_dropped() {
    isolated!({
        let host = Host::new();
        let plugin = host.hostile("never-returns").expect("loads");
        let stuck = Stuck::new(&host, &plugin, Some("io-3"));
        let pin = plugin.pin().expect("live");
        let line = line!() - 1;

        let departure = host.loader.begin_unload("never-returns").expect("begun");
        assert_eq!(departure.plugin().generation(), plugin.generation());
        assert_eq!(plugin.state(), State::Going);
        assert_eq!(plugin.pin().expect_err("going").kind(), ErrorKind::Gone);
        let again = host.loader.begin_unload("never-returns");
        assert_eq!(again.expect_err("going").kind(), ErrorKind::Busy);

        thread::sleep(Duration::from_millis(20));
        let blockers = departure.blockers();
        assert_eq!(blockers.len(), 2, "{blockers:?}");
        let (call, pins) = (&blockers[0], &blockers[1]);
        assert_eq!((call.kind, &*call.thread), (HolderKind::Call, "io-3"));
        assert_eq!((&*call.function, call.count), ("never_returns", 1));
        assert!(call.since >= Duration::from_millis(20), "{call:?}");
        assert_eq!((pins.kind, pins.count), (HolderKind::Pins, 1));
        let place = pins.place.expect("known");
        assert_eq!((place.file(), place.line()), (file!(), line));
        // SAFETY: no arguments, cannot fail.
        let tid = unsafe { libc::gettid() };
        assert_eq!(i64::from(pins.tid), i64::from(tid));
        assert!(pins.since >= Duration::from_millis(20), "{pins:?}");

        // It is told live: the pin is gone, then nobody is left.
        drop(pin);
        assert_eq!(departure.blockers().len(), 1);
        assert!(departure.cancel());
        assert_eq!(plugin.state(), State::Live);
        let dropped = host.loader.begin_unload_exactly(&plugin).expect("begun");
        assert_eq!(plugin.state(), State::Going);
        drop(dropped);
        assert_eq!(plugin.state(), State::Live);
        drop(plugin.pin().expect("live again"));
        let stayed = host.loader.events(0, Deadline::now()).into_iter();
        let stayed = stayed.filter(
            |event| matches!(&event.kind, EventKind::Stayed(why) if why.contains("cancelled")),
        );
        assert_eq!(stayed.count(), 2);
        stuck.release();
        host.unload("never-returns");
        // A handle of the load that left does not unload its successor.
        let next = host.hostile("never-returns").expect("loads");
        let wrong = host.loader.begin_unload_exactly(&plugin).expect_err("gone");
        assert_eq!(wrong.kind(), ErrorKind::Gone);
        assert_eq!(
            wrong.to_string(),
            "never-returns: going: expected generation 1, found 2: another load has its name"
        );
        assert_eq!(next.state(), State::Live);
    });
}

#[test]
fn wait_gives_up_with_every_holder_and_the_plugin_is_live_again() {
    isolated!({
        let host = Host::new();
        let plugin = host.hostile("never-returns").expect("loads");
        let worker = Stuck::new(&host, &plugin, Some("io-3"));
        let stranger = Stuck::new(&host, &plugin, None);
        let pins = [plugin.pin().expect("live"), plugin.pin().expect("live")];
        let copies = [(); 3].map(|()| pins[0].clone());
        let departure = host.loader.begin_unload("never-returns").expect("begun");
        let deadline = Deadline::after(Duration::from_millis(50));
        let refused = departure.wait(deadline).expect_err("in use");
        assert_eq!(
            (refused.kind(), refused.stage()),
            (ErrorKind::Deadline, Some(Stage::Drain))
        );
        let count = |kind| {
            let of_kind = refused.blockers().iter().filter(|b| b.kind == kind);
            of_kind.map(|b| b.count).collect::<Vec<_>>()
        };
        assert_eq!(count(HolderKind::Call), [1]);
        assert_eq!(count(HolderKind::UnregisteredCalls), [1]);
        let mut held = count(HolderKind::Pins);
        held.sort_unstable();
        assert_eq!(held, [1, 1, 3], "one group a place");
        for holder in refused.blockers() {
            assert!(holder.since >= Duration::from_millis(50), "{holder:?}");
        }
        let text = refused.to_string();
        for part in [
            "still in use when the deadline passed, also by pins that this thread took; it is Live \
             again",
            "worker io-3 (tid ",
            "in never_returns since at least ",
            "3 pins held, taken at tests/tests/departure.rs:",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert_eq!(plugin.state(), State::Live);
        // One that is no worker is found by its stack, unless it is awake between two naps.
        let stranger_of = loop {
            let refused = host.loader.unload("never-returns", Deadline::now());
            let refused = refused.expect_err("in use");
            let mut blockers = refused.blockers().iter();
            let named = blockers.find(|b| b.kind == HolderKind::UnregisteredCalls && b.tid != 0);
            if let Some(named) = named {
                break named.clone();
            }
        };
        assert_eq!(&*stranger_of.function, "never_returns");
        drop((pins, copies));
        worker.release();
        stranger.release();
        host.unload("never-returns");
    });
}

const CALLER: &str = r#"
#include "plugin_api.h"
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("caller", "1.0.0", "calls its host", "MIT", init, stop);
PLUG_EXPORT(int32_t, through, (int32_t (*back)(void))) { return back() + 1; }
"#;

#[test]
fn a_worker_in_two_plugins_holds_both_each_by_its_own_function() {
    isolated!({
        static STUCK: OnceLock<PluginFn<unsafe extern "C" fn(*const u32) -> u64>> = OnceLock::new();
        static RELEASED: AtomicU32 = AtomicU32::new(0);
        extern "C" fn back() -> i32 {
            let stuck = STUCK.get().expect("set");
            // SAFETY: the flag outlives the call.
            i32::from(unsafe { stuck.call((RELEASED.as_ptr().cast_const(),)) }.is_ok())
        }
        let host = Host::new();
        let scratch = Scratch::new("nested");
        let outer = host
            .load(c_plugin(&scratch, "caller", CALLER))
            .expect("loads");
        let inner = host.hostile("never-returns").expect("loads");
        STUCK
            .set(inner.function("never_returns").expect("exported"))
            .expect("first");
        let through = outer
            .function::<unsafe extern "C" fn(extern "C" fn() -> i32) -> i32>("through")
            .expect("exported");
        let loader = host.loader.clone();
        let thread = thread::spawn(move || {
            let worker = loader.worker("io-3").expect("worker");
            // SAFETY: the fixture's signature.
            unsafe { through.call_on(&worker, (back,)) }
        });
        let refusal = |plugin: &Plugin| {
            let refused = host.loader.unload_exactly(plugin, Deadline::now());
            let refused = refused.expect_err("in use");
            assert_eq!(refused.blockers().len(), 1, "{refused}");
            refused.blockers()[0].clone()
        };
        while host.loader.holders(&inner).is_empty() {
            thread::yield_now();
        }
        for (plugin, function) in [(&outer, "through"), (&inner, "never_returns")] {
            // Between two naps it is on its way, and its stack is not to be had.
            let holder = loop {
                let holder = refusal(plugin);
                assert_eq!((holder.kind, &*holder.thread), (HolderKind::Call, "io-3"));
                if !holder.function.is_empty() {
                    break holder;
                }
            };
            assert_eq!(&*holder.function, function);
        }
        // A long call in one delays no unload of another.
        host.useful("base64");
        host.unload("base64");
        RELEASED.store(1, Ordering::Release);
        assert_eq!(thread.join().expect("no panic"), Ok(2));
        host.unload("caller");
        host.unload("never-returns");
    });
}

#[test]
fn an_awaited_departure_wakes_its_task_once_and_stays_ready() {
    isolated!({
        let host = Host::new();
        let plugin = host.hostile("never-returns").expect("loads");
        let stuck = Stuck::new(&host, &plugin, Some("io-3"));
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut departure = host.loader.begin_unload("never-returns").expect("begun");
        // The last task to poll is the one that is woken.
        assert!(poll(&mut departure, &Arc::clone(&first).into()).is_pending());
        let waker: Waker = Arc::clone(&second).into();
        for _ in 0..3 {
            assert!(poll(&mut departure, &waker).is_pending());
        }
        assert_eq!(Arc::strong_count(&first), 1, "its waker was given up");
        thread::sleep(Duration::from_millis(20));
        assert_eq!(second.0.load(Ordering::SeqCst), 0);
        stuck.release();
        while second.0.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        for _ in 0..2 {
            let ready = poll(&mut departure, &waker);
            let Poll::Ready(Ok(Unloaded::Gone(report))) = ready else {
                panic!("{ready:?}");
            };
            assert_eq!(report.generation, plugin.generation());
        }
        let counts = [&first, &second].map(|count| count.0.load(Ordering::SeqCst));
        assert_eq!(counts, [0, 1]);
        assert!(!departure.cancel(), "it is gone");
        assert_eq!(plugin.state(), State::Empty);
        // The same under an executor of somebody else's, on one that nobody holds.
        host.useful("base64");
        let departure = host.loader.begin_unload("base64").expect("begun");
        assert!(block_on(departure).expect("unloads").is_gone());
    });
}

#[test]
fn a_future_gives_up_at_its_deadline_and_when_it_is_dropped() {
    isolated!({
        let host = Host::new();
        let plugin = host.hostile("never-returns").expect("loads");
        let stuck = Stuck::new(&host, &plugin, None);
        let departure = host.loader.begin_unload("never-returns").expect("begun");
        let until = Deadline::after(Duration::from_millis(50));
        let refused = block_on(departure.until(until)).expect_err("in use");
        assert_eq!(refused.kind(), ErrorKind::Deadline);
        assert_eq!(refused.blockers().len(), 1);
        assert_eq!(plugin.state(), State::Live);

        let threads = process::threads();
        // Dropped in the middle of the wait, as by a select or a timeout.
        for _ in 0..50 {
            let departure = host.loader.begin_unload("never-returns").expect("begun");
            let mut departure = pin!(departure);
            assert!(block_on(poll_once(&mut departure)).is_none());
            assert_eq!(plugin.state(), State::Going);
        }
        // Every thread that waited ends.
        let began = Instant::now();
        while process::threads() > threads {
            assert!(began.elapsed() < Duration::from_secs(20), "they stay");
            thread::yield_now();
        }
        assert_eq!(plugin.state(), State::Live);

        // One that was polled may be waited for as well, and cancelled by hand.
        let mut departure = host.loader.begin_unload("never-returns").expect("begun");
        assert!(block_on(poll_once(&mut departure)).is_none());
        let refused = departure.wait(Deadline::after(Duration::from_millis(20)));
        assert_eq!(refused.expect_err("in use").kind(), ErrorKind::Deadline);
        let mut departure = host.loader.begin_unload("never-returns").expect("begun");
        assert!(block_on(poll_once(&mut departure)).is_none());
        assert!(departure.cancel());
        assert_eq!(plugin.state(), State::Live);
        stuck.release();
        let mut departure = host.loader.begin_unload("never-returns").expect("begun");
        assert!(block_on(poll_once(&mut departure)).is_none_or(|end| end.is_ok()));
        assert!(departure.wait(seconds(10)).expect("unloads").is_gone());
    });
}

#[test]
fn cancels_that_race_with_the_end_leave_it_live_or_gone_and_nothing_else() {
    isolated!({
        let host = Host::new();
        let (mut cancelled, mut gone) = (0, 0);
        for round in 0..200_u64 {
            let plugin = host
                .loader
                .plugin("base64")
                .unwrap_or_else(|| host.useful("base64"));
            let pin = plugin.pin().expect("live");
            let mut departure = host.loader.begin_unload("base64").expect("begun");
            assert!(block_on(poll_once(&mut departure)).is_none());
            let (begin, begun) = mpsc::channel();
            let unpin = thread::spawn(move || {
                begun.recv().expect("told");
                drop(pin);
            });
            begin.send(()).expect("heard");
            thread::sleep(Duration::from_micros(round * 20));
            let was_in_time = departure.cancel();
            unpin.join().expect("no panic");
            if was_in_time {
                cancelled += 1;
                assert_eq!(plugin.state(), State::Live);
                drop(plugin.pin().expect("live again"));
            } else {
                gone += 1;
                let began = Instant::now();
                while plugin.state() != State::Empty {
                    assert!(began.elapsed() < Duration::from_secs(20), "{plugin:?}");
                    thread::yield_now();
                }
                // The name is free a moment after the slot is.
                while host.loader.plugin("base64").is_some() {
                    thread::yield_now();
                }
            }
        }
        println!("{cancelled} cancelled, {gone} gone");
        assert!(cancelled > 0, "no cancel was in time");
        assert!(gone > 0, "every cancel was in time");
    });
}

#[test]
fn an_unload_ends_under_a_storm_of_signals() {
    isolated!({
        storm::prepare(|_| ());
        let host = Host::new();
        let plugin = host.hostile("never-returns").expect("loads");
        let stuck = Stuck::new(&host, &plugin, Some("io-3"));
        let (target, done) = (storm::tid(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                // Sleeps of this thread are never left to end by themselves.
                while !done.load(Ordering::SeqCst) {
                    storm::send(target, storm::PLAIN);
                }
            });
            let soon = Deadline::after(Duration::from_millis(300));
            let refused = host.loader.unload("never-returns", soon);
            let kind = refused.expect_err("held").kind();
            stuck.release();
            let unloaded = host.loader.unload("never-returns", seconds(20));
            done.store(true, Ordering::SeqCst);
            assert_eq!(kind, ErrorKind::Deadline);
            assert!(matches!(unloaded, Ok(Unloaded::Gone(_))), "{unloaded:?}");
        });
        assert!(storm::handled() > 1000, "{} signals", storm::handled());
    });
}
