//! A plugin on its way out, for as long as there is a way back.

#![forbid(unsafe_code)]

use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::calls;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Holder, HolderKind, Stage};
use crate::fork;
use crate::plugin::Plugin;
use crate::process::Process;
use crate::quiesce::Undrained;
use crate::record::Record;
use crate::registry::Leaving;
use crate::stages::Stages;
use crate::stall;
use crate::sys;
use crate::task;
use crate::unload;
use crate::verdict::Unloaded;

/// A plugin that is being unloaded: it is Going, calls and pins refuse, and whoever is inside may
/// leave. Nothing of it has been undone yet: until its `exit` runs, [`Departure::cancel`] makes it
/// Live again, and so does dropping this.
///
/// Whoever begins to wait has the plugin's threads told to stop, those that it had the loader start.
/// Where the wait is given up, those that still run go on, and those that ended are not started anew.
///
/// [`Departure::wait`] waits on the calling thread. Awaiting it waits on a thread of the loader's,
/// started at the first poll, under any executor; the future is ready with the verdict, or, after
/// [`Departure::until`], with the holders. A future that is dropped while it waits is cancelled;
/// one that is dropped after `exit` began changes nothing any more.
///
/// # Contexts
/// Thread context. It may be begun from inside the plugin, but is to be waited for elsewhere.
#[must_use = "the plugin is Live again when this is dropped"]
pub struct Departure {
    shared: Arc<Shared>,
    deadline: Deadline,
    /// Whether a thread of the loader's waits.
    is_polled: bool,
    /// Whether tasks are given up.
    cancels: bool,
}

/// What the departure and the thread that waits for it share.
struct Shared {
    process: &'static Process,
    record: Arc<Record>,
    began: Instant,
    /// Whether it may be Live again; not where another version has its place.
    has_way_back: bool,
    inner: Mutex<Inner>,
    settled: Condvar,
}

struct Inner {
    progress: Progress,
    /// Of the task that polled last.
    waker: Option<Waker>,
}

/// How far it is.
enum Progress {
    /// There is a way back: whoever takes this has the plugin.
    Going(Leaving, Stages),
    /// Its `exit` runs, or it was cancelled.
    Committed,
    /// This was the end.
    Settled(Result<Unloaded, Error>),
}

impl fmt::Debug for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.shared.record;
        write!(
            f,
            "Departure({}, generation {})",
            record.name, record.generation
        )
    }
}

impl Departure {
    /// Begins to unload `name`; only the load `generation` if that is given.
    pub(crate) fn begin(
        process: &'static Process,
        name: &str,
        generation: Option<u64>,
    ) -> Result<Self, Error> {
        let mut stages = Stages::start();
        let leaving = fork::settle(process)
            .map_err(|error| error.plugin(name))
            .and_then(|()| unload::begin(process, name, generation))
            .inspect_err(|error| tracing::warn!(target: "plug::unload", %error, "not unloaded"))?;
        stages.end(Stage::Going);
        Ok(Self::of(process, leaving, stages, true))
    }

    /// Of a version that was replaced: there is no way back.
    pub(crate) fn of_replaced(process: &'static Process, leaving: Leaving) -> Self {
        unload::note_going(process, &leaving);
        Self::of(process, leaving, Stages::start(), false)
    }

    fn of(process: &'static Process, leaving: Leaving, stages: Stages, has_way_back: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                process,
                record: Arc::clone(leaving.record()),
                began: Instant::now(),
                has_way_back,
                inner: Mutex::new(Inner {
                    progress: Progress::Going(leaving, stages),
                    waker: None,
                }),
                settled: Condvar::new(),
            }),
            deadline: Deadline::after(Duration::MAX),
            is_polled: false,
            cancels: false,
        }
    }

    /// As [`Departure::wait`] of one that was replaced: on a thread of the loader's, which goes on
    /// where the deadline passes.
    pub(crate) fn wait_replaced(mut self, deadline: Deadline) -> Result<Unloaded, Error> {
        self.deadline = deadline;
        self.start();
        self.shared.wait(deadline)
    }

    /// The plugin that leaves.
    #[must_use]
    pub fn plugin(&self) -> Plugin {
        Plugin::new(Arc::clone(&self.shared.record))
    }

    /// Who holds it at this moment; nobody once its `exit` runs.
    ///
    /// Looks at every worker, and at the kernel's names of threads that took pins. "Since" is at
    /// least the time since this departure began.
    #[must_use]
    pub fn blockers(&self) -> Vec<Holder> {
        self.shared.holders()
    }

    /// Makes the plugin Live again; false if that came too late, because its `exit` had begun. The
    /// unload then goes on by itself.
    pub fn cancel(self) -> bool {
        self.shared.cancel()
    }

    /// Waits on the calling thread until nobody is inside, then runs the plugin's `exit` and
    /// destructors, unmaps it and looks whether it is gone.
    ///
    /// # Errors
    /// The plugin is Live again after every one of them. [`ErrorKind::Deadline`] with all holders;
    /// [`ErrorKind::SelfDeadlock`] from inside a plugin's code or a read section;
    /// [`ErrorKind::Barrier`].
    pub fn wait(self, deadline: Deadline) -> Result<Unloaded, Error> {
        if let Err(error) = calls::must_be_outside("waiting for an unload") {
            self.shared.retreat(error.clone());
            return Err(error);
        }
        if self.is_polled {
            self.shared.wait(deadline)
        } else {
            self.shared.run(deadline, self.cancels);
            self.shared.wait(Deadline::now())
        }
    }

    /// Has tasks of the plugin's given up when somebody begins to wait, instead of waiting until they
    /// are ready: they are dropped on a thread of the loader's, those that are being polled by who
    /// polls them, and are then ready with [`CallError::Cancelled`](crate::CallError::Cancelled). So are
    /// the wakers of the plugin's own that futures of the host's keep, which wake nobody afterwards.
    /// There is no way back for them, whatever becomes of the unload.
    pub fn cancel_tasks(mut self) -> Self {
        self.cancels = true;
        self
    }

    /// Lets a future that is awaited give up after `deadline`: the plugin is then Live again and
    /// the error lists all holders. To be given before the first poll.
    pub fn until(mut self, deadline: Deadline) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts the thread that waits, once.
    fn start(&mut self) {
        if mem::replace(&mut self.is_polled, true) {
            return;
        }
        let (shared, deadline, cancels) = (Arc::clone(&self.shared), self.deadline, self.cancels);
        let run = move || {
            if catch_unwind(AssertUnwindSafe(|| shared.run(deadline, cancels))).is_err() {
                let message = "the thread that waited for its users panicked";
                shared.settle(Err(shared.named(Error::new(ErrorKind::Thread, message))));
            }
        };
        let started = thread::Builder::new().name("plug-unload".into()).spawn(run);
        if let Err(error) = started {
            let message = "no thread to wait for its users on";
            let error = Error::new(ErrorKind::Thread, message).because(error);
            self.shared.retreat(self.shared.named(error));
        }
    }
}

/// As [`Departure::wait`]; polled again when it was ready, it is ready with the same again.
impl Future for Departure {
    type Output = Result<Unloaded, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match calls::must_be_outside("awaiting an unload") {
            Ok(()) => this.start(),
            // Whatever blocks on this task may be what the plugin waits for.
            Err(error) => _ = this.shared.retreat(error),
        }
        this.shared.poll(context.waker())
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.shared.cancel();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn named(&self, error: Error) -> Error {
        error.at(Stage::Drain).plugin(&self.record.name)
    }

    fn holders(&self) -> Vec<Holder> {
        if !matches!(self.lock().progress, Progress::Going(..)) {
            return Vec::new();
        }
        let (process, waited) = (self.process, self.began.elapsed());
        process
            .presence
            .holders(&process.workers, &self.record, waited)
    }

    /// Waits for its users and unloads it; from inside a plugin nobody gets here.
    fn run(&self, deadline: Deadline, cancels: bool) {
        let name = &*self.record.name;
        let span = tracing::info_span!(target: "plug::unload", "unload", plugin = name);
        let _entered = span.enter();
        if !self.call_in(cancels) {
            return;
        }
        if cancels && let Err(error) = task::cancel_all(&self.record, deadline) {
            self.retreat(self.named(error));
            return;
        }
        let wanted = || matches!(self.lock().progress, Progress::Going(..));
        // Whoever is inside of one without a way back is waited for as long as it takes.
        let patience = match self.has_way_back {
            true => deadline,
            false => Deadline::after(Duration::MAX),
        };
        let workers = match unload::drain(self.process, &self.record, patience, wanted) {
            Ok(workers) => workers,
            Err(why) => {
                match why {
                    Undrained::Unwanted => {}
                    Undrained::Barrier(error) => _ = self.retreat(self.named(error)),
                    Undrained::Held(holders) => _ = self.retreat(self.in_use(holders)),
                }
                return;
            }
        };
        let Some((leaving, mut stages)) = self.take(Progress::Committed) else {
            return;
        };
        stages.end(Stage::Drain);
        let unloaded = unload::leave(self.process, leaving, workers, deadline, stages);
        match &unloaded {
            Unloaded::Gone(report) => {
                let (generation, stages) = (report.generation, &report.stages);
                tracing::info!(target: "plug::unload", generation, ?stages, "unloaded");
            }
            Unloaded::Zombie(left) | Unloaded::Pinned(left) => {
                let (generation, reasons) = (left.generation, &left.reasons);
                tracing::warn!(target: "plug::unload", generation, ?reasons, "closed but still mapped");
            }
        }
        self.settle(Ok(unloaded));
    }

    /// Tells the plugin's threads to stop, and whether tasks are given up from now on; false where
    /// it does not leave any more. Under the lock, so that it comes before whatever takes it back.
    fn call_in(&self, cancels: bool) -> bool {
        let inner = self.lock();
        let is_going = matches!(inner.progress, Progress::Going(..));
        if is_going {
            self.record.context.threads().stop();
            self.record.context.roll().set_cancelling(cancels);
        }
        is_going
    }

    /// The refusal, with the names of threads that are inside without being workers.
    fn in_use(&self, mut holders: Vec<Holder>) -> Error {
        stall::name_callers(&mut holders, &self.record);
        let own = sys::task::remembered_id();
        let mut pins = holders
            .iter()
            .filter(|holder| holder.kind == HolderKind::Pins);
        // Whether this thread still has them is not known: pins may be given away.
        let message = if !self.has_way_back {
            "still in use when the deadline passed; it leaves when nobody is inside any more"
        } else if pins.any(|holder| holder.tid == own) {
            "still in use when the deadline passed, also by pins that this thread took; it is Live again"
        } else {
            "still in use when the deadline passed; it is Live again"
        };
        self.named(Error::new(ErrorKind::Deadline, message).holders(holders))
    }

    /// Takes the plugin out, and there is no way back; none if somebody did before.
    fn take(&self, next: Progress) -> Option<(Leaving, Stages)> {
        let mut inner = self.lock();
        if !matches!(inner.progress, Progress::Going(..)) {
            return None;
        }
        match mem::replace(&mut inner.progress, next) {
            Progress::Going(leaving, stages) => Some((leaving, stages)),
            Progress::Committed | Progress::Settled(_) => None,
        }
    }

    /// Goes back to Live because of `error`, if there still is a way back.
    fn retreat(&self, error: Error) -> bool {
        // Nobody hears of the end before the plugin is Live.
        let Some((leaving, _)) = self.take(Progress::Committed) else {
            return false;
        };
        let plugin = &*self.record.name;
        tracing::warn!(target: "plug::unload", plugin, %error, "not unloaded");
        if !self.has_way_back {
            let given_up = unload::give_up(self.process, leaving, &error.to_string());
            self.settle(Ok(given_up));
            return true;
        }
        unload::put_back(self.process, leaving, &error.to_string());
        self.settle(Err(error));
        true
    }

    /// Goes back to Live because nobody wants the end any more, if there still is a way back.
    fn cancel(&self) -> bool {
        if !self.has_way_back {
            return false;
        }
        // Whoever could ask how it ended is the one who cancels.
        let Some((leaving, _)) = self.take(Progress::Committed) else {
            return false;
        };
        let (plugin, why) = (&*self.record.name, "the unload was cancelled");
        tracing::info!(target: "plug::unload", plugin, why);
        unload::put_back(self.process, leaving, why);
        true
    }

    /// Notes the end and wakes whoever waits for it.
    fn settle(&self, end: Result<Unloaded, Error>) {
        let mut inner = self.lock();
        inner.progress = Progress::Settled(end);
        let waker = inner.waker.take();
        drop(inner);
        self.settled.notify_all();
        // Without the lock: it is somebody else's code.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for the end; goes back to Live at the deadline if there still is a way back.
    fn wait(&self, deadline: Deadline) -> Result<Unloaded, Error> {
        let mut inner = self.lock();
        loop {
            match &inner.progress {
                Progress::Settled(end) => return end.clone(),
                Progress::Going(..) if deadline.has_passed() => {
                    drop(inner);
                    if !self.has_way_back {
                        return Err(self.in_use(self.holders()));
                    }
                    self.retreat(self.in_use(self.holders()));
                    inner = self.lock();
                }
                Progress::Going(..) => {
                    inner = self
                        .settled
                        .wait_timeout(inner, deadline.remaining())
                        .map_or_else(|poison| poison.into_inner().0, |(inner, _)| inner);
                }
                // Bounded by what `exit` and readers are given.
                Progress::Committed => {
                    inner = self
                        .settled
                        .wait(inner)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn poll(&self, waker: &Waker) -> Poll<Result<Unloaded, Error>> {
        // Cloned without the lock: it is somebody else's code, as is what it replaces.
        let waker = waker.clone();
        let mut inner = self.lock();
        if let Progress::Settled(end) = &inner.progress {
            return Poll::Ready(end.clone());
        }
        let replaced = inner.waker.replace(waker);
        drop(inner);
        drop(replaced);
        Poll::Pending
    }
}
