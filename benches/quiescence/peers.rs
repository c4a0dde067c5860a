//! Everybody who reads or calls under some protection.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::Cache;
use haphazard::HazardPointer;
use plug_loader::{Loader, PluginFn};
use plug_readside::{snapshot, thread_pointer};

use crate::objects::Objects;
use crate::urcu;

/// The function of the plugin that is called: it takes a number and gives twice that.
pub type Twice = unsafe extern "C" fn(u64) -> u64;

/// What threads make their loops of.
#[derive(Clone)]
pub struct Ground {
    pub objects: &'static Objects,
    pub loader: Loader,
    pub twice: PluginFn<Twice>,
    pub address: Twice,
}

/// A loop over one way to read or to call, made on the thread that runs it; told how often.
pub type Loop = Box<dyn FnMut(usize)>;

/// One of those who are compared.
pub struct Peer {
    pub name: String,
    pub plain: Loop,
    /// The same while one more section of the kind is open around the whole loop.
    pub nested: Option<Loop>,
}

impl Peer {
    fn new(name: &str, plain: impl FnMut(usize) + 'static) -> Self {
        Self {
            name: name.to_owned(),
            plain: Box::new(plain),
            nested: None,
        }
    }

    /// Reads in a section that `enter` opens and the drop of its result closes.
    fn sections<G>(
        name: &str,
        enter: impl Fn() -> G + Copy + 'static,
        read: impl Fn(&G) -> u64 + Copy + 'static,
    ) -> Self {
        let inner = move |n| {
            let mut sum = 0_u64;
            for _ in 0..n {
                let guard = enter();
                sum = sum.wrapping_add(read(&guard));
            }
            black_box(sum);
        };
        Self {
            nested: Some(Box::new(move |n| {
                let _outer = enter();
                inner(n);
            })),
            ..Self::new(name, inner)
        }
    }

    /// Runs the loops as a worker of the loader's.
    fn on_worker(self, loader: &Loader) -> Self {
        let wrap = |mut run: Loop| {
            let loader = loader.clone();
            let run: Loop = Box::new(move |n| {
                let _worker = loader.worker("bench").expect("room for a worker");
                run(n);
            });
            run
        };
        Self {
            name: self.name,
            plain: wrap(self.plain),
            nested: self.nested.map(wrap),
        }
    }
}

pub const REGISTERED: &str = "Plug: section, registered";
pub const CLAIMED: &str = "Plug: section, claimed";
pub const ARC_SWAP: &str = "arc-swap: load";

/// Those who read.
pub fn readers(ground: &Ground) -> Vec<Peer> {
    let Ground {
        objects, loader, ..
    } = ground;
    let objects = *objects;
    let mut peers = vec![
        Peer::new("a bare load of the pointer", move |n| {
            for _ in 0..n {
                let object = objects.head.load(Ordering::Acquire);
                // SAFETY: nobody frees it.
                black_box(unsafe { &*object }.0[0]);
            }
        }),
        plug(REGISTERED).on_worker(loader),
        plug(CLAIMED),
        Peer::sections(ARC_SWAP, || objects.arc_swap.load(), |object| object.0[0]),
        Peer::new("arc-swap: load_full", move |n| {
            for _ in 0..n {
                black_box(objects.arc_swap.load_full().0[0]);
            }
        }),
        Peer::new("arc-swap: Cache", {
            let mut cache = Cache::new(&objects.arc_swap);
            move |n| {
                for _ in 0..n {
                    black_box(cache.load().0[0]);
                }
            }
        }),
        Peer::sections("crossbeam-epoch: pin", crossbeam_epoch::pin, |guard| {
            let object = objects.epoch.load(Ordering::Acquire, guard);
            // SAFETY: never null, and nobody frees it.
            unsafe { object.deref() }.0[0]
        }),
        Peer::sections(
            "seize: enter",
            || objects.seize.enter(),
            |guard| {
                let object = seize::Guard::protect(guard, &objects.seized, Ordering::Acquire);
                // SAFETY: never null, and nobody frees it.
                unsafe { &*object }.0[0]
            },
        ),
        Peer::new("haphazard: load", {
            let mut hazard = HazardPointer::new();
            move |n| {
                for _ in 0..n {
                    black_box(objects.hazardous.safe_load(&mut hazard).map(|o| o.0[0]));
                    hazard.reset_protection();
                }
            }
        }),
        left_right(objects),
        Peer::sections(
            "std RwLock: read",
            || objects.std_lock.read().expect("nobody panicked"),
            |object| object.0[0],
        ),
        Peer::sections(
            "parking_lot RwLock: read",
            || objects.parking_lock.read_recursive(),
            |object| object.0[0],
        ),
        Peer::sections(
            "Arc: clone",
            || Arc::clone(black_box(&objects.arc)),
            |object| object.0[0],
        ),
        Peer::new("like try_module_get", move |n| {
            for _ in 0..n {
                black_box(objects.module.try_get());
                black_box(objects.arc.0[0]);
                objects.module.put();
            }
        }),
    ];
    for flavour in urcu::flavours().unwrap_or_default() {
        // SAFETY: once a thread and flavour; the thread ends with the process.
        unsafe { (flavour.register)() };
        let head = objects.c_head();
        let read = move |n| {
            // SAFETY: a registered thread; nobody frees what the pointer leads to.
            black_box(unsafe { (flavour.read)(head, n) });
        };
        let mut peer = Peer::new(flavour.name, read);
        peer.nested = flavour.told.is_none().then(|| -> Loop {
            Box::new(move |n| {
                // SAFETY: as above.
                unsafe { (flavour.enter)() };
                read(n);
                // SAFETY: as above.
                unsafe { (flavour.leave)() };
            })
        });
        peers.push(peer);
    }
    peers
}

/// The reads that `SymbolReader` is made of.
fn plug(name: &str) -> Peer {
    let inner = |n| {
        let mut sum = 0_u64;
        for _ in 0..n {
            sum = sum.wrapping_add(snapshot::sections().within(thread_pointer(), |section| {
                snapshot::view(section).map_or(0, |view| view.sequence)
            }));
        }
        black_box(sum);
    };
    Peer {
        nested: Some(Box::new(move |n| {
            let _outer = snapshot::sections().enter(thread_pointer());
            inner(n);
        })),
        ..Peer::new(name, inner)
    }
}

fn left_right(objects: &'static Objects) -> Peer {
    // A handle a thread, as it has to be.
    let handle: &'static _ = Box::leak(Box::new(objects.left.handle()));
    Peer::sections(
        "left-right: enter",
        || handle.enter(),
        |guard| guard.as_ref().map_or(0, |object| object.0[0]),
    )
}

pub const BARE: &str = "a bare indirect call";
pub const GATE: &str = "Plug: call on a worker";
pub const MODULE: &str = "like try_module_get, and a call";

/// Those who call a plugin's function.
pub fn callers(ground: &Ground) -> Vec<Peer> {
    let Ground {
        objects,
        loader,
        twice,
        address,
    } = black_box(ground.clone());
    let bare = move |n| {
        // SAFETY: the function is what it is declared to be, and the plugin stays.
        unsafe { address(n) }
    };
    let by_gate = move |n| {
        // SAFETY: as above.
        unsafe { twice.call((n,)) }.unwrap_or_default()
    };
    let (worker, anybody) = (loader.clone(), loader);
    vec![
        Peer::new(BARE, move |n| calls(n, bare)),
        Peer::new(GATE, move |n| {
            let worker = worker.worker("bench").expect("room for a worker");
            // SAFETY: as above.
            calls(n, |n| {
                unsafe { twice.call_on(&worker, (n,)) }.unwrap_or_default()
            });
        }),
        Peer::new("Plug: call by anybody on a worker", move |n| {
            let _worker = anybody.worker("bench").expect("room for a worker");
            calls(n, by_gate);
        }),
        Peer::new("Plug: call on no worker", move |n| calls(n, by_gate)),
        Peer::new(MODULE, move |n| {
            calls(n, |n| {
                if !objects.module.try_get() {
                    return 0;
                }
                let result = bare(n);
                objects.module.put();
                result
            });
        }),
        Peer::new("Arc: clone, and a call", move |n| {
            calls(n, |n| {
                let _kept = Arc::clone(black_box(&objects.arc));
                bare(n)
            });
        }),
        Peer::new("std RwLock: read, and a call", move |n| {
            calls(n, |n| {
                let _kept = objects.std_lock.read().expect("nobody panicked");
                bare(n)
            });
        }),
    ]
}

/// Calls `n` times and uses what comes back.
#[inline]
fn calls(n: usize, call: impl Fn(u64) -> u64) {
    let sum = (0..n as u64).map(call).fold(0, u64::wrapping_add);
    black_box(sum);
}
