//! A replace under calls: none is refused, none reaches what is unmapped, and no thread goes back.

use loom::sync::Arc;
use loom::thread;

use super::{GOOD, LOOKS, check, free_payload, read_payload};
use crate::gate;
use crate::route::Route;
use crate::state::{State, StateCell, StateWord};
use crate::sync::{AtomicU64, Ordering, fence};

use loom::cell::UnsafeCell;

/// What is wrong with the order of a replace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// The old gate is closed before the route tells the successor.
    ClosedFirst,
    /// The route tells the successor alone while the old gate is still open.
    SwitchedFirst,
}

const OLD: u64 = StateWord::new(1, State::Live).0;
const OLD_GOING: u64 = StateWord::new(1, State::Going).0;
const NEW: u64 = StateWord::new(2, State::Live).0;
/// The word of a version before the old one, whose gate has long been closed.
const BEFORE: u64 = 0;

/// Two versions in two slots.
struct Line {
    states: [StateCell; 2],
    counts: [AtomicU64; 2],
    code: [UnsafeCell<u32>; 2],
    /// The word in force, and the one that comes after it or zero.
    route: Route<2>,
}

impl Line {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            states: [StateCell::new(OLD), StateCell::new(0)],
            counts: [AtomicU64::new(0), AtomicU64::new(0)],
            code: [UnsafeCell::new(GOOD), UnsafeCell::new(0)],
            route: Route::new([OLD, 0]),
        })
    }

    /// Calls the version of `word`, whatever the route says; its number, if it was let in.
    fn enter(&self, word: u64) -> Option<usize> {
        let slot = usize::from(word == NEW);
        let raised = gate::enter(&self.counts[slot], &self.states[slot], word, || true)?;
        read_payload(&self.code[slot]);
        gate::leave(&self.counts[slot], raised);
        Some(slot)
    }

    /// Calls by a handle of the version of `word`, as the loader does.
    fn call(&self, word: u64) -> usize {
        let followed = || {
            self.route.follow(|told| {
                let mut told = told.into_iter().filter(|word| *word != 0);
                told.find_map(|word| self.enter(word))
            })
        };
        let version = self.enter(word).or_else(followed);
        version.expect("a call was lost")
    }

    fn replace(&self, fault: Fault) {
        self.code[1].with_mut(|value| {
            // SAFETY: loom checks that nobody reads the new code before it is Live.
            unsafe { *value = GOOD };
        });
        self.states[1].store(NEW, Ordering::SeqCst);
        let close = || self.states[0].store(OLD_GOING, Ordering::SeqCst);
        match fault {
            Fault::Nothing => {
                self.route.set([OLD, NEW]);
                close();
                self.route.set([NEW, 0]);
            }
            Fault::ClosedFirst => {
                close();
                self.route.set([NEW, 0]);
            }
            Fault::SwitchedFirst => {
                self.route.set([NEW, 0]);
                close();
            }
        }
        fence(Ordering::SeqCst);
        let empty = (0..LOOKS).any(|_| {
            let empty = gate::inside(&self.counts[0]) == 0;
            if !empty {
                thread::yield_now();
            }
            empty
        });
        if empty {
            free_payload(&self.code[0]);
        }
    }
}

/// A thread calls twice, by handles of these words, while the version is replaced.
fn calls(fault: Fault, words: [u64; 2]) -> impl Fn() + Send + Sync + 'static {
    move || {
        let line = Line::new();
        let theirs = Arc::clone(&line);
        let caller = thread::spawn(move || {
            let [first, then] = words.map(|word| theirs.call(word));
            assert!(first <= then, "a thread went back");
        });
        line.replace(fault);
        caller.join().expect("the caller ends");
    }
}

/// As [`check`], of a model in which a call is lost or a thread goes back.
fn check_finds(what: &str, model: impl Fn() + Send + Sync + 'static) {
    let run = std::panic::AssertUnwindSafe(|| check(model));
    let panic = std::panic::catch_unwind(run).expect_err("the model did not find the fault");
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    let text = text.unwrap_or_default();
    assert!(text.contains(what), "found something else: {text}");
}

#[test]
fn model_calls_during_a_replace_are_neither_lost_nor_go_back() {
    for words in [[OLD, OLD], [BEFORE, OLD], [OLD, BEFORE], [BEFORE, BEFORE]] {
        check(calls(Fault::Nothing, words));
    }
}

#[test]
fn broken_gate_closed_before_the_route_loses_a_call() {
    check_finds("a call was lost", calls(Fault::ClosedFirst, [OLD, OLD]));
}

#[test]
fn broken_route_switched_before_the_gate_lets_a_thread_go_back() {
    check_finds(
        "a thread went back",
        calls(Fault::SwitchedFirst, [BEFORE, OLD]),
    );
}
