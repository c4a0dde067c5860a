//! Small copies of the protocols with one fault each, which the models must find.
//!
//! A copy without a fault must pass, so that what is found is the fault and not the copy.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::{LOOKS, NEW, OLD, OLD_GOING, check, check_fails, free_payload, payloads, read_payload};
use crate::sync::{AtomicU64, AtomicUsize, Ordering, fence, signal};

/// What is wrong with a copy of the sections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// No fence between the reader's store and its load of the head.
    NoReaderFence,
    /// No fence between the writer's swap and its scan.
    NoWriterFence,
    /// A line is entered with a Relaxed store.
    EntryRelaxed,
    /// A section is left with a Relaxed store.
    ExitRelaxed,
    /// The scan looks with Relaxed loads.
    ScanRelaxed,
    /// The writer frees without a scan.
    NoScan,
    /// The epoch grows before the head is swapped.
    EpochBeforeSwap,
    /// Leaving stores "idle" instead of one level less.
    ExitToIdle,
    /// The claim is AcqRel.
    ClaimAcqRel,
    /// The shared counter is raised with AcqRel.
    ShardAcqRel,
    /// The head is loaded with Acquire only.
    HeadAcquire,
    /// The scan of claimed slots is Acquire only.
    ScanAcquire,
    /// A line is given back with a Relaxed store.
    UnregisterRelaxed,
    /// A line is known by its thread pointer alone, which a successor has, too.
    SuccessorInherits,
}

const EPOCH_ONE: usize = 1 << 16;
const NEST_MASK: usize = EPOCH_ONE - 1;

/// The sections with one line and one slot.
struct Sketch {
    fault: Fault,
    epoch: AtomicUsize,
    owner: AtomicUsize,
    word: AtomicUsize,
    spare: AtomicUsize,
    shard: AtomicUsize,
    head: AtomicUsize,
    views: [UnsafeCell<u32>; 2],
}

impl Sketch {
    fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            fault,
            epoch: AtomicUsize::new(EPOCH_ONE),
            owner: AtomicUsize::new(1),
            word: AtomicUsize::new(0),
            spare: AtomicUsize::new(0),
            shard: AtomicUsize::new(0),
            head: AtomicUsize::new(0),
            views: payloads(),
        })
    }

    /// `right`, or `wrong` in a copy with this fault.
    fn order(&self, fault: Fault, wrong: Ordering, right: Ordering) -> Ordering {
        if self.fault == fault { wrong } else { right }
    }

    fn read(&self) {
        let order = self.order(Fault::HeadAcquire, Ordering::Acquire, Ordering::SeqCst);
        let current = self.head.load(order);
        read_payload(&self.views[current]);
    }

    fn registered(&self) {
        let word = self.word.load(Ordering::Relaxed);
        let entered = if word & NEST_MASK == 0 {
            self.epoch.load(Ordering::Acquire) + 1
        } else {
            word + 1
        };
        let order = self.order(Fault::EntryRelaxed, Ordering::Relaxed, Ordering::Release);
        self.word.store(entered, order);
        if self.fault != Fault::NoReaderFence {
            fence(Ordering::SeqCst);
        }
        self.read();
        let left = if self.fault == Fault::ExitToIdle {
            0
        } else {
            self.word.load(Ordering::Relaxed) - 1
        };
        let order = self.order(Fault::ExitRelaxed, Ordering::Relaxed, Ordering::Release);
        self.word.store(left, order);
    }

    fn claimed(&self) {
        let entered = self.epoch.load(Ordering::Acquire) + 1;
        let order = self.order(Fault::ClaimAcqRel, Ordering::AcqRel, Ordering::SeqCst);
        let claim = self
            .spare
            .compare_exchange(0, entered, order, Ordering::Relaxed);
        if claim.is_ok() {
            self.read();
            let order = self.order(Fault::ExitRelaxed, Ordering::Relaxed, Ordering::Release);
            self.spare.store(0, order);
        }
    }

    /// A section in the shared counter.
    fn counted(&self) {
        let order = self.order(Fault::ShardAcqRel, Ordering::AcqRel, Ordering::SeqCst);
        self.shard.fetch_add(1, order);
        self.read();
        let order = self.order(Fault::ExitRelaxed, Ordering::Relaxed, Ordering::Release);
        self.shard.fetch_sub(1, order);
    }

    fn replace(&self, writer_fence: bool) {
        let mut target = 0;
        if self.fault == Fault::EpochBeforeSwap {
            target = self.epoch.fetch_add(EPOCH_ONE, Ordering::SeqCst) + EPOCH_ONE;
        }
        self.head.swap(1, Ordering::SeqCst);
        if self.fault != Fault::EpochBeforeSwap {
            target = self.epoch.fetch_add(EPOCH_ONE, Ordering::SeqCst) + EPOCH_ONE;
        }
        if writer_fence {
            fence(Ordering::SeqCst);
        }
        let order = self.order(Fault::ScanAcquire, Ordering::Acquire, Ordering::SeqCst);
        let order = self.order(Fault::ScanRelaxed, Ordering::Relaxed, order);
        let passed = self.fault == Fault::NoScan
            || [&self.word, &self.spare].into_iter().all(|word| {
                (0..LOOKS).any(|_| {
                    let word = word.load(order);
                    let past = word & NEST_MASK == 0 || word >= target;
                    if !past {
                        thread::yield_now();
                    }
                    past
                })
            }) && (0..LOOKS).any(|_| {
                let empty = self.shard.load(order) == 0;
                if !empty {
                    thread::yield_now();
                }
                empty
            });
        if passed {
            free_payload(&self.views[0]);
        }
    }
}

/// A reader against a writer that fences, as with registered readers.
fn against_fencing_writer(
    fault: Fault,
    reader: fn(&Arc<Sketch>),
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let sketch = Sketch::new(fault);
        let theirs = Arc::clone(&sketch);
        let reader = thread::spawn(move || reader(&theirs));
        // A weaker load in the scan leaves this the only fence, which is the fault's point.
        sketch.replace(fault != Fault::NoWriterFence && fault != Fault::ScanAcquire);
        reader.join().expect("the reader ends");
    }
}

/// A reader against a writer that has nothing but its SeqCst accesses.
fn against_plain_writer(
    fault: Fault,
    reader: fn(&Arc<Sketch>),
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let sketch = Sketch::new(fault);
        let theirs = Arc::clone(&sketch);
        let reader = thread::spawn(move || reader(&theirs));
        sketch.replace(false);
        reader.join().expect("the reader ends");
    }
}

fn once(sketch: &Arc<Sketch>) {
    sketch.registered();
}

fn twice(sketch: &Arc<Sketch>) {
    sketch.registered();
    sketch.registered();
}

fn claim(sketch: &Arc<Sketch>) {
    sketch.claimed();
}

fn count(sketch: &Arc<Sketch>) {
    sketch.counted();
}

/// A section whose handler comes after the head was loaded and before it is used.
fn interrupted(sketch: &Arc<Sketch>) {
    let theirs = Arc::clone(sketch);
    // Word, epoch, store, fence, head: the handler comes before the sixth point.
    signal::arm(5, move || theirs.registered());
    sketch.registered();
    signal::disarm();
}

#[test]
fn model_sketch_without_fault_passes() {
    check(against_fencing_writer(Fault::Nothing, once));
    check(against_fencing_writer(Fault::Nothing, twice));
    check(against_fencing_writer(Fault::Nothing, interrupted));
    check(against_plain_writer(Fault::Nothing, claim));
    check(against_plain_writer(Fault::Nothing, count));
}

#[test]
fn model_reader_without_fence_is_caught() {
    check_fails(against_fencing_writer(Fault::NoReaderFence, once));
}

#[test]
fn model_writer_that_frees_before_the_grace_period_is_caught() {
    check_fails(against_fencing_writer(Fault::NoScan, once));
    check_fails(against_plain_writer(Fault::NoScan, claim));
    check_fails(against_plain_writer(Fault::NoScan, count));
}

#[test]
fn model_reader_that_enters_with_relaxed_is_caught() {
    check_fails(against_fencing_writer(Fault::EntryRelaxed, twice));
}

#[test]
fn model_reader_that_leaves_with_relaxed_is_caught() {
    check_fails(against_fencing_writer(Fault::ExitRelaxed, once));
    check_fails(against_plain_writer(Fault::ExitRelaxed, claim));
    check_fails(against_plain_writer(Fault::ExitRelaxed, count));
}

#[test]
fn model_writer_that_scans_with_relaxed_is_caught() {
    check_fails(against_fencing_writer(Fault::ScanRelaxed, once));
}

#[test]
fn model_writer_without_total_order_before_its_scan_is_caught() {
    check_fails(against_fencing_writer(Fault::ScanAcquire, once));
    check_fails(against_plain_writer(Fault::ScanAcquire, claim));
    check_fails(against_plain_writer(Fault::ScanAcquire, count));
}

#[test]
fn model_writer_that_bumps_the_epoch_before_the_swap_is_caught() {
    check_fails(against_fencing_writer(Fault::EpochBeforeSwap, once));
    check_fails(against_plain_writer(Fault::EpochBeforeSwap, claim));
}

#[test]
fn model_handler_that_leaves_to_idle_is_caught() {
    check_fails(against_fencing_writer(Fault::ExitToIdle, interrupted));
}

#[test]
fn model_claim_that_is_only_acqrel_is_caught() {
    check_fails(against_plain_writer(Fault::ClaimAcqRel, claim));
}

#[test]
fn model_shared_counter_that_is_only_acqrel_is_caught() {
    check_fails(against_plain_writer(Fault::ShardAcqRel, count));
}

#[test]
fn model_claimed_reader_that_loads_the_head_with_acquire_is_caught() {
    check_fails(against_plain_writer(Fault::HeadAcquire, claim));
    check_fails(against_plain_writer(Fault::HeadAcquire, count));
}

/// One thread leaves the line to another, which reads under it.
fn handed_over(fault: Fault) -> impl Fn() + Send + Sync + 'static {
    move || {
        let sketch = Sketch::new(fault);
        let first = {
            let sketch = Arc::clone(&sketch);
            thread::spawn(move || {
                sketch.registered();
                let order = sketch.order(
                    Fault::UnregisterRelaxed,
                    Ordering::Relaxed,
                    Ordering::Release,
                );
                sketch.owner.store(0, order);
            })
        };
        let second = {
            let sketch = Arc::clone(&sketch);
            thread::spawn(move || {
                let claim =
                    sketch
                        .owner
                        .compare_exchange(0, 2, Ordering::Acquire, Ordering::Relaxed);
                if claim.is_ok() {
                    sketch.registered();
                }
            })
        };
        sketch.replace(true);
        first.join().expect("the first owner ends");
        second.join().expect("the second owner ends");
    }
}

#[test]
fn model_line_given_back_with_relaxed_is_caught() {
    super::check_bounded(2, handed_over(Fault::Nothing));
    check_fails(handed_over(Fault::UnregisterRelaxed));
}

/// A line whose owner died inside, a successor of the same thread pointer that reads, and the
/// reaper, which clears the line because its owner is dead.
fn reaped(fault: Fault) -> impl Fn() + Send + Sync + 'static {
    move || {
        let sketch = Sketch::new(fault);
        // Relaxed: before the model makes a thread.
        sketch.word.store(EPOCH_ONE | 1, Ordering::Relaxed);
        let successor = {
            let sketch = Arc::clone(&sketch);
            thread::spawn(move || {
                if sketch.fault == Fault::SuccessorInherits {
                    sketch.registered();
                } else {
                    sketch.claimed();
                }
            })
        };
        let reaper = {
            let sketch = Arc::clone(&sketch);
            thread::spawn(move || sketch.word.store(0, Ordering::Release))
        };
        sketch.replace(true);
        successor.join().expect("the successor ends");
        reaper.join().expect("the reaper ends");
    }
}

#[test]
fn model_successor_that_goes_on_where_a_dead_thread_stood_is_caught() {
    super::check_bounded(2, reaped(Fault::Nothing));
    check_fails(reaped(Fault::SuccessorInherits));
}

/// What is wrong with a copy of the gate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GateFault {
    Nothing,
    /// No fence between raising the count and looking at the state.
    NoCallerFence,
    /// No fence between closing the gate and looking at the count.
    NoWriterFence,
    /// The state is looked at before the count is raised, and not again.
    NoRecheck,
    /// The state is not looked at.
    NoCheck,
    /// The count is lowered with a Relaxed store.
    LeaveRelaxed,
    /// The writer does not wait for the count.
    NoWait,
    /// Only the state is compared, not the generation.
    GenerationIgnored,
    /// The state is loaded with Relaxed.
    StateRelaxed,
    /// A shared count is raised with AcqRel.
    SharedAcqRel,
    /// A shared caller loads the state with Acquire.
    SharedStateAcquire,
}

/// The gate of one slot.
struct Gate {
    fault: GateFault,
    state: AtomicU64,
    count: AtomicU64,
    code: [UnsafeCell<u32>; 2],
}

impl Gate {
    fn is_open(&self, word: u64, order: Ordering) -> bool {
        let state = self.state.load(order);
        match self.fault {
            GateFault::NoCheck => true,
            GateFault::GenerationIgnored => state & 0xff == word & 0xff,
            _ => state == word,
        }
    }

    fn order(&self, fault: GateFault, wrong: Ordering, right: Ordering) -> Ordering {
        if self.fault == fault { wrong } else { right }
    }

    fn call(&self, word: u64) {
        let order = self.order(
            GateFault::StateRelaxed,
            Ordering::Relaxed,
            Ordering::Acquire,
        );
        let early = self.fault == GateFault::NoRecheck;
        if early && !self.is_open(word, order) {
            return;
        }
        let inside = self.count.load(Ordering::Relaxed);
        self.count.store(inside + 1, Ordering::Relaxed);
        if self.fault != GateFault::NoCallerFence {
            fence(Ordering::SeqCst);
        }
        if early || self.is_open(word, order) {
            read_payload(&self.code[usize::from(word == NEW)]);
        }
        let inside = self.count.load(Ordering::Relaxed);
        let order = self.order(
            GateFault::LeaveRelaxed,
            Ordering::Relaxed,
            Ordering::Release,
        );
        self.count.store(inside - 1, order);
    }

    fn call_shared(&self, word: u64) {
        let raise = self.order(GateFault::SharedAcqRel, Ordering::AcqRel, Ordering::SeqCst);
        let look = self.order(
            GateFault::SharedStateAcquire,
            Ordering::Acquire,
            Ordering::SeqCst,
        );
        let leave = self.order(
            GateFault::LeaveRelaxed,
            Ordering::Relaxed,
            Ordering::Release,
        );
        let early = self.fault == GateFault::NoRecheck;
        if early && !self.is_open(word, look) {
            return;
        }
        self.count.fetch_add(1, raise);
        if early || self.is_open(word, look) {
            read_payload(&self.code[usize::from(word == NEW)]);
        }
        self.count.fetch_sub(1, leave);
    }

    fn unload(&self, writer_fence: bool) {
        // Without a fence only the total order of SeqCst accesses is left, which a registered
        // caller takes no part in.
        self.state.store(OLD_GOING, Ordering::SeqCst);
        let look = if writer_fence {
            fence(Ordering::SeqCst);
            Ordering::SeqCst
        } else {
            self.order(
                GateFault::NoWriterFence,
                Ordering::Acquire,
                Ordering::SeqCst,
            )
        };
        let empty = self.fault == GateFault::NoWait
            || (0..LOOKS).any(|_| {
                let empty = self.count.load(look) == 0;
                if !empty {
                    thread::yield_now();
                }
                empty
            });
        if empty {
            free_payload(&self.code[0]);
            self.code[1].with_mut(|value| {
                // SAFETY: loom checks that nobody reads the new code before it is Live.
                unsafe { *value = super::GOOD };
            });
            self.state.store(NEW, Ordering::SeqCst);
        }
    }
}

/// A caller against an unload that is followed by a load into the same slot.
fn call_and_recycle(
    fault: GateFault,
    shared: bool,
    word: u64,
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let gate = Arc::new(Gate {
            fault,
            state: AtomicU64::new(OLD),
            count: AtomicU64::new(0),
            code: payloads(),
        });
        let theirs = Arc::clone(&gate);
        let caller = thread::spawn(move || {
            if shared {
                theirs.call_shared(word);
            } else {
                theirs.call(word);
            }
        });
        gate.unload(!shared && fault != GateFault::NoWriterFence);
        caller.join().expect("the caller ends");
    }
}

#[test]
fn model_gate_sketch_without_fault_passes() {
    for word in [OLD, NEW] {
        check(call_and_recycle(GateFault::Nothing, false, word));
        check(call_and_recycle(GateFault::Nothing, true, word));
    }
}

#[test]
fn model_gate_without_fence_is_caught() {
    check_fails(call_and_recycle(GateFault::NoCallerFence, false, OLD));
    check_fails(call_and_recycle(GateFault::NoWriterFence, false, OLD));
}

#[test]
fn model_gate_without_recheck_is_caught() {
    check_fails(call_and_recycle(GateFault::NoRecheck, false, OLD));
    check_fails(call_and_recycle(GateFault::NoRecheck, true, OLD));
}

#[test]
fn model_gate_without_check_is_caught() {
    check_fails(call_and_recycle(GateFault::NoCheck, false, OLD));
    check_fails(call_and_recycle(GateFault::NoCheck, true, OLD));
}

#[test]
fn model_gate_left_with_relaxed_is_caught() {
    check_fails(call_and_recycle(GateFault::LeaveRelaxed, false, OLD));
    check_fails(call_and_recycle(GateFault::LeaveRelaxed, true, OLD));
}

#[test]
fn model_unload_that_does_not_wait_is_caught() {
    check_fails(call_and_recycle(GateFault::NoWait, false, OLD));
    check_fails(call_and_recycle(GateFault::NoWait, true, OLD));
}

#[test]
fn model_gate_that_ignores_the_generation_is_caught() {
    check_fails(call_and_recycle(GateFault::GenerationIgnored, false, OLD));
    check_fails(call_and_recycle(GateFault::GenerationIgnored, true, OLD));
}

#[test]
fn model_gate_that_loads_the_state_with_relaxed_is_caught() {
    check_fails(call_and_recycle(GateFault::StateRelaxed, false, NEW));
}

#[test]
fn model_shared_gate_outside_the_total_order_is_caught() {
    check_fails(call_and_recycle(GateFault::SharedAcqRel, true, OLD));
    check_fails(call_and_recycle(GateFault::SharedStateAcquire, true, OLD));
}
