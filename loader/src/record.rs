//! What is known about one load, in plain memory that outlives the plugin, and where in it things are.

use std::ffi::{CStr, CString};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use plug_api::abi::{Descriptor, KIND_SERVICE};
use plug_readside::departed;
use plug_readside::index::SymbolKind;
use plug_readside::snapshot::Row;
use plug_readside::state::{State, StateWord};

use crate::calls;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Stage};
use crate::executor::Ending;
use crate::footprint::account::{self, Account};
use crate::image::{Dependency, Edit, Info, Param, PluginImport, StageLink, prototype};
use crate::imports::{Binding, References};
use crate::index::OwnedIndex;
use crate::lineage::{Lineage, Object, Place, Table};
use crate::pins::Pins;
use crate::settings::Settings;
use crate::source_file::SourceFile;
use crate::sys::{clock, code, dl};
use crate::taint::Taints;
use crate::trust::Order;

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

    /// The plugins that import functions of it, by name and load; those of the version that is in force.
    pub(crate) fn users(&self) -> Vec<(Box<str>, u64)> {
        match self.lineage.is_in_force(self.generation) {
            true => self.lineage.users(),
            false => Vec::new(),
        }
    }

    /// The rows that readers are shown, one for each part that is mapped.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> {
        let mapped = self.parts.iter().filter(|part| part.gone.get().is_none());
        mapped.map(|part| part.row(self))
    }

    /// The bytes of the plugin's original, while its copy is there.
    pub(crate) fn original(&self) -> Option<Vec<u8>> {
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
    pub(crate) fn function(&self, name: &str, expected: &str) -> Result<usize, Error> {
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
    pub(crate) fn address(&self, name: &str) -> Result<usize, Error> {
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
    pub(crate) fn table(&self, wanted: &Table) -> Result<usize, Error> {
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

/// A handle to it is of no use.
pub(crate) fn gone(record: &Record) -> Error {
    Error::new(ErrorKind::Gone, "the plugin is not Live").plugin(&record.name)
}
