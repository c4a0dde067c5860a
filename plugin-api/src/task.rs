//! A future that crosses the border: what a plugin returns to a host's executor, or a host to a
//! plugin's code, whatever language and runtime either has.
//!
//! Polling borrows a waker; who keeps it clones it by its own table. Nothing of a runtime crosses:
//! no handle, no thread-local, no layout of a compiler's.

use core::ffi::c_void;
use core::fmt;
use core::future::Future;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::pin::Pin;
use core::ptr;
use core::task::{self, Poll, RawWaker, RawWakerVTable, Waker};

use crate::{Context, Error, Value, catch, context};

/// [`TaskVtable::poll`]: not ready; the waker will be woken.
pub const TASK_PENDING: i32 = 0;

/// [`TaskVtable::poll`]: ready, and the output is written.
pub const TASK_READY: i32 = 1;

/// [`TaskVtable::poll`]: it failed; why went to [`raise`](crate::abi::HostContext::raise). Every
/// status but the two above means this.
pub const TASK_FAILED: i32 = 2;

/// The functions of a waker. Each may be called on any thread, but from no signal handler.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WakerVtable {
    /// Size of this struct as whoever made it knows it.
    pub size: u32,
    /// 0.
    pub reserved: u32,
    /// Another waker of the same task, owned by the caller.
    pub clone: unsafe extern "C-unwind" fn(data: *const c_void) -> TaskWaker,
    /// Wakes, and gives the waker up.
    pub wake: unsafe extern "C-unwind" fn(data: *const c_void),
    /// Wakes.
    pub wake_by_ref: unsafe extern "C-unwind" fn(data: *const c_void),
    /// Gives the waker up.
    pub drop: unsafe extern "C-unwind" fn(data: *const c_void),
}

/// What wakes a task: borrowed where it is passed to `poll`, owned where `clone` returned it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TaskWaker {
    /// Its maker's own.
    pub data: *const c_void,
    /// Its functions, as long-lived as the waker.
    pub vtable: *const WakerVtable,
}

/// The functions of a task.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TaskVtable {
    /// Size of this struct as whoever made it knows it.
    pub size: u32,
    /// Size of the output in bytes.
    pub output_size: u32,
    /// [`TASK_PENDING`], [`TASK_READY`] with `*output` written, or [`TASK_FAILED`]; not called
    /// again after the latter two. `*waker` is borrowed. One call at a time, on any thread.
    pub poll: unsafe extern "C-unwind" fn(
        state: *mut c_void,
        waker: *const TaskWaker,
        output: *mut c_void,
    ) -> i32,
    /// Gives the task up, ready or not; called once, on any thread.
    pub drop: unsafe extern "C-unwind" fn(state: *mut c_void),
}

/// A task as it crosses the border: owned by whoever has it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawTask {
    /// Its maker's own.
    pub state: *mut c_void,
    /// Its functions, as long-lived as the task; null where there is no task.
    pub vtable: *const TaskVtable,
}

/// A future that may cross the border, with an output of a plain type.
///
/// A plugin returns one from an exported function or a table's; the host polls it under its own
/// executor, and cancels it where the plugin leaves. A host may hand one to a plugin, which awaits
/// it like any future.
///
/// ```
/// use plug_api::Task;
///
/// plug_api::export! {
///     /// Adds, by and by.
///     pub fn add_slowly(a: u64, b: u64) -> Task<u64> {
///         Task::new(async move { a + b })
///     }
/// }
/// ```
#[repr(transparent)]
pub struct Task<T> {
    raw: RawTask,
    output: PhantomData<fn() -> T>,
}

// SAFETY: tasks are made of futures that are Send, and the contract asks the same of all others.
unsafe impl<T> Send for Task<T> {}

// SAFETY: nothing is done through a shared reference.
unsafe impl<T> Sync for Task<T> {}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task({:p})", self.raw.state)
    }
}

impl<T: Value> Task<T> {
    /// The task of `future`. A panic in it is caught, and the other side told the text.
    pub fn new(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        Task::fallible(async { Ok(future.await) })
    }

    /// As [`Task::new`], for a future that may fail; the other side is told the error's text.
    pub fn fallible(future: impl Future<Output = Result<T, Error>> + Send + 'static) -> Task<T> {
        fn made<F: Future<Output = Result<T, Error>>, T: Value>(future: F) -> Task<T> {
            Task {
                raw: RawTask {
                    state: Box::into_raw(Box::new(future)).cast(),
                    vtable: Made::<F, T>::VTABLE,
                },
                output: PhantomData,
            }
        }
        made(future)
    }

    /// The task at `raw`, to be owned from here on.
    ///
    /// # Safety
    /// - `raw` is as [`TaskVtable`] asks, owned by the caller, and its output is a `T`.
    pub const unsafe fn from_raw(raw: RawTask) -> Task<T> {
        Task {
            raw,
            output: PhantomData,
        }
    }

    /// Gives the task to whoever takes what this returns.
    #[must_use = "the task is never dropped otherwise"]
    pub fn into_raw(self) -> RawTask {
        ManuallyDrop::new(self).raw
    }
}

impl<T: Value> Value for Task<T> {
    const ON_PANIC: Self = Task {
        raw: RawTask {
            state: ptr::null_mut(),
            vtable: ptr::null(),
        },
        output: PhantomData,
    };
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        // SAFETY: null, or as long-lived as the task.
        if let Some(vtable) = unsafe { self.raw.vtable.as_ref() } {
            // SAFETY: owned, and not used after this.
            unsafe { (vtable.drop)(self.raw.state) };
        }
    }
}

/// Awaits a task of the other side's. An empty one is ready with an error, as is one that failed.
impl<T: Value> Future for Task<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // SAFETY: null, or as long-lived as the task.
        let Some(vtable) = (unsafe { this.raw.vtable.as_ref() }) else {
            return Poll::Ready(Err(Error::new("there is no task")));
        };
        if vtable.output_size as usize != size_of::<T>() {
            return Poll::Ready(Err(Error::new(format_args!(
                "the task's output: expected {} bytes, found {}",
                size_of::<T>(),
                vtable.output_size
            ))));
        }
        let mut output = MaybeUninit::<T>::uninit();
        let status = with_raw(cx.waker(), |waker| {
            // SAFETY: owned, polled through a unique reference, with room for the output.
            unsafe { (vtable.poll)(this.raw.state, waker, output.as_mut_ptr().cast()) }
        });
        match status {
            TASK_PENDING => Poll::Pending,
            // SAFETY: written, as it says.
            TASK_READY => Poll::Ready(Ok(unsafe { output.assume_init() })),
            _ => Poll::Ready(Err(Error::new("the other side's task failed"))),
        }
    }
}

/// The size of a `T` as tables tell it.
#[expect(clippy::cast_possible_truncation, reason = "compared, while compiling")]
const fn size<T>() -> u32 {
    assert!(size_of::<T>() <= u32::MAX as usize);
    size_of::<T>() as u32
}

/// The functions of a task made of a Rust future.
struct Made<F, T>(PhantomData<(F, T)>);

impl<F: Future<Output = Result<T, Error>>, T: Value> Made<F, T> {
    const VTABLE: &'static TaskVtable = &TaskVtable {
        size: size::<TaskVtable>(),
        output_size: size::<T>(),
        poll: Self::poll,
        drop: Self::drop,
    };

    unsafe extern "C-unwind" fn poll(
        state: *mut c_void,
        waker: *const TaskWaker,
        output: *mut c_void,
    ) -> i32 {
        catch(context::current(), TASK_FAILED, || {
            // SAFETY: state is the box of fallible(), polled by one at a time.
            let future = unsafe { &mut *state.cast::<F>() };
            // SAFETY: it stays in its box until drop().
            let future = unsafe { Pin::new_unchecked(future) };
            // SAFETY: borrowed for this call.
            let waker = unsafe { borrow(waker) };
            match future.poll(&mut task::Context::from_waker(&waker)) {
                Poll::Pending => TASK_PENDING,
                Poll::Ready(Ok(value)) => {
                    // SAFETY: the caller gives room for the output.
                    unsafe { output.cast::<T>().write(value) };
                    TASK_READY
                }
                Poll::Ready(Err(error)) => {
                    if let Some(context) = context::current() {
                        Context::raise(context, error.message());
                    }
                    TASK_FAILED
                }
            }
        })
    }

    unsafe extern "C-unwind" fn drop(state: *mut c_void) {
        catch(context::current(), (), || {
            // SAFETY: the box of fallible(), given up by its only owner.
            drop(unsafe { Box::from_raw(state.cast::<F>()) });
        });
    }
}

// ---- Wakers of the other side, as this side's --------------------------------------------------

/// Data points at a [`TaskWaker`] that somebody else keeps.
static BORROWED: RawWakerVTable = RawWakerVTable::new(keep, wake_ref, wake_ref, leave);

/// Data is a `Box<TaskWaker>`, which owns a waker of the other side's.
static KEPT: RawWakerVTable = RawWakerVTable::new(keep, wake_kept, wake_ref, drop_kept);

/// The waker at `raw` as one of this side's, for as long as `raw` is.
///
/// # Safety
/// - `raw` points at a waker that is valid as long as what is returned.
unsafe fn borrow(raw: *const TaskWaker) -> ManuallyDrop<Waker> {
    let waker = RawWaker::new(raw.cast(), &BORROWED);
    // SAFETY: the functions of BORROWED do what those of a waker must while `raw` is valid; a clone
    // owns what it points at.
    ManuallyDrop::new(unsafe { Waker::from_raw(waker) })
}

/// The other side's waker behind data of [`BORROWED`] and [`KEPT`].
///
/// # Safety
/// - `data` belongs to one of them.
unsafe fn theirs<'a>(data: *const ()) -> (TaskWaker, &'a WakerVtable) {
    // SAFETY: both point at one.
    let waker = unsafe { *data.cast::<TaskWaker>() };
    // SAFETY: as long-lived as the waker.
    (waker, unsafe { &*waker.vtable })
}

unsafe fn keep(data: *const ()) -> RawWaker {
    // SAFETY: what a vtable's function is called with.
    let (waker, vtable) = unsafe { theirs(data) };
    // SAFETY: the other side's, valid.
    let kept = unsafe { (vtable.clone)(waker.data) };
    RawWaker::new(Box::into_raw(Box::new(kept)).cast_const().cast(), &KEPT)
}

unsafe fn wake_ref(data: *const ()) {
    // SAFETY: as in keep().
    let (waker, vtable) = unsafe { theirs(data) };
    // SAFETY: as in keep().
    unsafe { (vtable.wake_by_ref)(waker.data) };
}

unsafe fn leave(_: *const ()) {}

unsafe fn wake_kept(data: *const ()) {
    // SAFETY: as in keep().
    let (waker, vtable) = unsafe { theirs(data) };
    // SAFETY: the box of keep(), given up.
    drop(unsafe { Box::from_raw(data.cast_mut().cast::<TaskWaker>()) });
    // SAFETY: owned by the box, and given up by this.
    unsafe { (vtable.wake)(waker.data) };
}

unsafe fn drop_kept(data: *const ()) {
    // SAFETY: as in keep().
    let (waker, vtable) = unsafe { theirs(data) };
    // SAFETY: the box of keep(), given up.
    drop(unsafe { Box::from_raw(data.cast_mut().cast::<TaskWaker>()) });
    // SAFETY: owned by the box, and given up by this.
    unsafe { (vtable.drop)(waker.data) };
}

// ---- Wakers of this side, for the other --------------------------------------------------------

/// Data points at a [`Waker`] that somebody else keeps.
static LENT: WakerVtable = WakerVtable {
    size: size::<WakerVtable>(),
    reserved: 0,
    clone: give,
    wake: wake_given_ref,
    wake_by_ref: wake_given_ref,
    drop: leave_lent,
};

/// Data is a `Box<Waker>`.
static GIVEN: WakerVtable = WakerVtable {
    size: size::<WakerVtable>(),
    reserved: 0,
    clone: give,
    wake: wake_given,
    wake_by_ref: wake_given_ref,
    drop: drop_given,
};

/// Lends `waker` to `f` as one that may cross the border.
pub fn with_raw<R>(waker: &Waker, f: impl FnOnce(*const TaskWaker) -> R) -> R {
    let vtable = waker.vtable();
    if ptr::eq(vtable, &raw const BORROWED) || ptr::eq(vtable, &raw const KEPT) {
        // The other side's own goes back as it came.
        return f(waker.data().cast());
    }
    let lent = TaskWaker {
        data: ptr::from_ref(waker).cast(),
        vtable: &raw const LENT,
    };
    f(&raw const lent)
}

/// The waker behind one that this side lent or gave to the other; none for one that the other side
/// made.
///
/// # Safety
/// - `raw` is valid as long as what is returned.
pub unsafe fn own_waker<'a>(raw: TaskWaker) -> Option<&'a Waker> {
    let is_own = ptr::eq(raw.vtable, &raw const LENT) || ptr::eq(raw.vtable, &raw const GIVEN);
    // SAFETY: data of both points at one.
    is_own.then(|| unsafe { &*raw.data.cast::<Waker>() })
}

/// Runs `f`, which calls a waker of this side's: a panic goes nowhere.
fn quietly<R>(fallback: R, f: impl FnOnce() -> R) -> R {
    catch(None, fallback, f)
}

unsafe extern "C-unwind" fn give(data: *const c_void) -> TaskWaker {
    // SAFETY: data of LENT and GIVEN points at a waker.
    let waker = unsafe { &*data.cast::<Waker>() };
    let given = quietly(Waker::noop().clone(), || waker.clone());
    TaskWaker {
        data: Box::into_raw(Box::new(given)).cast_const().cast(),
        vtable: &raw const GIVEN,
    }
}

unsafe extern "C-unwind" fn wake_given(data: *const c_void) {
    // SAFETY: the box of give(), given up.
    let waker = unsafe { Box::from_raw(data.cast_mut().cast::<Waker>()) };
    quietly((), || waker.wake());
}

unsafe extern "C-unwind" fn wake_given_ref(data: *const c_void) {
    // SAFETY: as in give().
    let waker = unsafe { &*data.cast::<Waker>() };
    quietly((), || waker.wake_by_ref());
}

unsafe extern "C-unwind" fn drop_given(data: *const c_void) {
    // SAFETY: the box of give(), given up.
    let waker = unsafe { Box::from_raw(data.cast_mut().cast::<Waker>()) };
    quietly((), || drop(waker));
}

unsafe extern "C-unwind" fn leave_lent(_: *const c_void) {}

// SAFETY: immutable functions.
unsafe impl Sync for WakerVtable {}

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;

    assert!(size_of::<WakerVtable>() == 40);
    assert!(offset_of!(WakerVtable, size) == 0);
    assert!(offset_of!(WakerVtable, reserved) == 4);
    assert!(offset_of!(WakerVtable, clone) == 8);
    assert!(offset_of!(WakerVtable, wake) == 16);
    assert!(offset_of!(WakerVtable, wake_by_ref) == 24);
    assert!(offset_of!(WakerVtable, drop) == 32);

    assert!(size_of::<TaskWaker>() == 16);
    assert!(offset_of!(TaskWaker, data) == 0);
    assert!(offset_of!(TaskWaker, vtable) == 8);

    assert!(size_of::<TaskVtable>() == 24);
    assert!(offset_of!(TaskVtable, size) == 0);
    assert!(offset_of!(TaskVtable, output_size) == 4);
    assert!(offset_of!(TaskVtable, poll) == 8);
    assert!(offset_of!(TaskVtable, drop) == 16);

    assert!(size_of::<RawTask>() == 16);
    assert!(offset_of!(RawTask, state) == 0);
    assert!(offset_of!(RawTask, vtable) == 8);
};

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Keeps the waker it is polled with, `left` times.
    struct Keeps {
        left: usize,
        kept: Vec<Waker>,
    }

    impl Future for Keeps {
        type Output = u64;

        fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<u64> {
            self.kept.push(cx.waker().clone());
            if self.left == 0 {
                self.kept.iter().for_each(Waker::wake_by_ref);
                return Poll::Ready(7);
            }
            self.left -= 1;
            Poll::Pending
        }
    }

    #[test]
    fn every_clone_of_a_waker_that_crossed_is_given_back() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = task::Context::from_waker(&waker);
        let kept = Vec::new();
        // Nested, so that wakers cross twice.
        let inner = Task::new(Keeps { left: 2, kept });
        let mut task = Task::fallible(inner);
        for _ in 0..2 {
            assert!(Pin::new(&mut task).poll(&mut cx).is_pending());
        }
        assert!(Arc::strong_count(&count) > 2);
        let ready = Pin::new(&mut task).poll(&mut cx);
        assert_eq!(ready, Poll::Ready(Ok(7)));
        assert_eq!(count.0.load(Ordering::SeqCst), 3);
        drop(task);
        assert_eq!(Arc::strong_count(&count), 2);
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1);
    }

    #[test]
    fn panics_and_errors_and_wrong_sizes_fail() {
        let mut cx = task::Context::from_waker(Waker::noop());
        let mut failing = Task::<u64>::fallible(async { Err("no".into()) });
        assert!(matches!(
            Pin::new(&mut failing).poll(&mut cx),
            Poll::Ready(Err(_))
        ));
        let mut empty = Task::<u64>::ON_PANIC;
        assert!(matches!(
            Pin::new(&mut empty).poll(&mut cx),
            Poll::Ready(Err(_))
        ));
        // SAFETY: never polled by the wrong type, since the size is compared first.
        let mut wrong = unsafe { Task::<u32>::from_raw(Task::new(async { 1_u64 }).into_raw()) };
        let Poll::Ready(Err(error)) = Pin::new(&mut wrong).poll(&mut cx) else {
            panic!("a wrong size");
        };
        assert!(
            error.message().contains("expected 4 bytes, found 8"),
            "{error}"
        );
    }
}
