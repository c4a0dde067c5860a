//! A plugin for tests that starts the runtimes real plugins bring along; one number each.

use std::io;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;
use std::time::Duration;

use rayon::ThreadPool;
use tokio::runtime;

plug_api::plugin! {
    name: "frameworks", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_| Ok(()), exit: || (),
}

fn tokio_runtime() -> bool {
    let mut builder = runtime::Builder::new_multi_thread();
    let Ok(runtime) = builder.worker_threads(2).enable_time().build() else {
        return false;
    };
    runtime.block_on(async {
        let (send, receive) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            send.send(1)
        });
        let blocking = tokio::task::spawn_blocking(|| 1).await;
        task.await.is_ok() && receive.await.is_ok() && blocking.is_ok()
    })
}

fn rayon_pool() -> Option<ThreadPool> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(2);
    let pool = builder.thread_name(|_| "pool".to_owned()).build().ok()?;
    (pool.join(|| 1, || 2) == (1, 2)).then_some(pool)
}

fn tracing_subscriber() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let installed = *INSTALLED.get_or_init(|| {
        let subscriber = tracing_subscriber::fmt().with_writer(io::stderr).finish();
        tracing::subscriber::set_global_default(subscriber).is_ok()
    });
    let _inside = tracing::info_span!("acting").entered();
    tracing::info!("a plugin logs");
    installed
}

plug_api::export! {
    /// Does what `what` stands for; 1 where it worked.
    pub fn act(what: u32) -> u32 {
        match what {
            0 => u32::from(tokio_runtime()),
            1 => u32::from(rayon_pool().map(ManuallyDrop::new).is_some()),
            2 => u32::from(rayon_pool().is_some()),
            3 => u32::from(tracing_subscriber()),
            _ => 0,
        }
    }
}
