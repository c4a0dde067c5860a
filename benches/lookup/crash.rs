//! From a fault inside a plugin to the end of the report about it.
//!
//! Each crash has a process of its own. A handler of ours stands before the loader installs its
//! own, so that it is called after the report is written.

use std::env;
use std::mem;
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::library::{CRASH, Library};
use crate::plug::Plug;
use crate::verdict;
use benches::measure::{Plan, Series, table};
use benches::scenario::FLAG;

/// The group of the process that crashes.
pub const CHILD: &str = "crash-child";

/// What stands before the time that the crashed process prints.
const SAID: &str = "report took ns ";

/// When the plugin was called that crashes at once.
static BEGAN: AtomicU64 = AtomicU64::new(0);

pub fn run(plan: Plan) {
    let mut series = Series::new("Plug: report of a crash");
    for _ in 0..plan.rounds() {
        match crash() {
            Ok(took) => series.rounds.push(took),
            Err(reason) => return verdict::tell("crash_report_us", Err(reason)),
        }
    }
    verdict::tell("crash_report_us", Ok(series.median()));
    table("a fault in a plugin of 1000 symbols", "us", &[series]);
}

/// Microseconds that the report of one process took.
fn crash() -> Result<f64, String> {
    let child = Command::new(env::current_exe().expect("this program"))
        .args([FLAG, CHILD])
        // Reports are read by somebody.
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| error.to_string())?;
    let output = String::from_utf8_lossy(&child.stdout);
    let took = output.lines().find_map(|line| line.strip_prefix(SAID));
    match took.and_then(|took| took.parse::<f64>().ok()) {
        Some(ns) if String::from_utf8_lossy(&child.stderr).contains(CRASH) => Ok(ns / 1e3),
        Some(_) => Err(format!("the report does not name {CRASH}")),
        None => {
            let reason = output.lines().last().unwrap_or("no word from the process");
            Err(reason.to_owned())
        }
    }
}

/// Crashes, or says why not.
pub fn child(plug: &Plug) {
    let library = Library::with_functions(1000);
    let plugin = plug.load(&library, "crashes");
    plug.settle();
    // SAFETY: all zeros are no flags and no masked signals.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = reported as *const () as usize;
    action.sa_flags = libc::SA_ONSTACK;
    // SAFETY: the handler makes only calls that are allowed in handlers.
    unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut()) };
    if let Err(reason) = plug.install_crash_handler() {
        println!("{reason}");
        return;
    }
    let crash = plugin.function::<unsafe extern "C" fn()>(CRASH);
    let crash = crash.expect("a function of each library");
    BEGAN.store(now(), Ordering::Relaxed);
    // SAFETY: it takes nothing and returns nothing, if it returns.
    let _ = unsafe { crash.call(()) };
    println!("no crash");
}

fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: there is room for a result.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_nanos() as u64
}

/// Says how long it took and leaves. Formats by hand: it runs in a handler.
extern "C" fn reported(_signal: i32) {
    let mut took = now() - BEGAN.load(Ordering::Relaxed);
    let mut text = [b'0'; 20];
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (took % 10) as u8;
        took /= 10;
    }
    for part in [SAID.as_bytes(), &text, b"\n"] {
        // SAFETY: as many bytes as there are.
        unsafe { libc::write(1, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: ends the process without running anything.
    unsafe { libc::_exit(0) };
}
