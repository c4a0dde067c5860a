//! Workers that are asked for a quiescent point: awake, asleep with a waker, asleep without.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{Answer, Deadline};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::relay::{calls_back, relay, within};
use plug_tests::standalone::Scratch;

/// What the worker `name` answers until the deadline.
fn answer_of(host: &Host, name: &str, deadline: Deadline) -> Answer {
    let answers = host.loader.ask_for_quiescence(deadline);
    let own = answers.iter().find(|answer| &*answer.name == name);
    own.expect("a worker").answer
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(150))
}

#[test]
fn worker_asleep_in_epoll_is_woken_by_its_eventfd_once_a_wish() {
    isolated!({
        static WAKES: AtomicU32 = AtomicU32::new(0);
        static STOP: AtomicBool = AtomicBool::new(false);
        let host = Host::new();
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let host = &host;
            scope.spawn(move || {
                // SAFETY: plain numbers.
                let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
                // SAFETY: a plain number.
                let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
                let mut wanted = libc::epoll_event {
                    events: u32::try_from(libc::EPOLLIN).expect("a flag"),
                    u64: 0,
                };
                // SAFETY: both descriptors are open and the record is valid.
                let status =
                    unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, event, &raw mut wanted) };
                assert_eq!(status, 0, "epoll_ctl");
                let worker = host.loader.worker("epoll").expect("worker").waker(move || {
                    WAKES.fetch_add(1, Ordering::SeqCst);
                    let one = 1_u64;
                    // SAFETY: eight bytes into an open eventfd.
                    unsafe { libc::write(event, (&raw const one).cast(), 8) };
                });
                tell.send(event).expect("asked for");
                while !STOP.load(Ordering::SeqCst) {
                    worker.quiescent();
                    let mut ready = libc::epoll_event { events: 0, u64: 0 };
                    // SAFETY: room for one record.
                    let n = unsafe { libc::epoll_wait(epoll, &raw mut ready, 1, -1) };
                    if n == 1 {
                        let mut count = 0_u64;
                        // SAFETY: eight bytes out of an open eventfd.
                        unsafe { libc::read(event, (&raw mut count).cast(), 8) };
                    }
                }
            });
            let event = told.recv().expect("the worker");
            for wish in 1..=100 {
                assert_eq!(answer_of(host, "epoll", seconds(10)), Answer::Passed);
                assert_eq!(WAKES.load(Ordering::SeqCst), wish);
            }
            STOP.store(true, Ordering::SeqCst);
            let one = 1_u64;
            // SAFETY: as above.
            unsafe { libc::write(event, (&raw const one).cast(), 8) };
        });
    });
}

#[test]
fn worker_asleep_on_a_futex_is_woken_by_unparking() {
    isolated!({
        static STOP: AtomicBool = AtomicBool::new(false);
        let host = Host::new();
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let host = &host;
            let thread = scope.spawn(move || {
                let own = thread::current();
                let worker = host.loader.worker("futex").expect("worker");
                let worker = worker.waker(move || own.unpark());
                tell.send(()).expect("asked for");
                while !STOP.load(Ordering::SeqCst) {
                    worker.quiescent();
                    thread::park();
                }
            });
            told.recv().expect("the worker");
            let began = Instant::now();
            for _ in 0..100 {
                assert_eq!(answer_of(host, "futex", seconds(10)), Answer::Passed);
            }
            println!(
                "a sleeping worker answers within {:.1?}",
                began.elapsed() / 100
            );
            let passed = host.loader.workers()[0].quiescent;
            assert!(passed >= 100, "{passed}");
            STOP.store(true, Ordering::SeqCst);
            thread.thread().unpark();
        });
    });
}

#[test]
fn worker_asleep_without_a_waker_answers_if_it_said_so() {
    isolated!({
        static STAGE: AtomicU32 = AtomicU32::new(0);
        let until = |stage| {
            while STAGE.load(Ordering::SeqCst) != stage {
                thread::yield_now();
            }
        };
        let host = Host::new();
        thread::scope(|scope| {
            let host = &host;
            scope.spawn(move || {
                let worker = host.loader.worker("deaf").expect("worker");
                STAGE.store(1, Ordering::SeqCst);
                // Sleeps without a word.
                until(2);
                let asleep = worker.asleep();
                STAGE.store(3, Ordering::SeqCst);
                until(4);
                drop(asleep);
                STAGE.store(5, Ordering::SeqCst);
                until(6);
            });
            until(1);
            assert_eq!(answer_of(host, "deaf", soon()), Answer::Silent);
            STAGE.store(2, Ordering::SeqCst);
            until(3);
            assert_eq!(answer_of(host, "deaf", seconds(10)), Answer::Asleep);
            assert!(host.loader.workers()[0].is_asleep);
            STAGE.store(4, Ordering::SeqCst);
            until(5);
            assert_eq!(answer_of(host, "deaf", soon()), Answer::Silent);
            assert!(!host.loader.workers()[0].is_asleep);
            STAGE.store(6, Ordering::SeqCst);
        });
        assert!(host.loader.ask_for_quiescence(soon()).is_empty());
    });
}

#[test]
fn worker_inside_a_plugin_never_answers() {
    isolated!({
        static STAGE: AtomicU32 = AtomicU32::new(0);
        let scratch = Scratch::new("quiescence");
        let host = Host::new();
        let plugin = host.load(relay(&scratch, "relay")).expect("loads");
        thread::scope(|scope| {
            let host = &host;
            let calls = calls_back(&plugin);
            scope.spawn(move || {
                let worker = host.loader.worker("inside").expect("worker");
                within(calls, || {
                    STAGE.store(1, Ordering::SeqCst);
                    while STAGE.load(Ordering::SeqCst) == 1 {
                        // Neither is true here, and so neither counts.
                        worker.quiescent();
                        drop(worker.asleep());
                    }
                });
                worker.quiescent();
                STAGE.store(3, Ordering::SeqCst);
                while STAGE.load(Ordering::SeqCst) == 3 {
                    worker.quiescent();
                    thread::yield_now();
                }
            });
            while STAGE.load(Ordering::SeqCst) != 1 {
                thread::yield_now();
            }
            assert_eq!(answer_of(host, "inside", soon()), Answer::Silent);
            assert_eq!(host.loader.workers()[0].quiescent, 0);
            STAGE.store(2, Ordering::SeqCst);
            while STAGE.load(Ordering::SeqCst) != 3 {
                thread::yield_now();
            }
            assert_eq!(answer_of(host, "inside", seconds(10)), Answer::Passed);
            STAGE.store(4, Ordering::SeqCst);
        });
        host.unload("relay");
    });
}

#[test]
fn asking_worker_answers_for_itself() {
    isolated!({
        let host = Host::new();
        let _worker = host.loader.worker("asks").expect("worker");
        assert_eq!(answer_of(&host, "asks", seconds(10)), Answer::Passed);
    });
}
