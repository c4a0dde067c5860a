//! Handles to plugins: what hosts hold, none of which keeps a plugin in the process but a pin.

use std::ffi::{CStr, CString};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use plug_api::abi::{Descriptor, HostContext, Interface, KIND_INTERFACE, KIND_SERVICE};
use plug_api::portable;
use plug_readside::index::SymbolKind;
use plug_readside::snapshot::Row;
use plug_readside::state::{self, State, StateWord};
use plug_readside::{departed, gate};

use crate::calls::{self, By};
use crate::context::Context;
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::{CallError, Error, ErrorKind, Stage};
use crate::executor::{Ending, Executor, Outcome};
use crate::footprint::account::{self, Account, Balance};
use crate::footprint::{self, Footprint};
use crate::image::{Dependency, Edit, Info, Param, PluginImport, StageLink, SymbolRow};
use crate::image::{prototype, symbols};
use crate::imports::{Binding, References};
use crate::index::OwnedIndex;
use crate::lineage::{Bearing, Lineage, Object, Place, Table};
use crate::pin::PluginPin;
use crate::pins::Pins;
use crate::settings::{ParamSetting, Settings};
use crate::signature::Signature;
use crate::source_file::{Drift, SourceFile};
use crate::sys::{clock, code, dl};
use crate::taint::Taints;
use crate::trust::Order;
use crate::worker::Worker;

/// What is known about one load, in plain memory that outlives the plugin.
#[derive(Debug)]
pub(crate) struct Record {
    /// Run-time addresses that stand for its objects in the C library's lists; nobody follows them.
    pub(crate) dso_handles: Vec<usize>,
    pub(crate) name: Box<str>,
    pub(crate) canonical: Box<str>,
    pub(crate) version: Box<str>,
    /// The file as the host gave it.
    pub(crate) origin: Box<str>,
    pub(crate) id: u32,
    pub(crate) generation: u64,
    pub(crate) bias: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// What it holds, if that is counted.
    pub(crate) account: Option<Account>,
    pub(crate) index: Arc<OwnedIndex>,
    /// The mapped objects: the plugin itself, then its private dependencies.
    pub(crate) parts: Vec<Part>,
    /// What it needs, by itself or through others.
    pub(crate) dependencies: Vec<Dependency>,
    /// Reasons known from the files why it may stay mapped for ever.
    pub(crate) pinned_because: Vec<String>,
    pub(crate) interfaces: Vec<Export>,
    pub(crate) context: Context,
    /// Calls that the slot had counted before this load.
    pub(crate) calls_before: u64,
    pub(crate) times: OnceLock<Vec<(Stage, Duration)>>,
    /// Its declared parameters.
    pub(crate) settings: Settings,
    /// The author's metadata.
    pub(crate) info: Info,
    /// Who took its pins.
    pub(crate) pins: Pins,
    /// Why it is never unloaded, if it is not.
    pub(crate) permanent: Option<Box<str>>,
    /// What it was loaded in spite of.
    pub(crate) taints: Taints,
    /// The file it was loaded from.
    pub(crate) source: SourceFile,
    /// What it was loaded with, to load its bytes once more.
    pub(crate) order: Order,
    /// The versions that replaced it or that it replaced, and where handles lead.
    pub(crate) lineage: Arc<Lineage>,
    /// What it imports; slots of its image lead here.
    pub(crate) imports: Box<[Binding]>,
    /// Whether it was loaded because another plugin imports functions of it.
    ///
    /// Set by that load, cleared when it is asked for by itself, read by whoever lists it: Relaxed.
    pub(crate) automatic: AtomicBool,
}

/// One mapped object of a load: the plugin itself, or a private dependency of it.
#[derive(Debug)]
pub(crate) struct Part {
    /// What readers call it: the plugin's name, with the dependency's file after a slash.
    pub(crate) name: Box<str>,
    /// The original.
    pub(crate) path: Box<str>,
    pub(crate) bias: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) index: Arc<OwnedIndex>,
    /// What ld.so calls it.
    pub(crate) link_name: CString,
    /// The staged copy, while it is there.
    pub(crate) link: Weak<StageLink>,
    /// The edits of the copy.
    pub(crate) edits: Vec<Edit>,
    /// What brings the copy's bytes back to those of the original.
    pub(crate) undo: Vec<Edit>,
    /// Why the copy was not edited, if it was not.
    pub(crate) strange: Option<&'static str>,
    /// Set once it is unmapped, while other parts may stay.
    pub(crate) gone: OnceLock<()>,
}

impl Part {
    /// What readers are shown of a part of this load.
    fn row(&self, record: &Record) -> Row {
        Row {
            start: self.start,
            end: self.end,
            bias: self.bias,
            id: record.id,
            generation: record.generation,
            index: self.index.as_ptr(),
        }
    }

    /// The bytes of its original, while its copy is there.
    pub(crate) fn original(&self) -> Option<Vec<u8>> {
        let bytes = self.link.upgrade()?.bytes().ok()?;
        Some(undone(&bytes, &self.undo))
    }

    /// Whether a run-time address lies in it.
    pub(crate) fn covers(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// One interface or service that a plugin exports.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) kind: u32,
    pub(crate) table: usize,
    pub(crate) size: u32,
}

/// What an unload needs besides the record; owned by exactly one place at a time.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) record: Arc<Record>,
    /// None once it was given back to ld.so.
    pub(crate) mapped: Option<dl::Mapped>,
    /// Closed after the mapping, whose imports lead to it.
    pub(crate) _account: Option<account::Open>,
    /// What ld.so calls its objects, and the root by which several are opened.
    pub(crate) names: Vec<CString>,
    /// The staged files and their names; they stay while anything of them is mapped.
    pub(crate) _links: Vec<Arc<StageLink>>,
    pub(crate) descriptor: Option<Descriptor>,
    pub(crate) destructors: Destructors,
    /// Threads of the loader's that ran its code; it stays mapped until they have ended.
    pub(crate) threads: Vec<Ending>,
    /// What it imports stays as long as it is mapped.
    pub(crate) references: Option<References>,
}

// SAFETY: the descriptor's pointers are addresses inside the plugin, which is mapped for as long
// as this value says so.
unsafe impl Send for Loaded {}

/// Run-time addresses of what undoes the constructors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Destructors {
    /// The entries of `fini_array`, in the order to be run, then the one function of `DT_FINI`.
    pub(crate) fini: Vec<usize>,
    /// Handles under which a half-built plugin may have registered functions for its end.
    pub(crate) dso_handles: Vec<usize>,
}

impl Loaded {
    /// What ld.so calls the plugin itself.
    pub(crate) fn name(&self) -> &CStr {
        self.names.first().map_or(c"", CString::as_c_str)
    }
}

impl Record {
    pub(crate) fn live_word(&self) -> u64 {
        StateWord::new(self.generation, State::Live).0
    }

    /// The rows that readers are shown, one for each part that is mapped.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> {
        let mapped = self.parts.iter().filter(|part| part.gone.get().is_none());
        mapped.map(|part| part.row(self))
    }

    /// The bytes of the plugin's original, while its copy is there.
    fn original(&self) -> Option<Vec<u8>> {
        self.parts.first()?.original()
    }

    /// Run-time addresses of the parts that are mapped, the plugin's first.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let mapped = self.parts.iter().filter(|part| part.gone.get().is_none());
        mapped.map(|part| part.start..part.end)
    }

    /// The part that a run-time address lies in.
    pub(crate) fn part_at(&self, address: usize) -> Option<&Part> {
        self.parts.iter().find(|part| part.covers(address))
    }

    /// Notes which parts are unmapped: all but those that ld.so calls one of `still`.
    pub(crate) fn note_gone(&self, still: &[&CStr]) {
        for part in &self.parts {
            if !still.contains(&part.link_name.as_c_str()) {
                // Once is enough.
                let _first = part.gone.set(());
            }
        }
    }

    /// Lets crash reports and late samples know that the plugin was unmapped just now.
    ///
    /// To be called by the history only, one plugin at a time.
    pub(crate) fn depart(&self) {
        let at = clock::monotonic();
        // The plugin itself last, so that it is the one that left last.
        for (n, part) in self.parts.iter().enumerate().rev() {
            let version = if n == 0 { self.version.as_bytes() } else { &[] };
            let (name, build_id) = (part.name.as_bytes(), part.index.view().build_id());
            // SAFETY: the history keeps the record and with it the indexes; when it gives the
            // record up it calls forget_symbols() and hands them to the registry, which frees them
            // after a grace period.
            unsafe { departed::add(&part.row(self), name, version, build_id, at) };
        }
    }

    /// The exported symbol that covers a run-time address, or where in the file of its part it is.
    pub(crate) fn function_at(&self, address: usize) -> Box<str> {
        let symbol = self.symbol_at(address);
        if !symbol.is_empty() {
            return symbol;
        }
        let bias = self.part_at(address).map_or(self.bias, |part| part.bias);
        format!("{:#x}", address.wrapping_sub(bias)).into()
    }

    /// The exported symbol that covers a run-time address, as text; for the table of an interface
    /// the interface.
    pub(crate) fn symbol_at(&self, address: usize) -> Box<str> {
        if let Some(export) = self.interfaces.iter().find(|e| e.table == address) {
            return export.name.as_str().into();
        }
        let Some(part) = self.part_at(address) else {
            return Box::default();
        };
        let svma = address.wrapping_sub(part.bias) as u64;
        part.index
            .view()
            .find(svma)
            .map_or_else(Box::default, |symbol| {
                String::from_utf8_lossy(symbol.name).into()
            })
    }
}

impl Record {
    /// Where calls by handles to what is at `address` go.
    fn place(&self, address: usize) -> Place {
        Place {
            id: self.id,
            word: self.live_word(),
            address,
            context: self.context.as_ptr() as usize,
        }
    }

    /// Where `object` is in this version.
    ///
    /// # Errors
    /// As [`Plugin::function`] and [`Plugin::interface`].
    pub(crate) fn place_of(&self, object: &Object) -> Result<Place, Error> {
        let address = match object {
            Object::Function { name, expected } => self.function(name, expected)?,
            Object::Table(table) => self.table(table)?,
            Object::Import(import) => self.imported(&import.what)?,
        };
        Ok(self.place(address))
    }

    /// The address of a function that another plugin imports.
    fn imported(&self, import: &PluginImport) -> Result<usize, Error> {
        if !import.takes(&self.version) {
            let found = match &*self.version {
                "" => "none",
                version => version,
            };
            let expected = &import.requirement;
            let message = format!("expected version {expected}, found {found}");
            return Err(Error::new(ErrorKind::ProviderVersion, message).plugin(&self.name));
        }
        match &import.signature {
            Some(expected) => self.function(&import.symbol, expected),
            None => self.address(&import.symbol),
        }
    }

    /// The address of the exported function `name`, which is what is `expected` where it is told.
    fn function(&self, name: &str, expected: &str) -> Result<usize, Error> {
        let address = self.address(name)?;
        match self.info.signature(name) {
            Some(found) if !prototype::agree(expected, &found) => {
                let message = format!(
                    "function {name}: expected {expected}, found {found}; rebuild the older of the two"
                );
                Err(Error::new(ErrorKind::SignatureMismatch, message).plugin(&self.name))
            }
            _ => Ok(address),
        }
    }

    /// The address of the exported function `name`.
    fn address(&self, name: &str) -> Result<usize, Error> {
        let fail = |kind, message: String| Err(Error::new(kind, message).plugin(&self.name));
        let Some(symbol) = self.index.view().by_name(name.as_bytes()) else {
            return fail(ErrorKind::NoSymbol, format!("no exported symbol {name:?}"));
        };
        let address = code::run_time(self.bias, symbol.svma);
        match symbol.kind {
            SymbolKind::Func => Ok(address),
            SymbolKind::Ifunc => {
                // It may be Coming, about to replace another version.
                let gate = calls::enter_callback(self.id, self.generation, address)
                    .ok_or_else(|| gone(self))?;
                // SAFETY: the symbol is an IFUNC of a constructed plugin, which the gate keeps
                // mapped.
                let address = unsafe { code::resolve_ifunc(address) };
                drop(gate);
                Ok(address)
            }
            SymbolKind::Object | SymbolKind::Notype => fail(
                ErrorKind::NotAFunction,
                format!("symbol {name:?}: expected a function, found data"),
            ),
        }
    }

    /// The address of the table of an interface or service.
    fn table(&self, wanted: &Table) -> Result<usize, Error> {
        let Table {
            name, major, minor, ..
        } = *wanted;
        let word = match wanted.kind {
            KIND_SERVICE => "service",
            _ => "interface",
        };
        let fail = |kind, message: String| Err(Error::new(kind, message).plugin(&self.name));
        let mut named = self
            .interfaces
            .iter()
            .filter(|e| e.kind == wanted.kind && e.name == name)
            .peekable();
        let Some(first) = named.peek() else {
            let message = format!("the plugin exports no {word} {name}");
            return fail(ErrorKind::NoInterface, message);
        };
        let found = format!("{}.{} of {} bytes", first.major, first.minor, first.size);
        let size = wanted.size;
        let fits = |e: &&Export| e.major == major && e.minor >= minor && e.size as usize >= size;
        match named.find(fits) {
            Some(export) if let Some(objection) = self.objection(wanted, export) => {
                let message = format!("{word} {name}: {objection}");
                fail(ErrorKind::SignatureMismatch, message)
            }
            Some(export) => Ok(export.table),
            None => {
                let message = format!(
                    "{word} {name}: expected {major}.{minor} of {size} bytes, found {found}; \
                     rebuild the plugin"
                );
                fail(ErrorKind::InterfaceVersion, message)
            }
        }
    }

    /// What is wrong with a table whose name, version and size fit, if both sides tell its fields.
    fn objection(&self, wanted: &Table, export: &Export) -> Option<String> {
        let expected = wanted.fields.as_deref()?;
        let found = self.info.table(&export.name, export.major, export.minor)?;
        let fits = prototype::extends(expected, &found);
        (!fits).then(|| format!("expected {expected}, found {found}; rebuild the older of the two"))
    }
}

/// A plugin that was loaded. Keeps nothing alive: after an unload it answers "gone".
#[derive(Clone)]
pub struct Plugin {
    record: Arc<Record>,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.record.name)
            .field("generation", &self.record.generation)
            .field("state", &self.state())
            .finish()
    }
}

impl Plugin {
    pub(crate) fn new(record: Arc<Record>) -> Self {
        Self { record }
    }

    /// The name it is loaded under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// The version it declares; empty for a foreign library.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.record.version
    }

    /// The file as it was given to the load.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.record.origin
    }

    /// What its author says about it; empty for a foreign library.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.record.info
    }

    /// The parameters it declares and their values at this moment, by name.
    #[must_use]
    pub fn params(&self) -> Vec<ParamSetting> {
        self.record.settings.shown()
    }

    /// Sets a parameter that is declared writable: its plugin may refuse the value, and then keeps
    /// the old one.
    ///
    /// Thread context. The plugin is told on a thread of the loader's, counted as a call like any
    /// other; `patience` is how long its answer is awaited. Writes of one plugin follow each other.
    ///
    /// # Errors
    /// - [`ErrorKind::Parameter`] where the parameter is unknown, not writable, its value does not
    ///   fit, or the plugin refuses it.
    /// - [`ErrorKind::Gone`] when the plugin is not Live.
    /// - [`ErrorKind::Deadline`] when it has not answered: whether it takes the value is unknown.
    /// - [`ErrorKind::SelfDeadlock`] from inside a plugin's code or a read section.
    /// - [`ErrorKind::Thread`] where no thread is to be had.
    pub fn set_param(&self, name: &str, text: &str, patience: Duration) -> Result<(), Error> {
        calls::must_be_outside("a parameter's change")?;
        let record = &self.record;
        let of = |error: Error| error.plugin(&record.name);
        let (param, value) = record.settings.writable(name, text).map_err(of)?;
        let address = setter(record, param).map_err(of)?;
        let _one = record.settings.begin_write();
        let told = value.clone();
        let (id, word, context) = (record.id, record.live_word(), Arc::clone(record));
        let job = move || {
            let gate = calls::enter(None, id, By::Word(word), address)?;
            // SAFETY: the gate keeps the plugin mapped, the record its context.
            let status = calls::asking(|| unsafe {
                code::set_param(address, context.context.as_ptr(), &told)
            });
            gate.finish().map(|()| status)
        };
        let executor = Executor::start(c"plug-param").map_err(of)?;
        let (outcome, thread) = executor
            .run(Some(Deadline::after(patience)), job)
            .map_err(of)?;
        let refused = |why: &str| {
            let message = format!("parameter {name}: {text:?} refused by the plugin: {why}");
            Err(of(Error::new(ErrorKind::Parameter, message)))
        };
        // What the thread leaves behind is the unload's to wait for, like any thread's.
        drop(thread);
        match outcome {
            Outcome::Done(Ok(0)) => {
                record.settings.wrote(&param.name, value);
                Ok(())
            }
            Outcome::Done(Ok(_)) => refused("no message given"),
            Outcome::Done(Err(CallError::Raised(why))) => refused(&why),
            Outcome::Done(Err(_)) => Err(gone(record)),
            Outcome::Vanished => refused("it ended the loader's thread instead of answering"),
            Outcome::Late => {
                let message =
                    format!("parameter {name}: no answer from the plugin in {patience:?}");
                Err(of(Error::new(ErrorKind::Deadline, message)))
            }
        }
    }

    /// The process-wide number of this load, never reused.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.record.generation
    }

    /// First address of its mapping and one past the last.
    #[must_use]
    pub fn range(&self) -> (usize, usize) {
        (self.record.start, self.record.end)
    }

    /// Build-id bytes; empty when the file has none.
    #[must_use]
    pub fn build_id(&self) -> Vec<u8> {
        self.record.index.view().build_id().to_vec()
    }

    /// How long each stage of the load took; empty while it is Coming.
    #[must_use]
    pub fn load_times(&self) -> &[(Stage, Duration)] {
        self.record.times.get().map_or(&[], Vec::as_slice)
    }

    /// Why it is never unloaded: its author's reason, or that the host said so; none for others.
    #[must_use]
    pub fn permanent(&self) -> Option<&str> {
        self.record.permanent.as_deref()
    }

    /// What it was loaded in spite of, by the host's policy. Stays with the load.
    #[must_use]
    pub fn taints(&self) -> Taints {
        self.record.taints
    }

    /// What it holds of the process; none unless it was loaded with [`Source::accounted`], and none
    /// once it is gone.
    ///
    /// Asks the kernel about each descriptor that it opened. Thread context.
    ///
    /// [`Source::accounted`]: crate::Source::accounted
    #[must_use]
    pub fn balance(&self) -> Option<Balance> {
        self.record.account?.balance()
    }

    /// The functions of other plugins that it imports, by plugin and name.
    pub fn imports(&self) -> impl Iterator<Item = &PluginImport> {
        self.record.imports.iter().map(Binding::import)
    }

    /// The plugins that import functions of it: while there are any, it is not unloaded, though it may
    /// be replaced.
    #[must_use]
    pub fn used_by(&self) -> Vec<Box<str>> {
        let users = self.record.lineage.users().into_iter();
        let mut names: Vec<_> = users.map(|(name, _)| name).collect();
        names.dedup();
        names
    }

    /// Whether it was loaded only because another plugin imports functions of it.
    #[must_use]
    pub fn is_automatic(&self) -> bool {
        self.record.automatic.load(Ordering::Relaxed)
    }

    /// It is wanted for itself from here on.
    pub(crate) fn want(&self) {
        self.record.automatic.store(false, Ordering::Relaxed);
    }

    /// What it needs, by itself or through others: each library once, whether it has a copy of its
    /// own, and by which rule it was found. What libraries need that are left to ld.so is not told.
    #[must_use]
    pub fn dependencies(&self) -> &[Dependency] {
        &self.record.dependencies
    }

    /// Reasons known from the files why it may stay mapped after an unload; empty for most.
    #[must_use]
    pub fn pinned_because(&self) -> &[String] {
        &self.record.pinned_because
    }

    /// The edits that its copy got, then those of its private dependencies' copies; each with the
    /// name by which readers know the object.
    pub fn edits(&self) -> impl Iterator<Item = (&str, &Edit)> {
        let parts = self.record.parts.iter();
        parts.flat_map(|part| part.edits.iter().map(|edit| (&*part.name, edit)))
    }

    /// Objects that were loaded without edits, by the names that readers know them by, each with the
    /// entry of its dynamic section that edits do not reckon with. ld.so ran their constructors, and
    /// what they leave on threads keeps them mapped as plain `dlclose` does.
    pub fn unedited(&self) -> impl Iterator<Item = (&str, &str)> {
        let parts = self.record.parts.iter();
        parts.filter_map(|part| Some((&*part.name, part.strange?)))
    }

    /// SHA-256 of the file as it was loaded; none once it is gone and nobody had asked before.
    ///
    /// The first call computes it from the private copy, at 2 ms a megabyte at most.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        let record = &*self.record;
        record
            .source
            .digest(|| Some(Digest::of(&record.original()?)))
    }

    /// Whether the file it was loaded from still is what it was then. Costs one `stat`; where that
    /// tells a difference, the file is read once for each state it is found in.
    #[must_use]
    pub fn drift(&self) -> Drift {
        self.record.source.drift(|| self.digest())
    }

    /// Pins held right now.
    #[must_use]
    pub fn pins(&self) -> u64 {
        gate::pinned(gate::pins(self.record.id))
    }

    /// What its code has left in the process just now, by kind: all of it goes when it leaves, or
    /// is the reason why it does not.
    ///
    /// Cost: a look at each thread that a plugin left something on.
    ///
    /// # Contexts
    /// Thread context.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        footprint::of(self.record.generation)
    }

    /// Names and versions of the interfaces it exports, as `name/major.minor`.
    pub fn interfaces(&self) -> impl Iterator<Item = String> {
        let interfaces = self.record.interfaces.iter();
        interfaces
            .filter(|export| export.kind == KIND_INTERFACE)
            .map(|export| format!("{}/{}.{}", export.name, export.major, export.minor))
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// The state of this load; [`State::Empty`] once it is gone.
    #[must_use]
    pub fn state(&self) -> State {
        let word = state::word(self.record.id);
        if word.generation() == self.record.generation {
            word.state()
        } else {
            State::Empty
        }
    }

    /// Names and run-time addresses of its exported symbols, in the file's order. Works after an
    /// unload too, and then tells what was where.
    #[must_use]
    pub fn symbols(&self) -> Vec<(Vec<u8>, usize)> {
        let bias = self.record.bias;
        let symbols = self.record.index.view().symbols();
        symbols
            .map(|symbol| (symbol.name.to_vec(), code::run_time(bias, symbol.svma)))
            .collect()
    }

    /// All dynamic symbols it defines, by run-time address, as nm would show them.
    ///
    /// Reads the staged file's tables anew. After an unload the file is gone: then only exported
    /// symbols are shown, without their versions.
    #[must_use]
    pub fn symbol_table(&self) -> Vec<SymbolRow> {
        let record = &*self.record;
        match record.original() {
            Some(original) => symbols::rows(&original, record.bias),
            None => symbols::rows_of_index(record.index.view(), record.bias),
        }
    }

    /// The run-time address of the exported symbol `name`, by the file's own hash table: no
    /// `dlsym`, no lock of ld.so's.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<usize> {
        let (_, symbol) = self.record.index.view().find_by_name(name.as_bytes())?;
        Some(code::run_time(self.record.bias, symbol.svma))
    }

    /// Bytes of the search from address to symbol, beside the copy of the file's own tables.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        self.record.index.search_bytes()
    }

    /// The exported function `name`.
    ///
    /// What the plugin tells of its signature is compared with `F`, layouts of structs included; where
    /// it tells nothing, nothing is compared, and [`PluginFn::is_compared`] says so.
    ///
    /// Cost: one lookup in the file's own hash table, and two signatures put into words. Does not pin:
    /// a call after an unload answers [`CallError::Gone`].
    ///
    /// # Errors
    /// [`ErrorKind::NoSymbol`], [`ErrorKind::NotAFunction`], [`ErrorKind::SignatureMismatch`];
    /// [`ErrorKind::Gone`] when the plugin is not Live.
    pub fn function<F: Signature>(&self, name: &str) -> Result<PluginFn<F>, Error> {
        let record = &*self.record;
        let object = Object::Function {
            name: name.into(),
            expected: F::text().into(),
        };
        let place = record.place_of(&object)?;
        if self.state() != State::Live {
            return Err(gone(record));
        }
        let bearing = record
            .lineage
            .bearing(record.generation, object, place)
            .ok_or_else(|| gone(record))?;
        Ok(PluginFn {
            address: place.address,
            word: place.word,
            id: place.id,
            bearing,
            compared: record.info.signature(name).is_some(),
            _signature: PhantomData,
        })
    }

    /// Calls the exported function `name`, which its author documents as taking nothing, and drops
    /// what it returns in a register. Only in a probe.
    pub(crate) fn call_plain(&self, name: &str) -> Result<(), CallError> {
        let record = &*self.record;
        let Ok(address) = record.address(name) else {
            return Err(CallError::Gone);
        };
        let gate = calls::enter(None, record.id, By::Word(record.live_word()), address)?;
        // SAFETY: the gate keeps the plugin mapped. The host vouched for the file through Trust, and
        // with it for what its metadata says; a caller may leave a returned number unread.
        unsafe { <unsafe extern "C" fn()>::invoke(address, ()) };
        gate.finish()
    }

    /// The signature of its exported function `name`, with the layouts of the structs in it, as
    /// [`Plugin::function`] compares it; none where the plugin does not tell it.
    #[must_use]
    pub fn signature(&self, name: &str) -> Option<String> {
        self.record.info.signature(name)
    }

    /// The interface `T` of the plugin, checked by name, version and size, and by its fields where
    /// both sides tell them.
    ///
    /// # Errors
    /// [`ErrorKind::NoInterface`], [`ErrorKind::InterfaceVersion`], [`ErrorKind::SignatureMismatch`];
    /// [`ErrorKind::Gone`] when the plugin is not Live.
    pub fn interface<T: Interface>(&self) -> Result<PluginInterface<T>, Error> {
        self.table(KIND_INTERFACE)
    }

    /// The service `T` of the plugin; as [`Plugin::interface`].
    ///
    /// # Errors
    /// As [`Plugin::interface`].
    pub fn service<T: Interface>(&self) -> Result<PluginInterface<T>, Error> {
        self.table(KIND_SERVICE)
    }

    fn table<T: Interface>(&self, kind: u32) -> Result<PluginInterface<T>, Error> {
        let record = &*self.record;
        if self.state() != State::Live {
            return Err(gone(record));
        }
        let object = Object::Table(Table {
            kind,
            name: T::NAME,
            major: T::MAJOR,
            minor: T::MINOR,
            size: size_of::<T>(),
            fields: T::LAYOUT.map(|layout| portable::layout(layout).into()),
        });
        let place = record.place_of(&object)?;
        let bearing = record
            .lineage
            .bearing(record.generation, object, place)
            .ok_or_else(|| gone(record))?;
        Ok(PluginInterface {
            table: place.address as *const T,
            context: record.context.as_ptr(),
            word: place.word,
            id: place.id,
            bearing,
        })
    }

    /// A promise that the plugin stays until the pin is dropped; an unload waits for it, and tells
    /// the line that called this.
    ///
    /// Cost: two locked additions, one lock that threads rarely share, and a glance at a clock.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] unless the plugin is Live.
    #[track_caller]
    pub fn pin(&self) -> Result<PluginPin, Error> {
        PluginPin::take(&self.record, Location::caller()).ok_or_else(|| gone(&self.record))
    }
}

/// The original's bytes, made from the staged copy's.
fn undone(staged: &[u8], undo: &[Edit]) -> Vec<u8> {
    let mut original = staged.to_vec();
    for edit in undo {
        let start = usize::try_from(edit.offset).unwrap_or(usize::MAX);
        let place = original.get_mut(start..start.saturating_add(edit.bytes.len()));
        if let Some(place) = place {
            place.copy_from_slice(&edit.bytes);
        }
    }
    original
}

/// The address of the function by which `param` is set.
///
/// # Errors
/// [`ErrorKind::Parameter`] where the plugin does not export it.
pub(crate) fn setter(record: &Record, param: &Param) -> Result<usize, Error> {
    let name = param.setter.as_deref().unwrap_or_default();
    match record.index.view().by_name(name.as_bytes()) {
        Some(symbol) if symbol.kind == SymbolKind::Func => {
            Ok(code::run_time(record.bias, symbol.svma))
        }
        _ => {
            let message = format!(
                "parameter {}: expected its setter {name} to be an exported function, found none",
                param.name
            );
            Err(Error::new(ErrorKind::Parameter, message))
        }
    }
}

fn gone(record: &Record) -> Error {
    Error::new(ErrorKind::Gone, "the plugin is not Live").plugin(&record.name)
}

/// An exported function. `Copy`; keeps nothing alive; every call passes a gate that compares the
/// generation, so that a stale handle never reaches the code of another plugin in its place. Where its
/// plugin was [replaced](crate::Loader::replace), it leads to the version in force.
pub struct PluginFn<F> {
    address: usize,
    word: u64,
    id: u32,
    compared: bool,
    /// Where calls go that the version refuses; nothing that others look at.
    bearing: Bearing,
    _signature: PhantomData<F>,
}

impl<F> Clone for PluginFn<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for PluginFn<F> {}

impl<F> fmt::Debug for PluginFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PluginFn({:#x}, generation {})",
            self.address,
            StateWord(self.word).generation()
        )
    }
}

impl<F: Signature> PluginFn<F> {
    /// Whether the plugin told the function's signature, so that it was compared with `F`.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        self.compared
    }

    /// Calls it on a worker's thread, counted in the worker's own row.
    ///
    /// # Contexts
    /// Thread context. One plain store and one load over a bare call.
    ///
    /// # Errors
    /// [`CallError::Gone`] after an unload; [`CallError::Raised`] when the plugin caught a panic
    /// or an exception, or raised an error.
    ///
    /// # Safety
    /// - The function has the signature `F` and the arguments are what it asks for.
    #[inline]
    pub unsafe fn call_on(&self, worker: &Worker, args: F::Args) -> Result<F::Output, CallError> {
        let entered = calls::enter(
            Some(worker.gate()),
            self.id,
            By::Word(self.word),
            self.address,
        );
        let Ok(gate) = entered else {
            // SAFETY: passed on to our caller.
            return unsafe { self.call_successor(Some(worker), args) };
        };
        // SAFETY: the gate keeps the plugin mapped; the caller vouches for the signature.
        let output = unsafe { F::invoke(self.address, args) };
        gate.finish()?;
        Ok(output)
    }

    /// Calls it on any thread.
    ///
    /// # Contexts
    /// Thread context. One locked addition and subtraction where the thread is no worker.
    ///
    /// # Errors
    /// As [`PluginFn::call_on`].
    ///
    /// # Safety
    /// As [`PluginFn::call_on`].
    #[inline]
    pub unsafe fn call(&self, args: F::Args) -> Result<F::Output, CallError> {
        let Ok(gate) = calls::enter(None, self.id, By::Word(self.word), self.address) else {
            // SAFETY: passed on to our caller.
            return unsafe { self.call_successor(None, args) };
        };
        // SAFETY: as in call_on().
        let output = unsafe { F::invoke(self.address, args) };
        gate.finish()?;
        Ok(output)
    }

    /// Calls it in the version that replaced the handle's.
    ///
    /// # Safety
    /// As [`PluginFn::call_on`].
    #[cold]
    #[inline(never)]
    unsafe fn call_successor(
        &self,
        worker: Option<&Worker>,
        args: F::Args,
    ) -> Result<F::Output, CallError> {
        let (gate, place) = self.bearing.enter(worker.map(Worker::gate))?;
        // SAFETY: the gate keeps the successor mapped, which has this function there; the caller
        // vouches for the signature, which a replace does not change.
        let output = unsafe { F::invoke(place.address, args) };
        gate.finish()?;
        Ok(output)
    }
}

/// A plugin's table of functions. `Copy`; keeps nothing alive. Follows a
/// [replace](crate::Loader::replace), as [`PluginFn`] does.
pub struct PluginInterface<T> {
    table: *const T,
    context: *const HostContext,
    pub(crate) word: u64,
    pub(crate) id: u32,
    bearing: Bearing,
}

// SAFETY: the pointers are only followed inside a gate or under a pin, on any thread; the table
// is immutable by the interface's contract.
unsafe impl<T: Sync> Send for PluginInterface<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for PluginInterface<T> {}

impl<T> Clone for PluginInterface<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for PluginInterface<T> {}

impl<T> fmt::Debug for PluginInterface<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PluginInterface({:p})", self.table)
    }
}

impl<T: Interface> PluginInterface<T> {
    /// Runs `call` with the table, inside the gate, on a worker's thread. The second argument is
    /// the context that the plugin got at `init`.
    ///
    /// # Errors
    /// As [`PluginFn::call_on`].
    ///
    /// # Safety
    /// - What `call` does with the functions is what the interface allows.
    /// - No function pointer and nothing the plugin made leaves `call`, unless a [`PluginPin`]
    ///   is held for as long as it is used.
    #[inline]
    pub unsafe fn call_raw_on<R>(
        &self,
        worker: &Worker,
        call: impl FnOnce(&T, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        // SAFETY: passed on to our caller.
        unsafe { self.enter_raw(Some(worker), By::Word(self.word), call) }
    }

    /// As [`PluginInterface::call_raw_on`], from any thread.
    ///
    /// # Errors
    /// As [`PluginFn::call_on`].
    ///
    /// # Safety
    /// As [`PluginInterface::call_raw_on`].
    #[inline]
    pub unsafe fn call_raw<R>(
        &self,
        call: impl FnOnce(&T, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        // SAFETY: passed on to our caller.
        unsafe { self.enter_raw(None, By::Word(self.word), call) }
    }

    /// Runs `call` inside the gate that `by` opens.
    ///
    /// # Safety
    /// As [`PluginInterface::call_raw_on`].
    #[inline]
    pub(crate) unsafe fn enter_raw<R>(
        &self,
        worker: Option<&Worker>,
        by: By,
        call: impl FnOnce(&T, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        let row = worker.map(Worker::gate);
        let Ok(gate) = calls::enter(row, self.id, by, self.table as usize) else {
            // SAFETY: passed on to our caller.
            return unsafe { self.enter_successor(worker, call) };
        };
        // SAFETY: the gate, or the pin behind `by`, keeps the plugin and with it the table mapped.
        let table = unsafe { &*self.table };
        let output = call(table, self.context);
        gate.finish()?;
        Ok(output)
    }
    /// Runs `call` inside the gate of the version that replaced the handle's.
    ///
    /// # Safety
    /// As [`PluginInterface::call_raw_on`].
    #[cold]
    #[inline(never)]
    unsafe fn enter_successor<R>(
        &self,
        worker: Option<&Worker>,
        call: impl FnOnce(&T, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        let (gate, place) = self.bearing.enter(worker.map(Worker::gate))?;
        // SAFETY: the gate keeps the successor mapped, whose table of this interface is there.
        let table = unsafe { &*(place.address as *const T) };
        let output = call(table, place.context as *const HostContext);
        gate.finish()?;
        Ok(output)
    }
}
