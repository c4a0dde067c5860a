//! Threads that are workers more than once, or not for long.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use plug_loader::{Deadline, ErrorKind, HolderKind};
use plug_tests::host::Host;
use plug_tests::isolated;

#[test]
fn workers_of_one_thread_dropped_in_any_order_leave_no_row_behind() {
    isolated!({
        static RELEASED: AtomicU32 = AtomicU32::new(0);
        static INSIDE: AtomicU32 = AtomicU32::new(0);
        let host = Host::new();
        let plugin = host.hostile("never-returns").expect("loads");
        let stuck = plugin
            .function::<unsafe extern "C" fn(*const u32) -> u64>("never_returns")
            .expect("exported");
        thread::scope(|scope| {
            scope.spawn(|| {
                let first = host.loader.worker("first").expect("worker");
                let second = host.loader.worker("second").expect("worker");
                // SAFETY: the flag outlives the call; it says 1, so that the call returns.
                assert!(unsafe { stuck.call_on(&second, (&raw const ONE,)) }.is_ok());
                drop(first);
                drop(second);
                INSIDE.store(1, Ordering::SeqCst);
                // SAFETY: as above; returns when released.
                assert!(unsafe { stuck.call((RELEASED.as_ptr().cast_const(),)) }.is_ok());
            });
            while INSIDE.load(Ordering::SeqCst) == 0 || host.loader.holders(&plugin).is_empty() {
                thread::yield_now();
            }
            let soon = Deadline::after(Duration::from_millis(100));
            let refused = host.loader.unload("never-returns", soon);
            RELEASED.store(1, Ordering::SeqCst);
            let refused = refused.expect_err("somebody is inside");
            assert_eq!(refused.kind(), ErrorKind::Deadline);
            let kinds: Vec<_> = refused.blockers().iter().map(|b| b.kind).collect();
            assert_eq!(kinds, [HolderKind::UnregisteredCalls]);
        });
        host.unload("never-returns");
    });
}

static ONE: u32 = 1;
