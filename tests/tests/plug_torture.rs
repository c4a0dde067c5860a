//! The torture program finds nothing in what is real, and finds out whatever is broken.
//!
//! `PLUG_TORTURE_SECONDS` is the time for all real configurations together.

use std::env;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Time for all real configurations: two seconds each.
const SHORT: u64 = 22;

/// Time in which a broken variant must be found; an idle machine finds all in less than one.
const LATEST: u64 = 60;

/// Runs the program; its exit status and what it printed.
fn torture(names: &[&str], seconds: u64) -> (Option<i32>, String) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_plug-torture"))
        .args(names)
        .env("PLUG_TORTURE_SECONDS", seconds.to_string())
        .output()
        .expect("the program runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

#[test]
fn torture_of_every_real_configuration_finds_nothing() {
    let seconds = env::var("PLUG_TORTURE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let (status, said) = torture(&[], seconds.unwrap_or(SHORT));
    println!("{said}");
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("11 of 11 configurations passed"), "{said}");
    assert_eq!(said.matches("End of test: SUCCESS").count(), 11, "{said}");
}

/// Expects the broken variant `name` to be found, by one of these findings.
fn expect_found(name: &str, findings: &[&str]) {
    let (status, said) = torture(&[name], LATEST);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("End of test: FAILURE"), "{said}");
    assert!(findings.iter().any(|text| said.contains(text)), "{said}");
}

/// Findings of somebody inside what was freed.
const FREED: [&str; 3] = [
    "elements read after they were freed",
    "calls that reached code that was unmapped",
    "sections that a whole grace period went by",
];

#[test]
fn torture_of_sections_without_a_barrier_is_caught() {
    // On one processor there is nothing to find.
    if thread::available_parallelism().map_or(1, usize::from) > 1 {
        expect_found("sections-no-barrier", &FREED);
    }
}

#[test]
fn torture_of_gates_without_a_barrier_is_caught() {
    // As above.
    if thread::available_parallelism().map_or(1, usize::from) > 1 {
        expect_found("gates-no-barrier", &FREED);
    }
}

#[test]
fn torture_of_sections_freed_before_the_grace_period_is_caught() {
    expect_found("sections-no-wait", &FREED);
}

#[test]
fn torture_of_gates_that_nobody_waits_for_is_caught() {
    expect_found("gates-no-wait", &FREED);
}

#[test]
fn torture_of_gates_without_a_recheck_is_caught() {
    expect_found("gates-no-recheck", &FREED);
}

#[test]
fn torture_of_pins_that_are_waited_for_last_is_caught() {
    expect_found("gates-pins-last", &FREED);
}

#[test]
fn torture_of_calls_by_bare_address_is_caught() {
    let findings = [
        "calls that reached code that was unmapped",
        "reads of a plugin's memory that was unmapped",
        "calls that ran after the plugin's exit",
    ];
    expect_found("plugins-no-gate", &findings);
}
