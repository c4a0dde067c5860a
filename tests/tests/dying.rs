//! Threads that end inside a call or a section, and those that inherit their thread pointers.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use plug_loader::{Deadline, ErrorKind, HolderKind, Proof, Reaped, Unloaded, Worker};
use plug_tests::confinement::exit_thread;
use plug_tests::host::{Host, useful};
use plug_tests::isolated;
use plug_tests::relay::{bare_thread, calls_back, ends_thread, relay, within};
use plug_tests::standalone::Scratch;

const PTHREAD_EXIT: i32 = 0;
const SYSTEM_CALL: i32 = 1;

/// Frees what can be freed; whether that is everything.
fn reclaims(host: &Host) -> bool {
    host.loader.reclaim();
    host.loader.retired_bytes() == 0
}

fn reaped(sections: u64, calls: u64) -> (u64, u64) {
    (sections, calls)
}

fn seen(reaped: Reaped) -> (u64, u64) {
    (reaped.sections, reaped.calls)
}

#[test]
fn worker_that_ends_by_pthread_exit_inside_a_call_leaves_nothing() {
    isolated!({
        let scratch = Scratch::new("dying");
        let host = Host::new();
        let plugin = host.load(relay(&scratch, "relay")).expect("loads");
        let ends = ends_thread(&plugin);
        bare_thread(|| {
            let worker = host.loader.worker("unwound").expect("worker");
            // SAFETY: the relay's signature; nothing but guards is on this stack.
            let returned = unsafe { ends.call_on(&worker, (PTHREAD_EXIT,)) };
            unreachable!("{returned:?}");
        });
        assert!(host.loader.workers().is_empty(), "its worker was dropped");
        assert!(host.unload("relay").workers.is_empty());
        assert_eq!(seen(host.loader.reaped()), reaped(0, 0));
    });
}

#[test]
fn worker_that_dies_inside_nested_calls_is_reaped_by_each_unload() {
    isolated!({
        let scratch = Scratch::new("dying");
        let host = Host::new();
        let outer = host.load(relay(&scratch, "outer")).expect("loads");
        let inner = host.load(relay(&scratch, "inner")).expect("loads");
        let other = host.useful("checksum");
        bare_thread(|| {
            let _worker = host.loader.worker("victim").expect("worker");
            within(calls_back(&outer), || {
                // SAFETY: the relay's signature.
                let returned = unsafe { ends_thread(&inner).call((SYSTEM_CALL,)) };
                unreachable!("{returned:?}");
            });
        });
        let info = host.loader.workers();
        assert_eq!(info.len(), 1);
        assert!(info[0].is_dead);
        assert_eq!(info[0].inside.len(), 2, "{info:?}");
        assert!(
            host.loader.holders(&outer).is_empty(),
            "the dead hold nothing"
        );

        for name in ["outer", "inner"] {
            let report = host.unload(name);
            let proofs: Vec<_> = report.workers.iter().map(|w| w.proof).collect();
            assert_eq!(proofs, [Proof::Reaped], "{name}: {report:?}");
        }
        assert_eq!(seen(host.loader.reaped()), reaped(0, 2));
        assert!(host.loader.workers().is_empty(), "nothing left to bury");
        assert_eq!(host.loader.calls(&other), 0);
        assert!(host.unload("checksum").workers.is_empty());
        // The slots' next plugins count from nothing.
        let again = host.load(relay(&scratch, "outer")).expect("loads again");
        assert!(host.loader.holders(&again).is_empty());
        host.unload("outer");
        assert!(reclaims(&host));
    });
}

#[test]
fn first_thread_of_a_process_that_dies_inside_a_call_is_reaped() {
    isolated!({
        let scratch = Scratch::new("dying");
        let host = Host::new();
        let plugin = host.load(relay(&scratch, "relay")).expect("loads");
        // The thread of a forked child is its first; its id stays the process's when it is gone.
        // SAFETY: the child goes on below and ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let loader = host.loader.clone();
            thread::spawn(move || {
                while loader.workers().iter().all(|worker| !worker.is_dead) {
                    thread::yield_now();
                }
                let unloaded = loader.unload("relay", Deadline::after(Duration::from_secs(10)));
                let is_reaped = matches!(
                    unloaded,
                    Ok(Unloaded::Gone(report)) if report.workers[0].proof == Proof::Reaped
                );
                // SAFETY: ends this process.
                unsafe { libc::_exit(i32::from(!is_reaped)) };
            });
            // SAFETY: plain numbers.
            unsafe { libc::alarm(20) };
            let _worker = host.loader.worker("first").expect("worker");
            // SAFETY: the relay's signature.
            let returned = unsafe { ends_thread(&plugin).call((SYSTEM_CALL,)) };
            unreachable!("{returned:?}");
        }
        let mut status = 0;
        // SAFETY: own child.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert_eq!(status, 0, "the child");
        host.unload("relay");
    });
}

#[test]
fn unregistered_thread_that_dies_inside_a_call_is_waited_for() {
    isolated!({
        let scratch = Scratch::new("dying");
        let host = Host::new();
        let plugin = host.load(relay(&scratch, "relay")).expect("loads");
        bare_thread(|| {
            // SAFETY: the relay's signature.
            let returned = unsafe { ends_thread(&plugin).call((SYSTEM_CALL,)) };
            unreachable!("{returned:?}");
        });
        let soon = Deadline::after(Duration::from_millis(200));
        let refused = host.loader.unload("relay", soon).expect_err("in use");
        assert_eq!(refused.kind(), ErrorKind::Deadline);
        let kinds: Vec<_> = refused.blockers().iter().map(|b| b.kind).collect();
        assert_eq!(kinds, [HolderKind::UnregisteredCalls]);
        assert_eq!(seen(host.loader.reaped()), reaped(0, 0));
    });
}

#[test]
fn readers_that_die_inside_their_sections_stall_reclamation_for_a_moment_only() {
    isolated!({
        let host = Host::new();
        assert!(host.loader.capabilities().dead_readers);
        host.useful("checksum");
        for registered in [true, false] {
            bare_thread(|| {
                let _worker = registered.then(|| host.loader.worker("reader").expect("worker"));
                host.loader.reader().walk(|_| exit_thread());
            });
        }
        // What is retired now could still be seen by both.
        host.useful("base64");
        host.unload("base64");
        assert!(reclaims(&host));
        assert_eq!(seen(host.loader.reaped()), reaped(2, 0));
    });
}

#[test]
fn living_reader_of_a_dead_ones_thread_pointer_is_never_taken_for_it() {
    isolated!({
        static GO: AtomicU32 = AtomicU32::new(0);
        let host = Host::new();
        host.useful("checksum");
        let (mut first, mut second) = (0, 0);
        thread::scope(|scope| {
            let host = &host;
            // One right after the other, so that no third thread gets the stack.
            scope.spawn(|| {
                bare_thread(|| {
                    first = plug_readside::thread_pointer().address();
                    let _worker = host.loader.worker("dead").expect("worker");
                    host.loader.reader().walk(|_| exit_thread());
                });
                bare_thread(|| {
                    second = plug_readside::thread_pointer().address();
                    let mut seen = Vec::new();
                    host.loader.reader().walk(|plugin| {
                        GO.store(1, Ordering::SeqCst);
                        while GO.load(Ordering::SeqCst) != 2 {
                            thread::yield_now();
                        }
                        seen.push(plugin.name().to_vec());
                        true
                    });
                    assert_eq!(seen, [b"checksum"]);
                });
            });
            while GO.load(Ordering::SeqCst) != 1 {
                thread::yield_now();
            }
            let freed = scope.spawn(|| {
                host.useful("base64");
                host.unload("base64");
                // The dead reader is reaped while the living one is waited for.
                while host.loader.reaped().sections == 0 {
                    host.loader.reclaim();
                }
            });
            while host.loader.reaped().sections == 0 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(20));
            assert!(host.loader.retired_bytes() > 0, "the living reader counts");
            GO.store(2, Ordering::SeqCst);
            freed.join().expect("reclaims");
        });
        assert_eq!(
            first, second,
            "the C library gives a stack to the next thread"
        );
        assert!(reclaims(&host));
        assert_eq!(seen(host.loader.reaped()), reaped(1, 0));
    });
}

#[test]
fn thousand_threads_one_after_the_other_inherit_lines_and_leave_no_rows() {
    isolated!({
        let scratch = Scratch::new("dying");
        let host = Host::new();
        let plugin = host.load(relay(&scratch, "relay")).expect("loads");
        let (calls, ends) = (calls_back(&plugin), ends_thread(&plugin));
        let mut pointers = std::collections::BTreeSet::new();
        let mut most = 0;
        for cycle in 0..1000 {
            let mut pointer = 0;
            let mut has_line = false;
            bare_thread(|| {
                pointer = plug_readside::thread_pointer().address();
                let worker = ManuallyDrop::new(host.loader.worker("cycle").expect("worker"));
                let info = host.loader.workers();
                let own = info.iter().find(|info| info.tid == worker.tid());
                has_line = own.expect("listed").has_line;
                assert!(own.expect("listed").inside.is_empty(), "inherits no call");
                within(calls, || assert!(host.loader.reader().walk(|_| true) > 0));
                match cycle % 4 {
                    // Dies in a section that it entered through its line.
                    0 => {
                        host.loader.reader().walk(|_| exit_thread());
                    }
                    // Dies in a call.
                    1 => {
                        // SAFETY: the relay's signature.
                        let returned = unsafe { ends.call_on(&worker, (SYSTEM_CALL,)) };
                        unreachable!("{returned:?}");
                    }
                    // Ends without a word.
                    2 => {}
                    _ => drop::<Worker>(ManuallyDrop::into_inner(worker)),
                }
            });
            assert!(has_line, "cycle {cycle}");
            pointers.insert(pointer);
            most = most.max(host.loader.workers().len());
        }
        println!("1,000 threads had {} thread pointers", pointers.len());
        assert!(pointers.len() < 100, "reuse is what this is about");
        let report = host.unload("relay");
        let dead = report.workers.iter().filter(|w| w.proof == Proof::Reaped);
        assert_eq!(dead.count(), 250);
        assert_eq!(host.loader.reaped().calls, 250);
        assert!(host.loader.workers().len() < 130, "{most} at most");
        assert!(reclaims(&host));
        assert!(host.load(useful("checksum")).is_ok());
    });
}
