//! The story of a load, from top to bottom: each step has a guard that undoes it, and guards are
//! dropped in reverse.

use std::collections::HashSet;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use plug_api::abi::{ABI_VERSION, DESCRIPTOR_SYMBOL, Descriptor, STATUS_OK};
use plug_readside::state::State;

use crate::calls;
use crate::checkpoint;
use crate::context::Context;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Lingering, Stage};
use crate::executor;
use crate::image::{
    DEFAULT_MAX_SIZE, Facts, ImageError, Info, Opened, RewritePolicy, Staged, foreign_name,
    is_name, next_nonce, plan, symbols,
};
use crate::loader::Core;
use crate::params::Params;
use crate::plugin::{Destructors, Export, Loaded, Plugin, Record};
use crate::registry::{Claim, canonical, claim_error};
use crate::snapshot::OwnedIndex;
use crate::stages::Stages;
use crate::sys::arguments::{Arguments, arguments};
use crate::sys::{code, dl};
use crate::trust::{Origin, Source};
use crate::unload;

/// Loads what `source` names, or shares the result of a load of the same file in flight.
pub(crate) fn load(core: &'static Core, source: Source, params: &Params) -> Result<Plugin, Error> {
    let described = source.describe();
    let span = tracing::info_span!(
        target: "plug::load", "load", file = described, plugin = tracing::field::Empty
    );
    let _entered = span.enter();
    let deadline = Deadline::after(core.config.load_patience);
    let name = source.name;
    let result = (|| {
        if let Some(name) = name.as_deref().filter(|name| !is_name(name)) {
            let bad = ImageError::Name {
                name: name.to_owned(),
            };
            return Err(image_error(bad, Stage::Open));
        }
        let opened = open(source.origin)?;
        core.flights
            .join((opened.key(), name.clone()), deadline, || {
                let mut stages = Stages::start();
                let mut left = None;
                run(
                    core,
                    &opened,
                    name.as_deref(),
                    params,
                    deadline,
                    &mut stages,
                    &mut left,
                )
                .map_err(|error| error.lingering_as(left))
            })
    })();
    let result = result.map_err(|error| error.plugin(name.as_deref().unwrap_or(&described)));
    match &result {
        Ok(plugin) => {
            span.record("plugin", plugin.name());
            tracing::info!(target: "plug::load", generation = plugin.generation(), stages = ?plugin.load_times(), "live");
        }
        Err(error) => tracing::warn!(target: "plug::load", %error, "not loaded"),
    }
    result
}

fn open(origin: Origin) -> Result<Opened, Error> {
    checkpoint::pass("load.open").map_err(|error| error.at(Stage::Open))?;
    match origin {
        Origin::Path(path) => Opened::open(path),
        Origin::Descriptor(fd) => Opened::from_fd(fd, "descriptor.so", DEFAULT_MAX_SIZE),
    }
    .map_err(|error| image_error(error, Stage::Open))
}

fn run(
    core: &'static Core,
    opened: &Opened,
    wanted: Option<&str>,
    params: &Params,
    deadline: Deadline,
    stages: &mut Stages,
    left: &mut Option<Lingering>,
) -> Result<Plugin, Error> {
    let file_name = foreign_name(opened.path());

    // A private copy, so that nobody changes under us what is read, checked and mapped.
    checkpoint::pass("load.stage").map_err(|error| error.at(Stage::Stage))?;
    let staged = opened
        .stage(wanted.unwrap_or(&file_name))
        .map_err(|error| image_error(error, Stage::Stage))?;
    stages.end(Stage::Stage);

    checkpoint::pass("load.facts").map_err(|error| error.at(Stage::Facts))?;
    let facts =
        Facts::read(staged.bytes()).map_err(|damage| image_error(damage.into(), Stage::Facts))?;
    stages.end(Stage::Facts);

    // Everything that can be refused is refused here, before a byte of the plugin ran.
    checkpoint::pass("load.metadata").map_err(|error| error.at(Stage::Metadata))?;
    let info = Info::read(&facts, staged.bytes())
        .map_err(|malformed| image_error(malformed.into(), Stage::Metadata))?;
    let name = wanted.or(info.name()).unwrap_or(&file_name).to_owned();
    let descriptor =
        admit(&facts, &info, &staged).map_err(|e| e.at(Stage::Metadata).plugin(&name))?;
    let version = info.version().unwrap_or_default();
    stages.end(Stage::Metadata);

    checkpoint::pass("load.symbols").map_err(|error| error.at(Stage::Symbols))?;
    let index = Arc::new(symbols::index(&facts, staged.bytes(), &name, version));
    stages.end(Stage::Symbols);

    checkpoint::pass("load.claim").map_err(|error| error.at(Stage::Claim))?;
    let claim = core
        .registry
        .claim(&name, deadline)
        .map_err(|error| claim_error(error, &name))?;
    core.workers.grow(claim.id);
    stages.end(Stage::Claim);

    land(
        core,
        Flight {
            opened,
            facts,
            info,
            name: &name,
            descriptor,
            index,
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
    /// Link-time address and size of the descriptor; none for a foreign library.
    descriptor: Option<(u64, u64)>,
    index: Arc<OwnedIndex>,
    params: &'a Params,
}

/// Refuses a plugin that does not fit this host; finds its descriptor.
fn admit(facts: &Facts, info: &Info, staged: &Staged) -> Result<Option<(u64, u64)>, Error> {
    let incompatible = |message: String| Err(Error::new(ErrorKind::Incompatible, message));
    let symbol = facts
        .symbols
        .iter()
        .find(|s| facts.symbol_name(staged.bytes(), s) == DESCRIPTOR_SYMBOL.as_bytes());
    if info.is_foreign() {
        if symbol.is_some() {
            return incompatible(format!(
                "metadata: expected symbols beginning with {}, found none beside {DESCRIPTOR_SYMBOL}; \
                 declare the plugin by plug-api's macro",
                plug_api::abi::METADATA_PREFIX
            ));
        }
        return Ok(None);
    }
    let api = info.api().unwrap_or("nothing");
    if api != ABI_VERSION.to_string() {
        return incompatible(format!(
            "metadata: api: expected {ABI_VERSION}, found {api}; rebuild the plugin with this \
             host's plug-api"
        ));
    }
    let Some(symbol) = symbol else {
        return incompatible(format!(
            "descriptor: expected the exported symbol {DESCRIPTOR_SYMBOL}, found none; declare the \
             plugin by plug-api's macro and do not hide the symbol"
        ));
    };
    let needed = size_of::<Descriptor>() as u64;
    if symbol.size < needed || facts.offset_at(symbol.value, needed).is_none() {
        return incompatible(format!(
            "descriptor: expected {needed} bytes of data at {:#x}, found {}",
            symbol.value, symbol.size
        ));
    }
    Ok(Some((symbol.value, symbol.size)))
}

/// From the claim to Live.
fn land(
    core: &'static Core,
    flight: Flight<'_>,
    mut staged: Staged,
    claim: Claim,
    stages: &mut Stages,
    left: &mut Option<Lingering>,
) -> Result<Plugin, Error> {
    let facts = &flight.facts;

    checkpoint::pass("load.rewrite").map_err(|error| error.at(Stage::Rewrite))?;
    let edits = plan(facts, staged.bytes(), &RewritePolicy::new(next_nonce()));
    staged
        .edit(&edits)
        .map_err(|error| image_error(error, Stage::Rewrite))?;
    staged
        .seal()
        .map_err(|error| image_error(error, Stage::Rewrite))?;
    let header = header(facts, &staged);
    stages.end(Stage::Rewrite);

    checkpoint::pass("load.link").map_err(|error| error.at(Stage::Link))?;
    let link = staged
        .link(flight.name, facts.build_id.as_deref())
        .map_err(|error| image_error(error, Stage::Link))?;
    stages.end(Stage::Link);

    checkpoint::pass("load.map").map_err(|error| error.at(Stage::Map))?;
    keep_shared_runtimes(&facts.needed);
    // SAFETY: the host vouched for the file through Trust; its constructors are not run by ld.so.
    let mapped = unsafe { dl::open(link.as_path()) }.map_err(map_error)?;
    let (bias, mapped_name) = (mapped.bias, mapped.name.clone());
    let mut mapped = Mapping {
        mapped: Some(mapped),
        left,
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
    let (record, destructors, descriptor) = describe(core, &flight, &claim, &header, bias)?;
    let record = Arc::new(record);
    mapped.record = Some(Arc::clone(&record));
    stages.end(Stage::Describe);

    core.registry
        .advance(record.id, record.generation, State::Coming);
    core.registry.show(&record);
    let shown = Shown {
        core,
        generation: record.generation,
        kept: false,
    };
    tracing::info!(target: "plug::load", generation = record.generation, "coming");
    checkpoint::pass("load.publish").map_err(|error| error.at(Stage::Publish))?;
    stages.end(Stage::Publish);

    // Visible from here on: a crash or a profile sample in the plugin's first instruction resolves.
    let built = construct(facts, &record, descriptor, &destructors, stages)?;

    checkpoint::pass("load.activate").map_err(|error| error.at(Stage::Activate))?;
    built.keep();
    shown.keep();
    claim.keep();
    let mapping = mapped.keep();
    let link_name = link.path().to_owned();
    core.registry.settle(Loaded {
        record: Arc::clone(&record),
        mapped: mapping,
        link_name,
        _link: link,
        descriptor,
        destructors,
        pinned_because: pinned_because(facts),
    });
    stages.end(Stage::Activate);
    let times = mem::replace(stages, Stages::start()).into_inner();
    // Set once: the record was made by this load.
    let _first = record.times.set(times);
    core.registry
        .advance(record.id, record.generation, State::Live);
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
    core: &'static Core,
    flight: &Flight<'_>,
    claim: &Claim,
    header: &[u8],
    bias: usize,
) -> Result<(Record, Destructors, Option<Descriptor>), Error> {
    let facts = &flight.facts;
    let fail = |message: String| Error::new(ErrorKind::Map, message).at(Stage::Describe);
    let at = |svma: u64| run_time(bias, svma);
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
        Some(array) => unsafe { code::entries(at(array.vaddr), words(array.size)) },
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
        index: Arc::clone(&flight.index),
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
        context: Context::new(flight.name, flight.params, &core.services),
        times: OnceLock::new(),
    };
    Ok((record, destructors, descriptor))
}

/// Runs constructors and `init` on a thread of the loader's.
fn construct<'a>(
    facts: &Facts,
    record: &Arc<Record>,
    descriptor: Option<Descriptor>,
    destructors: &'a Destructors,
    stages: &mut Stages,
) -> Result<Built<'a>, Error> {
    let at = |svma: u64| run_time(record.bias, svma);
    let mut constructors: Vec<usize> = facts.init.map(at).into_iter().collect();
    if let Some(array) = facts.init_array {
        // SAFETY: the array lies inside the image and is relocated.
        constructors.extend(unsafe { code::entries(at(array.vaddr), words(array.size)) });
    }
    let done = AtomicUsize::new(0);
    let init = descriptor.and_then(|descriptor| descriptor.init);
    let outcome = executor::run("init", || {
        let began = std::time::Instant::now();
        let arguments = arguments();
        run_constructors(&constructors, arguments, &done)?;
        checkpoint::pass("load.constructors").map_err(|error| error.at(Stage::Constructors))?;
        let constructed = began.elapsed();
        checkpoint::pass("load.init").map_err(|error| error.at(Stage::Init))?;
        if let Some(init) = init {
            // SAFETY: the plugin is constructed; its context lives as long as its record, which
            // stays until its exit has returned.
            let status = unsafe { code::init(init, record.context.as_ptr()) };
            let raised = calls::take_raised();
            if status != STATUS_OK || raised.is_some() {
                let why = raised.unwrap_or_else(|| "no message given".into());
                return Err(Error::new(
                    ErrorKind::InitFailed,
                    format!("init returned {status}: {why}"),
                )
                .at(Stage::Init));
            }
        }
        Ok(constructed)
    });
    // Relaxed: the executor's thread was joined, which orders its stores before this load.
    let complete = done.load(Ordering::Relaxed) == constructors.len();
    let mut built = Built {
        destructors,
        exit: None,
        complete,
        kept: false,
    };
    let constructed = outcome
        .and_then(|outcome| outcome)
        .map_err(|error| error.at(Stage::Constructors))?;
    built.exit = descriptor.and_then(|descriptor| descriptor.exit);
    stages.split(Stage::Constructors, constructed, Stage::Init);
    Ok(built)
}

fn run_constructors(
    constructors: &[usize],
    arguments: Arguments,
    done: &AtomicUsize,
) -> Result<(), Error> {
    for &constructor in constructors {
        checkpoint::pass("load.constructor").map_err(|error| error.at(Stage::Constructors))?;
        // SAFETY: taken from the plugin's own tables, in ld.so's order, each run once.
        unsafe { code::construct(constructor, arguments) };
        // Relaxed: read after this thread was joined.
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Undoes `init` and the constructors, on a thread of the loader's, unless kept.
struct Built<'a> {
    destructors: &'a Destructors,
    /// What undoes `init`; set once that has succeeded.
    exit: Option<unsafe extern "C-unwind" fn()>,
    /// Whether all constructors ran: only then may destructors.
    complete: bool,
    kept: bool,
}

impl Built<'_> {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Built<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let destructors = self.destructors;
        let (complete, exit) = (self.complete, self.exit);
        let undone = executor::run("undo", || {
            if let Some(exit) = exit {
                // SAFETY: the descriptor of a plugin whose init succeeded; nobody has called it.
                unsafe { exit() };
            }
            if complete {
                unload::destroy(destructors);
            } else {
                for &handle in &destructors.dso_handles {
                    // SAFETY: addresses inside the mapped plugin; where nothing was registered
                    // under one, nothing happens.
                    unsafe { code::finalize(handle) };
                }
            }
        });
        if let Err(error) = undone {
            tracing::warn!(target: "plug::load", %error, "the constructors of a failed load are not undone");
        }
    }
}

/// Hides the plugin from readers, unless kept.
struct Shown {
    core: &'static Core,
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
            self.core.registry.hide(self.generation);
        }
    }
}

/// Gives the mapping back to ld.so, unless kept, and reports what stays.
struct Mapping<'a> {
    mapped: Option<dl::Mapped>,
    left: &'a mut Option<Lingering>,
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
        // SAFETY: the plugin never was Live, so nobody has called it or holds a pointer into it;
        // what its constructors and init left behind was undone on a thread that has ended.
        let reason = match unsafe { mapped.close() } {
            Ok(closed) if !closed.still_mapped => return,
            Ok(closed) => format!("still mapped as {:?} after dlclose", closed.name),
            Err(error) => format!("dlclose: {error}"),
        };
        let (plugin, generation) = self
            .record
            .as_ref()
            .map_or_else(Default::default, |record| {
                (record.name.clone(), record.generation)
            });
        *self.left = Some(Lingering {
            plugin,
            generation,
            reasons: vec![reason],
        });
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

/// Makes sure that the plugin is not the first to bring the C++ and unwinding runtimes in: they
/// could bind to weak symbols of the plugin and pin it for ever.
fn keep_shared_runtimes(needed: &[String]) {
    static KEPT: Mutex<Option<HashSet<String>>> = Mutex::new(None);
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

fn map_error(error: libloading::Error) -> Error {
    let text =
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    Error::new(ErrorKind::Map, format!("ld.so: {text}")).at(Stage::Map)
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

fn words(size: u64) -> usize {
    usize::try_from(size / 8).unwrap_or(0)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits, asserted in readside"
)]
fn run_time(bias: usize, svma: u64) -> usize {
    bias.wrapping_add(svma as usize)
}
