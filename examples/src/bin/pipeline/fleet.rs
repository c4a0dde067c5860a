//! The plugins of this run: which are Live, for workers to pick up, and what readers must see.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plug_filter::FilterV1;
use plug_loader::image::{Binding, Inspection, SymbolKind};
use plug_loader::{Deadline, Loader, Params, Plugin, PluginInterface, Source, Trust, Unloaded};

use crate::ledger::{Ledger, Print};
use crate::stream::Filters;

/// How long an unload may wait for workers to let go.
const PATIENCE: Duration = Duration::from_secs(5);

/// A plugin that workers may use.
#[derive(Clone, Debug)]
pub struct Live {
    pub plugin: Plugin,
    pub filter: PluginInterface<FilterV1>,
}

/// One plugin file, known before it is loaded.
#[derive(Debug)]
struct Hull {
    name: String,
    path: PathBuf,
    /// Link-time start of the image, and the exported symbols by link-time address.
    start: u64,
    symbols: Vec<(String, u64)>,
}

/// All plugins of this run, in the order of the command line.
#[derive(Debug)]
pub struct Fleet {
    pub loader: Loader,
    trust: Trust,
    hulls: Vec<Hull>,
    live: Mutex<Vec<Option<Live>>>,
    /// Grows when `live` changes. Written under its lock (Release), looked at by workers
    /// (Acquire), who then take the lock.
    version: AtomicU64,
    pub ledger: Ledger,
}

impl Fleet {
    /// Reads the files without running them.
    pub fn new(loader: Loader, trust: Trust, files: &[PathBuf]) -> Result<Self, String> {
        if files.is_empty() || files.len() > Filters::MAX {
            let (max, found) = (Filters::MAX, files.len());
            return Err(format!("expected 1 to {max} plugins, found {found}"));
        }
        let hulls: Vec<Hull> = files
            .iter()
            .map(|file| survey(file))
            .collect::<Result<_, _>>()?;
        for (n, hull) in hulls.iter().enumerate() {
            if hulls[..n].iter().any(|other| other.name == hull.name) {
                return Err(format!("two plugins are named {:?}", hull.name));
            }
        }
        Ok(Self {
            loader,
            trust,
            live: Mutex::new(vec![None; hulls.len()]),
            hulls,
            version: AtomicU64::new(0),
            ledger: Ledger::default(),
        })
    }

    pub fn len(&self) -> usize {
        self.hulls.len()
    }

    pub fn name(&self, at: usize) -> &str {
        &self.hulls[at].name
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hulls.iter().map(|hull| &*hull.name)
    }

    /// Loads plugin `at` and offers it to the workers.
    pub fn load(&self, at: usize) -> Result<Plugin, String> {
        let hull = &self.hulls[at];
        let plugin = self
            .loader
            .load(&self.trust, Source::path(&hull.path), &Params::new())
            .map_err(|error| format!("load {error:#}"))?;
        self.ledger.expect(plugin.generation(), hull.print(&plugin));
        let filter = plugin
            .interface::<FilterV1>()
            .map_err(|error| format!("use {error:#}"))?;
        self.offer(
            at,
            Some(Live {
                plugin: plugin.clone(),
                filter,
            }),
        );
        Ok(plugin)
    }

    /// Unloads plugin `at`; workers let go of it at their next quiescent point.
    pub fn unload(&self, at: usize) -> Result<Unloaded, String> {
        let unloaded = self
            .loader
            .unload(self.name(at), Deadline::after(PATIENCE))
            .map_err(|error| format!("unload {error:#}"));
        if unloaded.is_err() {
            // It is Live again, but workers have crossed it off: let them look once more.
            let live = self.lock()[at].clone();
            self.offer(at, live);
        }
        unloaded
    }

    /// Changes when [`Fleet::live`] does.
    pub fn version(&self) -> u64 {
        // Acquire: pairs with the Release in offer().
        self.version.load(Ordering::Acquire)
    }

    /// Every plugin as it was offered last; one that left since refuses its pin.
    pub fn live(&self) -> Vec<Option<Live>> {
        self.lock().clone()
    }

    fn offer(&self, at: usize, offered: Option<Live>) {
        let mut live = self.lock();
        live[at] = offered;
        // Release: pairs with the Acquire in version().
        self.version.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hull {
    /// What readers must see of the load `plugin`, computed from the file and its load address.
    fn print(&self, plugin: &Plugin) -> Print {
        let (start, end) = plugin.range();
        let mut print = Print::new(self.name.as_bytes(), start, end);
        for (name, svma) in &self.symbols {
            print.symbol(
                name.as_bytes(),
                start.wrapping_add((svma - self.start) as usize),
            );
        }
        print
    }
}

fn survey(file: &Path) -> Result<Hull, String> {
    let inspection = Inspection::of_file(file)
        .map_err(|error| format!("{:?}: {error}", file.display().to_string()))?;
    let symbols = inspection.symbols.into_iter().filter(|symbol| {
        use SymbolKind::{Func, Ifunc, Notype, Object};
        symbol.binding != Binding::Local && matches!(symbol.kind, Func | Ifunc | Notype | Object)
    });
    Ok(Hull {
        name: inspection.name,
        path: file.to_owned(),
        start: inspection.facts.span.vaddr,
        symbols: symbols.map(|symbol| (symbol.name, symbol.value)).collect(),
    })
}
