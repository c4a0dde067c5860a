//! Tasks of plugins as futures of the host's.
//!
//! A task is pinned for as long as anything of it is left, polled and dropped inside the gate, and
//! given up at once when an unload asks for that: what the host keeps afterwards is empty.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};
use std::panic::Location;
use std::pin::Pin;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use plug_api::Value;
use plug_api::task::{RawTask, TASK_PENDING, TASK_READY, Task, TaskVtable, with_raw};

use crate::calls::{self, By};
use crate::deadline::Deadline;
use crate::error::{CallError, Error, HolderKind};
use crate::executor::Executor;
use crate::handles::PluginFn;
use crate::pin::PluginPin;
use crate::plugin::Plugin;
use crate::record::Record;
use crate::roll::Cancel;
use crate::signature::Signature;

/// A plugin's task, to be awaited under any executor. Pins the plugin until it is ready, dropped or
/// cancelled; an unload names it by the line that made it.
///
/// It is ready with the output, or with [`CallError::Raised`] when it failed, or with
/// [`CallError::Cancelled`] where an unload was asked to cancel tasks
/// ([`Departure::cancel_tasks`](crate::Departure::cancel_tasks)). The plugin's part is dropped, inside
/// the gate, before the pin is released, and before whoever awaits this is woken.
///
/// # Contexts
/// Thread context. Dropping it runs the plugin's code, as polling does.
#[must_use = "a task does nothing until it is polled"]
pub struct PluginTask<T> {
    shared: Arc<Shared>,
    output: PhantomData<fn() -> T>,
}

/// What a task and the unload that cancels it share.
struct Shared {
    record: Arc<Record>,
    inner: Mutex<Inner>,
}

struct Inner {
    stage: Stage,
    /// Of whoever polled last, to be told of a cancellation.
    waker: Option<Waker>,
}

enum Stage {
    /// Nobody is in it.
    Idle(Held),
    /// Somebody is in it, who has it.
    Polled { is_cancelled: bool },
    /// Nothing of the plugin's is left.
    Over,
}

/// The plugin's part.
struct Held {
    raw: RawTask,
    vtable: TaskVtable,
    pin: PluginPin,
}

// SAFETY: a task may be polled and dropped on any thread, one at a time, by its contract.
unsafe impl Send for Held {}

thread_local! {
    /// The pin of the task that this thread polls, the innermost; null outside of all. Without a
    /// destructor or a first use that would register one.
    static POLLED: Cell<*const PluginPin> = const { Cell::new(ptr::null()) };
}

/// Another pin of the plugin of the load `generation`, where the running thread polls a task of it.
pub(crate) fn pin_of_polled(
    generation: u64,
    place: &'static Location<'static>,
) -> Option<PluginPin> {
    // SAFETY: set by poll(), below on the stack, which keeps the pin.
    let pin = unsafe { POLLED.with(Cell::get).as_ref() }?;
    (pin.record().generation == generation).then(|| pin.again(place))
}

/// Puts the pin of the task back that was being polled before.
struct Outer(*const PluginPin);

impl Drop for Outer {
    fn drop(&mut self) {
        POLLED.with(|polled| polled.set(self.0));
    }
}

impl Held {
    fn poll<T: Value>(&self, waker: &Waker) -> Poll<Result<T, CallError>> {
        let mut output = MaybeUninit::<T>::uninit();
        let poll = self.vtable.poll;
        let gate = calls::enter(None, self.pin.record().id, By::Pin, poll as usize)?;
        let _outer = Outer(POLLED.replace(&raw const self.pin));
        let status = with_raw(waker, |waker| {
            // SAFETY: the task is owned, polled by one at a time, and mapped by the pin; there is
            // room for its output, whose size was compared.
            unsafe { poll(self.raw.state, waker, output.as_mut_ptr().cast()) }
        });
        gate.finish()?;
        match status {
            TASK_PENDING => Poll::Pending,
            // SAFETY: written, as it says.
            TASK_READY => Poll::Ready(Ok(unsafe { output.assume_init() })),
            _ => Poll::Ready(Err(CallError::Raised("no message given".into()))),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (drop, record) = (self.vtable.drop, self.pin.record());
        // By a pin it is always entered.
        let Ok(gate) = calls::enter(None, record.id, By::Pin, drop as usize) else {
            return;
        };
        // SAFETY: owned, and dropped once; the pin, a field of this, is released afterwards.
        unsafe { drop(self.raw.state) };
        if let Err(error) = gate.finish() {
            tracing::warn!(target: "plug::task", plugin = &*record.name, %error, "a task's end");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the plugin's part, if nobody is in it, and leaves `next`.
    fn take(&self, next: Stage) -> Option<Held> {
        let mut inner = self.lock();
        match mem::replace(&mut inner.stage, next) {
            Stage::Idle(held) => Some(held),
            other => {
                inner.stage = other;
                None
            }
        }
    }
}

impl Cancel for Shared {
    fn cancel(&self) {
        let mut inner = self.lock();
        match mem::replace(&mut inner.stage, Stage::Over) {
            Stage::Idle(held) => {
                let waker = inner.waker.take();
                drop(inner);
                // Both without the lock: they are somebody else's code.
                drop(held);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Stage::Polled { .. } => inner.stage = Stage::Polled { is_cancelled: true },
            Stage::Over => {}
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.record
            .context
            .roll()
            .remove(ptr::from_ref(self).addr());
    }
}

impl<T> fmt::Debug for PluginTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.shared.record;
        write!(
            f,
            "PluginTask({}, generation {})",
            record.name, record.generation
        )
    }
}

impl<T: Value> PluginTask<T> {
    /// The task that a plugin returned, kept by `pin` from here on.
    ///
    /// # Errors
    /// [`CallError::NoTask`] where it is empty, of another output's size, or not the pinned
    /// plugin's code; it is then leaked, since nobody knows what its functions are.
    ///
    /// # Safety
    /// - The pinned plugin returned `task` while `pin` was held, and its output is a `T`.
    /// - The output is plain: no task, and no pointer that is followed once this is ready.
    pub unsafe fn new(pin: PluginPin, task: Task<T>) -> Result<Self, CallError> {
        let raw = task.into_raw();
        let record = Arc::clone(pin.record());
        // SAFETY: null, or valid as long as the task.
        let Some(vtable) = (unsafe { raw.vtable.as_ref() }) else {
            return Err(CallError::NoTask("it is empty"));
        };
        let vtable = *vtable;
        if (vtable.size as usize) < size_of::<TaskVtable>() {
            return Err(CallError::NoTask(
                "its table is too short; rebuild the plugin",
            ));
        }
        if vtable.output_size as usize != size_of::<T>() {
            return Err(CallError::NoTask("its output has another size"));
        }
        let functions = [vtable.poll as usize, vtable.drop as usize];
        if !functions.iter().all(|f| record.part_at(*f).is_some()) {
            return Err(CallError::NoTask("its functions are not the plugin's"));
        }
        let pin = pin.held_for(HolderKind::Tasks);
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                stage: Stage::Idle(Held { raw, vtable, pin }),
                waker: None,
            }),
            record,
        });
        shared.record.context.roll().add(&shared);
        Ok(Self {
            shared,
            output: PhantomData,
        })
    }
}

impl<T: Value> Future for PluginTask<T> {
    type Output = Result<T, CallError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = &*self.shared;
        let is_cancelled = false;
        let Some(held) = shared.take(Stage::Polled { is_cancelled }) else {
            return Poll::Ready(Err(CallError::Cancelled));
        };
        let polled = held.poll(context.waker());
        if polled.is_ready() {
            // The plugin's part goes before the pin and before anybody hears of the output.
            drop(held);
            shared.lock().stage = Stage::Over;
            return polled;
        }
        // Cloned without the lock: it is somebody else's code, as is what it replaces.
        let waker = context.waker().clone();
        let mut inner = shared.lock();
        if matches!(inner.stage, Stage::Polled { is_cancelled: true }) {
            inner.stage = Stage::Over;
            drop(inner);
            drop(held);
            return Poll::Ready(Err(CallError::Cancelled));
        }
        inner.stage = Stage::Idle(held);
        let replaced = inner.waker.replace(waker);
        drop(inner);
        drop(replaced);
        Poll::Pending
    }
}

impl<T> Drop for PluginTask<T> {
    fn drop(&mut self) {
        drop(self.shared.take(Stage::Over));
    }
}

impl Plugin {
    /// Calls `function` and keeps the task that it returns; the plugin is pinned before it is called.
    ///
    /// # Errors
    /// [`CallError::Gone`] unless the plugin is Live; as [`PluginFn::call`] and [`PluginTask::new`].
    ///
    /// # Safety
    /// As [`PluginFn::call`], and:
    /// - The function is this plugin's.
    /// - The output is plain, as for [`PluginTask::new`].
    #[track_caller]
    pub unsafe fn task<F, T>(
        &self,
        function: &PluginFn<F>,
        args: F::Args,
    ) -> Result<PluginTask<T>, CallError>
    where
        F: Signature<Output = Task<T>>,
        T: Value + 'static,
    {
        let pin = self.pin().map_err(|_| CallError::Gone)?;
        // SAFETY: passed on to our caller.
        let task = unsafe { function.call(args) }?;
        // SAFETY: returned by the pinned plugin just now, and of that type by its signature.
        unsafe { PluginTask::new(pin, task) }
    }
}

/// Gives up all tasks of a load, and the wakers of its own that the host keeps, on a thread of the
/// loader's; goes on without having done so when the deadline passes.
///
/// # Errors
/// [`ErrorKind::Thread`](crate::error::ErrorKind::Thread).
pub(crate) fn cancel_all(record: &Arc<Record>, deadline: Deadline) -> Result<(), Error> {
    /// What a thread that has given them up gets to end, after the deadline.
    const SOON: Duration = Duration::from_secs(1);

    let own = Arc::clone(record);
    let executor = Executor::start(c"plug-cancel")?;
    let (_, thread) = executor.run(Some(deadline), move || own.context.roll().cancel_all())?;
    // It may have thread-locals of the plugin's to destroy, which the unload waits for as well.
    let soon = Deadline::after(deadline.remaining().min(SOON));
    if let Err(thread) = thread.wait(soon) {
        tracing::warn!(target: "plug::task", plugin = &*record.name, tid = thread.tid(), "cancelling");
    }
    Ok(())
}
