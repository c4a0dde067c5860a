//! The story of a load, from top to bottom: each step has a guard that undoes it, and guards are
//! dropped in reverse.

use std::cell::{Cell, RefCell};
use std::mem::{self};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use plug_api::abi::Descriptor;
use plug_readside::state::State;
use plug_readside::{phase, thread_pointer};

use crate::bundle::{self, Piece, Rules, image_error};
use crate::checkpoint;
use crate::constructors;
use crate::context::Context;
use crate::crash;
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Stage};
use crate::events::EventKind;
use crate::executor::{Ending, Executor};
use crate::footprint::Owner;
use crate::footprint::account::{self, Account};
use crate::fork;
use crate::gate;
use crate::handover;
use crate::image::{
    Bundle, DEFAULT_MAX_SIZE, Dependency, Facts, ImageError, Info, Opened, Original, Staged,
    foreign_name, is_name, plugin_import, validate,
};
use crate::imports::{Binding, References};
use crate::judgement::{judge, judge_brought};
use crate::lineage::{Lineage, Object, Place};
use crate::lingering::Lingering;
use crate::params::Params;
use crate::pins::Pins;
use crate::plugin::Plugin;
use crate::policy::Policy;
use crate::probe::request::Request;
use crate::process::Process;
use crate::providers;
use crate::record::{Destructors, Export, Loaded, Part, Record};
use crate::registry::{Claim, Leaving, canonical, claim_error};
use crate::runtimes;
use crate::screening;
use crate::settings::Settings;
use crate::source_file::SourceFile;
use crate::stages::Stages;
use crate::sys::{code, process_exit};
use crate::taint::{self, Taint, Taints};
use crate::threads::PluginThreads;
use crate::trust::{Accounting, Order, Origin, Source};
use crate::unwinding::{Announced, Mapping, Settled, Shown};

/// Loads what `source` names, or shares the result of a load of the same file in flight.
pub(crate) fn load(
    process: &'static Process,
    policy: &Policy,
    source: Source,
    params: &Params,
) -> Result<Plugin, Error> {
    let source = source.found(&process.config.directives)?;
    let described = source.describe();
    let span = tracing::info_span!(
        target: "plug::load", "load", file = described, plugin = tracing::field::Empty
    );
    let _entered = span.enter();
    fork::settle(process)?;
    let deadline = Deadline::after(process.config.load_patience);
    let (name, permanent, force) = (source.name, source.permanent, source.force);
    let accounting = source.accounting;
    let rules = Rules {
        nodelete: source.nodelete,
        unique: source.unique,
    };
    let named = name.as_deref().unwrap_or(&described);
    let result = (|| {
        if let Some(name) = name.as_deref().filter(|name| !is_name(name)) {
            let bad = ImageError::Name {
                name: name.to_owned(),
            };
            return Err(image_error(bad, Stage::Open));
        }
        let signature = match (&source.signature, &source.origin) {
            (None, Origin::Path(path)) => screening::detached(&process.config, path)
                .map_err(|error| error.at(Stage::Verify))?,
            _ => source.signature,
        };
        let opened = open(source.origin)?;
        loop {
            let result = process.flights.join(
                (
                    opened.key(),
                    name.clone(),
                    permanent,
                    force,
                    accounting,
                    rules,
                    policy.clone(),
                    signature.as_deref().map(Digest::of),
                ),
                deadline,
                || {
                    let wanted = Wanted {
                        name: name.as_deref(),
                        permanent,
                        force,
                        signature: signature.as_deref(),
                        accounting,
                        rules,
                        policy,
                        brought: source.brought.as_deref(),
                        automatic: source.automatic,
                        replaces: None,
                    };
                    fly(process, &opened, wanted, params, deadline, named)
                },
            );
            // One that is loaded for its users alone may be unloaded again with them, and is wanted for
            // itself from here on: where it leaves just now, it is loaded anew.
            let is_wanted = source.automatic
                || match &result {
                    Ok(plugin) if plugin.is_automatic() => {
                        process.registry.want(plugin.generation())
                    }
                    Err(error) if error.kind() == ErrorKind::AlreadyLoaded => {
                        process.registry.want_named(error.plugin_name());
                        true
                    }
                    Ok(_) | Err(_) => true,
                };
            if is_wanted {
                return result;
            }
        }
    })();
    let result = result.map_err(|error| error.plugin(named));
    log(&span, &result);
    result
}

/// Loads what `source` names beside `old`, has it take over the state, and puts it in its place:
/// what became Live, and what it replaced, which is Going.
///
/// # Errors
/// As [`load`]; nothing has changed for `old`.
pub(crate) fn replace(
    process: &'static Process,
    policy: &Policy,
    old: &Arc<Record>,
    source: Source,
    params: &Params,
    deadline: Deadline,
) -> Result<(Plugin, Leaving), Error> {
    let source = source.found(&process.config.directives)?;
    let described = source.describe();
    let name = &*old.name;
    let span =
        tracing::info_span!(target: "plug::load", "replace", file = described, plugin = name);
    let _entered = span.enter();
    let leaving = Cell::new(None);
    let result = (|| {
        checkpoint::pass("replace.begin")?;
        let signature = match (&source.signature, &source.origin) {
            (None, Origin::Path(path)) => screening::detached(&process.config, path)
                .map_err(|error| error.at(Stage::Verify))?,
            _ => source.signature,
        };
        let opened = open(source.origin)?;
        let wanted = Wanted {
            name: Some(name),
            permanent: source.permanent,
            force: source.force,
            signature: signature.as_deref(),
            accounting: source.accounting,
            rules: Rules {
                nodelete: source.nodelete,
                unique: source.unique,
            },
            policy,
            brought: source.brought.as_deref(),
            automatic: old.automatic.load(Ordering::Relaxed),
            replaces: Some(Replaced {
                old,
                deadline,
                leaving: &leaving,
            }),
        };
        let patience = Deadline::after(process.config.load_patience);
        fly(process, &opened, wanted, params, patience, name)
    })();
    let result = result.map_err(|error| error.plugin(name));
    log(&span, &result);
    let plugin = result?;
    match leaving.take() {
        Some(leaving) => Ok((plugin, leaving)),
        None => Err(Error::new(ErrorKind::Gone, "nothing was replaced").plugin(name)),
    }
}

/// A load from what was opened to Live, and what is told of it.
fn fly(
    process: &'static Process,
    opened: &Opened,
    wanted: Wanted<'_>,
    params: &Params,
    deadline: Deadline,
    named: &str,
) -> Result<Plugin, Error> {
    let mut stages = Stages::start();
    let mut left = None;
    run(
        process,
        opened,
        wanted,
        params,
        deadline,
        &mut stages,
        &mut left,
    )
    .map_err(|error| error.lingering_as(left).plugin(named))
    .inspect_err(|error| report_failure(process, error, &stages))
}

fn log(span: &tracing::Span, result: &Result<Plugin, Error>) {
    match result {
        Ok(plugin) => {
            span.record("plugin", plugin.name());
            let (generation, stages) = (plugin.generation(), plugin.load_times());
            tracing::info!(target: "plug::load", generation, ?stages, "live");
        }
        Err(error) => tracing::warn!(target: "plug::load", %error, "not loaded"),
    }
}

fn report_failure(process: &Process, error: &Error, stages: &Stages) {
    let kind = EventKind::Failed(error.stage(), error.to_string().into());
    let (plugin, generation) = (error.plugin_name(), stages.generation);
    process
        .events
        .push_timed(plugin, generation, kind, stages.laps());
}

/// Opens the file of a load.
pub(crate) fn open(origin: Origin) -> Result<Opened, Error> {
    checkpoint::pass("load.open").map_err(|error| error.at(Stage::Open))?;
    match origin {
        Origin::Path(path) => Opened::open(path),
        // The directives have told the file before.
        Origin::Named(name) => Opened::open(name),
        Origin::Descriptor(fd, path) => Opened::from_fd(fd, path, DEFAULT_MAX_SIZE),
        Origin::Copy(fd, path, original) => Opened::copy_of(original, fd, path, DEFAULT_MAX_SIZE),
    }
    .map_err(|error| image_error(error, Stage::Open))
}

/// How the caller wants the plugin.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    /// Under this name instead of its own.
    name: Option<&'a str>,
    /// For as long as the process.
    permanent: bool,
    /// Although its metadata does not fit.
    force: bool,
    /// Its detached signature.
    signature: Option<&'a [u8]>,
    accounting: Accounting,
    rules: Rules,
    /// If these rules admit it.
    policy: &'a Policy,
    /// The digests that what it brings must have, where they are known before.
    brought: Option<&'a [Digest]>,
    /// Because another plugin imports functions of it.
    automatic: bool,
    /// In the place of another version.
    replaces: Option<Replaced<'a>>,
}

/// The version whose place a load takes.
#[derive(Clone, Copy)]
struct Replaced<'a> {
    old: &'a Arc<Record>,
    /// What it has for saving its state.
    deadline: Deadline,
    /// Where it goes once it is replaced.
    leaving: &'a Cell<Option<Leaving>>,
}

impl Replaced<'_> {
    /// Hands the state over to `heir`, which can then take the place.
    fn hand_over(&self, heir: &Arc<Record>, threads: &RefCell<Vec<Ending>>) -> Result<(), Error> {
        let mut ran = Vec::new();
        let handed = handover::run(self.old, heir, &mut ran, self.deadline);
        threads.borrow_mut().append(&mut ran);
        handed
    }

    /// Puts `heir` in the place; `arrive` is as in [`Registry::succeed`](crate::registry::Registry).
    ///
    /// # Errors
    /// What handles were asked for and it has not; [`ErrorKind::Gone`] where there is no place any
    /// more. Nothing has changed then.
    fn succeed(
        &self,
        process: &Process,
        heir: &Record,
        arrive: &mut dyn FnMut() -> Loaded,
    ) -> Result<(), Error> {
        checkpoint::pass("replace.switch")?;
        loop {
            let (n_changes, objects) = self.old.lineage.objects();
            let places = objects.iter().map(|object| {
                let place = heir.place_of(object);
                place.map_err(|error| match object {
                    Object::Import(it) => {
                        error.about(&format!("import {} by {}", it.what, it.user))
                    }
                    Object::Function { .. } | Object::Table(_) => error,
                })
            });
            let places: Vec<Place> = places.collect::<Result<_, Error>>()?;
            // Handles may be asked for meanwhile, and then all of it is looked for again.
            let registry = &process.registry;
            let asked = (n_changes, &*places);
            let leaving = registry.succeed(self.old, heir, asked, &mut *arrive)?;
            if leaving.is_some() {
                self.leaving.set(leaving);
                return Ok(());
            }
        }
    }
}

fn run(
    process: &'static Process,
    opened: &Opened,
    wanted: Wanted<'_>,
    params: &Params,
    deadline: Deadline,
    stages: &mut Stages,
    left: &mut Option<Lingering>,
) -> Result<Plugin, Error> {
    let file_name = foreign_name(opened.path());

    // A private copy, so that nobody changes under us what is read, checked and mapped.
    checkpoint::pass("load.stage").map_err(|error| error.at(Stage::Stage))?;
    let staged = opened
        .stage(wanted.name.unwrap_or(&file_name))
        .map_err(|error| image_error(error, Stage::Stage))?;
    stages.end(Stage::Stage);

    // Who made it, and what it did before, comes before anything that it says.
    checkpoint::pass("load.verify").map_err(|error| error.at(Stage::Verify))?;
    let mut screened = screening::verify(process, staged.bytes(), wanted.signature)
        .map_err(|error| error.at(Stage::Verify))?;
    stages.end(Stage::Verify);

    checkpoint::pass("load.facts").map_err(|error| error.at(Stage::Facts))?;
    let facts =
        Facts::read(staged.bytes()).map_err(|damage| image_error(damage.into(), Stage::Facts))?;
    validate(&facts, staged.bytes()).map_err(|damage| image_error(damage.into(), Stage::Facts))?;
    let location = opened.location();
    let directives = &process.config.directives;
    let directed = directives.policy(wanted.policy, || {
        // One whose metadata cannot be read is refused for that a little later.
        let info = Info::read(&facts, staged.bytes()).ok();
        let own = info.as_ref().and_then(Info::name);
        wanted.name.or(own).unwrap_or(&file_name).to_owned()
    });
    let wanted = Wanted {
        policy: directed.as_ref().unwrap_or(wanted.policy),
        ..wanted
    };
    let mut taints = judge(
        &facts,
        staged.bytes(),
        opened,
        location.as_deref(),
        wanted.policy,
    )
    .map_err(|error| error.at(Stage::Facts))?;
    stages.end(Stage::Facts);

    // Everything that can be refused is refused here, before a byte of the plugin ran.
    checkpoint::pass("load.metadata").map_err(|error| error.at(Stage::Metadata))?;
    let info = Info::read(&facts, staged.bytes())
        .map_err(|malformed| image_error(malformed.into(), Stage::Metadata))?;
    let name = wanted.name.or(info.name()).unwrap_or(&file_name).to_owned();
    directives
        .may_be(&[&*name, info.name().unwrap_or_default(), &*file_name])
        .map_err(|error| error.at(Stage::Verify).plugin(&name))?;
    let params = &params.over(directives.options(&name));
    let pass = screened
        .compare(&facts, &info, opened.path())
        .map_err(|error| error.at(Stage::Verify))
        .and_then(|()| gate::admit(&facts, &info, staged.bytes(), wanted.force))
        .map_err(|error| error.at(Stage::Metadata).plugin(&name))?;
    if pass.is_forced {
        taints.add(Taint::Forced);
    }
    let slots = plugin_import::slots(&facts, &info, staged.bytes())
        .map_err(|message| Error::new(ErrorKind::Incompatible, message))
        .map_err(|error| error.at(Stage::Metadata).plugin(&name))?;
    let (settings, told) =
        Settings::resolve(&info, params).map_err(|e| e.at(Stage::Metadata).plugin(&name))?;
    stages.end(Stage::Metadata);

    // What it brings is let in by the same rules as itself.
    checkpoint::pass("load.needed").map_err(|error| error.at(Stage::Needed))?;
    let bundle = Bundle::find(opened, &facts, staged.bytes())
        .map_err(|error| image_error(error, Stage::Needed).plugin(&name))?;
    let brought = screened
        .bring(process, &bundle, wanted.brought)
        .and_then(|()| judge_brought(&bundle, wanted.policy))
        .map_err(|error| error.at(Stage::Needed).plugin(&name))?;
    taints.join(brought);
    taints.join(screened.taints);
    stages.end(Stage::Needed);

    // What would crash or hang does so in another process first.
    checkpoint::pass("load.probe").map_err(|error| error.at(Stage::Probe))?;
    let request = || Request {
        path: opened.path().display().to_string(),
        original: Some(opened.original()),
        name: wanted.name.map(str::to_owned),
        force: wanted.force,
        calls: false,
        policy: wanted.policy.clone(),
        nodelete: wanted.rules.nodelete,
        unique: wanted.rules.unique,
        brought: Some(screened.brought().to_vec()),
        params: params.clone(),
    };
    screened
        .probe(
            process,
            &name,
            staged.bytes(),
            deadline,
            wanted.rules,
            request,
        )
        .map_err(|error| error.at(Stage::Probe).plugin(&name))?;
    stages.end(Stage::Probe);

    checkpoint::pass("load.claim").map_err(|error| error.at(Stage::Claim))?;
    let claim = process
        .registry
        .claim(&name, wanted.replaces.map(|it| it.old.generation), deadline)
        .map_err(|error| claim_error(error, &name))?;
    process.workers.grow(claim.id);
    stages.generation = claim.generation;
    stages.end(Stage::Claim);

    // Whoever waits for a plugin whose code loads this one waits for this one as well.
    let within = phase::of(thread_pointer());
    let _waiting = within.and_then(|(waiter, _)| process.registry.wait_for(waiter, &name));

    // Those that it uses are kept from here on, whatever becomes of it.
    checkpoint::pass("load.imports").map_err(|error| error.at(Stage::Imports))?;
    let (imports, references) = providers::refer(process, &name, claim.generation, slots, deadline)
        .map_err(|error| error.at(Stage::Imports).plugin(&name))?;
    stages.end(Stage::Imports);

    // From here until the load has ended, well or not.
    let _loading = screened
        .begin(process, &name, opened.path())
        .map_err(|error| error.at(Stage::Map).plugin(&name))?;
    land(
        process,
        Flight {
            opened,
            info,
            name: &name,
            wanted,
            descriptor: pass.descriptor,
            taints,
            given: params,
            params: &told,
            settings: RefCell::new(settings),
            location,
            imports: Cell::new(imports),
        },
        (facts, staged, bundle),
        (claim, references),
        stages,
        left,
    )
    .map_err(|error| error.plugin(&name))
}

/// What is known about a plugin before it is mapped.
struct Flight<'a> {
    opened: &'a Opened,
    info: Info,
    name: &'a str,
    wanted: Wanted<'a>,
    /// Where the file lies, if anywhere.
    location: Option<PathBuf>,
    /// Link-time address and size of the descriptor; none for a foreign library.
    descriptor: Option<(u64, u64)>,
    taints: Taints,
    /// What was given for it.
    given: &'a Params,
    /// What the plugin is told.
    params: &'a Params,
    /// What was declared and what it is set to; moved into the record.
    settings: RefCell<Settings>,
    /// What it imports, with the link-time addresses of the slots; moved into the record.
    imports: Cell<Vec<(Binding, u64)>>,
}

/// From the claim to Live.
fn land(
    process: &'static Process,
    flight: Flight<'_>,
    (facts, staged, mut bundle): (Facts, Staged, Bundle),
    (claim, references): (Claim, References),
    stages: &mut Stages,
    left: &mut Option<Lingering>,
) -> Result<Plugin, Error> {
    // Made while the rest is: when constructors are to be run, it is there.
    let executor = Executor::start(c"plug-init").map_err(|error| error.at(Stage::Constructors))?;

    let rules = flight.wanted.rules;
    let plugin = Piece {
        name: flight.name.into(),
        path: flight.opened.path().display().to_string().into(),
        version: flight.info.version().unwrap_or_default().into(),
        facts,
    };
    runtimes::keep_shared(&bundle.dependencies);
    // SAFETY: the host vouched for the file through Trust.
    let shared = unsafe { bundle::open_shared(&bundle) };
    let account = account::open(flight.wanted.accounting);
    let account = account.map_err(|error| error.at(Stage::Rewrite))?;
    let pieces = bundle::gather(&mut bundle, plugin, staged);
    let edited = bundle::rewrite(&bundle, pieces, &shared, rules, account.is_some())?;
    let pinned_because = bundle::pinned_because(&edited, rules);
    stages.end(Stage::Rewrite);

    let linked = bundle::link(&bundle, edited)?;
    stages.end(Stage::Link);

    let objects = bundle::index(linked)?;
    stages.end(Stage::Symbols);

    checkpoint::pass("load.map").map_err(|error| error.at(Stage::Map))?;
    // SAFETY: the host vouched for the file through Trust.
    let opened = unsafe { bundle::open(&bundle, &objects) }?;
    drop(shared);
    let threads = RefCell::new(Vec::new());
    let owed = RefCell::new(None);
    let owner = Owner {
        id: claim.id,
        generation: claim.generation,
    };
    let mut mapped = Mapping {
        process,
        owner,
        mapped: Some(opened.mapped),
        account,
        references: Some(references),
        owed: &owed,
        names: opened.names,
        links: opened.links,
        left,
        pinned_because: pinned_because.clone(),
        record: None,
    };
    stages.end(Stage::Map);

    checkpoint::pass("load.describe").map_err(|error| error.at(Stage::Describe))?;
    let checked = objects.iter().zip(opened.biases);
    let checked = checked.map(|(object, bias)| bundle::check(object, bias));
    let biases = checked.collect::<Result<Vec<usize>, Error>>()?;
    let account = mapped.account.as_ref().map(account::Open::account);
    // SAFETY: relocated just now, and their code has not run.
    unsafe { bundle::redirect(&bundle, &objects, &biases, owner, account) }?;
    let constructors = bundle::constructors(&bundle, &objects, &biases);
    let destructors = bundle::destructors(&bundle, &objects, &biases);
    let parts = bundle::parts(objects, &biases);
    let slots = flight.imports.take();
    let (imports, slots): (Vec<_>, Vec<_>) = slots.into_iter().unzip();
    let (record, descriptor) = describe(
        process,
        &flight,
        (&claim, account),
        (parts, &destructors),
        (bundle.dependencies, imports),
        pinned_because,
    )?;
    let record = Arc::new(record);
    for (import, svma) in record.imports.iter().zip(slots) {
        // SAFETY: the file has a slot there, as was checked, and its code has not run; the record
        // stays for as long as the plugin is mapped, and so do the bindings in it.
        unsafe { import.write_to(code::run_time(record.bias, svma)) };
    }
    taint::mark(record.id, record.taints);
    mapped.record = Some(Arc::clone(&record));
    stages.end(Stage::Describe);

    process
        .registry
        .advance(record.id, record.generation, State::Coming);
    process.registry.show(&record);
    let shown = Shown {
        process,
        generation: record.generation,
        kept: false,
    };
    let settled = Settled {
        process,
        record: &record,
        threads: &threads,
        running: RefCell::new(None),
        owed: &owed,
    };
    let indexes = || record.parts.iter().map(|part| &part.index);
    for index in indexes().filter(|index| index.is_small()) {
        index.build_search();
    }
    let (plugin, patience) = (&record.name, process.config.subscriber_patience);
    let (told, vote) = process
        .events
        .announce(plugin, record.generation, stages.laps(), patience);
    let announced = Announced {
        process,
        record: &record,
        told: Some(told),
    };
    vote.map_err(|why| Error::new(ErrorKind::Vetoed, why).at(Stage::Publish))?;
    checkpoint::pass("load.publish").map_err(|error| error.at(Stage::Publish))?;
    stages.end(Stage::Publish);

    let close = || {
        let (id, generation) = (record.id, record.generation);
        process.registry.advance(id, generation, State::Going);
    };
    let silence = || settled.silence();
    // Visible from here on: a crash or a profile sample in the plugin's first instruction resolves.
    let built = constructors::run(
        executor,
        constructors,
        &record,
        descriptor,
        constructors::Undoing {
            close: &close,
            destructors: &destructors,
            threads: &threads,
            silence: &silence,
        },
        stages,
    )?;
    // A plugin that takes the host's handlers is not refused, but named.
    let _replaced = crash::check(process, Some(&record));
    // At the process's end, exits come before the objects that the constructors made.
    process_exit::run_first();

    let replaced = flight.wanted.replaces;
    if let Some(replaced) = replaced {
        let handed = replaced.hand_over(&record, &threads);
        handed.map_err(|error| error.at(Stage::Activate))?;
    }
    checkpoint::pass("load.activate").map_err(|error| error.at(Stage::Activate))?;
    if process.registry.is_shut_down() {
        let message = "the loader was shut down meanwhile";
        return Err(Error::new(ErrorKind::ShutDown, message).at(Stage::Activate));
    }
    // Once nothing fails any more, in one step with becoming Live.
    let mut arrive = || {
        let (mapped, account, references, names, links) = mapped.keep();
        stages.end(Stage::Activate);
        let times = mem::replace(stages, Stages::start()).into_inner();
        // Set once: the record was made by this load.
        let _first = record.times.set(times);
        let times = record.times.get().map(Vec::as_slice).unwrap_or_default();
        let (events, name) = (&process.events, &record.name);
        events.push_timed(name, record.generation, EventKind::Live, times);
        if let Some(Replaced { old, .. }) = replaced {
            let kind = EventKind::Replaced(record.generation);
            events.push(&old.name, old.generation, kind);
        }
        Loaded {
            record: Arc::clone(&record),
            mapped,
            _account: account,
            names,
            _links: links,
            descriptor,
            destructors: destructors.clone(),
            threads: threads.take(),
            references,
        }
    };
    match replaced {
        Some(replaced) => replaced
            .succeed(process, &record, &mut arrive)
            .map_err(|error| error.at(Stage::Activate))?,
        None => process
            .registry
            .go_live(record.id, record.generation, arrive),
    }
    built.keep();
    announced.keep();
    settled.keep();
    shown.keep();
    claim.keep();
    // Last, so that the search does not take the processor from the load; until then readers scan.
    for index in indexes().filter(|index| !index.is_small()) {
        process.indexer.ask(Arc::clone(index));
    }
    checkpoint::note("load.live");
    Ok(Plugin::new(record))
}

/// Writes down what there is to know of what is mapped.
fn describe(
    process: &'static Process,
    flight: &Flight<'_>,
    (claim, account): (&Claim, Option<Account>),
    (parts, destructors): (Vec<Part>, &Destructors),
    (dependencies, imports): (Vec<Dependency>, Vec<Binding>),
    pinned_because: Vec<String>,
) -> Result<(Record, Option<Descriptor>), Error> {
    let Some(plugin) = parts.first() else {
        return Err(Error::new(ErrorKind::Map, "nothing is mapped").at(Stage::Describe));
    };
    let (bias, start, end) = (plugin.bias, plugin.start, plugin.end);
    let index = Arc::clone(&plugin.index);
    let at = |svma: u64| code::run_time(bias, svma);
    let descriptor =
        match flight.descriptor {
            // SAFETY: the symbol lies inside the image and has the size of a descriptor (admitted).
            Some((svma, size)) => Some(unsafe { code::descriptor(at(svma), size) }.map_err(
                |message| Error::new(ErrorKind::Incompatible, message).at(Stage::Describe),
            )?),
            None => None,
        };
    let interfaces = match &descriptor {
        // SAFETY: relocated, and of version 1, as code::descriptor() checked.
        Some(descriptor) => unsafe { code::interfaces(descriptor) },
        None => Vec::new(),
    };
    let owner = Owner {
        id: claim.id,
        generation: claim.generation,
    };
    let threads = PluginThreads::new(flight.name, owner, &process.workers, &process.events);
    let record = Record {
        dso_handles: destructors.dso_handles.clone(),
        name: flight.name.into(),
        canonical: canonical(flight.name),
        version: flight.info.version().unwrap_or_default().into(),
        origin: flight.opened.path().display().to_string().into(),
        id: claim.id,
        generation: claim.generation,
        bias,
        start,
        end,
        account,
        index,
        parts,
        dependencies,
        pinned_because,
        interfaces: interfaces
            .into_iter()
            .map(|(name, entry)| Export {
                name,
                major: entry.major,
                minor: entry.minor,
                kind: entry.kind,
                table: entry.table as usize,
                size: entry.table_size,
            })
            .collect(),
        calls_before: process.workers.calls(claim.id),
        context: Context::new(flight.name, flight.params, &process.services, threads),
        times: OnceLock::new(),
        settings: flight.settings.take(),
        info: flight.info.clone(),
        pins: Pins::default(),
        permanent: permanent(flight).map(Box::from),
        taints: flight.taints,
        source: SourceFile::new(flight.location.clone(), flight.opened.stamp()),
        order: Order {
            original: Original {
                key: flight.opened.key(),
                folder: flight.opened.folder(),
                location: flight.location.clone(),
            },
            params: flight.given.clone(),
            force: flight.wanted.force,
            signature: flight.wanted.signature.map(Box::from),
            accounting: flight.wanted.accounting,
            nodelete: flight.wanted.rules.nodelete,
            unique: flight.wanted.rules.unique,
        },
        lineage: match flight.wanted.replaces {
            Some(replaced) => Arc::clone(&replaced.old.lineage),
            None => Arc::new(Lineage::new(claim.generation)),
        },
        imports: imports.into(),
        automatic: AtomicBool::new(flight.wanted.automatic),
    };
    Ok((record, descriptor))
}

/// Why the plugin is never unloaded; the author knows best.
fn permanent<'a>(flight: &'a Flight<'_>) -> Option<&'a str> {
    let hosts = flight
        .wanted
        .permanent
        .then_some("the host loaded it as such");
    flight.info.permanent().or(hosts)
}
