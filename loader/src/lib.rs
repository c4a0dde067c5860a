//! Loads native plugins into a running process, lets signal handlers and profilers read them
//! lock-free at any moment, and truly unloads them again.
//!
//! # Guarantees
//! - Readers ([`SymbolReader`]) take no lock, allocate nothing and call into nobody: they work in
//!   any signal handler, on any thread, also while plugins come and go or a loading thread is
//!   stopped for good.
//! - A load stops, signals and waits for no other thread. A plugin is visible to readers before
//!   its first instruction runs.
//! - An unload proves that nobody is inside, or says who is; whether the plugin then left the
//!   process is observed, not assumed ([`Unloaded`]).
//!
//! # Limits
//! - A plugin has all rights of its host: this is no sandbox.
//! - Code that a plugin leaves behind (threads, thread-locals of threads that live on, callbacks
//!   given to libraries) keeps it mapped as a zombie.
//! - A thread that is no worker and ends inside a plugin's call without unwinding (a bare `exit` system
//!   call, a kill by a filter) cannot be told from one that is still there: the plugin stays. Workers
//!   and readers that end so are found out.
//! - One loader a process; Linux with glibc 2.35 or later.
//!
//! # Forks
//! `fork` may be called anywhere, in a plugin's code and in a read section as well; it waits for a
//! moment at which no other thread is half-way through a step of the loader's. The child knows the
//! forking thread's sections, calls and worker and nobody else's, and may read, load and unload; pins
//! are objects in memory and stay. What was on its way in or out stays mapped there and refuses
//! calls. A child whose fork came from inside ld.so, or from a handler that interrupted the loader,
//! may read, and its loads and unloads answer [`ErrorKind::Forked`].
//!
//! A child of `vfork` shares its parent's memory and may read, and nothing else of the loader's. One
//! of `_Fork` or a bare `clone`, which run no handlers, may do nothing until it calls `exec`.
//!
//! # Example
//! ```no_run
//! use std::time::Duration;
//!
//! use plug_loader::{Config, Deadline, Loader, Params, Policy, Source, SymbolReader, Trust};
//!
//! static READER: SymbolReader = SymbolReader::new(); // for any handler, any thread
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // We run these files with our rights and call them by their signatures.
//! let trust = unsafe { Trust::new(Policy::default()) };
//! let loader = Loader::new(Config::default())?;
//! let codec = loader.load(&trust, Source::path("./libcodec.so"), &Params::new().with("level", "9"))?;
//! let encode = codec.function::<unsafe extern "C" fn(*const u8, usize) -> u64>("encode")?;
//!
//! let worker = loader.worker("io-3")?; // this thread
//! worker.quiescent(); // at the top of its loop
//! let bytes = b"some bytes";
//! // The signature is the plugin's, and the bytes outlive the call.
//! let sum = unsafe { encode.call_on(&worker, (bytes.as_ptr(), bytes.len())) }?;
//!
//! let pin = codec.pin()?; // for what outlives a call; an unload waits for it
//! drop(pin);
//! let verdict = loader.unload("codec", Deadline::after(Duration::from_secs(5)))?;
//! println!("{sum}: {verdict}"); // `codec` and `encode` are still in scope: they answer "gone"
//! # Ok(())
//! # }
//! ```
//!
//! # Anatomy
//! [`Loader`] is the facade. [`Trust`] is the one unsafe door. [`Plugin`], [`PluginFn`] and
//! [`PluginInterface`] keep nothing alive; [`PluginPin`] does. A [`Departure`] is an unload
//! that can still be given up. [`Worker`] makes calls cheap and nameable. [`image`] reads files
//! without running them.

mod audit;
pub mod authority;
mod bundle;
mod calls;
#[cfg(feature = "testing")]
pub mod checkpoint;
#[cfg(not(feature = "testing"))]
mod checkpoint;
mod config;
mod constructors;
mod context;
#[cfg(feature = "control")]
pub mod control;
mod crash;
mod deadline;
mod departure;
mod dependencies;
mod digest;
mod directives;
mod drainer;
mod error;
mod events;
mod executor;
mod farewell;
mod faults;
mod flights;
mod footprint;
mod fork;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod handles;
mod handover;
mod history;
pub mod image;
mod imports;
mod index;
mod indexer;
mod judgement;
mod lend;
mod lineage;
mod lingering;
mod load;
mod loader;
#[cfg(feature = "measuring")]
pub mod measuring;
mod params;
mod pin;
mod pins;
mod plugin;
mod points;
mod policy;
mod presence;
pub mod probe;
mod process;
mod providers;
mod quarantine;
mod quiesce;
mod reaper;
mod recheck;
mod record;
mod registry;
mod remains;
mod replace;
mod retired;
mod roll;
mod roots;
mod runtimes;
mod screening;
mod settings;
mod settlement;
mod signature;
mod snapshot;
mod source_file;
mod stack;
mod stages;
mod stall;
mod subscribers;
mod suspects;
mod sys;
mod taint;
mod task;
mod threads;
mod trial;
mod trust;
mod unload;
mod unwinding;
mod users;
mod verdict;
mod witness;
mod worker;
mod zombies;

pub use config::{Audit, Capabilities, Config};
pub use crash::CrashOptions;
pub use crash::signal::CrashSignal;
pub use deadline::Deadline;
pub use departure::Departure;
pub use dependencies::{Plan, PlannedLoad};
pub use digest::{Digest, NotADigest};
pub use directives::{Directive, DirectiveFile, DirectiveKind, Directives, Place};
pub use error::{CallError, Doubt, Error, ErrorKind, Holder, HolderKind, Stage};
pub use events::{Event, EventKind};
pub use footprint::Footprint;
pub use footprint::account::Balance;
pub use gate::{Mismatch, mismatches};
pub use handles::{PluginFn, PluginInterface};
pub use history::{Attribution, Departed};
pub use lend::lend;
pub use lingering::{Debtor, Lingering, Observed};
pub use loader::{Loader, Preload, Shutdown};
pub use params::Params;
pub use pin::PluginPin;
pub use plug_readside::index::SymbolKind;
pub use plug_readside::state::{MAX_PLUGINS, State};
pub use plug_readside::{Location, PluginView, Resolved, SymbolReader, SymbolView, Symbols, Text};
pub use plugin::Plugin;
pub use policy::{Action, Matter, Policy, Rules};
pub use presence::{Inside, WorkerInfo};
pub use quiesce::{Proof, WorkerProof};
pub use reaper::Reaped;
pub use replace::Replaced;
pub use roots::{Root, RootKind};
pub use settings::ParamSetting;
pub use signature::Signature;
pub use snapshot::Snapshot;
pub use source_file::Drift;
pub use subscribers::{Subscription, Vote};
pub use suspects::{Entry as Quarantined, Quarantine};
pub use taint::{Taint, Taints};
pub use task::PluginTask;
pub use trial::{Fault, Trial};
pub use trust::{Accounting, Source, Trust};
pub use verdict::{LeakSite, Leaks, UnloadReport, Unloaded};
pub use worker::{Answer, Asleep, Worker, WorkerAnswer};
