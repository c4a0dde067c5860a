//! The facade: one call into the floor below per method.

#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use plug_api::abi::Interface;
use plug_readside::SymbolReader;

use crate::audit;
use crate::calls;
use crate::config::{Capabilities, Config};
use crate::crash::signal::CrashSignal;
use crate::crash::{self, CrashOptions};
use crate::deadline::Deadline;
use crate::departure::Departure;
use crate::dependencies::{self, Plan};
use crate::digest::Digest;
use crate::drainer;
use crate::error::{Error, ErrorKind, Holder};
use crate::events::Event;
use crate::footprint;
use crate::fork;
use crate::history::{Attribution, Departed};
use crate::lingering::Lingering;
use crate::load;
use crate::params::Params;
use crate::plugin::Plugin;
use crate::presence::WorkerInfo;
use crate::probe::request::must_be_answered;
use crate::process::Process;
use crate::quiesce;
use crate::reaper::{self, Reaped};
use crate::replace::{self, Replaced};
use crate::roots::{self, Root};
use crate::settlement;
use crate::snapshot::Snapshot;
use crate::subscribers::{Subscriber, Subscription, Vote};
use crate::suspects::{Entry as Quarantined, Quarantine};
use crate::sys::process_exit;
use crate::trial::Trial;
use crate::trust::{Source, Trust};
use crate::unload;
use crate::verdict::Unloaded;
use crate::worker::{Worker, WorkerAnswer};

/// What became of each plugin at a shutdown, in the order in which they were unloaded.
pub type Shutdown = Vec<(String, Result<Unloaded, Error>)>;

/// What became of each plugin that was loaded at start, in the order in which they were.
pub type Preload = Vec<(String, Result<Plugin, Error>)>;

/// The process's loader. Cheap to clone; dropping the last one unmaps nothing.
///
/// # Contexts
/// Every method: thread context only.
#[derive(Clone, Debug)]
pub struct Loader {
    pub(crate) process: &'static Process,
}

impl Loader {
    /// Makes the process's loader.
    ///
    /// Start it before the workers where membarrier may be missing: they learn at their first
    /// section whether they must fence.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyInitialised`] the second time; [`ErrorKind::State`] when
    /// [`Config::state`] cannot be used; [`ErrorKind::Probe`] in a process that was started as a probe
    /// and does not [serve](crate::probe::serve); [`ErrorKind::Thread`] when the drainer
    /// could not be started, or no key for thread-specific data is left.
    pub fn new(config: Config) -> Result<Self, Error> {
        must_be_answered()?;
        let quarantine = config.state.as_ref().map(Quarantine::open).transpose()?;
        let Some(process) = Process::start(config, quarantine) else {
            return Err(Error::new(
                ErrorKind::AlreadyInitialised,
                "this process has its loader already; clone the handle",
            ));
        };
        if let Some(quarantine) = &process.quarantine {
            for left in quarantine.sweep()? {
                let Quarantined { plugin, why, .. } = left;
                tracing::warn!(target: "plug::quarantine", plugin, "in quarantine: {why}");
            }
        }
        footprint::prepare()?;
        roots::prepare();
        fork::prepare();
        if process.config.run_exits_at_process_exit {
            process_exit::at_exit(|| {
                if let Some(process) = Process::get() {
                    unload::at_process_exit(process);
                }
            });
        }
        fork::start_threads(process)?;
        Ok(Self { process })
    }

    /// What was found on this system at start.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.process.capabilities()
    }

    /// Gives membarrier up for good: every reader and every call fences from now on, and unloads
    /// ask nothing of the kernel. For a host that is about to install a seccomp filter that does
    /// not know membarrier; without this, unloads fail from then on and nothing is freed.
    ///
    /// Any thread may be anywhere meanwhile. Costs one last membarrier. Does nothing where readers
    /// fence already.
    ///
    /// # Errors
    /// [`ErrorKind::Barrier`] when that last one fails, because the filter is there already.
    pub fn assume_seccomp(&self) -> Result<(), Error> {
        quiesce::give_membarrier_up()
    }

    /// Loads a plugin: visible to readers before its first instruction runs, Live on return.
    ///
    /// No worker is stopped, signalled or waited for. Runs the plugin's constructors and `init`
    /// on a thread of the loader's and waits for them.
    ///
    /// # Errors
    /// The kind says what, [`Error::stage`] where; everything done before is undone. One after the
    /// constructors began may carry [`Error::lingering`].
    pub fn load(&self, trust: &Trust, source: Source, params: &Params) -> Result<Plugin, Error> {
        match source.with_providers {
            true => self
                .load_with_providers(trust, source, params)
                .map(|it| it.0),
            false => load::load(self.process, trust.policy(), source, params),
        }
    }

    /// As [`Loader::load`]: the plugin, and the providers that were loaded for it, if they were to be.
    pub(crate) fn load_with_providers(
        &self,
        trust: &Trust,
        source: Source,
        params: &Params,
    ) -> Result<(Plugin, Vec<Plugin>), Error> {
        let (process, policy) = (self.process, trust.policy());
        let load = |source| load::load(process, policy, source, params);
        match source.with_providers {
            true => dependencies::with_providers(process, policy, source, None, load),
            false => load(source).map(|plugin| (plugin, Vec::new())),
        }
    }

    /// What a load of `source` [with its providers](Source::with_providers) would load, in order, and
    /// nothing else: no code runs, and nobody is asked whether the files are let in.
    ///
    /// Reads the metadata of each file. What it says holds for a moment only.
    ///
    /// # Errors
    /// [`ErrorKind::NoProvider`] where a plugin is neither there nor found; [`ErrorKind::ProviderVersion`]
    /// where another version of one is; [`ErrorKind::Cycle`]; those of the first steps of
    /// [`Loader::load`] for a file that cannot be read.
    pub fn plan(&self, source: &Source) -> Result<Plan, Error> {
        dependencies::plan(self.process, source, None)
    }

    /// Loads the plugins that [`Config::directives`] name for this, in their order and each [with its
    /// providers](Source::with_providers), and tells what became of each. One that is there already, as
    /// another one's provider, stays as it is. One that is refused does not stop the others.
    #[must_use]
    pub fn preload(&self, trust: &Trust) -> Preload {
        let names = self.process.config.directives.preload();
        names
            .map(|name| {
                let source = Source::plugin(name).with_providers();
                let loaded = self.load(trust, source, &Params::new());
                let loaded = loaded.or_else(|error| match self.plugin(name) {
                    // As another one's provider; from here on for itself.
                    Some(plugin) if error.kind() == ErrorKind::AlreadyLoaded => Ok(plugin),
                    _ => Err(error),
                });
                (name.to_owned(), loaded)
            })
            .collect()
    }

    /// Puts another version in the place of the Live plugin `name`, under calls.
    ///
    /// The new version is loaded, checked and initialised beside the old one, by the rules of
    /// [`Loader::load`] and under the old one's name. If the old one saves state, the new one gets it
    /// after its `init`, while calls of the old one go on. Then one step leads the name and all
    /// handles to the new version, [`PluginFn`](crate::PluginFn) and
    /// [`PluginInterface`](crate::PluginInterface) of this version and of all that it replaced: calls
    /// in flight end in the old one, calls that begin later run in the new one, none is refused, and
    /// no thread goes back. The old one is then unloaded; pins hold it as ever. A handle's call costs
    /// about as much as two once its own version was replaced; ask the new [`Plugin`] for a new one.
    ///
    /// `deadline` is for saving the state and for what is inside of the old version. What the host
    /// vouches for with a function's signature, it vouches for in all versions.
    ///
    /// # Errors
    /// The old version is then as it was: [`ErrorKind::NotFound`], [`ErrorKind::Busy`],
    /// [`ErrorKind::Permanent`]; all of [`Loader::load`]; [`ErrorKind::HandOver`] where one of the
    /// two refuses the state; [`ErrorKind::NoSymbol`] and its like where the new version lacks what
    /// handles were asked for; [`ErrorKind::ProviderVersion`] where it will not do for a plugin that
    /// imports functions of it; [`ErrorKind::Gone`] where the old version was unloaded meanwhile;
    /// [`ErrorKind::SelfDeadlock`] from inside a plugin's code or a read section. After the switch
    /// nothing fails but the old version's unload: see [`Replaced::former`].
    pub fn replace(
        &self,
        trust: &Trust,
        name: &str,
        source: Source,
        params: &Params,
        deadline: Deadline,
    ) -> Result<Replaced, Error> {
        calls::must_be_outside("replace")?;
        let (process, policy) = (self.process, trust.policy());
        let replace =
            |source| replace::replace(process, policy, (name, None), source, params, deadline);
        match source.with_providers {
            true => {
                // Before anything is loaded for it.
                replace::replaceable(process, (name, None))?;
                dependencies::with_providers(process, policy, source, Some(name), replace)
                    .map(|it| it.0)
            }
            false => replace(source),
        }
    }

    /// As [`Loader::replace`], and keeps what it takes to put the old version back: its very bytes,
    /// whatever has become of its file.
    ///
    /// The switch has happened when this returns. What is returned tells whether the new version has
    /// failed, waits for that as long as the host wants to, and rolls back when the host says so.
    ///
    /// Memory: the size of the old version's file, until the trial is dropped.
    ///
    /// # Errors
    /// As [`Loader::replace`]; [`ErrorKind::Stage`] where the old version's copy cannot be read, and
    /// nothing is replaced then.
    pub fn replace_on_trial(
        &self,
        trust: &Trust,
        name: &str,
        source: Source,
        params: &Params,
        deadline: Deadline,
    ) -> Result<Trial, Error> {
        calls::must_be_outside("replace")?;
        let (process, policy) = (self.process, trust.policy());
        let begin = |source| Trial::begin(process, policy, name, source, params, deadline);
        match source.with_providers {
            true => {
                replace::replaceable(process, (name, None))?;
                dependencies::with_providers(process, policy, source, Some(name), begin)
                    .map(|it| it.0)
            }
            false => begin(source),
        }
    }

    /// Makes the running thread a worker named `name` until the value is dropped.
    ///
    /// Memory: 1 KiB, and 512 bytes for each 64 plugin slots in use. A thread that ends without
    /// dropping the value is found out by the next unload that waits for it, or when workers have
    /// doubled in number.
    ///
    /// # Errors
    /// None today; a limit on workers would be one.
    pub fn worker(&self, name: &str) -> Result<Worker, Error> {
        Ok(Worker::register(&self.process.workers, name))
    }

    /// Unloads the plugin `name`: refuses new calls, waits for those inside, runs its `exit` and
    /// destructors, unmaps it and looks whether it is gone. The same as [`Loader::begin_unload`]
    /// and [`Departure::wait`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Busy`] when it is Coming, Going or a zombie;
    /// [`ErrorKind::InUse`] while other plugins import functions of it;
    /// [`ErrorKind::Permanent`]; [`ErrorKind::Deadline`] with the holders, and the plugin is Live
    /// again; [`ErrorKind::SelfDeadlock`] from inside a plugin's code or a read section, at once
    /// and before anything is done, so that even a signal handler gets it that interrupted them;
    /// [`ErrorKind::Barrier`].
    pub fn unload(&self, name: &str, deadline: Deadline) -> Result<Unloaded, Error> {
        calls::must_be_outside("unload")?;
        Departure::begin(self.process, name, None)?.wait(deadline)
    }

    /// As [`Loader::unload`], but only this very load of the plugin.
    ///
    /// # Errors
    /// As [`Loader::unload`]; [`ErrorKind::Gone`] when another load has the name by now.
    pub fn unload_exactly(&self, plugin: &Plugin, deadline: Deadline) -> Result<Unloaded, Error> {
        calls::must_be_outside("unload")?;
        self.begin_unload_exactly(plugin)?.wait(deadline)
    }

    /// Unloads the plugins that were loaded only [because others import functions of
    /// them](Plugin::is_automatic) and that no plugin imports functions of any more, those too that become
    /// so by this: what became of each, in their order.
    ///
    /// Each gets what is left of the deadline; one that refuses does not stop the others.
    ///
    /// # Errors
    /// [`ErrorKind::SelfDeadlock`] from inside a plugin's code or a read section.
    pub fn unload_unused(&self, deadline: Deadline) -> Result<Shutdown, Error> {
        dependencies::unload_unused(self.process, deadline)
    }

    /// Begins to unload the plugin `name`: calls and pins refuse from here on. What is returned
    /// tells who is still inside, waits for them, or goes back.
    ///
    /// Does not wait, and may be called from inside the plugin.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Busy`] when it is Coming, Going or a zombie;
    /// [`ErrorKind::InUse`]; [`ErrorKind::Permanent`].
    pub fn begin_unload(&self, name: &str) -> Result<Departure, Error> {
        Departure::begin(self.process, name, None)
    }

    /// As [`Loader::begin_unload`], but only this very load of the plugin.
    ///
    /// # Errors
    /// As [`Loader::begin_unload`]; [`ErrorKind::Gone`] when another load has the name by now.
    pub fn begin_unload_exactly(&self, plugin: &Plugin) -> Result<Departure, Error> {
        Departure::begin(self.process, plugin.name(), Some(plugin.generation()))
    }

    /// Lets crashes be reported on the standard error stream, and as JSON if asked: SIGSEGV,
    /// SIGBUS, SIGILL, SIGFPE and SIGABRT, with the plugin, its version and state, the symbol and
    /// a backtrace. Afterwards the handlers that were there before are back and meet the signal,
    /// so that one report is made; install again where the process goes on.
    ///
    /// The running thread, workers that register later and the loader's own threads get an
    /// alternate stack if they have none of 64 KiB (the loader's: none at all). Other threads have
    /// what their owner gave them; a stack overflow is reported only on a thread that has one.
    ///
    /// # Errors
    /// [`ErrorKind::Open`] when the file for JSON cannot be opened; [`ErrorKind::CrashHandler`]
    /// when the system refuses.
    pub fn install_crash_handler(&self, options: CrashOptions) -> Result<(), Error> {
        crash::install(&options)
    }

    /// The signals whose crash handler somebody else replaced; none before
    /// [`Loader::install_crash_handler`]. Every load asks, too: what it finds is an event, a
    /// warning, and a line of later reports.
    #[must_use]
    pub fn check_crash_handler(&self) -> Vec<CrashSignal> {
        crash::check(self.process, None)
    }

    /// Lets a file be loaded again that crashed a host or a probe; false if it was not refused.
    ///
    /// # Errors
    /// [`ErrorKind::State`].
    pub fn pardon(&self, digest: &Digest) -> Result<bool, Error> {
        let was_known = self.process.probes.forget(digest);
        let was_listed = match &self.process.quarantine {
            Some(quarantine) => quarantine.clear(digest)?,
            None => false,
        };
        Ok(was_known || was_listed)
    }

    /// Offers a service to all plugins loaded from now on and before.
    pub fn offer<S: Interface + Sync>(&self, table: &'static S) {
        self.process.services.offer(table);
    }

    /// The plugin `name`, from Coming to Going.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<Plugin> {
        self.process.registry.record(name).map(Plugin::new)
    }

    /// All plugins from Coming to Going in order of load, then zombies.
    #[must_use]
    pub fn plugins(&self) -> Vec<Plugin> {
        self.process
            .registry
            .records()
            .into_iter()
            .map(Plugin::new)
            .collect()
    }

    /// Closed plugins that are still mapped, and what holds each of them at this moment.
    ///
    /// Looks at every thread's record of what it owes. Thread context.
    #[must_use]
    pub fn zombies(&self) -> Vec<Lingering> {
        settlement::lingering(self.process)
    }

    /// Waits until the closed plugin `name` has left the process: until what holds it has ended and
    /// the drainer, which looks 50 times a second, has unmapped it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when no closed plugin of this name is mapped; [`ErrorKind::Busy`], at
    /// once, when it is pinned; [`ErrorKind::Deadline`], both with [`Error::lingering`];
    /// [`ErrorKind::SelfDeadlock`] from inside a plugin's code or a read section.
    pub fn wait_for_zombie(&self, name: &str, deadline: Deadline) -> Result<(), Error> {
        calls::must_be_outside("waiting for a zombie")?;
        settlement::wait(self.process, name, deadline)
    }

    /// All workers and the plugins they are inside of.
    ///
    /// "Since" is measured from the first look that saw the same call: ask now and then.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let process = self.process;
        process
            .presence
            .look(&process.workers, &process.registry.records())
    }

    /// Asks every worker for a quiescent point and waits for the answers until the deadline. A
    /// worker that can be woken is; see [`Worker::waker`].
    ///
    /// Whoever has answered [`Answer::Passed`](crate::Answer::Passed) or
    /// [`Answer::Asleep`](crate::Answer::Asleep) had no plugin's code below it at some moment since
    /// the call.
    #[must_use]
    pub fn ask_for_quiescence(&self, deadline: Deadline) -> Vec<WorkerAnswer> {
        self.process.workers.ask(deadline)
    }

    /// What was taken from threads that died inside a section or a call.
    #[must_use]
    pub fn reaped(&self) -> Reaped {
        reaper::reaped()
    }

    /// Calls that were made of this load of a plugin.
    #[must_use]
    pub fn calls(&self, plugin: &Plugin) -> u64 {
        let record = plugin.record();
        self.process
            .workers
            .calls(record.id)
            .saturating_sub(record.calls_before)
    }

    /// Everybody who holds `plugin` at this moment.
    #[must_use]
    pub fn holders(&self, plugin: &Plugin) -> Vec<Holder> {
        let process = self.process;
        process
            .presence
            .holders(&process.workers, plugin.record(), Duration::ZERO)
    }

    /// The threads that are inside `plugin`, or may be, without a call through the loader: what their
    /// stacks tell, as an unload asks them. Waits for those that are until the deadline; empty once
    /// nobody is.
    ///
    /// What is found holds for a moment only, unless nobody comes in any more. Whose stacks are
    /// looked at is said by [`Config::audit`].
    ///
    /// # Contexts
    /// Thread context. About 10 us for each thread that sleeps; see [`Audit`](crate::Audit) for those
    /// that do not.
    #[must_use]
    pub fn audit(&self, plugin: &Plugin, deadline: Deadline) -> Vec<Holder> {
        let process = self.process;
        let go_on = |_| ControlFlow::Continue(());
        let record = plugin.record();
        audit::wait_until_outside(&process.config, &process.workers, record, deadline, go_on)
    }

    /// Pointers into `plugin` that somebody else keeps at this moment, by which an unload would make
    /// it a zombie, and such in data of the program and of other objects, which it only logs.
    ///
    /// # Contexts
    /// Thread context. About 50 us, and 0.2 ms for each MiB of such data.
    #[must_use]
    pub fn roots(&self, plugin: &Plugin) -> Vec<Root> {
        roots::scan(plugin.record(), true)
    }

    /// Plugins that left the process, the last one first; as many as [`Config::history`].
    #[must_use]
    pub fn history(&self) -> Vec<Departed> {
        self.process.history.list()
    }

    /// What `address` was to the load `generation`, as [`SymbolReader::locate`] and the others tell
    /// its number: for samples that are named late.
    ///
    /// Whatever lies there by now is not looked at. `None` when that load did not cover the
    /// address, or left and is no more among the [`Config::history`] last ones.
    #[must_use]
    pub fn resolve_at(&self, generation: u64, address: usize) -> Option<Attribution> {
        let process = self.process;
        let (record, since) = match process.registry.load(generation) {
            Some(record) => (record, None),
            None => {
                let (record, since) = process.history.find(generation)?;
                (record, Some(since))
            }
        };
        Attribution::of(record, since, address)
    }

    /// Events after number `sequence`, waiting for the first one until the deadline. The last
    /// 1,024 are kept; whoever asks too rarely sees a gap in their numbers.
    #[must_use]
    pub fn events(&self, sequence: u64, deadline: Deadline) -> Vec<Arc<Event>> {
        self.process.events.wait_after(sequence, deadline)
    }

    /// Has `call` told of every event from now on, until what is returned is dropped; `name` is for
    /// messages. What is loaded already is in [`Loader::plugins`].
    ///
    /// It runs on a thread of its own, one event after the other, while no lock of the loader's is held:
    /// it may block, load and unload. A load asks about a plugin that is
    /// [`Coming`](crate::EventKind::Coming), which readers see and none of whose code has run, those who
    /// subscribed first before the others; the first [veto](Vote::Veto) refuses it, and those who were
    /// asked before are told that it is [`Going`](crate::EventKind::Going), and nobody else, as they are when
    /// the load fails later. A load or unload that it makes itself does not wait for it. One that takes
    /// longer than [`Config::subscriber_patience`] has no say; one that panics is told nothing any more,
    /// and the log says so (where panics unwind). Of more than 1,024 events that wait for it the first
    /// are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Thread`]; [`ErrorKind::Forked`]. A forked child has none of its parent's
    /// subscribers.
    pub fn subscribe(
        &self,
        name: &str,
        call: impl FnMut(&Event) -> Vote + Send + 'static,
    ) -> Result<Subscription, Error> {
        fork::settle(self.process)?;
        let subscriber = Subscriber::start(name, call)?;
        self.process.events.subscribe(Arc::clone(&subscriber));
        Ok(subscriber.subscription(&self.process.events))
    }

    /// The current snapshot, to keep and walk at leisure.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.process.registry.snapshot()
    }

    /// The reader for signal handlers and anybody else; needs no loader.
    #[must_use]
    pub fn reader(&self) -> SymbolReader {
        SymbolReader::new()
    }

    /// Frees retired memory now instead of within a second; waits for one grace period.
    ///
    /// For tests and for hosts that want their memory back at a moment of their choice.
    pub fn reclaim(&self) {
        // In a forked child without a loader nothing is retired.
        let _is_settled = fork::settle(self.process);
        // A round that frees nothing is told in the log, and tried again by the drainer.
        let _is_complete = drainer::drain(self.process);
    }

    /// Waits until the searches by address of all loaded plugins are built; until then readers
    /// scan, which gives the same answers slowly.
    pub fn settle_indexes(&self) {
        // In a forked child without a loader the wait is for nobody.
        if fork::settle(self.process).is_err() {
            return;
        }
        self.process.indexer.settle();
    }

    /// Bytes of snapshots and symbols retired and not yet freed.
    #[must_use]
    pub fn retired_bytes(&self) -> usize {
        self.process.registry.retired_bytes()
    }

    /// Unloads all plugins, last loaded first, but none before those that import functions of it, and
    /// refuses loads from now on.
    ///
    /// Each plugin gets what is left of the deadline; one that refuses does not stop the others,
    /// and permanent ones always do.
    ///
    /// # Errors
    /// [`ErrorKind::SelfDeadlock`] from inside a plugin's code or a read section; then nothing was
    /// done.
    pub fn shutdown(&self, deadline: Deadline) -> Result<Shutdown, Error> {
        calls::must_be_outside("shutdown")?;
        let names = self.process.registry.shut_down().into_iter();
        Ok(names
            .map(|name| (name.to_string(), self.unload(&name, deadline)))
            .collect())
    }
}
