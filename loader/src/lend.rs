//! Futures of the host's as tasks that plugins await.
//!
//! A future of the host's keeps the waker it is polled with, in a timer, a channel or a list of its
//! own. Where that waker is of the plugin's making, the future is given one of the host's instead,
//! which pins the plugin, enters its gate to wake, and does nothing once it was given up.

use std::ffi::c_void;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use plug_api::task::{
    RawTask, TASK_FAILED, TASK_PENDING, TASK_READY, TaskVtable, TaskWaker, WakerVtable, own_waker,
};
use plug_api::{Task, Value};
use plug_readside::SymbolReader;

use crate::calls::{self, By};
use crate::error::HolderKind;
use crate::pin::PluginPin;
use crate::process::Process;
use crate::record::Record;
use crate::roll::Cancel;
use crate::task::pin_of_polled;

/// A task for plugins to await that does what `future` does, on the thread that polls it.
///
/// To be returned by a function of a service of the host's. The plugin's own runtime, if it has one,
/// is of no use to `future`: it must not need more than its waker, or bring what it needs along (a
/// `tokio` handle that it enters, for example).
///
/// A waker of the plugin's making that `future` keeps pins the plugin; an unload that waits names it
/// by the line that called this, and one that cancels gives it up: what `future` wakes then is
/// nobody. Outside of tasks of its own, a plugin that leaves gets no more such wakers made: its task
/// fails. So does one that panics.
///
/// # Contexts
/// Thread context. The plugin drops the task, or its part of the host leaks.
#[track_caller]
pub fn lend<T: Value + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    fn lent<F: Future<Output: Value>>(
        future: F,
        place: &'static Location<'static>,
    ) -> Task<F::Output> {
        let raw = RawTask {
            state: Box::into_raw(Box::new(Lent { future, place })).cast(),
            vtable: Lent::<F>::VTABLE,
        };
        // SAFETY: made just now, with the functions of its own type.
        unsafe { Task::from_raw(raw) }
    }
    lent(future, Location::caller())
}

/// What stands behind such a task.
struct Lent<F> {
    future: F,
    place: &'static Location<'static>,
}

impl<F: Future<Output: Value>> Lent<F> {
    const VTABLE: &'static TaskVtable = &TaskVtable {
        size: size::<TaskVtable>(),
        output_size: size::<F::Output>(),
        poll: Self::poll,
        drop: Self::drop,
    };

    unsafe extern "C-unwind" fn poll(
        state: *mut c_void,
        waker: *const TaskWaker,
        output: *mut c_void,
    ) -> i32 {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the box of lend(), polled by one at a time.
            let lent = unsafe { &mut *state.cast::<Self>() };
            // SAFETY: borrowed for this call.
            let waker = unsafe { *waker };
            // SAFETY: as above, and its maker polls.
            let waker = unsafe { waker_of(waker, lent.place) }?;
            // SAFETY: it stays in its box until drop().
            let future = unsafe { Pin::new_unchecked(&mut lent.future) };
            Some(future.poll(&mut Context::from_waker(&waker)))
        }));
        match polled {
            Ok(Some(Poll::Pending)) => TASK_PENDING,
            Ok(Some(Poll::Ready(value))) => {
                // SAFETY: the caller gives room for the output.
                unsafe { output.cast::<F::Output>().write(value) };
                TASK_READY
            }
            Ok(None) | Err(_) => TASK_FAILED,
        }
    }

    unsafe extern "C-unwind" fn drop(state: *mut c_void) {
        let dropped = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the box of lend(), given up by its only owner.
            drop(unsafe { Box::from_raw(state.cast::<Self>()) });
        }));
        if dropped.is_err() {
            tracing::error!(target: "plug::task", "a future that was lent to a plugin panicked at its end");
        }
    }
}

/// The size of a `T` as tables tell it.
#[expect(clippy::cast_possible_truncation, reason = "compared, while compiling")]
const fn size<T>() -> u32 {
    assert!(size_of::<T>() <= u32::MAX as usize);
    size_of::<T>() as u32
}

/// The waker `raw` as one that the host's futures may keep; none where its maker is on the way out,
/// or not known to the loader.
///
/// # Safety
/// - `raw` is borrowed for this call, on a thread that is in the code of its maker.
unsafe fn waker_of(raw: TaskWaker, place: &'static Location<'static>) -> Option<Waker> {
    // SAFETY: valid for this call; the clone is the host's own.
    if let Some(waker) = unsafe { own_waker(raw) } {
        return Some(waker.clone());
    }
    let (_, generation) = SymbolReader::new().owner(raw.vtable.addr())?;
    let pin = pin_of_polled(generation, place).or_else(|| {
        let record = Process::get()?.registry.load(generation)?;
        PluginPin::take(&record, place)
    })?;
    // SAFETY: the pinned plugin's, and valid for this call.
    let vtable = unsafe { *raw.vtable };
    // SAFETY: as above; the running thread is in the plugin's code already.
    let raw = unsafe { (vtable.clone)(raw.data) };
    let record = Arc::clone(pin.record());
    let guest = Arc::new(Guest {
        armed: Mutex::new(Some(Arc::new(Armed {
            // SAFETY: as for the first; its functions may be others.
            vtable: unsafe { *raw.vtable },
            raw,
            pin: pin.held_for(HolderKind::Wakers),
        }))),
        record,
    });
    guest.record.context.roll().add(&guest);
    Some(Waker::from(guest))
}

/// A waker of a plugin's making, behind one of the host's.
struct Guest {
    record: Arc<Record>,
    /// None once it was given up.
    armed: Mutex<Option<Arc<Armed>>>,
}

/// The plugin's part.
struct Armed {
    raw: TaskWaker,
    vtable: WakerVtable,
    pin: PluginPin,
}

// SAFETY: a waker's functions may be called on any thread, by its contract.
unsafe impl Send for Armed {}
// SAFETY: as above.
unsafe impl Sync for Armed {}

impl Guest {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Armed>>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Guest {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Kept for the call and not locked: it may come back here.
        let armed = self.lock().clone();
        if let Some(armed) = armed {
            armed.call(armed.vtable.wake_by_ref);
        }
    }
}

impl Cancel for Guest {
    fn cancel(&self) {
        let armed = mem::take(&mut *self.lock());
        // Without the lock: it is the plugin's code.
        drop(armed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.record
            .context
            .roll()
            .remove(ptr::from_ref(self).addr());
    }
}

impl Armed {
    /// Calls a function of the waker's inside the gate.
    fn call(&self, function: unsafe extern "C-unwind" fn(*const c_void)) {
        let record = self.pin.record();
        // By a pin it is always entered.
        let Ok(gate) = calls::enter(None, record.id, By::Pin, function as usize) else {
            return;
        };
        // SAFETY: a function of this waker's, which is owned; the pin keeps it mapped.
        unsafe { function(self.raw.data) };
        if let Err(error) = gate.finish() {
            tracing::warn!(target: "plug::task", plugin = &*record.name, %error, "a waker");
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        // The pin, a field of this, is released afterwards.
        self.call(self.vtable.drop);
    }
}
