//! A host on tokio: it lends its timer to a plugin, has a thousand tasks of that in flight, and
//! unloads it in the middle.

use std::env;
use std::error::Error;
use std::time::Duration;

use plug_api::Task;
use plug_loader::{CallError, Config, Deadline, Loader, Params, Policy, Source, Trust, lend};
use tokio::runtime::Builder;

plug_api::interface! {
    /// The timer that plugins await, since they cannot reach this host's runtime.
    struct TimerV1("example.timer", 1, 0) {
        /// Ready after so many milliseconds, with their number.
        sleep: extern "C" fn(milliseconds: u64) -> Task<u64>,
    }
}

static TIMER: TimerV1 = TimerV1 { sleep };

/// The future is polled where the plugin's task is: on a thread of this host's runtime.
extern "C" fn sleep(milliseconds: u64) -> Task<u64> {
    lend(async move {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        milliseconds
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let file = env::args().nth(1).ok_or("usage: async-host PLUGIN")?;
    let runtime = Builder::new_multi_thread().enable_time().build()?;
    // SAFETY: whoever runs this vouches for the file and for the signature of `sleep_often`.
    let trust = unsafe { Trust::new(Policy::default()) };
    let loader = Loader::new(Config::default())?;
    loader.offer(&TIMER);
    let plugin = loader.load(&trust, Source::path(file), &Params::new())?;
    let sleep_often =
        plugin.function::<unsafe extern "C" fn(u64, u64) -> Task<u64>>("sleep_often")?;
    runtime.block_on(async {
        let spawn = |times, milliseconds| {
            // SAFETY: as above; the output is a number.
            let task = unsafe { plugin.task(&sleep_often, (times, milliseconds)) }?;
            Ok::<_, CallError>(tokio::spawn(task))
        };
        let short: Vec<_> = (0..100).map(|_| spawn(3, 2)).collect::<Result<_, _>>()?;
        let long: Vec<_> = (0..900)
            .map(|_| spawn(1, 3_600_000))
            .collect::<Result<_, _>>()?;
        let mut slept = 0;
        for task in short {
            slept += task.await??;
        }
        println!("100 tasks slept {slept} ms");

        let departure = loader.begin_unload(plugin.name())?.cancel_tasks();
        let verdict = departure
            .until(Deadline::after(Duration::from_secs(5)))
            .await?;
        let mut cancelled = 0;
        for task in long {
            cancelled += u32::from(task.await? == Err(CallError::Cancelled));
        }
        println!("{cancelled} tasks were cancelled; {verdict}");
        Ok(())
    })
}
