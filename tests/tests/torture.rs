//! Loads and unloads at full speed under workers that call, profilers that walk and a storm of
//! signals whose handlers resolve and walk. Every answer is compared with what the plugins' files
//! and ld.so say, generation by generation.
//!
//! Runs for 30 seconds, or for `PLUG_TORTURE_SECONDS`.

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::env;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{
    Audit, CallError, Config, Params, Plugin, PluginFn, PluginView, Resolved, Snapshot, Source,
    State, SymbolReader, Unloaded, Worker,
};
use plug_tests::allocations::{self, Watched};
use plug_tests::host::{Host, seconds, useful};
use plug_tests::oracle::{self, Oracle};
use plug_tests::storm::{self, Storm};
use plug_tests::{child, process};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// What is loaded: a name and the useful plugin that it is a private copy of.
const NAMES: [(&str, usize); 9] = [
    ("checksum", 0),
    ("base64", 1),
    ("wordcount", 2),
    ("checksum-2", 0),
    ("base64-2", 1),
    ("wordcount-2", 2),
    ("checksum-3", 0),
    ("base64-3", 1),
    ("wordcount-3", 2),
];

const FILES: [&str; 3] = ["checksum", "base64", "wordcount"];

/// Stale handles that each caller keeps, and generations that the oldest of them outlive.
const STALE: usize = 10_000;

/// A torture of this length does not end before [`STALE`] loads, if twice the time is enough.
const FULL: Duration = Duration::from_secs(30);

static ORACLES: OnceLock<[Oracle; 3]> = OnceLock::new();

/// What went wrong, counted where nothing may be allocated.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
enum Fault {
    UnknownPlugin,
    WrongBias,
    WrongSymbol,
    WrongRange,
    WrongChecksum,
    Disorder,
    MissedProgramCounter,
    WrongProgramCounter,
    StaleEntered,
    WrongResult,
    SequenceWentBack,
}

static FAULTS: [AtomicU64; 11] = [const { AtomicU64::new(0) }; 11];
/// An address or number that belongs to the last fault of a kind.
static EVIDENCE: [AtomicU64; 11] = [const { AtomicU64::new(0) }; 11];

fn fault(what: Fault, evidence: u64) {
    FAULTS[what as usize].fetch_add(1, Ordering::SeqCst);
    EVIDENCE[what as usize].store(evidence, Ordering::SeqCst);
}

struct Faults;

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (count, evidence)) in FAULTS.iter().zip(&EVIDENCE).enumerate() {
            let (count, evidence) = (
                count.load(Ordering::SeqCst),
                evidence.load(Ordering::SeqCst),
            );
            if count > 0 {
                write!(f, "fault {n}: {count} times, last {evidence:#x}; ")?;
            }
        }
        Ok(())
    }
}

/// What happened, counted the same way.
#[derive(Default)]
struct Counts {
    resolves: AtomicU64,
    found: AtomicU64,
    hits: AtomicU64,
    walks: AtomicU64,
    symbols: AtomicU64,
    calls: AtomicU64,
    refused: AtomicU64,
    stale: AtomicU64,
    kept: AtomicU64,
    loads: AtomicU64,
    unloads: AtomicU64,
}

static COUNTS: Counts = Counts {
    resolves: AtomicU64::new(0),
    found: AtomicU64::new(0),
    hits: AtomicU64::new(0),
    walks: AtomicU64::new(0),
    symbols: AtomicU64::new(0),
    calls: AtomicU64::new(0),
    refused: AtomicU64::new(0),
    stale: AtomicU64::new(0),
    kept: AtomicU64::new(0),
    loads: AtomicU64::new(0),
    unloads: AtomicU64::new(0),
};

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What ld.so said about each generation: `gone << 63 | known << 62 | file << 48 | bias`.
static LEDGER: [AtomicU64; 1 << 20] = [const { AtomicU64::new(0) }; 1 << 20];
const GONE: u64 = 1 << 63;
const KNOWN: u64 = 1 << 62;
const BIAS: u64 = (1 << 48) - 1;
static LATEST: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
struct Entry {
    gone: bool,
    file: usize,
    bias: u64,
}

fn ledger(generation: u64) -> Option<Entry> {
    let word = LEDGER
        .get(usize::try_from(generation).ok()?)?
        .load(Ordering::SeqCst);
    (word & KNOWN != 0).then_some(Entry {
        gone: word & GONE != 0,
        file: usize::try_from(word >> 48 & 0xff).unwrap_or(0),
        bias: word & BIAS,
    })
}

fn note_known(generation: u64, file: usize, bias: usize) {
    let slot = &LEDGER[usize::try_from(generation).expect("64 bits")];
    slot.store(KNOWN | (file as u64) << 48 | bias as u64, Ordering::SeqCst);
    LATEST.fetch_max(generation, Ordering::SeqCst);
}

fn note_gone(generation: u64) {
    LEDGER[usize::try_from(generation).expect("64 bits")].fetch_or(GONE, Ordering::SeqCst);
}

thread_local! {
    /// Start, end and generation of the plugin that this thread is calling; 0 outside.
    static CALLING: [Cell<u64>; 3] = const { [const { Cell::new(0) }; 3] };
    /// State of the handler's own random numbers.
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// Async-signal-safe.
fn random() -> u64 {
    RANDOM.with(|state| {
        let mut n = state.get();
        if n == 0 {
            // Every thread's own is elsewhere.
            n = state.as_ptr() as u64 | 1;
        }
        n ^= n << 13;
        n ^= n >> 7;
        n ^= n << 17;
        state.set(n);
        n
    })
}

fn below(bound: usize) -> usize {
    usize::try_from(random() % bound.max(1) as u64).unwrap_or(0)
}

fn file_of(name: &[u8]) -> Option<usize> {
    NAMES
        .iter()
        .find(|(own, _)| own.as_bytes() == name)
        .map(|(_, file)| *file)
}

/// Compares one answer with the file and the ledger. Async-signal-safe.
fn check_resolved(found: &Resolved) {
    count(&COUNTS.found);
    let (Some(oracles), Some(file)) = (ORACLES.get(), file_of(found.plugin.as_bytes())) else {
        return fault(Fault::UnknownPlugin, found.address as u64);
    };
    if ledger(found.generation)
        .is_some_and(|known| known.bias != found.bias as u64 || known.file != file)
    {
        fault(Fault::WrongBias, found.generation);
    }
    if !(found.plugin_start..found.plugin_end).contains(&found.address) {
        fault(Fault::WrongRange, found.address as u64);
    }
    let name = found.symbol.as_bytes();
    if name.is_empty() {
        return;
    }
    let svma = (found.symbol_start as u64).wrapping_sub(found.bias as u64);
    let oracle = &oracles[file];
    if !(oracle.has(svma, name, found.symbol.is_truncated())
        || oracle.is_unnamed(name, svma, svma.wrapping_add(found.offset)))
        || found.symbol_start as u64 + found.offset != found.address as u64
    {
        fault(Fault::WrongSymbol, found.address as u64);
    }
}

/// Compares one plugin of a walk with the file and the ledger. Async-signal-safe.
fn check_view(view: &PluginView<'_>) {
    let (Some(oracles), Some(file)) = (ORACLES.get(), file_of(view.name())) else {
        return fault(Fault::UnknownPlugin, view.range().0 as u64);
    };
    let bias = match ledger(view.generation()) {
        Some(known) if known.file != file || known.bias != view.bias() as u64 => {
            return fault(Fault::WrongBias, view.generation());
        }
        // Only the loading thread knows more about one that is still Coming.
        _ => view.bias() as u64,
    };
    let mut sum = 0_u64;
    let mut symbols = 0;
    for symbol in view.symbols() {
        symbols += 1;
        sum = sum.wrapping_add(oracle::share(symbol.name, symbol.address as u64));
    }
    COUNTS.symbols.fetch_add(symbols, Ordering::Relaxed);
    if sum != oracles[file].checksum(bias) {
        fault(Fault::WrongChecksum, view.generation());
    }
}

/// Walks the current snapshot. Async-signal-safe.
fn walk(reader: SymbolReader) -> u64 {
    count(&COUNTS.walks);
    let mut last = 0;
    reader.walk(|view| {
        let (start, end) = view.range();
        if start < last || end <= start {
            fault(Fault::Disorder, start as u64);
        }
        last = end;
        check_view(&view);
        true
    })
}

fn resolve(reader: SymbolReader, address: usize) -> Option<Resolved> {
    count(&COUNTS.resolves);
    let found = reader.resolve(address);
    if let Some(found) = &found {
        check_resolved(found);
    }
    found
}

/// What every interrupted thread does.
fn on_signal(pc: usize) {
    let reader = SymbolReader::new();
    let found = resolve(reader, pc);
    if found.is_some() {
        count(&COUNTS.hits);
    }
    let [start, end, generation] = CALLING.with(|calling| [0, 1, 2].map(|n| calling[n].get()));
    if (start..end).contains(&(pc as u64)) {
        match &found {
            None => fault(Fault::MissedProgramCounter, pc as u64),
            Some(found) if found.generation != generation => {
                fault(Fault::WrongProgramCounter, pc as u64);
            }
            Some(_) => {}
        }
    }
    // A known address of a plugin that is here, on its way, or long gone.
    let latest = LATEST.load(Ordering::SeqCst);
    let back = if random().is_multiple_of(4) {
        latest
    } else {
        latest.min(16)
    };
    let generation = latest.saturating_sub(random() % back.max(1));
    if let (Some(known), Some(oracles)) = (ledger(generation), ORACLES.get()) {
        let symbols = &oracles[known.file].symbols;
        let symbol = &symbols[below(symbols.len())];
        let inside = symbol.svma + random() % symbol.size.max(1);
        let address = usize::try_from(known.bias + inside).unwrap_or(0);
        if let Some(found) = resolve(reader, address)
            && found.generation == generation
            && found.symbol.as_bytes().is_empty()
        {
            fault(Fault::WrongSymbol, address as u64);
        }
    }
    if random().is_multiple_of(4) {
        walk(reader);
    }
}

type Checksum = unsafe extern "C" fn(*const u8, usize) -> u64;
type Encode = unsafe extern "C" fn(*const u8, usize, *mut u8, usize) -> usize;

/// A function of one load, and what is known about that load.
#[derive(Clone, Copy)]
struct Handle {
    generation: u64,
    range: (usize, usize),
    function: Function,
}

#[derive(Clone, Copy)]
enum Function {
    Sum(PluginFn<Checksum>),
    Encode(PluginFn<Encode>),
    Words(PluginFn<Checksum>),
}

const TEXT: &[u8] = b"the quick brown fox jumps over the lazy dog, and jumps again";

impl Handle {
    fn of(plugin: &Plugin, file: usize) -> Option<Self> {
        let function = match file {
            0 => Function::Sum(plugin.function("checksum_of").ok()?),
            1 => Function::Encode(plugin.function("base64_encode").ok()?),
            _ => Function::Words(plugin.function("count_words").ok()?),
        };
        Some(Self {
            generation: plugin.generation(),
            range: plugin.range(),
            function,
        })
    }

    /// Calls it and compares the result; whether it was entered.
    fn call(&self, worker: Option<&Worker>) -> bool {
        let gone = ledger(self.generation).is_some_and(|known| known.gone);
        // The end comes last and goes first: a handler in between sees an empty range.
        CALLING.with(|calling| {
            calling[0].set(self.range.0 as u64);
            calling[2].set(self.generation);
            compiler_fence(Ordering::SeqCst);
            calling[1].set(self.range.1 as u64);
        });
        compiler_fence(Ordering::SeqCst);
        let result = self.invoke(worker);
        compiler_fence(Ordering::SeqCst);
        CALLING.with(|calling| calling[1].set(0));
        compiler_fence(Ordering::SeqCst);
        match result {
            Ok(_) if gone => fault(Fault::StaleEntered, self.generation),
            Ok(true) => count(&COUNTS.calls),
            Ok(false) => fault(Fault::WrongResult, self.generation),
            Err(CallError::Gone) if gone => count(&COUNTS.stale),
            Err(CallError::Gone) => count(&COUNTS.refused),
            Err(CallError::Raised(_)) | Err(_) => fault(Fault::WrongResult, self.generation),
        }
        result.is_ok()
    }

    fn invoke(&self, worker: Option<&Worker>) -> Result<bool, CallError> {
        let args = (TEXT.as_ptr(), TEXT.len());
        // SAFETY, here and below: the signatures are those of the example plugins.
        Ok(match (&self.function, worker) {
            (Function::Sum(f), Some(worker)) => unsafe { f.call_on(worker, args) }? == expected(0),
            (Function::Sum(f), None) => unsafe { f.call(args) }? == expected(0),
            (Function::Words(f), Some(worker)) => {
                unsafe { f.call_on(worker, args) }? == expected(2)
            }
            (Function::Words(f), None) => unsafe { f.call(args) }? == expected(2),
            (Function::Encode(f), worker) => {
                let mut out = [0_u8; 128];
                let args = (args.0, args.1, out.as_mut_ptr(), out.len());
                let len = match worker {
                    Some(worker) => unsafe { f.call_on(worker, args) },
                    None => unsafe { f.call(args) },
                }?;
                len as u64 == expected(1) && out.starts_with(b"dGhlIHF1aWNr")
            }
        })
    }
}

/// What the functions give for [`TEXT`]; the first is what cksum(1) prints.
fn expected(file: usize) -> u64 {
    [3_739_125_746, 80, 12][file]
}

/// The present handle of each name.
static CURRENT: [RwLock<Option<(Handle, Plugin)>>; NAMES.len()] =
    [const { RwLock::new(None) }; NAMES.len()];

static STOP: AtomicBool = AtomicBool::new(false);

/// Calls whatever is there, and what is not there any more.
fn caller(host: &Host, registered: bool) {
    let _shelter = storm::shelter();
    let worker = registered.then(|| host.loader.worker("caller").expect("worker"));
    let mut stale: VecDeque<Handle> = VecDeque::new();
    let mut plugins: Vec<Plugin> = Vec::new();
    let mut snapshots: VecDeque<Arc<Snapshot>> = VecDeque::new();
    let mut newest = 0;
    while !STOP.load(Ordering::Relaxed) {
        if let Some(worker) = &worker {
            worker.quiescent();
        }
        let current = CURRENT[below(NAMES.len())]
            .read()
            .expect("no panic")
            .clone();
        if let Some((handle, plugin)) = current {
            for _ in 0..8 {
                handle.call(worker.as_ref());
            }
            if handle.generation > newest {
                newest = handle.generation;
                if stale.len() == STALE {
                    // The oldest are kept for the whole run, so only later ones make room.
                    stale.remove(STALE / 10);
                }
                stale.push_back(handle);
                if plugins.len() < 64 {
                    plugins.push(plugin);
                }
            }
        }
        for _ in 0..2 {
            if let Some(old) = stale.get(below(stale.len())) {
                old.call(worker.as_ref());
            }
        }
        if let Some(plugin) = plugins.get(below(plugins.len())) {
            check_stale(plugin);
        }
        if random().is_multiple_of(64) {
            snapshots.push_back(host.loader.snapshot());
            if snapshots.len() > 32 {
                snapshots.pop_front();
            }
        }
        if random().is_multiple_of(8)
            && let Some(snapshot) = snapshots.get(below(snapshots.len()))
        {
            check_kept(snapshot);
        }
    }
}

/// A handle to a plugin that is gone answers so, and still tells what was where.
fn check_stale(plugin: &Plugin) {
    if ledger(plugin.generation()).is_none_or(|known| !known.gone) {
        return;
    }
    count(&COUNTS.stale);
    if plugin.state() != State::Empty
        || plugin.pin().is_ok()
        || plugin.function::<Checksum>("checksum_of").is_ok()
    {
        fault(Fault::StaleEntered, plugin.generation());
    }
    let Some(known) = ledger(plugin.generation()) else {
        return;
    };
    let sum = plugin
        .symbols()
        .into_iter()
        .fold(0_u64, |sum, (name, address)| {
            sum.wrapping_add(oracle::share(&name, address as u64))
        });
    if ORACLES
        .get()
        .is_some_and(|oracles| sum != oracles[known.file].checksum(known.bias))
    {
        fault(Fault::WrongChecksum, plugin.generation());
    }
}

/// A snapshot that was kept stays readable, whatever became of its plugins.
fn check_kept(snapshot: &Snapshot) {
    count(&COUNTS.kept);
    for view in snapshot.plugins() {
        check_view(&view);
    }
}

/// Walks through both doors a thousand times a second.
fn profiler(host: &Host) {
    let _shelter = storm::shelter();
    let mut last = 0;
    while !STOP.load(Ordering::Relaxed) {
        let sequence = walk(host.loader.reader());
        if sequence < last {
            fault(Fault::SequenceWentBack, sequence);
        }
        last = sequence;
        check_kept(&host.loader.snapshot());
        storm::nap(Duration::from_millis(1));
    }
}

/// The names that ld.so had for plugins; none may come twice.
static LINKS: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// A load as the process sees it.
struct Loaded {
    plugin: Plugin,
    link: String,
    inodes: BTreeSet<u64>,
}

fn load(host: &Host, n: usize) -> Loaded {
    let (name, file) = NAMES[n];
    let source = Source::path(useful(FILES[file])).named(name);
    let plugin = host
        .loader
        .load(&host.trust, source, &Params::new())
        .unwrap_or_else(|error| panic!("load {name}: {error:#}"));
    let start = plugin.range().0;
    let object = process::link_map()
        .into_iter()
        .find(|object| object.bias == start && object.name.contains("plug-"))
        .unwrap_or_else(|| panic!("ld.so does not know {plugin:?}"));
    let new = LINKS
        .lock()
        .expect("no panic")
        .get_or_insert_default()
        .insert(object.name.clone());
    assert!(new, "{} was used before", object.name);
    note_known(plugin.generation(), file, object.bias);
    let inodes = process::inodes_in(start, plugin.range().1);
    assert_eq!(inodes.len(), 1, "{plugin:?} is one file");
    count(&COUNTS.loads);
    let handle = Handle::of(&plugin, file).expect("live");
    *CURRENT[n].write().expect("no panic") = Some((handle, plugin.clone()));
    Loaded {
        plugin,
        link: object.name,
        inodes,
    }
}

fn unload(host: &Host, n: usize, loaded: &Loaded) {
    match host.loader.unload_exactly(&loaded.plugin, seconds(20)) {
        Ok(Unloaded::Gone(report)) => assert_eq!(report.generation, loaded.plugin.generation()),
        other => panic!("unload {}: {other:?}", NAMES[n].0),
    }
    note_gone(loaded.plugin.generation());
    // The verdict was "gone": the process must say so as well.
    for inode in &loaded.inodes {
        assert!(
            !process::is_mapped(*inode),
            "{} is mapped after Gone",
            loaded.link
        );
    }
    assert!(
        !process::objects().contains(&loaded.link),
        "{} is linked after Gone",
        loaded.link
    );
    count(&COUNTS.unloads);
}

/// Loads and unloads a share of the names, calling them itself, on one thread that lives on.
fn churner(host: &Host, share: usize, shares: usize, registered: bool) {
    let _shelter = storm::shelter();
    let worker = registered.then(|| host.loader.worker("churner").expect("worker"));
    let mut loaded: [Option<Loaded>; NAMES.len()] = [const { None }; NAMES.len()];
    while !STOP.load(Ordering::Relaxed) {
        let n = below(NAMES.len() / shares) * shares + share;
        match loaded[n].take() {
            None => loaded[n] = Some(load(host, n)),
            Some(old) => {
                if let Some(handle) = Handle::of(&old.plugin, NAMES[n].1) {
                    handle.call(worker.as_ref());
                }
                unload(host, n, &old);
            }
        }
    }
    for (n, old) in loaded.iter().enumerate() {
        if let Some(old) = old {
            unload(host, n, old);
        }
        if n % shares == share {
            *CURRENT[n].write().expect("no panic") = None;
        }
    }
}

fn duration() -> Duration {
    let seconds = env::var("PLUG_TORTURE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    seconds.map_or(FULL, Duration::from_secs)
}

#[test]
fn torture_every_answer_equals_the_oracle() {
    let test = "torture_every_answer_equals_the_oracle";
    let time = duration();
    let run = || torture(Audit::Off, time);
    child::isolated_for(time * 2 + Duration::from_secs(60), test, run);
}

/// Threads that are no workers, never rest and live under a storm of signals are asked by one more
/// signal each at every unload: there are fewer loads then.
#[test]
fn torture_with_audits() {
    let time = duration() / 3;
    let run = || torture(Audit::All, time);
    child::isolated_for(
        time * 2 + Duration::from_secs(60),
        "torture_with_audits",
        run,
    );
}

fn torture(audit: Audit, time: Duration) {
    ORACLES
        .set(FILES.map(|name| Oracle::read(&useful(name))))
        .expect("once");
    let mut config = Config::default();
    config.audit = audit;
    let host = Host::with(config);
    // What the first loads bring in for good: the C++ runtime, the stage folder.
    for n in 0..FILES.len() {
        let first = load(&host, n);
        let handle = Handle::of(&first.plugin, n).expect("live");
        assert!(handle.call(None));
        assert!(
            handle.invoke(None).expect("live"),
            "{} computes",
            NAMES[n].0
        );
        *CURRENT[n].write().expect("no panic") = None;
        unload(&host, n, &first);
    }
    host.loader.reclaim();
    let before = process::footprint();
    storm::prepare(on_signal);
    let began = Instant::now();
    let sent = thread::scope(|scope| {
        let host = &host;
        scope.spawn(|| churner(host, 0, 3, true));
        scope.spawn(|| churner(host, 1, 3, false));
        scope.spawn(|| churner(host, 2, 3, true));
        scope.spawn(|| caller(host, true));
        scope.spawn(|| caller(host, true));
        scope.spawn(|| caller(host, false));
        scope.spawn(|| profiler(host));
        let storm = Storm::start();
        let faulty = || FAULTS.iter().any(|count| count.load(Ordering::SeqCst) > 0);
        while began.elapsed() < time && !faulty() {
            storm::nap(Duration::from_millis(20));
        }
        // A full torture lasts until stale handles have seen their generations go by.
        while time >= FULL && began.elapsed() < time * 2 && !faulty() {
            if COUNTS.loads.load(Ordering::SeqCst) >= STALE as u64 {
                break;
            }
            storm::nap(Duration::from_millis(20));
        }
        STOP.store(true, Ordering::SeqCst);
        // The last unloads happen under the storm, too.
        while CURRENT
            .iter()
            .any(|slot| slot.read().expect("no panic").is_some())
        {
            storm::nap(Duration::from_millis(1));
        }
        storm.stop()
    });
    let took = began.elapsed();
    let of = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let c = &COUNTS;
    println!(
        "torture: {:.1} s, {} loads, {} unloads, {sent} signals sent, {} handled (nested {}), \
         {} resolves, {} found, {} hits of an interrupted plugin, {} walks, {} symbols compared, \
         {} calls, {} refused while going, {} stale, {} kept snapshots walked",
        took.as_secs_f64(),
        of(&c.loads),
        of(&c.unloads),
        storm::handled(),
        storm::deepest(),
        of(&c.resolves),
        of(&c.found),
        of(&c.hits),
        of(&c.walks),
        of(&c.symbols),
        of(&c.calls),
        of(&c.refused),
        of(&c.stale),
        of(&c.kept),
    );
    assert_eq!(Faults.to_string(), "");
    assert_eq!(allocations::in_handlers(), 0, "allocations in handlers");
    assert_eq!(of(&c.loads), of(&c.unloads));
    for (what, counter) in [
        ("loads", &c.loads),
        ("hits", &c.hits),
        ("stale", &c.stale),
        ("kept", &c.kept),
    ] {
        assert!(of(counter) > 20, "only {} {what}", of(counter));
    }
    assert!(host.loader.plugins().is_empty() && host.loader.zombies().is_empty());
    host.loader.reclaim();
    assert_eq!(
        host.loader.retired_bytes(),
        0,
        "retired memory is reclaimed"
    );
    process::assert_footprint(&before);
}
