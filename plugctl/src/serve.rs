//! `plugctl serve`: a host that works on an input through whatever filters are loaded.
//!
//! Each worker takes block after block of the input, again and again, and passes it as a stream
//! of its own through every filter there is. A block is one call, so that a worker holds a plugin
//! only while it works in it.

use std::collections::HashSet;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use plug_api::abi::HostContext;
use plug_filter::{FilterV1, Instance, ParamList};
use plug_loader::authority::{DenyList, Enforcement, Keys, SignaturePolicy};
use plug_loader::control::Options;
use plug_loader::probe::Probe;
use plug_loader::{
    CallError, Config, Deadline, Directives, Error, ErrorKind, Loader, Params, Plugin,
    PluginInterface, Policy, Source, State, Trust, Unloaded, Worker,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args;
use crate::failure::{FAILED, Failure, LINGERING, Outcome, USAGE};
use crate::render::Render;

/// Bytes of one call.
const BLOCK: usize = 64 * 1024;

/// Between two blocks at the gentle rate: some megabytes a second and worker.
const PAUSE: Duration = Duration::from_millis(10);

/// What an unload at the end may wait for users.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Runs the host until SIGTERM or SIGINT.
pub(crate) fn run(args: &args::Serve, render: &Render) -> Outcome {
    if args.workers == 0 {
        return Err(Failure::new(USAGE, "usage", "a host needs a worker"));
    }
    let input = match &args.input {
        Some(path) => fs::read(path).map_err(|error| Failure::file(path, &error))?,
        None => built_in(),
    };
    if input.is_empty() {
        return Err(Failure::new(FAILED, "input", "the input is empty"));
    }
    // Before any thread, so that no signal ends the process half-way.
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| Failure::new(FAILED, "signals", format!("no signal handler: {error}")))?;
    let config = config(args).map_err(|error| Failure::loader(&error))?;
    let loader = Loader::new(config).map_err(|error| Failure::loader(&error))?;
    // SAFETY: whoever runs this vouches for the files named on the command line and for those
    // that the same user, or root, loads by the socket.
    let trust = unsafe { Trust::new(Policy::default()) };
    for (_, loaded) in loader.preload(&trust) {
        loaded.map_err(|error| Failure::loader(&error))?;
    }
    for path in &args.plugins {
        let source = match args::bare(path) {
            Some(name) => Source::plugin(name),
            None => Source::path(path),
        };
        loader
            .load(&trust, source, &Params::new())
            .map_err(|error| Failure::loader(&error))?;
    }
    let floor = Floor {
        loader: &loader,
        input: &input,
        chain: args.chain,
        pause: if args.full_speed {
            Duration::ZERO
        } else {
            PAUSE
        },
        stop: AtomicBool::new(false),
        told: Mutex::default(),
        render: *render,
    };
    thread::scope(|scope| {
        for n in 0..args.workers {
            let name = format!("io-{n}");
            let floor = &floor;
            thread::Builder::new()
                .name(name.clone())
                .spawn_scoped(scope, move || floor.work(&name, n))
                .map_err(|error| {
                    floor.end();
                    Failure::new(FAILED, "thread", format!("worker io-{n}: {error}"))
                })?;
        }
        let mut options = Options::default();
        options.name = Some(args.name.clone());
        options.socket.clone_from(&args.socket);
        let server = loader.serve_control(&trust, options).map_err(|error| {
            floor.end();
            Failure::loader(&error)
        })?;
        render.ready(&server.path().display().to_string());
        // Ends with the first signal.
        signals.forever().next();
        drop(server);
        floor.end();
        Ok(())
    })?;
    Ok(shut_down(&loader, *render))
}

/// What the host asks of plugins.
fn config(args: &args::Serve) -> Result<Config, Error> {
    let keys = args
        .keys
        .as_ref()
        .map_or_else(|| Ok(Keys::default()), Keys::from_dir)?;
    let enforcement = match args.signatures {
        args::Signatures::Off => Enforcement::Off,
        args::Signatures::Permissive => Enforcement::Permissive,
        args::Signatures::Enforce => Enforcement::Enforce,
    };
    let deny = args.deny.as_ref();
    let denied = deny.map_or_else(|| Ok(DenyList::default()), DenyList::from_file)?;
    let mut config = Config::default();
    config.signatures = SignaturePolicy::new(enforcement, keys).deny(denied);
    config.probe = args.probe.then(Probe::default);
    config.state.clone_from(&args.state);
    config.directives = Directives::read(&args.config)?;
    Ok(config)
}

/// What the workers share.
struct Floor<'a> {
    loader: &'a Loader,
    input: &'a [u8],
    chain: bool,
    pause: Duration,
    /// Set when it is time to stop (Relaxed: nothing is read because of it but the flag).
    stop: AtomicBool,
    /// Generations whose first fault was told.
    told: Mutex<HashSet<u64>>,
    render: Render,
}

/// A filter that a worker knows of.
struct Known {
    plugin: Plugin,
    filter: PluginInterface<FilterV1>,
}

impl Floor<'_> {
    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn work(&self, name: &str, n: usize) {
        let worker = match self.loader.worker(name) {
            Ok(worker) => worker,
            Err(error) => return self.render.warning(&error.to_string()),
        };
        let mut known = Vec::new();
        let mut seen = None;
        // Workers begin at different blocks.
        for block in self.input.chunks(BLOCK).cycle().skip(n) {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            worker.quiescent();
            self.look(&mut known, &mut seen);
            let before = known.len();
            self.pass(&worker, &mut known, block);
            if known.len() < before {
                // An unload that gives up leaves it Live without a new snapshot.
                seen = None;
            }
            if known.is_empty() {
                thread::sleep(PAUSE);
            } else if !self.pause.is_zero() {
                thread::sleep(self.pause);
            }
        }
    }

    /// Takes up what came. Looks only where something changed: a load or unload publishes.
    fn look(&self, known: &mut Vec<Known>, seen: &mut Option<u64>) {
        let sequence = self.loader.snapshot().sequence();
        if *seen == Some(sequence) {
            return;
        }
        known.clear();
        let mut settled = true;
        for plugin in self.loader.plugins() {
            match plugin.state() {
                State::Live => {
                    if let Ok(filter) = plugin.interface::<FilterV1>() {
                        known.push(Known { plugin, filter });
                    }
                }
                // Becomes Live, or Live again, without a new snapshot.
                _ => settled = false,
            }
        }
        *seen = settled.then_some(sequence);
    }

    /// One block through every filter, or through one after the other.
    fn pass(&self, worker: &Worker, known: &mut Vec<Known>, block: &[u8]) {
        let mut carried: Option<Vec<u8>> = None;
        known.retain(|known| {
            let input = carried.as_deref().unwrap_or(block);
            let mut output = Vec::new();
            // SAFETY: the instance is made, used and destroyed inside the call.
            let done = unsafe {
                known.filter.call_raw_on(worker, |table, context| {
                    stream(table, context, input, &mut output)
                })
            };
            match done {
                Ok(Ok(())) => {}
                Ok(Err(why)) => self.tell(&known.plugin, why),
                Err(CallError::Gone) => return false,
                Err(error) => self.tell(&known.plugin, &error.to_string()),
            }
            if self.chain {
                carried = Some(output);
            }
            true
        });
    }

    /// Tells the first fault of a plugin.
    fn tell(&self, plugin: &Plugin, why: &str) {
        let mut told = match self.told.lock() {
            Ok(told) => told,
            Err(poisoned) => poisoned.into_inner(),
        };
        if told.insert(plugin.generation()) {
            drop(told);
            self.render.warning(&format!("{}: {why}", plugin.name()));
        }
    }
}

/// A whole stream of one block.
fn stream(
    table: &FilterV1,
    context: *const HostContext,
    input: &[u8],
    output: &mut Vec<u8>,
) -> Result<(), &'static str> {
    let mut sink = |bytes: &[u8]| output.extend_from_slice(bytes);
    let params = ParamList::default();
    // SAFETY: the caller is inside the plugin's gate, which keeps table and context in place.
    let Some(mut instance) = (unsafe { Instance::create(table, context, &params) }) else {
        return Err("the filter made no instance");
    };
    // SAFETY: the same table, still inside the gate.
    let mut status = unsafe { instance.process(table, input, &mut sink) };
    if status == 0 {
        // SAFETY: as above; called once.
        status = unsafe { instance.finish(table, &mut sink) };
    }
    // SAFETY: as above; the instance is not used any more.
    unsafe { instance.destroy(table) };
    if status == 0 {
        Ok(())
    } else {
        Err("the filter refused a block")
    }
}

/// Unloads everything; what stays is told.
fn shut_down(loader: &Loader, render: Render) -> u8 {
    let mut code = 0;
    let verdicts = match loader.shutdown(Deadline::after(LAST_WAIT)) {
        Ok(verdicts) => verdicts,
        Err(error) => {
            render.warning(&error.to_string());
            return Failure::loader(&error).code;
        }
    };
    for (_, verdict) in verdicts {
        let (failed, text) = match verdict {
            Ok(Unloaded::Gone(_)) => continue,
            // Its exit runs when the process ends.
            Err(error) if error.kind() == ErrorKind::Permanent => continue,
            Ok(Unloaded::Zombie(left) | Unloaded::Pinned(left)) => (LINGERING, left.to_string()),
            Err(error) => (Failure::loader(&error).code, error.to_string()),
        };
        code = if code == 0 { failed } else { code };
        render.warning(&text);
    }
    code
}

/// A text of a megabyte, the same each time.
fn built_in() -> Vec<u8> {
    const WORDS: [&str; 8] = [
        "plugins", "come", "and", "go", "while", "the", "host", "works",
    ];
    let mut text = Vec::with_capacity(1 << 20);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while text.len() < 1 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = WORDS.get((state % 8) as usize).copied().unwrap_or_default();
        text.extend_from_slice(word.as_bytes());
        text.push(if state & 0xf00 == 0 { b'\n' } else { b' ' });
    }
    text
}
