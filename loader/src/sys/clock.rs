//! The clocks, read in a way that signal handlers may.

use std::ptr;
use std::time::Duration;

/// Nanoseconds of the monotonic clock. Async-signal-safe.
pub(crate) fn monotonic() -> u64 {
    nanoseconds(read(libc::CLOCK_MONOTONIC))
}

/// What the monotonic clock will show in `time`; its last second where that is beyond it.
pub(crate) fn monotonic_after(time: Duration) -> libc::timespec {
    let (seconds, rest) = read(libc::CLOCK_MONOTONIC);
    let then = Duration::from_secs(seconds)
        .saturating_add(Duration::from_nanos(rest))
        .saturating_add(time);
    libc::timespec {
        tv_sec: libc::time_t::try_from(then.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(then.subsec_nanos().cast_signed()),
    }
}

/// Sleeps until `time` has passed by the clock.
///
/// A sleep by duration, as the standard library's is, makes no progress under a storm of signals: what
/// the kernel says is left after each has the slack of its timers added. Blocks; thread context.
pub(crate) fn nap(time: Duration) {
    let until = monotonic_after(time);
    let sleep = || {
        // SAFETY: a clock that exists and a time made above; nothing is written in absolute mode.
        unsafe {
            libc::clock_nanosleep(
                libc::CLOCK_MONOTONIC,
                libc::TIMER_ABSTIME,
                &raw const until,
                ptr::null_mut(),
            )
        }
    };
    while sleep() == libc::EINTR {}
}

/// Nanoseconds of the monotonic clock as of the kernel's last tick, a few milliseconds ago: a
/// fifth of the price.
pub(crate) fn coarse() -> u64 {
    nanoseconds(read(libc::CLOCK_MONOTONIC_COARSE))
}

/// Hundredths of a second since the machine started: the kernel's ticks as it shows them, whatever
/// it counts in itself. Async-signal-safe.
pub(crate) fn ticks() -> u64 {
    let (seconds, rest) = read(libc::CLOCK_BOOTTIME);
    seconds
        .saturating_mul(100)
        .saturating_add(rest / 10_000_000)
}

/// Seconds since 1970 and nanoseconds. Async-signal-safe.
pub(crate) fn wall() -> (u64, u64) {
    read(libc::CLOCK_REALTIME)
}

fn nanoseconds((seconds, rest): (u64, u64)) -> u64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

fn read(clock: libc::clockid_t) -> (u64, u64) {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec; POSIX lists the function as async-signal-safe. The
    // clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    (
        u64::try_from(time.tv_sec).unwrap_or(0),
        u64::try_from(time.tv_nsec).unwrap_or(0),
    )
}
