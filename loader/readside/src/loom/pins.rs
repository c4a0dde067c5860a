//! Models of what surrounds the plain call: pins that change hands or go inside a call, unloads that
//! are given up and tried again, calls within calls, and workers that come during an unload.
//!
//! As in [`super`], the models of the product run its own functions; the sketch at the end has one
//! fault each.

use std::sync::atomic::{AtomicUsize as Tally, Ordering as TallyOrdering};

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::{
    LOOKS, OLD, OLD_GOING, Slot, check, check_bounded, check_caller, check_fails, free_payload,
    payloads, read_payload,
};
use crate::gate;
use crate::sync::{AtomicU64, Ordering, fence};

/// Whether `count` was seen at zero within a few looks.
fn drained(count: &gate::Count) -> bool {
    (0..LOOKS).any(|_| {
        let empty = gate::inside(count) == 0;
        if !empty {
            thread::yield_now();
        }
        empty
    })
}

impl Slot {
    /// The pin is given back from inside the call that it was taken for.
    fn call_and_unpin_inside(&self, registered: bool) -> bool {
        let entered = gate::pin(&self.pins, &self.state, OLD);
        if entered {
            let raised = registered.then(|| gate::raise(&self.row, || true));
            if raised.is_none() {
                gate::raise_shared(&self.shared);
            }
            gate::unpin(&self.pins);
            read_payload(&self.code[0]);
            match raised {
                Some(raised) => gate::leave(&self.row, raised),
                None => gate::leave_shared(&self.shared),
            }
        }
        entered
    }

    /// An unload with the looks in the order of the loader's: rows and pins and shared counters, and
    /// the rows once more, since the holder of a pin may have entered behind the first look.
    fn unload_as_the_loader(&self) -> bool {
        self.state.store(OLD_GOING, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let empty = (0..LOOKS).any(|_| {
            let empty = gate::inside(&self.row) == 0
                && gate::pinned(&self.pins) == 0
                && gate::inside(&self.shared) == 0
                && gate::inside(&self.row) == 0;
            if !empty {
                thread::yield_now();
            }
            empty
        });
        if empty {
            free_payload(&self.code[0]);
        }
        empty
    }

    /// An unload that gives up after one look, opens the gate again, and is followed by another.
    fn unload_at_the_second_attempt(&self) -> bool {
        self.state.store(OLD_GOING, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.state.store(OLD, Ordering::SeqCst);
        self.unload()
    }
}

/// As [`check_caller`], with an unload of the model's choice and without a later load.
fn check_unload(
    unload: fn(&Slot) -> bool,
    caller: impl Fn(&Slot) -> bool + Send + Sync + Clone + 'static,
) {
    let tallies = std::sync::Arc::new([const { Tally::new(0) }; 3]);
    let seen = std::sync::Arc::clone(&tallies);
    check(move || {
        let slot = Slot::new();
        let (caller, theirs) = (caller.clone(), Arc::clone(&slot));
        let caller = thread::spawn(move || caller(&theirs));
        if unload(&slot) {
            seen[2].fetch_add(1, TallyOrdering::SeqCst);
        }
        let entered = caller.join().expect("the caller ends");
        seen[usize::from(entered)].fetch_add(1, TallyOrdering::SeqCst);
    });
    for (tally, what) in tallies.iter().zip(["refused", "entered", "unmapped"]) {
        assert!(tally.load(TallyOrdering::SeqCst) > 0, "never {what}");
    }
}

#[test]
fn model_pin_given_back_inside_the_call_never_runs_unmapped_code() {
    for registered in [true, false] {
        check_caller(false, move |slot| slot.call_and_unpin_inside(registered));
        check_unload(Slot::unload_as_the_loader, move |slot| {
            slot.call_and_unpin_inside(registered)
        });
    }
}

#[test]
fn model_unload_with_the_looks_of_the_loader_never_runs_unmapped_code() {
    check_unload(Slot::unload_as_the_loader, |slot| slot.call_registered(OLD));
    check_unload(Slot::unload_as_the_loader, |slot| {
        slot.call_unregistered(OLD)
    });
    check_unload(Slot::unload_as_the_loader, |slot| slot.call_pinned(OLD));
}

#[test]
fn model_unload_given_up_and_tried_again_never_runs_unmapped_code() {
    check_unload(Slot::unload_at_the_second_attempt, |slot| {
        slot.call_registered(OLD)
    });
    check_unload(Slot::unload_at_the_second_attempt, |slot| {
        slot.call_unregistered(OLD)
    });
    check_unload(Slot::unload_at_the_second_attempt, |slot| {
        slot.call_pinned(OLD)
    });
}

/// The pin of one thread is copied, and the copy is used and given back by another, which never
/// looked at the state.
#[test]
fn model_pin_handed_to_another_thread_never_runs_unmapped_code() {
    let freed = std::sync::Arc::new(Tally::new(0));
    let tally = std::sync::Arc::clone(&freed);
    check_bounded(2, move || {
        let slot = Slot::new();
        let theirs = Arc::clone(&slot);
        let first = thread::spawn(move || {
            if !gate::pin(&theirs.pins, &theirs.state, OLD) {
                return;
            }
            gate::pin_again(&theirs.pins);
            let given = Arc::clone(&theirs);
            let second = thread::spawn(move || {
                gate::raise_shared(&given.shared);
                gate::unpin(&given.pins);
                read_payload(&given.code[0]);
                gate::leave_shared(&given.shared);
            });
            gate::unpin(&theirs.pins);
            second.join().expect("the second holder ends");
        });
        if slot.unload() {
            tally.fetch_add(1, TallyOrdering::SeqCst);
        }
        first.join().expect("the first holder ends");
    });
    assert!(freed.load(TallyOrdering::SeqCst) > 0, "nothing was freed");
}

/// One plugin calls the host, which calls another: each is left to its own unload.
#[test]
fn model_call_within_a_call_never_runs_unmapped_code() {
    let freed = std::sync::Arc::new([const { Tally::new(0) }; 2]);
    let tally = std::sync::Arc::clone(&freed);
    check_bounded(2, move || {
        let slots = [Slot::new(), Slot::new()];
        let [outer, inner] = [Arc::clone(&slots[0]), Arc::clone(&slots[1])];
        let caller = thread::spawn(move || {
            if let Some(raised) = gate::enter(&outer.row, &outer.state, OLD, || true) {
                read_payload(&outer.code[0]);
                inner.call_registered(OLD);
                read_payload(&outer.code[0]);
                gate::leave(&outer.row, raised);
            }
        });
        for n in [1, 0] {
            if slots[n].unload() {
                tally[n].fetch_add(1, TallyOrdering::SeqCst);
            }
        }
        caller.join().expect("the caller ends");
    });
    for n in 0..2 {
        assert!(
            freed[n].load(TallyOrdering::SeqCst) > 0,
            "{n} was not freed"
        );
    }
}

/// A worker registers while an unload goes on: the unload that took the list of rows without it is
/// one whose closed gate the worker sees, by the lock over the list.
#[test]
fn model_worker_that_comes_during_an_unload_never_runs_unmapped_code() {
    let tallies = std::sync::Arc::new([const { Tally::new(0) }; 2]);
    let seen = std::sync::Arc::clone(&tallies);
    check(move || {
        let slot = Slot::new();
        let rows = Arc::new(Mutex::new(false));
        let (theirs, their_rows) = (Arc::clone(&slot), Arc::clone(&rows));
        let worker = thread::spawn(move || {
            *their_rows.lock().expect("no panic") = true;
            theirs.call_registered(OLD)
        });
        slot.state.store(OLD_GOING, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let listed = *rows.lock().expect("no panic");
        if !listed || drained(&slot.row) {
            free_payload(&slot.code[0]);
            seen[usize::from(listed)].fetch_add(1, TallyOrdering::SeqCst);
        }
        worker.join().expect("the worker ends");
    });
    for (tally, what) in tallies.iter().zip(["without", "with"]) {
        assert!(
            tally.load(TallyOrdering::SeqCst) > 0,
            "never {what} the row"
        );
    }
}

/// What is wrong with a copy of the pins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// The writer looks at the row first and at the pins afterwards.
    PinsLast,
    /// The state is looked at before the pin is counted, and not again.
    NoRecheck,
    /// The pin is counted with AcqRel.
    PinAcqRel,
    /// The pin is given back with Relaxed.
    UnpinRelaxed,
    /// The writer does not look at the pins.
    NoWait,
    /// The copy of a pin is counted after its original was given back.
    CopyAfterwards,
}

/// The pins of one slot, and the row of their holder.
struct Pinned {
    fault: Fault,
    state: AtomicU64,
    pins: AtomicU64,
    row: AtomicU64,
    code: [UnsafeCell<u32>; 2],
}

impl Pinned {
    fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            fault,
            state: AtomicU64::new(OLD),
            pins: AtomicU64::new(0),
            row: AtomicU64::new(0),
            code: payloads(),
        })
    }

    fn order(&self, fault: Fault, wrong: Ordering, right: Ordering) -> Ordering {
        if self.fault == fault { wrong } else { right }
    }

    fn is_live(&self) -> bool {
        self.state.load(Ordering::SeqCst) == OLD
    }

    fn pin(&self) -> bool {
        let early = self.fault == Fault::NoRecheck;
        if early && !self.is_live() {
            return false;
        }
        let order = self.order(Fault::PinAcqRel, Ordering::AcqRel, Ordering::SeqCst);
        self.pins.fetch_add(1, order);
        if early || self.is_live() {
            return true;
        }
        self.unpin();
        false
    }

    fn unpin(&self) {
        let order = self.order(Fault::UnpinRelaxed, Ordering::Relaxed, Ordering::Release);
        self.pins.fetch_sub(1, order);
    }

    /// Uses what the pin protects, without a call.
    fn hold(&self) {
        if self.pin() {
            read_payload(&self.code[0]);
            self.unpin();
        }
    }

    /// Enters the row under the pin, which goes before the row is left. No fence is needed between
    /// the two: giving the pin back shows the row to the writer.
    fn call(&self) {
        if self.pin() {
            self.row.store(1, Ordering::Relaxed);
            self.unpin();
            read_payload(&self.code[0]);
            self.row.store(0, Ordering::Release);
        }
    }

    /// Copies the pin, gives the original back, and uses the copy.
    fn copy(&self) {
        if !self.pin() {
            return;
        }
        if self.fault == Fault::CopyAfterwards {
            self.unpin();
            self.pins.fetch_add(1, Ordering::SeqCst);
        } else {
            self.pins.fetch_add(1, Ordering::SeqCst);
            self.unpin();
        }
        read_payload(&self.code[0]);
        self.unpin();
    }

    fn unload(&self) {
        self.state.store(OLD_GOING, Ordering::SeqCst);
        // The total order alone serves the pins, and they the row.
        let counts = match self.fault {
            Fault::PinsLast => [&self.row, &self.pins],
            Fault::NoWait => [&self.row, &self.row],
            _ => [&self.pins, &self.row],
        };
        let empty = counts.into_iter().all(|count| {
            (0..LOOKS).any(|_| {
                let empty = count.load(Ordering::SeqCst) == 0;
                if !empty {
                    thread::yield_now();
                }
                empty
            })
        });
        if empty {
            free_payload(&self.code[0]);
        }
    }
}

fn against_unload(fault: Fault, holder: fn(&Pinned)) -> impl Fn() + Send + Sync + 'static {
    move || {
        let pinned = Pinned::new(fault);
        let theirs = Arc::clone(&pinned);
        let holder = thread::spawn(move || holder(&theirs));
        pinned.unload();
        holder.join().expect("the holder ends");
    }
}

#[test]
fn model_pin_sketch_without_fault_passes() {
    for holder in [Pinned::hold, Pinned::call, Pinned::copy] {
        check(against_unload(Fault::Nothing, holder));
    }
}

#[test]
fn model_pins_waited_for_last_are_caught() {
    check_fails(against_unload(Fault::PinsLast, Pinned::call));
}

#[test]
fn model_pin_without_recheck_is_caught() {
    check_fails(against_unload(Fault::NoRecheck, Pinned::hold));
}

#[test]
fn model_pin_outside_the_total_order_is_caught() {
    check_fails(against_unload(Fault::PinAcqRel, Pinned::hold));
}

#[test]
fn model_pin_given_back_with_relaxed_is_caught() {
    check_fails(against_unload(Fault::UnpinRelaxed, Pinned::hold));
    check_fails(against_unload(Fault::UnpinRelaxed, Pinned::call));
}

#[test]
fn model_pins_not_waited_for_are_caught() {
    check_fails(against_unload(Fault::NoWait, Pinned::hold));
}

#[test]
fn model_pin_copied_after_it_was_given_back_is_caught() {
    check_fails(against_unload(Fault::CopyAfterwards, Pinned::copy));
}
