//! Handles to plugins: what hosts hold, none of which keeps a plugin in the process but a pin.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plug_api::abi::{Interface, KIND_INTERFACE, KIND_SERVICE};
use plug_api::portable;
use plug_readside::gate;
use plug_readside::state::{self, State};

use crate::calls::{self, By};
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::{CallError, Error, ErrorKind, Stage};
use crate::executor::{Executor, Outcome};
use crate::footprint::account::Balance;
use crate::footprint::{self, Footprint};
use crate::handles::{PluginFn, PluginInterface};
use crate::image::{Dependency, Edit, Info, PluginImport, SymbolRow, symbols};
use crate::imports::Binding;
use crate::lineage::{Object, Table};
use crate::pin::PluginPin;
use crate::record::{Record, gone, setter};
use crate::settings::ParamSetting;
use crate::signature::Signature;
use crate::source_file::Drift;
use crate::sys::code;
use crate::taint::Taints;

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
        let users = self.record.users().into_iter();
        let mut names: Vec<_> = users.map(|(name, _)| name).collect();
        names.dedup();
        names
    }

    /// Whether it was loaded only because another plugin imports functions of it.
    #[must_use]
    pub fn is_automatic(&self) -> bool {
        self.record.automatic.load(Ordering::Relaxed)
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
        let compared = record.info.signature(name).is_some();
        Ok(PluginFn::new(place, bearing, compared))
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
        Ok(PluginInterface::new(place, bearing))
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
