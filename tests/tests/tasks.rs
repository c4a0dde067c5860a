//! Tasks of plugins under executors of the host's: in flight while their plugin leaves, cancelled,
//! waited for, forgotten, and wakers that outlive everything.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use plug_api::Task;
use plug_api::abi::Interface;
use plug_loader::{
    CallError, Deadline, ErrorKind, HolderKind, Loader, Plugin, PluginFn, PluginTask, Unloaded,
    lend,
};
use plug_tests::host::{Host, seconds};
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, rust_plugin};
use plug_tests::{isolated, process};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

const RUST: &str = r#"
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use plug_api::Task;

plug_api::plugin! {
    name: "tasks-rust", version: "1.0.0", description: "makes tasks", license: "MIT",
    init: |ctx| { HOST.set(*ctx.service::<HostV1>().ok_or("no host")?).map_err(|_| "twice".into()) },
    exit: || (),
}

plug_api::interface! {
    /// What the host lends.
    #[derive(Clone, Copy)]
    pub struct HostV1("test.host", 1, 0) {
        /// Ready after so many milliseconds.
        pub sleep: extern "C" fn(u64) -> Task<u64>,
        /// Ready when the gate is open.
        pub open: extern "C" fn() -> Task<u64>,
        /// Unloads the plugin.
        pub unload: extern "C" fn() -> u64,
    }
}

static HOST: std::sync::OnceLock<HostV1> = std::sync::OnceLock::new();
static LIVE: AtomicU64 = AtomicU64::new(0);

fn host() -> &'static HostV1 { HOST.get().expect("set by init") }

/// Counts how many of it there are.
struct Counted;
impl Counted { fn new() -> Self { LIVE.fetch_add(1, Ordering::SeqCst); Counted } }
impl Drop for Counted { fn drop(&mut self) { LIVE.fetch_sub(1, Ordering::SeqCst); } }

/// A waker of the plugin's making, as executors and combinators make them.
struct Flag { woken: AtomicBool, outer: Mutex<Option<Waker>>, _counted: Counted }
impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        let outer = self.outer.lock().unwrap().clone();
        if let Some(outer) = outer { outer.wake(); }
    }
}

/// Polls its futures only when their own wakers were woken, as FuturesUnordered does.
struct Join { parts: Vec<(Pin<Box<dyn Future<Output = u64> + Send>>, Arc<Flag>, bool)>, sum: u64 }
impl Join {
    fn new(parts: Vec<Pin<Box<dyn Future<Output = u64> + Send>>>) -> Self {
        let flag = || Arc::new(Flag { woken: AtomicBool::new(true), outer: Mutex::new(None), _counted: Counted::new() });
        Join { parts: parts.into_iter().map(|part| (part, flag(), false)).collect(), sum: 0 }
    }
}
impl Future for Join {
    type Output = u64;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        let mut sum = 0;
        for (part, flag, done) in &mut self.parts {
            if *done { continue; }
            *flag.outer.lock().unwrap() = Some(cx.waker().clone());
            if !flag.woken.swap(false, Ordering::SeqCst) { continue; }
            let waker = Waker::from(Arc::clone(flag));
            if let Poll::Ready(n) = part.as_mut().poll(&mut Context::from_waker(&waker)) { *done = true; sum += n; }
        }
        self.sum += sum;
        if self.parts.iter().all(|(.., done)| *done) { Poll::Ready(self.sum) } else { Poll::Pending }
    }
}

/// Ready when a thread of the plugin's has stored something.
struct Handed(Arc<Mutex<(Option<u64>, Option<Waker>)>>);
impl Future for Handed {
    type Output = u64;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        let mut inner = self.0.lock().unwrap();
        match inner.0.take() {
            Some(n) => Poll::Ready(n),
            None => { inner.1 = Some(cx.waker().clone()); Poll::Pending }
        }
    }
}

/// Wakes itself so often.
struct Yields(u64);
impl Future for Yields {
    type Output = u64;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        if self.0 == 0 { return Poll::Ready(1); }
        self.0 -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

async fn open() -> u64 { (host().open)().await.expect("lent") }

plug_api::export! {
    pub fn n_live() -> u64 { LIVE.load(Ordering::SeqCst) }
    pub fn make(what: u64) -> Task<u64> {
        let counted = Counted::new();
        match what {
            // Ready soon.
            0 => Task::new(async move { let _counted = counted; Yields(3).await + 1 }),
            // Ready when the host opens its gate, by a waker of the host's.
            1 => Task::new(async move { let _counted = counted; open().await }),
            // The same by wakers of the plugin's.
            2 => Task::new(async move {
                let _counted = counted;
                Join::new(vec![Box::pin(open()), Box::pin(async { (host().sleep)(1).await.expect("lent") })]).await
            }),
            // By a thread of the plugin's.
            3 => {
                let shared = Arc::new(Mutex::new((None, None::<Waker>)));
                let handed = Handed(Arc::clone(&shared));
                plug_api::with_context(|ctx| ctx.spawn("hands-over", move |ctx| {
                    ctx.sleep(Duration::from_millis(5));
                    let mut inner = shared.lock().unwrap();
                    inner.0 = Some(7);
                    if let Some(waker) = inner.1.take() { drop(inner); waker.wake(); }
                })).expect("context").expect("started");
                Task::new(async move { let _counted = counted; handed.await })
            }
            4 => Task::new(async move { let _counted = counted; Yields(1).await; panic!("a task panics") }),
            5 => Task::fallible(async move { let _counted = counted; Yields(1).await; Err("a task fails".into()) }),
            // Never.
            6 => Task::new(async move { let _counted = counted; std::future::pending().await }),
            7 => Task::new(async move { let _counted = counted; (host().unload)() }),
            // A long timer of the host's, by a waker of the plugin's.
            8 => Task::new(async move {
                let _counted = counted;
                Join::new(vec![Box::pin(async { (host().sleep)(150).await.unwrap_or(0) })]).await
            }),
            _ => panic!("no such task"),
        }
    }
}
"#;

const C: &str = r#"
#include "plugin_api.h"
#include <stdlib.h>

struct adding { int step; uint64_t a, b; plug_waker kept; };
static uint64_t live;

static int32_t adding_poll(void *state, const plug_waker *waker, void *output) {
    struct adding *adding = (struct adding *)state;
    switch (adding->step++) {
    case 0: /* Keeps a waker, as a thread of its own would. */
        adding->kept = plug_waker_clone(waker);
        plug_waker_wake_by_ref(waker);
        return PLUG_TASK_PENDING;
    case 1:
        plug_waker_wake(adding->kept);
        adding->kept.vtable = NULL;
        return PLUG_TASK_PENDING;
    }
    if (adding->b == 0) {
        plug_raise(plug_context(), "nothing to add");
        return PLUG_TASK_FAILED;
    }
    *(uint64_t *)output = adding->a + adding->b;
    return PLUG_TASK_READY;
}

static void adding_drop(void *state) {
    struct adding *adding = (struct adding *)state;
    if (adding->kept.vtable != NULL) plug_waker_drop(adding->kept);
    __atomic_sub_fetch(&live, 1, __ATOMIC_SEQ_CST);
    free(adding);
}

PLUG_TASK(adding_task, uint64_t, adding_poll, adding_drop);

PLUG_EXPORT(plug_task, add, (uint64_t a, uint64_t b)) {
    struct adding *adding = (struct adding *)calloc(1, sizeof *adding);
    if (adding == NULL) return plug_task_none();
    adding->a = a;
    adding->b = b;
    __atomic_add_fetch(&live, 1, __ATOMIC_SEQ_CST);
    return plug_task_of(&adding_task, adding);
}
PLUG_EXPORT(plug_task, none, (void)) { return plug_task_none(); }
PLUG_EXPORT(uint64_t, n_live, (void)) { return live; }
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("tasks-c", "1.0.0", "makes tasks", "MIT", init, stop);
"#;

const CPP: &str = r#"
#include "plugin_api.h"
#include <atomic>
#include <memory>
#include <stdexcept>

static std::atomic<uint64_t> live{0};

class Adding {
public:
    Adding(uint64_t a, uint64_t b) : a_(a), b_(b) { live++; }
    ~Adding() { live--; }
    bool poll(const plug_waker &waker, uint64_t &output) {
        switch (step_++) {
        case 0: kept_ = plug::Waker(waker); kept_.wake(); return false;
        case 1: { plug::Waker copy = kept_; copy.wake(); return false; }
        }
        if (b_ == 0) throw std::runtime_error("nothing to add");
        output = a_ + b_;
        return true;
    }
private:
    uint64_t a_, b_;
    int step_ = 0;
    plug::Waker kept_;
};

PLUG_EXPORT(plug_task, add, (uint64_t a, uint64_t b)) {
    return plug::guard(plug_context(), plug_task_none(), [&] {
        return plug::task<uint64_t>(std::unique_ptr<Adding>(new Adding(a, b)));
    });
}
PLUG_EXPORT(uint64_t, n_live, (void)) { return live; }
static int32_t init(const plug_host_context *) { return PLUG_OK; }
static void stop() {}
PLUG_PLUGIN("tasks-cpp", "1.0.0", "makes tasks", "MIT", init, stop);
"#;

type Make = unsafe extern "C" fn(u64) -> Task<u64>;
type Add = unsafe extern "C" fn(u64, u64) -> Task<u64>;
type Number = unsafe extern "C" fn() -> u64;

/// What the host lends to the plugin.
#[repr(C)]
struct HostV1 {
    sleep: extern "C" fn(u64) -> Task<u64>,
    open: extern "C" fn() -> Task<u64>,
    unload: extern "C" fn() -> u64,
}

// SAFETY: repr(C), one version.
unsafe impl Interface for HostV1 {
    const NAME: &'static str = "test.host";
    const MAJOR: u32 = 1;
    const MINOR: u32 = 0;
}

/// The runtime that the host's own futures belong to.
static HANDLE: Mutex<Option<Handle>> = Mutex::new(None);

/// Whether the gate that tasks wait for is open.
static GATE: OnceLock<watch::Sender<bool>> = OnceLock::new();

static LOADER: OnceLock<Loader> = OnceLock::new();

fn gate() -> &'static watch::Sender<bool> {
    GATE.get_or_init(|| watch::Sender::new(false))
}

extern "C" fn sleep(milliseconds: u64) -> Task<u64> {
    let handle = HANDLE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let handle = handle.expect("a runtime");
    let entered = handle.enter();
    let sleep = tokio::time::sleep(Duration::from_millis(milliseconds));
    drop(entered);
    lend(async move {
        sleep.await;
        1
    })
}

extern "C" fn open() -> Task<u64> {
    let mut receiver = gate().subscribe();
    lend(async move {
        receiver
            .wait_for(|is_open| *is_open)
            .await
            .map_or(0, |_| 10)
    })
}

extern "C" fn unload() -> u64 {
    let loader = LOADER.get().expect("set");
    let error = loader
        .unload("tasks-rust", seconds(5))
        .expect_err("from inside");
    assert_eq!(error.kind(), ErrorKind::SelfDeadlock, "{error}");
    assert!(error.to_string().contains("tasks-rust"), "{error}");
    77
}

static HOST: HostV1 = HostV1 {
    sleep,
    open,
    unload,
};

/// A host with the Rust plugin, and a runtime.
struct Stage {
    host: Host,
    runtime: Option<Runtime>,
    plugin: Plugin,
    make: PluginFn<Make>,
    _scratch: Scratch,
}

/// The line of this file that makes tasks.
static MADE_AT: AtomicU32 = AtomicU32::new(0);

impl Stage {
    fn new() -> Self {
        let host = Host::new();
        LOADER.get_or_init(|| host.loader.clone());
        host.loader.offer(&HOST);
        let scratch = Scratch::new("tasks");
        let path = rust_plugin(&scratch, "tasks-rust", RUST);
        let plugin = host.load(path).expect("loads");
        let make = plugin.function("make").expect("exported");
        let runtime = Builder::new_multi_thread()
            .worker_threads(3)
            .enable_time()
            .build()
            .expect("threads");
        *HANDLE.lock().expect("no panic") = Some(runtime.handle().clone());
        Self {
            host,
            runtime: Some(runtime),
            plugin,
            make,
            _scratch: scratch,
        }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("not shut down")
    }

    fn task(&self, what: u64) -> PluginTask<u64> {
        MADE_AT.store(line!() + 2, Ordering::SeqCst);
        // SAFETY: the signature is the plugin's.
        unsafe { self.plugin.task(&self.make, (what,)) }.expect("live")
    }

    fn n_live(&self) -> u64 {
        number(&self.plugin, "n_live")
    }

    /// So many tasks of that kind, polled by the runtime.
    fn spawn(&self, n: usize, what: u64) -> Vec<tokio::task::JoinHandle<Result<u64, CallError>>> {
        let spawned = (0..n).map(|_| self.runtime().spawn(self.task(what)));
        spawned.collect()
    }

    /// Waits for what became of spawned tasks.
    fn outputs(
        &self,
        spawned: Vec<tokio::task::JoinHandle<Result<u64, CallError>>>,
    ) -> Vec<Result<u64, CallError>> {
        let all = async {
            let mut outputs = Vec::new();
            for task in spawned {
                outputs.push(task.await.expect("neither panicked nor aborted"));
            }
            outputs
        };
        let timeout = Duration::from_secs(60);
        self.runtime()
            .block_on(async { tokio::time::timeout(timeout, all).await })
            .expect("no lost wake-up")
    }
}

fn number(plugin: &Plugin, name: &str) -> u64 {
    let number = plugin.function::<Number>(name).expect("exported");
    // SAFETY: the signature is the plugin's.
    unsafe { number.call(()) }.expect("live")
}

fn is_gone(unloaded: Result<Unloaded, plug_loader::Error>) {
    match unloaded {
        Ok(Unloaded::Gone(_)) => {}
        other => panic!("{other:?}"),
    }
    assert!(
        !process::objects()
            .iter()
            .any(|name| name.contains("plug-tasks"))
    );
}

/// Counts its wakes, and how many wakers of it there are.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls until it is ready, as long as each poll wakes.
fn run<T>(mut task: Pin<&mut PluginTask<T>>, count: &Arc<Count>) -> Result<T, CallError>
where
    T: plug_api::Value,
{
    let waker = Waker::from(Arc::clone(count));
    let mut context = Context::from_waker(&waker);
    loop {
        let before = count.0.load(Ordering::SeqCst);
        if let Poll::Ready(output) = task.as_mut().poll(&mut context) {
            return output;
        }
        assert!(count.0.load(Ordering::SeqCst) > before, "a lost wake-up");
    }
}

#[test]
fn three_languages_make_tasks_and_every_waker_is_given_back() {
    isolated!({
        let stage = Stage::new();
        let scratch = Scratch::new("tasks");
        let c = c_plugin(&scratch, "tasks-c", C);
        let c = stage.host.load(c).expect("loads");
        let cpp = cpp_plugin(&scratch, "tasks-cpp", CPP);
        let cpp = stage.host.load(cpp).expect("loads");
        let count = Arc::new(Count::default());
        for plugin in [&c, &cpp] {
            let add = plugin.function::<Add>("add").expect("exported");
            // SAFETY: the signature is the plugin's, as for those below.
            let task = || |a, b| unsafe { plugin.task(&add, (a, b)) }.expect("live");
            assert_eq!(run(pin!(task()(2, 3)), &count), Ok(5));
            let error = run(pin!(task()(2, 0)), &count).expect_err("fails");
            assert_eq!(error, CallError::Raised("nothing to add".into()));
            // Dropped half-way, with a waker kept.
            let mut half = task()(1, 1);
            let waker = Waker::from(Arc::clone(&count));
            let polled = Pin::new(&mut half).poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            drop((half, waker));
            assert_eq!(number(plugin, "n_live"), 0);
            assert_eq!(Arc::strong_count(&count), 1, "{}", plugin.name());
        }
        assert_eq!(run(pin!(stage.task(0)), &count), Ok(2));
        for (what, message) in [(4, "panicked: a task panics"), (5, "a task fails")] {
            let error = run(pin!(stage.task(what)), &count).expect_err("fails");
            assert_eq!(error, CallError::Raised(message.into()));
        }
        assert_eq!(block_on(stage.task(3)), Ok(7));
        // SAFETY: the signature is the plugin's.
        let made = unsafe { stage.plugin.task(&stage.make, (99,)) };
        let raised = CallError::Raised("panicked: no such task".into());
        assert_eq!(made.expect_err("panics"), raised);
        assert_eq!((stage.n_live(), Arc::strong_count(&count)), (0, 1));
        // What is not a task of the plugin's is refused.
        let none = c
            .function::<unsafe extern "C" fn() -> Task<u64>>("none")
            .expect("exported");
        // SAFETY: the signature is the plugin's.
        let refused = unsafe { c.task(&none, ()) }.expect_err("empty");
        assert_eq!(refused, CallError::NoTask("it is empty"));
        let short = c
            .function::<unsafe extern "C" fn(u64, u64) -> Task<u32>>("add")
            .expect("exported");
        // SAFETY: the output's size is wrong, and compared before anything is written.
        let refused = unsafe { c.task(&short, (1, 1)) }.expect_err("another size");
        assert_eq!(refused, CallError::NoTask("its output has another size"));
        // SAFETY: nothing of the plugin's, which is found out.
        let refused =
            unsafe { PluginTask::new(c.pin().expect("live"), Task::new(async { 1_u64 })) };
        let why = CallError::NoTask("its functions are not the plugin's");
        assert_eq!(refused.expect_err("the host's"), why);
        for name in ["tasks-c", "tasks-cpp", "tasks-rust"] {
            stage.host.unload(name);
        }
    });
}

#[test]
fn ten_thousand_in_flight_are_named_and_waited_for() {
    isolated!({
        let stage = Stage::new();
        let tasks = [stage.spawn(5000, 1), stage.spawn(5000, 2)];
        while stage.n_live() < 20_000 {
            thread::yield_now();
        }
        let soon = Deadline::after(Duration::from_millis(20));
        let error = stage
            .host
            .loader
            .unload("tasks-rust", soon)
            .expect_err("held");
        assert_eq!(error.kind(), ErrorKind::Deadline);
        let of_kind = |kind| {
            let holders = error.blockers().iter().filter(move |h| h.kind == kind);
            holders.map(|holder| (holder.count, holder.place.map(|place| place.line())))
        };
        let tasks_held: Vec<_> = of_kind(HolderKind::Tasks).collect();
        assert_eq!(
            tasks_held,
            [(10_000, Some(MADE_AT.load(Ordering::SeqCst)))],
            "{error}"
        );
        // A waker of the plugin's for each of those that made their own, in the gate's list.
        let wakers: u64 = of_kind(HolderKind::Wakers).map(|(count, _)| count).sum();
        assert!(wakers >= 5000, "{error}");
        assert!(
            error.to_string().contains("10000 tasks in flight, made at"),
            "{error}"
        );
        // It is awaited by a task of the runtime that runs the others.
        let departure = stage.host.loader.begin_unload("tasks-rust").expect("live");
        let unloaded = stage.runtime().spawn(departure.until(seconds(60)));
        thread::sleep(Duration::from_millis(20));
        assert!(!unloaded.is_finished());
        gate().send_replace(true);
        let [first, second] = tasks.map(|tasks| stage.outputs(tasks));
        assert!(first.iter().all(|output| *output == Ok(10)));
        assert!(second.iter().all(|output| *output == Ok(11)));
        is_gone(block_on(unloaded).expect("no panic"));
    });
}

#[test]
fn ten_thousand_in_flight_are_cancelled() {
    isolated!({
        let stage = Stage::new();
        let tasks: Vec<_> = [(2500, 1), (2500, 2), (2500, 6), (2500, 8)]
            .into_iter()
            .flat_map(|(n, what)| stage.spawn(n, what))
            .collect();
        // Some are busy with themselves, and cancelled by who polls them.
        let waker_of = |task: &mut PluginTask<u64>| {
            let polled = Pin::new(task).poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
        };
        // One that nobody polls any more, and one that is forgotten.
        let (mut kept, mut forgotten) = (stage.task(2), mem::ManuallyDrop::new(stage.task(2)));
        waker_of(&mut kept);
        waker_of(&mut forgotten);
        let departure = stage.host.loader.begin_unload("tasks-rust").expect("live");
        is_gone(departure.cancel_tasks().wait(seconds(60)));
        let outputs = stage.outputs(tasks);
        assert_eq!(outputs.len(), 10_000);
        assert!(
            outputs
                .iter()
                .all(|output| *output == Err(CallError::Cancelled))
        );
        assert_eq!(block_on(kept), Err(CallError::Cancelled));
        // Wakers that timers and the channel still have wake nobody.
        gate().send_replace(true);
        thread::sleep(Duration::from_millis(200));
    });
}

#[test]
fn a_runtime_that_is_shut_down_first_leaves_nothing_behind() {
    isolated!({
        let mut stage = Stage::new();
        let tasks = [
            stage.spawn(1000, 1),
            stage.spawn(1000, 2),
            stage.spawn(1000, 8),
        ];
        drop(stage.runtime.take());
        assert_eq!(stage.n_live(), 0);
        is_gone(stage.host.loader.unload("tasks-rust", seconds(10)));
        drop(tasks);
    });
}

#[test]
fn an_unload_from_a_task_is_told_that_it_waits_for_itself() {
    isolated!({
        let stage = Stage::new();
        let tasks = stage.spawn(1, 7);
        assert_eq!(stage.outputs(tasks), [Ok(77)]);
        // One that awaits the departure and owns a task is what it waits for.
        let own = stage.task(6);
        let departure = stage.host.loader.begin_unload("tasks-rust").expect("live");
        let soon = Deadline::after(Duration::from_millis(50));
        let error = stage.runtime().block_on(departure.until(soon));
        let error = error.expect_err("its own task");
        assert!(error.to_string().contains("1 task in flight"), "{error}");
        drop(own);
        is_gone(stage.host.loader.unload("tasks-rust", seconds(10)));
    });
}

#[test]
fn wakers_may_be_called_at_any_time_on_any_thread() {
    isolated!({
        static KEPT: Mutex<Vec<Waker>> = Mutex::new(Vec::new());
        static OPEN: AtomicBool = AtomicBool::new(false);
        /// A host's future that keeps every waker for ever.
        extern "C" fn keeps() -> Task<u64> {
            lend(poll_fn(|context| {
                KEPT.lock().expect("no panic").push(context.waker().clone());
                if OPEN.load(Ordering::SeqCst) {
                    return Poll::Ready(1);
                }
                Poll::Pending
            }))
        }
        static KEEPER: HostV1 = HostV1 {
            sleep,
            open: keeps,
            unload,
        };
        let host = Host::new();
        host.loader.offer(&KEEPER);
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build();
        let runtime = runtime.expect("threads");
        *HANDLE.lock().expect("no panic") = Some(runtime.handle().clone());
        let scratch = Scratch::new("tasks");
        let path = rust_plugin(&scratch, "tasks-rust", RUST);
        let plugin = host.load(path).expect("loads");
        let make = plugin.function::<Make>("make").expect("exported");
        // SAFETY: the signature is the plugin's.
        let task = |what| unsafe { plugin.task(&make, (what,)) }.expect("live");
        let (stop, count) = (AtomicBool::new(false), Arc::new(Count::default()));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut n = 0;
                    while !stop.load(Ordering::SeqCst) {
                        let kept = KEPT.lock().expect("no panic");
                        let waker = kept.get(n % kept.len().max(1)).cloned();
                        drop(kept);
                        if let Some(waker) = waker {
                            waker.wake();
                        }
                        n += 1;
                    }
                });
            }
            let waker = Waker::from(Arc::clone(&count));
            for round in 0..300 {
                let mut tasks = [task(1), task(2)];
                for task in &mut tasks {
                    let polled = Pin::new(task).poll(&mut Context::from_waker(&waker));
                    assert!(polled.is_pending(), "{round}");
                }
            }
            // Tasks are gone; the plugin's own wakers, which the host keeps, hold it and are named.
            // The threads that wake may be inside just now.
            let mut holders = host.loader.holders(&plugin);
            holders.retain(|holder| holder.kind != HolderKind::UnregisteredCalls);
            assert!(
                !holders.is_empty() && holders.iter().all(|h| h.kind == HolderKind::Wakers),
                "{holders:?}"
            );
            let soon = Deadline::after(Duration::from_millis(20));
            let error = host.loader.unload("tasks-rust", soon).expect_err("held");
            assert!(
                error
                    .to_string()
                    .contains("wakers of its own held by the host"),
                "{error}"
            );
            let departure = host.loader.begin_unload("tasks-rust").expect("live");
            is_gone(departure.cancel_tasks().wait(seconds(60)));
            // Woken by the others meanwhile, and afterwards.
            thread::sleep(Duration::from_millis(50));
            stop.store(true, Ordering::SeqCst);
        });
        let kept = mem::take(&mut *KEPT.lock().expect("no panic"));
        assert!(kept.len() >= 600, "{}", kept.len());
        kept.iter().for_each(Waker::wake_by_ref);
        assert!(Arc::strong_count(&count) > 1);
        drop(kept);
        assert_eq!(Arc::strong_count(&count), 1);
        OPEN.store(true, Ordering::SeqCst);
    });
}

#[test]
fn tasks_that_are_made_polled_and_dropped_by_all_survive_unloads_without_end() {
    isolated!({
        let stage = Stage::new();
        let path = stage
            ._scratch
            .path()
            .join("tasks-rust/target/debug/libtasks_rust.so");
        let rounds = 25;
        for round in 0..rounds {
            let loader = &stage.host.loader;
            let plugin = loader.plugin("tasks-rust").expect("live");
            let make = plugin.function::<Make>("make").expect("exported");
            thread::scope(|scope| {
                for n in 0..4_u64 {
                    let (plugin, runtime) = (plugin.clone(), stage.runtime());
                    scope.spawn(move || {
                        let mut spawned = Vec::new();
                        for what in (0..)
                            .map(|i| [0, 1, 2, 6, 8][(i + usize::try_from(n).expect("few")) % 5])
                        {
                            // SAFETY: the signature is the plugin's.
                            match unsafe { plugin.task(&make, (what,)) } {
                                Ok(task) if what == 6 => drop(task),
                                Ok(task) => spawned.push(runtime.spawn(task)),
                                Err(error) => {
                                    assert_eq!(error, CallError::Gone);
                                    break;
                                }
                            }
                        }
                        for task in spawned {
                            let output = block_on(task).expect("no panic");
                            assert!(
                                matches!(output, Ok(1 | 2) | Err(CallError::Cancelled)),
                                "{output:?}"
                            );
                        }
                    });
                }
                thread::sleep(Duration::from_millis(round % 7));
                let departure = loader.begin_unload("tasks-rust").expect("live");
                is_gone(departure.cancel_tasks().wait(seconds(60)));
            });
            stage.host.load(&path).expect("loads again");
        }
        let began = Instant::now();
        stage.host.unload("tasks-rust");
        assert!(began.elapsed() < Duration::from_secs(5));
    });
}
