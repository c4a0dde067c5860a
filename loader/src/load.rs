//! The story of a load, from top to bottom: each step has a guard that undoes it, and guards are
//! dropped in reverse.

use std::cell::RefCell;
use std::collections::HashSet;
use std::mem::{self, ManuallyDrop};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use plug_api::abi::Descriptor;
use plug_readside::state::State;

use crate::checkpoint;
use crate::constructors;
use crate::context::Context;
use crate::crash;
use crate::deadline::{Deadline, lock_until};
use crate::error::{Error, ErrorKind, Lingering, Stage};
use crate::events::EventKind;
use crate::executor::{self, Ending, Executor};
use crate::footprint;
use crate::fork;
use crate::image::libraries::Libraries;
use crate::image::tables::Tables;
use crate::image::{
    Backing, DEFAULT_MAX_SIZE, Edit, Facts, Finding, ImageError, Info, Opened, RewritePolicy,
    StageLink, Staged, admission, contract, foreign_name, is_name, next_nonce, origin, plan, undo,
    validate,
};
use crate::index::OwnedIndex;
use crate::params::Params;
use crate::pins::Pins;
use crate::plugin::{Destructors, Export, Loaded, Plugin, Record};
use crate::policy::{Action, Matter, Policy};
use crate::process::Process;
use crate::registry::{Claim, Until, Zombie, canonical, claim_error};
use crate::settlement;
use crate::source_file::SourceFile;
use crate::stages::Stages;
use crate::sys::{code, dl, process_exit};
use crate::taint::{self, Taints};
use crate::trust::{Origin, Source};

/// Time that threads which ran a plugin's code get to end before it stays mapped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Loads what `source` names, or shares the result of a load of the same file in flight.
pub(crate) fn load(
    process: &'static Process,
    policy: &Policy,
    source: Source,
    params: &Params,
) -> Result<Plugin, Error> {
    let described = source.describe();
    let span = tracing::info_span!(
        target: "plug::load", "load", file = described, plugin = tracing::field::Empty
    );
    let _entered = span.enter();
    fork::settle(process)?;
    let deadline = Deadline::after(process.config.load_patience);
    let (name, permanent) = (source.name, source.permanent);
    let named = name.as_deref().unwrap_or(&described);
    let result = (|| {
        if let Some(name) = name.as_deref().filter(|name| !is_name(name)) {
            let bad = ImageError::Name {
                name: name.to_owned(),
            };
            return Err(image_error(bad, Stage::Open));
        }
        let opened = open(source.origin)?;
        let flight = (opened.key(), name.clone(), permanent, policy.clone());
        process.flights.join(flight, deadline, || {
            let mut stages = Stages::start();
            let mut left = None;
            run(
                process,
                &opened,
                Wanted {
                    name: name.as_deref(),
                    permanent,
                    policy,
                },
                params,
                deadline,
                &mut stages,
                &mut left,
            )
            .map_err(|error| error.lingering_as(left).plugin(named))
            .inspect(|plugin| {
                let stages = plugin.load_times().to_vec();
                let kind = EventKind::Live(stages);
                process
                    .events
                    .push(plugin.name(), plugin.generation(), kind);
            })
            .inspect_err(|error| report_failure(process, error))
        })
    })();
    let result = result.map_err(|error| error.plugin(named));
    match &result {
        Ok(plugin) => {
            span.record("plugin", plugin.name());
            let (generation, stages) = (plugin.generation(), plugin.load_times());
            tracing::info!(target: "plug::load", generation, ?stages, "live");
        }
        Err(error) => tracing::warn!(target: "plug::load", %error, "not loaded"),
    }
    result
}

fn report_failure(process: &Process, error: &Error) {
    let generation = error.lingering().map_or(0, |left| left.generation);
    let kind = EventKind::Failed(error.stage(), error.to_string().into());
    process.events.push(error.plugin_name(), generation, kind);
}

fn open(origin: Origin) -> Result<Opened, Error> {
    checkpoint::pass("load.open").map_err(|error| error.at(Stage::Open))?;
    match origin {
        Origin::Path(path) => Opened::open(path),
        Origin::Descriptor(fd, path) => Opened::from_fd(fd, path, DEFAULT_MAX_SIZE),
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
    /// If these rules admit it.
    policy: &'a Policy,
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

    checkpoint::pass("load.facts").map_err(|error| error.at(Stage::Facts))?;
    let facts =
        Facts::read(staged.bytes()).map_err(|damage| image_error(damage.into(), Stage::Facts))?;
    validate(&facts, staged.bytes()).map_err(|damage| image_error(damage.into(), Stage::Facts))?;
    let location = opened.location();
    let taints = judge(&facts, staged.bytes(), location.as_deref(), wanted.policy)
        .map_err(|error| error.at(Stage::Facts))?;
    stages.end(Stage::Facts);

    // Everything that can be refused is refused here, before a byte of the plugin ran.
    checkpoint::pass("load.metadata").map_err(|error| error.at(Stage::Metadata))?;
    let info = Info::read(&facts, staged.bytes())
        .map_err(|malformed| image_error(malformed.into(), Stage::Metadata))?;
    let name = wanted.name.or(info.name()).unwrap_or(&file_name).to_owned();
    let descriptor =
        admit(&facts, &info, &staged).map_err(|e| e.at(Stage::Metadata).plugin(&name))?;
    stages.end(Stage::Metadata);

    checkpoint::pass("load.claim").map_err(|error| error.at(Stage::Claim))?;
    let claim = process
        .registry
        .claim(&name, deadline)
        .map_err(|error| claim_error(error, &name))?;
    process.workers.grow(claim.id);
    stages.end(Stage::Claim);

    land(
        process,
        Flight {
            opened,
            facts,
            info,
            name: &name,
            permanent: wanted.permanent,
            location,
            taints,
            descriptor,
            params,
        },
        staged,
        claim,
        stages,
        left,
    )
    .map_err(|error| error.plugin(&name))
}

/// What is known about a plugin before it is mapped.
struct Flight<'a> {
    opened: &'a Opened,
    facts: Facts,
    info: Info,
    name: &'a str,
    permanent: bool,
    /// Where the file lies, if anywhere.
    location: Option<PathBuf>,
    /// What it is loaded in spite of.
    taints: Taints,
    /// Link-time address and size of the descriptor; none for a foreign library.
    descriptor: Option<(u64, u64)>,
    params: &'a Params,
}

/// Refuses a file that the policy does not admit; tells what it is marked with otherwise.
fn judge(
    facts: &Facts,
    bytes: &[u8],
    location: Option<&Path>,
    policy: &Policy,
) -> Result<Taints, Error> {
    let refuse = |finding: &Finding| {
        let message = format!("{finding}; the host's policy does not admit it");
        Err(Error::new(ErrorKind::NotAdmitted, message))
    };
    if let Some(finding) = admission::objection(facts) {
        return refuse(&finding);
    }
    let rules = policy.rules(location.unwrap_or(Path::new("")));
    let asks = |matter| rules.of(matter) != Action::Allow;
    let needs_libraries = asks(Matter::MissingLibrary) || asks(Matter::UndefinedSymbol);
    let libraries = needs_libraries.then(|| Libraries::of(facts));
    let mut judged = admission::traits(facts, bytes, rules, libraries.as_ref());
    if asks(Matter::Path) {
        judged.extend(location.and_then(|path| origin::exposure(path, rules)));
    }
    let mut taints = Taints::default();
    for (matter, finding) in &judged {
        match rules.of(*matter) {
            Action::Allow => {}
            Action::Taint => {
                tracing::warn!(target: "plug::load", %finding, "loaded and marked");
                taints.add(matter.taint());
            }
            Action::Refuse => return refuse(finding),
        }
    }
    Ok(taints)
}

/// Refuses a plugin that does not fit this host; finds its descriptor.
fn admit(facts: &Facts, info: &Info, staged: &Staged) -> Result<Option<(u64, u64)>, Error> {
    contract::descriptor(facts, info, staged.bytes())
        .map_err(|why| Error::new(ErrorKind::Incompatible, why))
}

/// From the claim to Live.
fn land(
    process: &'static Process,
    flight: Flight<'_>,
    mut staged: Staged,
    claim: Claim,
    stages: &mut Stages,
    left: &mut Option<Lingering>,
) -> Result<Plugin, Error> {
    let facts = &flight.facts;
    // Made while the rest is: when constructors are to be run, it is there.
    let executor = Executor::start(c"plug-init").map_err(|error| error.at(Stage::Constructors))?;

    checkpoint::pass("load.rewrite").map_err(|error| error.at(Stage::Rewrite))?;
    let edits = plan(facts, staged.bytes(), &RewritePolicy::new(next_nonce()));
    let undo = undo(&edits, staged.bytes());
    staged
        .edit(&edits)
        .map_err(|error| image_error(error, Stage::Rewrite))?;
    staged
        .seal()
        .map_err(|error| image_error(error, Stage::Rewrite))?;
    let header = header(facts, &staged);
    stages.end(Stage::Rewrite);

    let tables = Tables::of(facts, staged.bytes());
    checkpoint::pass("load.link").map_err(|error| error.at(Stage::Link))?;
    let (link, bytes) = staged
        .link_and_keep(flight.name, facts.build_id.as_deref())
        .map_err(|error| image_error(error, Stage::Link))?;
    let link = Arc::new(link);
    stages.end(Stage::Link);

    // The tables stay where they are: nothing is read here.
    checkpoint::pass("load.symbols").map_err(|error| error.at(Stage::Symbols))?;
    let index = OwnedIndex::new(
        bytes,
        link.backing() == Backing::Memory,
        &tables,
        flight.name,
        flight.info.version().unwrap_or_default(),
        facts.build_id.as_deref().unwrap_or_default(),
    );
    let index = Arc::new(index);
    stages.end(Stage::Symbols);

    checkpoint::pass("load.map").map_err(|error| error.at(Stage::Map))?;
    keep_shared_runtimes(&facts.needed);
    // SAFETY: the host vouched for the file through Trust; its constructors are not run by ld.so.
    let mapped = unsafe { dl::open(link.as_path()) }
        .map_err(|refusal| Error::new(ErrorKind::Map, refusal.to_string()).at(Stage::Map))?;
    let (bias, mapped_name) = (mapped.bias, mapped.name.clone());
    let threads = RefCell::new(Vec::new());
    let owed = RefCell::new(None);
    let mut mapped = Mapping {
        process,
        mapped: Some(mapped),
        owed: &owed,
        link: Arc::clone(&link),
        left,
        pinned_because: pinned_because(facts),
        record: None,
    };
    stages.end(Stage::Map);

    checkpoint::pass("load.describe").map_err(|error| error.at(Stage::Describe))?;
    if *mapped_name != *link.path() {
        let message = format!(
            "ld.so: expected the object {:?}, found {mapped_name:?}",
            link.path()
        );
        return Err(Error::new(ErrorKind::Map, message).at(Stage::Describe));
    }
    // SAFETY: relocated just now, its code has not run, and the facts are its own.
    unsafe { footprint::redirect(facts, bias) }.map_err(|error| error.at(Stage::Describe))?;
    let (record, destructors, descriptor) = describe(
        process,
        &flight,
        (index, &link, undo),
        &claim,
        &header,
        bias,
    )?;
    let record = Arc::new(record);
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
        owed: &owed,
    };
    let is_small = record.index.is_small();
    if is_small {
        record.index.build_search();
    }
    process
        .events
        .push(&record.name, record.generation, EventKind::Coming);
    checkpoint::pass("load.publish").map_err(|error| error.at(Stage::Publish))?;
    stages.end(Stage::Publish);

    // Visible from here on: a crash or a profile sample in the plugin's first instruction resolves.
    let built = constructors::run(
        executor,
        facts,
        &record,
        descriptor,
        &destructors,
        &threads,
        stages,
    )?;
    // A plugin that takes the host's handlers is not refused, but named.
    let _replaced = crash::check(process, Some(&record));
    // At the process's end, exits come before the objects that the constructors made.
    process_exit::run_first();

    checkpoint::pass("load.activate").map_err(|error| error.at(Stage::Activate))?;
    if process.registry.is_shut_down() {
        let message = "the loader was shut down meanwhile";
        return Err(Error::new(ErrorKind::ShutDown, message).at(Stage::Activate));
    }
    built.keep();
    settled.keep();
    shown.keep();
    claim.keep();
    let mapping = mapped.keep();
    let link_name = link.path().to_owned();
    process.registry.settle(Loaded {
        record: Arc::clone(&record),
        mapped: mapping,
        link_name,
        _link: link,
        descriptor,
        destructors,
        threads: threads.take(),
        pinned_because: pinned_because(facts),
    });
    stages.end(Stage::Activate);
    let times = mem::replace(stages, Stages::start()).into_inner();
    // Set once: the record was made by this load.
    let _first = record.times.set(times);
    process
        .registry
        .advance(record.id, record.generation, State::Live);
    // Last, so that the search does not take the processor from the load; until then readers scan.
    if !is_small {
        process.indexer.ask(Arc::clone(&record.index));
    }
    checkpoint::note("load.live");
    Ok(Plugin::new(record))
}

/// The first bytes of the staged copy, to be found again in the mapping.
fn header(facts: &Facts, staged: &Staged) -> Vec<u8> {
    let first = facts
        .segments
        .first()
        .map_or(0, |segment| segment.filesz.min(1024));
    let first = usize::try_from(first).unwrap_or(0);
    staged.bytes().get(..first).unwrap_or_default().to_vec()
}

/// Checks that what is mapped is what was staged, and writes down what there is to know.
fn describe(
    process: &'static Process,
    flight: &Flight<'_>,
    (index, link, undo): (Arc<OwnedIndex>, &Arc<StageLink>, Vec<Edit>),
    claim: &Claim,
    header: &[u8],
    bias: usize,
) -> Result<(Record, Destructors, Option<Descriptor>), Error> {
    let facts = &flight.facts;
    let fail = |message: String| Error::new(ErrorKind::Map, message).at(Stage::Describe);
    let at = |svma: u64| code::run_time(bias, svma);
    let first = facts.segments.first().map_or(0, |segment| segment.vaddr);
    // SAFETY: the first segment is mapped readable and has at least these bytes (validated).
    if unsafe { code::bytes(at(first), header.len()) } != header {
        return Err(fail(
            "ld.so: the mapped bytes are not the staged ones".to_owned(),
        ));
    }
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
    let mut fini: Vec<usize> = match facts.fini_array {
        // SAFETY: the array lies inside the image and is relocated.
        Some(array) => unsafe { code::entries(at(array.vaddr), array.size) },
        None => Vec::new(),
    };
    fini.reverse();
    fini.extend(facts.fini.map(at));
    let destructors = Destructors {
        fini,
        dso_handles: facts.dso_handles.iter().map(|&handle| at(handle)).collect(),
    };
    let record = Record {
        name: flight.name.into(),
        canonical: canonical(flight.name),
        version: flight.info.version().unwrap_or_default().into(),
        origin: flight.opened.path().display().to_string().into(),
        id: claim.id,
        generation: claim.generation,
        bias,
        start: at(facts.span.vaddr),
        end: at(facts.span.vaddr.wrapping_add(facts.span.size)),
        index,
        link: Arc::downgrade(link),
        undo,
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
        context: Context::new(flight.name, flight.params, &process.services),
        times: OnceLock::new(),
        info: flight.info.clone(),
        pins: Pins::default(),
        permanent: permanent(flight).map(Box::from),
        taints: flight.taints,
        source: SourceFile::new(flight.location.clone(), flight.opened.stamp()),
    };
    Ok((record, destructors, descriptor))
}

/// Why the plugin is never unloaded; the author knows best.
fn permanent<'a>(flight: &'a Flight<'_>) -> Option<&'a str> {
    let hosts = flight.permanent.then_some("the host loaded it as such");
    flight.info.permanent().or(hosts)
}

/// Hides the plugin from readers, unless kept.
struct Shown {
    process: &'static Process,
    generation: u64,
    kept: bool,
}

impl Shown {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if !self.kept {
            self.process.registry.hide(self.generation);
        }
    }
}

/// Has threads end that ran the plugin's code, and destroy what is theirs, before readers no longer
/// see it; unless kept.
struct Settled<'a> {
    process: &'static Process,
    record: &'a Arc<Record>,
    /// Threads of the loader's that ran its code.
    threads: &'a RefCell<Vec<Ending>>,
    owed: &'a RefCell<Option<(Vec<String>, Option<Until>)>>,
}

impl Settled<'_> {
    /// The threads are the unload's to wait for.
    fn keep(self) {
        let _kept = ManuallyDrop::new(self);
    }
}

impl Drop for Settled<'_> {
    fn drop(&mut self) {
        let owed = match executor::wait_all(self.threads.take(), LAST_WORDS) {
            // Its code may still run: it stays, and for ever.
            Err(reason) => Some((vec![reason], None)),
            Ok(()) => {
                let soon = Deadline::after(LAST_WORDS);
                let settled = settlement::settle(self.process, self.record, soon);
                // What was to be undone is undone.
                let until = Until::Settled { destroyed: true };
                settled.err().map(|reasons| (reasons, Some(until)))
            }
        };
        if owed.is_none() {
            settlement::release(self.record.generation);
        }
        self.owed.replace(owed);
    }
}

/// Gives the mapping back to ld.so, unless kept, and reports what stays.
///
/// What stays is a zombie as after an unload: readers see it, and it is collected when it goes.
struct Mapping<'a> {
    process: &'static Process,
    mapped: Option<dl::Mapped>,
    /// Why it may not be given back, and what it waits for: threads still run its code, or owe it
    /// something.
    owed: &'a RefCell<Option<(Vec<String>, Option<Until>)>>,
    link: Arc<StageLink>,
    left: &'a mut Option<Lingering>,
    pinned_because: Vec<String>,
    /// Known once the plugin is described.
    record: Option<Arc<Record>>,
}

impl Mapping<'_> {
    fn keep(mut self) -> Option<dl::Mapped> {
        self.mapped.take()
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        let Some(mapped) = self.mapped.take() else {
            return;
        };
        let (mapped, why, until) = match self.owed.take() {
            Some((why, until)) => (Some(mapped), why, until),
            // SAFETY: the plugin never was Live, so nobody has called it or holds a pointer into
            // it; what its constructors and init left behind was undone, and threads that ran its
            // code have ended and owe it nothing.
            None => match unsafe { mapped.close() } {
                Ok(false) => return,
                Ok(true) => (None, vec!["still mapped after dlclose".to_owned()], None),
                Err(refusal) => (None, vec![refusal.to_string()], None),
            },
        };
        let pinned_because = mem::take(&mut self.pinned_because);
        let is_pinned = mapped.is_some() && until.is_none() || !pinned_because.is_empty();
        let mut reasons = pinned_because.clone();
        reasons.extend(why);
        let Some(record) = self.record.take() else {
            let (plugin, generation) = (Box::default(), 0);
            *self.left = Some(Lingering {
                plugin,
                generation,
                reasons,
            });
            return;
        };
        let (plugin, generation) = (record.name.clone(), record.generation);
        let lingering = Lingering {
            plugin,
            generation,
            reasons,
        };
        self.process.registry.show(&record);
        self.process.registry.bury(Zombie {
            lingering: lingering.clone(),
            id: record.id,
            record: Arc::clone(&record),
            loaded: Some(Loaded {
                record,
                mapped,
                link_name: self.link.path().to_owned(),
                _link: Arc::clone(&self.link),
                descriptor: None,
                destructors: Destructors::default(),
                threads: Vec::new(),
                pinned_because,
            }),
            until,
        });
        let reasons = lingering.reasons.clone();
        let kind = if is_pinned {
            EventKind::Pinned(reasons)
        } else {
            EventKind::Zombie(reasons)
        };
        self.process
            .events
            .push(&lingering.plugin, generation, kind);
        *self.left = Some(lingering);
    }
}

/// Reasons known from the file why a plugin stays mapped for ever.
fn pinned_because(facts: &Facts) -> Vec<String> {
    let mut reasons = Vec::new();
    if facts.nodelete() {
        reasons.push(
            "the file is marked DF_1_NODELETE: its author says that unloading is unsafe".into(),
        );
    }
    reasons
}

/// The runtimes kept, for [`keep_shared_runtimes`]. Held while ld.so opens one.
static KEPT: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Keeps loads from opening runtimes, for a fork.
pub(crate) fn hold_runtimes(deadline: Deadline) -> Option<impl Sized> {
    lock_until(&KEPT, deadline)
}

/// Makes sure that the plugin is not the first to bring the C++ and unwinding runtimes in: they
/// could bind to weak symbols of the plugin and pin it for ever.
fn keep_shared_runtimes(needed: &[String]) {
    for name in needed {
        if !matches!(name.as_str(), "libstdc++.so.6" | "libgcc_s.so.1") {
            continue;
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.get_or_insert_default().insert(name.clone()) {
            // SAFETY: the system's own runtime libraries, which the plugin would bring in anyway.
            if let Err(error) = unsafe { dl::keep(name) } {
                tracing::debug!(target: "plug::load", library = name, %error, "not kept");
            }
        }
    }
}

/// An image's error in the loader's words.
fn image_error(error: ImageError, stage: Stage) -> Error {
    let kind = match &error {
        ImageError::Read { .. } | ImageError::NotRegular { .. } | ImageError::TooLarge { .. } => {
            ErrorKind::Open
        }
        ImageError::Damaged(_) => ErrorKind::Damaged,
        ImageError::Metadata(_) | ImageError::Name { .. } => ErrorKind::Incompatible,
        _ => ErrorKind::Stage,
    };
    Error::new(kind, error.to_string()).because(error).at(stage)
}
