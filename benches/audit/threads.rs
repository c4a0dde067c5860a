//! Threads that sleep in all ways that there are.

use std::hint;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::Room;

/// Sleeps for up to `milliseconds` in the way with this number; -1 where that was interrupted.
fn sleep(way: usize, milliseconds: i32) -> i32 {
    match way % 4 {
        0 => {
            thread::park_timeout(Duration::from_millis(milliseconds as u64));
            0
        }
        // SAFETY: no descriptors are given.
        1 => unsafe { libc::poll(ptr::null_mut(), 0, milliseconds) },
        2 => {
            let time = libc::timespec {
                tv_sec: i64::from(milliseconds / 1000),
                tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
            };
            // SAFETY: reads one timespec.
            unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) }
        }
        _ => {
            // SAFETY: makes a descriptor.
            let epoll = unsafe { libc::epoll_create1(0) };
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: there is room for one event.
            let status = unsafe { libc::epoll_wait(epoll, &raw mut event, 1, milliseconds) };
            // SAFETY: made above.
            unsafe { libc::close(epoll) };
            status
        }
    }
}

/// Starts threads that run `before` and then sleep until `run` has run.
fn with(count: usize, before: impl Fn() + Sync, run: impl FnOnce()) {
    let (asleep, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for way in 0..count {
            let (asleep, done, before) = (&asleep, &done, &before);
            let sleeper = move || {
                before();
                // Whatever former calls left may lie in here.
                let mut room = [const { MaybeUninit::<usize>::uninit() }; 1024];
                hint::black_box(&mut room);
                asleep.fetch_add(1, Ordering::SeqCst);
                while !done.load(Ordering::SeqCst) {
                    sleep(way, 2000);
                }
                hint::black_box(&mut room);
            };
            let builder = thread::Builder::new().stack_size(256 << 10);
            builder.spawn_scoped(scope, sleeper).expect("a thread");
        }
        while asleep.load(Ordering::SeqCst) < count {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
        run();
        done.store(true, Ordering::SeqCst);
    });
}

pub fn with_idle(count: usize, run: impl FnOnce()) {
    with(count, || (), run);
}

/// A hundred threads that called the plugin deep and sleep above what that left.
pub fn with_stale_stacks<R>(room: &Room, run: impl FnOnce() -> R) -> R {
    type Deep = unsafe extern "C" fn(u64) -> u64;
    // SAFETY: the function's own signature.
    let deep: Deep = unsafe { mem::transmute(room.address("deep")) };
    let mut result = None;
    // SAFETY: as above; the plugin stays.
    let before = || assert!(unsafe { deep(60) } > 0);
    with(100, before, || result = Some(run()));
    result.expect("run")
}

/// Runs `run` while threads sleep a few milliseconds at a time and one computes; how many of their
/// system calls were interrupted.
pub fn with_sleepers(run: impl FnOnce()) -> u64 {
    let (seen, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for way in 0..12 {
            let (seen, done) = (&seen, &done);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    if sleep(way, 2) < 0 {
                        seen.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                hint::spin_loop();
            }
        });
        run();
        done.store(true, Ordering::SeqCst);
    });
    seen.load(Ordering::SeqCst)
}
