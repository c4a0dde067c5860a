//! Rounds of closing a plugin's back door, waiting until nobody is inside, and making its code
//! inaccessible: whoever was overlooked faults.

use std::ffi::{c_int, c_void};
use std::fs;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use benches::measure::Plan;
use benches::verdict::PREFIX;

use crate::{LIMITS, Room};

type Compute = unsafe extern "C" fn(*const AtomicU32, u64) -> u64;
type Through = unsafe extern "C" fn(*const AtomicU32, extern "C" fn()) -> u64;

/// Somebody was overlooked.
extern "C" fn on_fault(_: c_int) {
    for text in [PREFIX, "count false_negatives 1 0\n"] {
        // SAFETY: a constant text.
        unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(1) };
}

extern "C" fn sleeps() {
    thread::sleep(Duration::from_micros(300));
}

fn protect(code: &Range<usize>, rights: c_int) {
    // SAFETY: the plugin's own code, which nobody runs if the audit is right: the question.
    let done = unsafe { libc::mprotect(code.start as *mut c_void, code.len(), rights) };
    assert_eq!(done, 0, "mprotect");
}

/// The plugin's code, as the kernel has it mapped.
fn code(room: &Room) -> Range<usize> {
    let (start, end) = room.plugin.range();
    let maps = fs::read_to_string("/proc/self/maps").expect("procfs");
    let mut lines = maps.lines().filter(|line| line.contains(" r-xp "));
    let parse = |line: &str| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        Some(number(from)?..number(to)?)
    };
    let code = lines.find_map(|line| parse(line).filter(|r| start <= r.start && r.end <= end));
    code.expect("code")
}

pub fn run(plan: Plan, room: &Room) {
    let rounds = plan.size(2000, 20);
    let handler = on_fault as extern "C" fn(c_int) as usize;
    // SAFETY: the handler writes and ends the process.
    unsafe { libc::signal(libc::SIGSEGV, handler) };
    // SAFETY: the functions' own signatures.
    let compute: Compute = unsafe { mem::transmute(room.address("compute")) };
    // SAFETY: as above.
    let through: Through = unsafe { mem::transmute(room.address("through")) };
    let code = code(room);
    let (open, stop) = (AtomicBool::new(true), AtomicBool::new(false));
    let calls = AtomicU64::new(0);
    let entering = [const { AtomicU32::new(0) }; 4];
    thread::scope(|scope| {
        for (n, entering) in entering.iter().enumerate() {
            let (open, stop, calls) = (&open, &stop, &calls);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    entering.store(1, Ordering::SeqCst);
                    if !open.load(Ordering::SeqCst) {
                        entering.store(0, Ordering::SeqCst);
                        thread::sleep(Duration::from_micros(50));
                        continue;
                    }
                    match n {
                        // SAFETY: the plugin stays, and is outside while its code is inaccessible.
                        0 => unsafe { compute(entering, 50) },
                        // SAFETY: as above.
                        1 => unsafe { compute(entering, 500_000) },
                        // SAFETY: as above.
                        _ => unsafe { through(entering, sleeps) },
                    };
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..rounds {
            open.store(false, Ordering::SeqCst);
            while entering.iter().any(|flag| flag.load(Ordering::SeqCst) != 0) {
                thread::yield_now();
            }
            assert_eq!(room.audit().len(), 0, "nobody stays");
            protect(&code, libc::PROT_NONE);
            thread::sleep(Duration::from_micros(50));
            protect(&code, libc::PROT_READ | libc::PROT_EXEC);
            open.store(true, Ordering::SeqCst);
            thread::sleep(Duration::from_micros(200));
        }
        stop.store(true, Ordering::SeqCst);
    });
    println!("{rounds} rounds, {} calls", calls.load(Ordering::Relaxed));
    LIMITS.tell_count("false_negatives", 0);
}
