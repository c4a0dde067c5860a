//! Loom models of sections and gates: every interleaving of a few threads, and every value that
//! the memory model lets a load return.
//!
//! Models of the product run the product's own code. A signal is a closure that interrupts its
//! thread before one chosen atomic operation; a model with a handler is run once for every
//! operation of the outer code. Models of *broken* variants run the small copies at the end of
//! the file, each with one fault, and must find it; without a fault the copies must pass.
//!
//! Freed memory is a loom cell: a read that does not happen before the freeing write fails the
//! model, whatever value it would have seen.
//!
//! `RUSTFLAGS="--cfg plug_loom" cargo test -p plug-readside --release loom`

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize as Tally, Ordering as TallyOrdering};

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use crate::gate;
use crate::section::Sections;
use crate::state::{State, StateCell, StateWord};
use crate::sync::{AtomicU64, AtomicUsize, Ordering, fence, signal};
use crate::thread_pointer::ThreadPointer;

/// How often a writer looks before it gives up and frees nothing.
const LOOKS: usize = 4;

/// What a payload holds while it may be read.
const GOOD: u32 = 1;
/// What a payload holds once it is freed.
const FREED: u32 = 0xdead;

/// Names of the two model threads.
const ONE: usize = 64;
const TWO: usize = 128;

/// Runs a model, with at most three preemptions unless the environment says otherwise.
///
/// More branches than the limit end in a panic, so that a bound is never hit in silence.
fn check(model: impl Fn() + Send + Sync + 'static) {
    check_bounded(3, model);
}

fn check_bounded(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.max_branches = 5_000;
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(model);
}

/// Runs a model that must fail, and fail for touching what was freed.
fn check_fails(model: impl Fn() + Send + Sync + 'static) {
    let outcome = catch_unwind(AssertUnwindSafe(|| check(model)));
    let panic = outcome.expect_err("the model did not find the fault");
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    assert!(
        text.contains("Causality violation") || text.contains("read after free"),
        "failed for another reason: {text}"
    );
}

/// Runs a model once for every point at which a signal may arrive; `model` arms its handler at
/// the given point and reports to the tally whenever the handler ran.
fn check_every_point(
    least: usize,
    preemptions: usize,
    model: impl Fn(usize, &Tally) + Send + Sync + Clone + 'static,
) {
    for point in 0.. {
        let hits = std::sync::Arc::new(Tally::new(0));
        let (seen, model) = (std::sync::Arc::clone(&hits), model.clone());
        check_bounded(preemptions, move || model(point, &seen));
        if hits.load(TallyOrdering::SeqCst) == 0 {
            assert!(point >= least, "only {point} points were interrupted");
            return;
        }
    }
}

/// The id of the model thread of that address.
fn tid_of(address: usize) -> u32 {
    u32::try_from(address / ONE).expect("small")
}

fn name(address: usize) -> ThreadPointer {
    named(address, tid_of(address))
}

fn named(address: usize, tid: u32) -> ThreadPointer {
    // SAFETY: each living model thread uses an address and an id of its own.
    unsafe { ThreadPointer::assume(address, tid) }
}

fn read_payload(cell: &UnsafeCell<u32>) {
    signal::point();
    // SAFETY: loom checks that no write races with this read.
    cell.with(|value| assert_eq!(unsafe { *value }, GOOD, "read after free"));
    signal::point();
}

fn free_payload(cell: &UnsafeCell<u32>) {
    // SAFETY: loom checks that nothing races with this write.
    cell.with_mut(|value| unsafe { *value = FREED });
}

fn payloads() -> [UnsafeCell<u32>; 2] {
    [UnsafeCell::new(GOOD), UnsafeCell::new(GOOD)]
}

/// A table of sections, a head as the snapshot has one, and the memory of two views.
struct World {
    sections: Sections,
    head: AtomicUsize,
    views: [UnsafeCell<u32>; 2],
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            sections: Sections::new(),
            head: AtomicUsize::new(0),
            views: payloads(),
        })
    }

    /// Reads the current view; the caller is inside a section.
    fn read(&self) {
        let current = self.head.load(Ordering::SeqCst);
        read_payload(&self.views[current]);
    }

    /// One section of the thread `address`.
    fn section(&self, address: usize) {
        let section = self.sections.enter(name(address));
        self.read();
        drop(section);
    }

    /// Clears what the thread with the id 1 left, which is dead.
    fn reap(&self) -> usize {
        // SAFETY: the models have one reaper at a time, after the death.
        let reaped = unsafe { self.sections.reap(|tid| tid == 1, || Ok::<(), ()>(())) };
        reaped.map_or(0, |reaped| reaped.sections)
    }

    /// Publishes the second view, waits for a grace period and frees the first.
    fn replace(&self, freed: &Tally) {
        self.head.swap(1, Ordering::SeqCst);
        let mut looks = 0;
        let done = self.sections.synchronize(
            || Ok::<(), ()>(()),
            |_| {
                looks += 1;
                thread::yield_now();
                looks < LOOKS
            },
        );
        if done.is_ok() {
            free_payload(&self.views[0]);
            freed.fetch_add(1, TallyOrdering::SeqCst);
        }
    }
}

/// Runs `reader` against a writer and makes sure that the writer got to free.
fn check_reader(reader: impl Fn(&World) + Send + Sync + Clone + 'static) {
    check_reader_of(World::new, reader);
}

fn check_reader_of(
    world: impl Fn() -> Arc<World> + Send + Sync + 'static,
    reader: impl Fn(&World) + Send + Sync + Clone + 'static,
) {
    let freed = std::sync::Arc::new(Tally::new(0));
    let tally = std::sync::Arc::clone(&freed);
    check(move || {
        let world = world();
        let (reader, theirs) = (reader.clone(), Arc::clone(&world));
        let reader = thread::spawn(move || reader(&theirs));
        world.replace(&tally);
        reader.join().expect("the reader ends");
    });
    assert!(freed.load(TallyOrdering::SeqCst) > 0, "nothing was freed");
}

#[test]
fn model_registered_reader_and_writer_never_reads_freed_view() {
    check_reader(|world| {
        assert!(world.sections.register(name(ONE), 1));
        world.section(ONE);
    });
}

#[test]
fn model_registered_reader_with_two_sections_never_reads_freed_view() {
    check_reader(|world| {
        assert!(world.sections.register(name(ONE), 1));
        world.section(ONE);
        world.section(ONE);
    });
}

#[test]
fn model_registered_reader_with_nested_sections_never_reads_freed_view() {
    check_reader(|world| {
        assert!(world.sections.register(name(ONE), 1));
        let outer = world.sections.enter(name(ONE));
        world.section(ONE);
        world.read();
        drop(outer);
    });
}

#[test]
fn model_registered_reader_nested_after_a_section_never_reads_freed_view() {
    check_reader(|world| {
        assert!(world.sections.register(name(ONE), 1));
        world.section(ONE);
        let outer = world.sections.enter(name(ONE));
        drop(world.sections.enter(name(ONE)));
        drop(outer);
    });
}

#[test]
fn model_unregistered_reader_and_writer_never_reads_freed_view() {
    check_reader(|world| {
        world.section(ONE);
        world.section(ONE);
    });
}

#[test]
fn model_unregistered_reader_with_nested_sections_never_reads_freed_view() {
    check_reader(|world| {
        let outer = world.sections.enter(name(ONE));
        world.section(ONE);
        world.read();
        drop(outer);
    });
}

#[test]
fn model_reader_in_the_shared_counter_never_reads_freed_view() {
    check_reader_of(
        || {
            let world = World::new();
            world.sections.occupy_spares();
            world
        },
        |world| {
            world.section(ONE);
            world.section(ONE);
        },
    );
}

/// Two readers and a writer; `register` says for each reader whether it owns the line.
fn check_two_readers(register: [bool; 2]) {
    let freed = std::sync::Arc::new(Tally::new(0));
    let tally = std::sync::Arc::clone(&freed);
    check_bounded(2, move || {
        let world = World::new();
        let readers = [(ONE, register[0]), (TWO, register[1])].map(|(address, register)| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if register {
                    assert!(world.sections.register(name(address), tid_of(address)));
                }
                world.section(address);
            })
        });
        world.replace(&tally);
        for reader in readers {
            reader.join().expect("the reader ends");
        }
    });
    assert!(freed.load(TallyOrdering::SeqCst) > 0, "nothing was freed");
}

#[test]
fn model_registered_and_unregistered_reader_never_read_freed_view() {
    check_two_readers([true, false]);
}

#[test]
fn model_two_unregistered_readers_never_read_freed_view() {
    check_two_readers([false, false]);
}

#[test]
fn model_two_writers_free_each_their_own_view() {
    check_bounded(2, || {
        let world = World::new();
        let reader = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.section(ONE))
        };
        let other = {
            let world = Arc::clone(&world);
            // A grace period that overlaps the writer's own and frees nothing.
            thread::spawn(move || {
                world
                    .sections
                    .synchronize(|| Ok::<(), ()>(()), |_| false)
                    .is_ok()
            })
        };
        world.replace(&Tally::new(0));
        reader.join().expect("the reader ends");
        other.join().expect("the other writer ends");
    });
}

/// A line that one thread gives back and another takes over, under a grace period.
#[test]
fn model_line_handed_over_never_reads_freed_view() {
    let freed = std::sync::Arc::new(Tally::new(0));
    let tally = std::sync::Arc::clone(&freed);
    let taken = std::sync::Arc::new(Tally::new(0));
    let took = std::sync::Arc::clone(&taken);
    check_bounded(2, move || {
        let world = World::new();
        assert!(world.sections.register(name(ONE), 1));
        let first = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.section(ONE);
                world.sections.unregister(name(ONE));
            })
        };
        let second = {
            let (world, took) = (Arc::clone(&world), std::sync::Arc::clone(&took));
            thread::spawn(move || {
                if world.sections.register(name(TWO), 2) {
                    took.fetch_add(1, TallyOrdering::SeqCst);
                    world.section(TWO);
                }
            })
        };
        world.replace(&tally);
        first.join().expect("the first owner ends");
        second.join().expect("the second owner ends");
        // Whatever was handed over, nobody is left inside.
        let done = world.sections.synchronize(|| Ok::<(), ()>(()), |_| false);
        assert!(done.is_ok(), "a section leaked");
    });
    assert!(freed.load(TallyOrdering::SeqCst) > 0, "nothing was freed");
    assert!(
        taken.load(TallyOrdering::SeqCst) > 0,
        "the line never changed hands"
    );
}

/// A thread that died inside a section, its successor of the same thread pointer, and the reaper,
/// under a grace period.
fn check_legacy(died_registered: bool, successor_registers: bool) {
    let freed = std::sync::Arc::new(Tally::new(0));
    let tally = std::sync::Arc::clone(&freed);
    let reaps = std::sync::Arc::new(Tally::new(0));
    let reaped = std::sync::Arc::clone(&reaps);
    check_bounded(2, move || {
        let world = World::new();
        let dead = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if died_registered {
                    assert!(world.sections.register(name(ONE), 1));
                }
                let _never_left = ManuallyDrop::new(world.sections.enter(name(ONE)));
                world.read();
            })
        };
        dead.join().expect("it dies inside");
        let successor = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let name = named(ONE, 2);
                if successor_registers {
                    world.sections.register(name, 2);
                }
                let section = world.sections.enter(name);
                world.read();
                drop(section);
            })
        };
        let reaper = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.reap())
        };
        world.replace(&tally);
        successor.join().expect("the successor ends");
        let sections = reaper.join().expect("the reaper ends");
        reaped.fetch_add(sections, TallyOrdering::SeqCst);
        world.reap();
        let done = world.sections.synchronize(|| Ok::<(), ()>(()), |_| false);
        assert!(done.is_ok(), "a section leaked");
    });
    assert!(freed.load(TallyOrdering::SeqCst) > 0, "nothing was freed");
    assert!(reaps.load(TallyOrdering::SeqCst) > 0, "nothing was reaped");
}

#[test]
fn model_line_of_a_dead_thread_is_reaped_under_its_successor() {
    check_legacy(true, true);
    check_legacy(true, false);
}

#[test]
fn model_slot_of_a_dead_thread_is_reaped_under_its_successor() {
    check_legacy(false, false);
}

/// Runs `outer` with a handler that opens a section of its own at every point of it.
fn check_section_interrupted(least: usize, outer: impl Fn(&World) + Send + Sync + Clone + 'static) {
    check_every_point(least, 2, move |point, hits| {
        let world = World::new();
        let (outer, theirs) = (outer.clone(), Arc::clone(&world));
        let reader = thread::spawn(move || {
            let interrupted = Arc::clone(&theirs);
            signal::arm(point, move || interrupted.section(ONE));
            outer(&theirs);
            !signal::disarm()
        });
        world.replace(&Tally::new(0));
        if reader.join().expect("the reader ends") {
            hits.fetch_add(1, TallyOrdering::SeqCst);
        }
        let done = world.sections.synchronize(|| Ok::<(), ()>(()), |_| false);
        assert!(done.is_ok(), "a section leaked");
    });
}

#[test]
fn model_registered_reader_interrupted_everywhere_never_reads_freed_view() {
    // Registration, entering, use, leaving and unregistration.
    check_section_interrupted(12, |world| {
        assert!(world.sections.register(name(ONE), 1));
        world.section(ONE);
        world.sections.unregister(name(ONE));
    });
}

#[test]
fn model_unregistered_reader_interrupted_everywhere_never_reads_freed_view() {
    check_section_interrupted(6, |world| world.section(ONE));
}

#[test]
fn model_reader_in_the_shared_counter_interrupted_everywhere_never_reads_freed_view() {
    check_every_point(6, 2, move |point, hits| {
        let world = World::new();
        world.sections.occupy_spares();
        let theirs = Arc::clone(&world);
        let reader = thread::spawn(move || {
            let interrupted = Arc::clone(&theirs);
            signal::arm(point, move || interrupted.section(ONE));
            theirs.section(ONE);
            !signal::disarm()
        });
        world.replace(&Tally::new(0));
        if reader.join().expect("the reader ends") {
            hits.fetch_add(1, TallyOrdering::SeqCst);
        }
    });
}

const OLD: u64 = StateWord::new(1, State::Live).0;
const OLD_GOING: u64 = StateWord::new(1, State::Going).0;
const NEW: u64 = StateWord::new(2, State::Live).0;

/// One plugin slot: its state, its counters and the code of two generations.
struct Slot {
    state: StateCell,
    row: AtomicU64,
    shared: AtomicU64,
    pins: AtomicU64,
    code: [UnsafeCell<u32>; 2],
}

impl Slot {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: StateCell::new(OLD),
            row: AtomicU64::new(0),
            shared: AtomicU64::new(0),
            pins: AtomicU64::new(0),
            code: payloads(),
        })
    }

    fn call_registered(&self, word: u64) -> bool {
        let entered = gate::enter(&self.row, &self.state, word, || true);
        if let Some(raised) = entered {
            read_payload(&self.code[usize::from(word == NEW)]);
            gate::leave(&self.row, raised);
        }
        entered.is_some()
    }

    fn call_unregistered(&self, word: u64) -> bool {
        let entered = gate::enter_shared(&self.shared, &self.state, word);
        if entered {
            read_payload(&self.code[usize::from(word == NEW)]);
            gate::leave_shared(&self.shared);
        }
        entered
    }

    /// A pin is taken, its holder calls without looking at the state, and lets go of the pin.
    fn call_pinned(&self, word: u64) -> bool {
        let entered = gate::pin(&self.pins, &self.state, word);
        if entered {
            let raised = gate::raise(&self.row, || true);
            read_payload(&self.code[0]);
            gate::leave(&self.row, raised);
            gate::unpin(&self.pins);
        }
        entered
    }

    /// Closes the gate, waits until nobody is inside and unmaps; true if it came to that.
    fn unload(&self) -> bool {
        self.state.store(OLD_GOING, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // Pins first: a pin's holder may enter the row whatever the state.
        let empty = [&self.pins, &self.row, &self.shared]
            .into_iter()
            .all(|count| {
                (0..LOOKS).any(|_| {
                    let empty = gate::inside(count) == 0;
                    if !empty {
                        thread::yield_now();
                    }
                    empty
                })
            });
        if empty {
            free_payload(&self.code[0]);
        }
        empty
    }

    /// Lets a later load take the slot.
    fn load_again(&self) {
        self.code[1].with_mut(|value| {
            // SAFETY: loom checks that nobody reads the new code before it is Live.
            unsafe { *value = GOOD };
        });
        self.state.store(NEW, Ordering::SeqCst);
    }
}

/// Runs `caller` against an unload and makes sure that both outcomes of a call were seen.
fn check_caller(recycle: bool, caller: impl Fn(&Slot) -> bool + Send + Sync + Clone + 'static) {
    let tallies = std::sync::Arc::new([const { Tally::new(0) }; 3]);
    let seen = std::sync::Arc::clone(&tallies);
    check(move || {
        let slot = Slot::new();
        let (caller, theirs) = (caller.clone(), Arc::clone(&slot));
        let caller = thread::spawn(move || caller(&theirs));
        if slot.unload() {
            seen[2].fetch_add(1, TallyOrdering::SeqCst);
            if recycle {
                slot.load_again();
            }
        }
        let entered = caller.join().expect("the caller ends");
        seen[usize::from(entered)].fetch_add(1, TallyOrdering::SeqCst);
    });
    for (tally, what) in tallies.iter().zip(["refused", "entered", "unmapped"]) {
        assert!(tally.load(TallyOrdering::SeqCst) > 0, "never {what}");
    }
}

#[test]
fn model_registered_caller_and_unload_never_runs_unmapped_code() {
    check_caller(false, |slot| slot.call_registered(OLD));
}

#[test]
fn model_registered_caller_with_two_calls_never_runs_unmapped_code() {
    check_caller(false, |slot| {
        slot.call_registered(OLD);
        slot.call_registered(OLD)
    });
}

#[test]
fn model_unregistered_caller_and_unload_never_runs_unmapped_code() {
    check_caller(false, |slot| slot.call_unregistered(OLD));
}

#[test]
fn model_pin_and_unload_never_runs_unmapped_code() {
    check_caller(false, |slot| slot.call_pinned(OLD));
}

#[test]
fn model_stale_handle_never_enters_the_next_generation() {
    check_caller(true, |slot| slot.call_registered(OLD));
    check_caller(true, |slot| slot.call_unregistered(OLD));
}

#[test]
fn model_fresh_handle_sees_the_next_generation_whole() {
    check_caller(true, |slot| slot.call_registered(NEW));
    check_caller(true, |slot| slot.call_unregistered(NEW));
}

#[test]
fn model_registered_and_unregistered_caller_never_run_unmapped_code() {
    check_bounded(2, || {
        let slot = Slot::new();
        let callers = [Slot::call_registered, Slot::call_unregistered].map(|call| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || call(&slot, OLD))
        });
        slot.unload();
        for caller in callers {
            caller.join().expect("the caller ends");
        }
    });
}

/// Runs a call with a handler that makes a call of its own at every point of it.
fn check_call_interrupted(
    least: usize,
    outer: impl Fn(&Slot) -> bool + Send + Sync + Clone + 'static,
    handler: impl Fn(&Slot) -> bool + Send + Sync + Clone + 'static,
) {
    check_every_point(least, 3, move |point, hits| {
        let slot = Slot::new();
        let (outer, handler, theirs) = (outer.clone(), handler.clone(), Arc::clone(&slot));
        let caller = thread::spawn(move || {
            let interrupted = Arc::clone(&theirs);
            signal::arm(point, move || {
                handler(&interrupted);
            });
            outer(&theirs);
            !signal::disarm()
        });
        slot.unload();
        if caller.join().expect("the caller ends") {
            hits.fetch_add(1, TallyOrdering::SeqCst);
        }
        for count in [&slot.row, &slot.shared, &slot.pins] {
            assert_eq!(gate::inside(count), 0, "a count leaked");
        }
    });
}

#[test]
fn model_registered_caller_interrupted_everywhere_never_runs_unmapped_code() {
    check_call_interrupted(
        8,
        |slot| slot.call_registered(OLD),
        |slot| slot.call_registered(OLD),
    );
}

#[test]
fn model_registered_caller_interrupted_by_unregistered_handler_never_runs_unmapped_code() {
    check_call_interrupted(
        8,
        |slot| slot.call_registered(OLD),
        |slot| slot.call_unregistered(OLD),
    );
}

#[test]
fn model_unregistered_caller_interrupted_everywhere_never_runs_unmapped_code() {
    check_call_interrupted(
        5,
        |slot| slot.call_unregistered(OLD),
        |slot| slot.call_unregistered(OLD),
    );
}

#[test]
fn model_pinned_caller_interrupted_everywhere_never_runs_unmapped_code() {
    check_call_interrupted(
        9,
        |slot| slot.call_pinned(OLD),
        |slot| slot.call_pinned(OLD),
    );
}

mod broken;
mod pins;
mod routes;
