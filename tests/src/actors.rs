//! Threads that run a plugin's functions when told to, and live on afterwards: workers of a loader's
//! and foreign ones.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use plug_loader::{Loader, Plugin, Worker};

/// What a thread runs: the number tells what the plugin is to do; 1 says that it did.
pub type Act = unsafe extern "C" fn(u32) -> u32;

/// The function `name` of a plugin that stays Live while it is called.
pub fn address(plugin: &Plugin, name: &str) -> Act {
    let address = plugin.address_of(name).expect("exported");
    // SAFETY: the signature is the plugin's own.
    unsafe { std::mem::transmute::<usize, Act>(address) }
}

#[derive(Clone, Copy)]
enum Order {
    Act(Act, u32),
    /// Pass a quiescent point.
    Pass,
    End,
}

/// A thread that obeys.
#[derive(Debug)]
pub struct Actor {
    orders: Sender<Order>,
    heard: Receiver<u32>,
    thread: JoinHandle<()>,
    tid: u32,
}

impl Actor {
    /// A thread that the loader knows nothing of and that sleeps between acts.
    pub fn foreign() -> Self {
        Self::start("foreign", |orders, _| {
            while let Ok(order) = orders.receive.recv() {
                if !orders.obey(order) {
                    break;
                }
            }
        })
    }

    /// A worker that passes quiescent points all the time; without a loader a thread that is just as
    /// busy.
    pub fn busy(loader: Option<&Loader>) -> Self {
        let loader = loader.cloned();
        Self::start("busy", move |orders, _| {
            let worker = loader.map(|loader| loader.worker("busy").expect("worker"));
            loop {
                worker.iter().for_each(Worker::quiescent);
                match orders.receive.recv_timeout(Duration::from_millis(1)) {
                    Ok(order) if orders.obey(order) => {}
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        })
    }

    /// A worker that sleeps between acts, as it has told the loader, and may be woken.
    pub fn asleep(loader: Option<&Loader>) -> Self {
        let loader = loader.cloned();
        Self::start("sleeping", move |orders, waker| {
            let worker = loader.map(|loader| {
                let worker = loader.worker("sleeping").expect("worker");
                worker.waker(move || {
                    // The thread may have ended.
                    let _ = waker.send(Order::Pass);
                })
            });
            loop {
                let asleep = worker.as_ref().map(Worker::asleep);
                let order = orders.receive.recv();
                drop(asleep);
                worker.iter().for_each(Worker::quiescent);
                match order {
                    Ok(order) if orders.obey(order) => {}
                    _ => break,
                }
            }
        })
    }

    fn start(name: &str, life: impl FnOnce(&Orders, Sender<Order>) + Send + 'static) -> Self {
        let (send, receive) = mpsc::channel();
        let (tell, heard) = mpsc::channel();
        let waker = send.clone();
        let builder = thread::Builder::new().name(name.to_owned());
        let thread = builder.spawn(move || {
            // SAFETY: asks for a number.
            let tid = unsafe { libc::gettid() };
            tell.send(tid.unsigned_abs()).expect("heard");
            life(&Orders { receive, tell }, waker);
        });
        Self {
            tid: heard.recv().expect("begins"),
            orders: send,
            heard,
            thread: thread.expect("a thread"),
        }
    }

    /// Its thread id.
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// Has it run `act`, and waits for what that says.
    pub fn act(&self, act: Act, what: u32) -> u32 {
        self.orders.send(Order::Act(act, what)).expect("alive");
        let said = self.heard.recv_timeout(Duration::from_secs(20));
        said.expect("acts")
    }

    /// Ends it, and waits until it has ended.
    pub fn end(self) {
        self.orders.send(Order::End).expect("alive");
        self.thread.join().expect("the thread survives the plugin");
    }
}

struct Orders {
    receive: Receiver<Order>,
    tell: Sender<u32>,
}

impl Orders {
    /// Does what is asked for; whether to go on.
    fn obey(&self, order: Order) -> bool {
        match order {
            Order::Act(act, what) => {
                // SAFETY: sent while the plugin is Live and waited for.
                let said = unsafe { act(what) };
                self.tell.send(said).is_ok()
            }
            Order::Pass => true,
            Order::End => false,
        }
    }
}
