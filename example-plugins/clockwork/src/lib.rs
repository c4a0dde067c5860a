//! Tasks that await a timer of the host's, and a thread that ticks until it is told to stop.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plug_api::{Context, Task};

plug_api::plugin! {
    name: "clockwork",
    version: env!("CARGO_PKG_VERSION"),
    description: "tasks that await the host's timer",
    license: "MIT OR Apache-2.0",
    init: init,
    exit: || (),
}

plug_api::interface! {
    /// The host's timer.
    #[derive(Clone, Copy, Debug)]
    pub struct TimerV1("example.timer", 1, 0) {
        /// Ready after so many milliseconds, with their number.
        pub sleep: extern "C" fn(milliseconds: u64) -> Task<u64>,
    }
}

static TIMER: OnceLock<TimerV1> = OnceLock::new();

/// Ticks so far. Added to by the thread, read by whoever asks (Relaxed: a number).
static TICKS: AtomicU64 = AtomicU64::new(0);

fn init(ctx: &Context) -> plug_api::Result {
    let timer = ctx.service::<TimerV1>().ok_or("the host has no timer")?;
    TIMER.get_or_init(|| *timer);
    ctx.spawn("clockwork", |ctx| {
        while !ctx.sleep(Duration::from_millis(1)) {
            TICKS.fetch_add(1, Ordering::Relaxed);
        }
    })
}

plug_api::export! {
    /// Adds up so many sleeps of so many milliseconds.
    pub fn sleep_often(times: u64, milliseconds: u64) -> Task<u64> {
        Task::fallible(async move {
            let timer = TIMER.get().ok_or("not initialised")?;
            let mut slept = 0;
            for _ in 0..times {
                slept += (timer.sleep)(milliseconds).await?;
            }
            Ok(slept)
        })
    }

    /// Ticks of the thread.
    pub fn ticks() -> u64 {
        TICKS.load(Ordering::Relaxed)
    }
}
