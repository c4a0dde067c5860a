//! Loads of plugins with those that they import functions of, and unloads of those that nobody
//! imports functions of any more.

#![forbid(unsafe_code)]

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use plug_readside::state;

use crate::bundle::image_error;
use crate::calls;
use crate::deadline::Deadline;
use crate::departure::Departure;
use crate::error::{Error, ErrorKind, Stage};
use crate::image::{Facts, Info, PluginImport, foreign_name};
use crate::lineage::Expected;
use crate::load;
use crate::params::Params;
use crate::plugin::Plugin;
use crate::policy::Policy;
use crate::process::Process;
use crate::registry::canonical;
use crate::sys::clock;
use crate::trust::{Origin, Source};
use crate::verdict::Unloaded;

/// Plugins that may import of each other in a row.
const MAX_DEPTH: usize = 256;

/// What a load with providers would do, in order: [`Loader::plan`](crate::Loader::plan).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Each plugin once, those that are imported from before their users, what was asked for last.
    pub steps: Vec<PlannedLoad>,
}

/// One plugin of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedLoad {
    /// The name it is loaded under.
    pub name: String,
    /// The version it declares; may be empty.
    pub version: String,
    /// Its file, as far as it was named.
    pub file: PathBuf,
    /// The plugins that import functions of it; none for what was asked for.
    pub used_by: Vec<String>,
    /// Whether it is there already.
    pub is_loaded: bool,
}

/// See [`Loader::plan`](crate::Loader::plan). As `name`, if that is given.
pub(crate) fn plan(process: &Process, source: &Source, name: Option<&str>) -> Result<Plan, Error> {
    let name = name.or(source.name.as_deref());
    let asked = peek(process, &source.origin, name)?;
    let mut planner = Planner {
        process,
        steps: Vec::new(),
        open: Vec::new(),
    };
    planner.visit(&asked.name, &asked.imports)?;
    let mut steps = planner.steps;
    steps.push(PlannedLoad {
        is_loaded: process.registry.record(&asked.name).is_some(),
        name: asked.name,
        version: asked.version,
        file: asked.file,
        used_by: Vec::new(),
    });
    Ok(Plan { steps })
}

/// What a file says of itself.
struct Peeked {
    name: String,
    version: String,
    file: PathBuf,
    imports: Vec<PluginImport>,
}

/// Reads what a plugin says of itself; whether it is let in is for its load to say.
fn peek(process: &Process, origin: &Origin, name: Option<&str>) -> Result<Peeked, Error> {
    let origin = match origin {
        Origin::Named(name) => Origin::Path(process.config.directives.find(name)?),
        origin => origin.again().map_err(|error| {
            Error::new(ErrorKind::Open, format!("its descriptor: {error}")).at(Stage::Open)
        })?,
    };
    let opened = load::open(origin)?;
    let file_name = foreign_name(opened.path());
    let of = |error: Error| error.plugin(name.unwrap_or(&file_name));
    let staged = opened
        .stage(name.unwrap_or(&file_name))
        .map_err(|error| of(image_error(error, Stage::Stage)))?;
    let facts = Facts::read(staged.bytes())
        .map_err(|damage| of(image_error(damage.into(), Stage::Facts)))?;
    let info = Info::read(&facts, staged.bytes())
        .map_err(|malformed| of(image_error(malformed.into(), Stage::Metadata)))?;
    Ok(Peeked {
        name: name.or(info.name()).unwrap_or(&file_name).to_owned(),
        version: info.version().unwrap_or_default().to_owned(),
        file: opened.path().to_owned(),
        imports: info.imports(),
    })
}

struct Planner<'a> {
    process: &'a Process,
    steps: Vec<PlannedLoad>,
    /// The plugins whose imports are being looked at, each imported by the one before it.
    open: Vec<String>,
}

impl Planner<'_> {
    /// Plans what the plugin `user` imports.
    fn visit(&mut self, user: &str, imports: &[PluginImport]) -> Result<(), Error> {
        self.open.push(user.to_owned());
        for import in imports {
            self.provide(user, import).map_err(|error| {
                // What is about another plugin is told of that.
                match error.plugin_name().is_empty() {
                    true => error.about(&format!("import {import}")).plugin(user),
                    false => error,
                }
                .at(Stage::Imports)
            })?;
        }
        self.open.pop();
        Ok(())
    }

    fn provide(&mut self, user: &str, import: &PluginImport) -> Result<(), Error> {
        let name = canonical(&import.plugin);
        let is_it = |other: &String| canonical(other) == name;
        if let Some(at) = self.open.iter().position(is_it) {
            let round = self.open.get(at..).unwrap_or_default().join(" -> ");
            let message = format!(
                "plugins would import of each other: {round} -> {}",
                import.plugin
            );
            return Err(Error::new(ErrorKind::Cycle, message));
        }
        if self.open.len() > MAX_DEPTH {
            let message = format!("expected at most {MAX_DEPTH} plugins that import in a row");
            return Err(Error::new(ErrorKind::TooManyPlugins, message));
        }
        if let Some(step) = self.steps.iter_mut().find(|step| is_it(&step.name)) {
            takes(import, &step.version, &step.file)?;
            if !step.used_by.iter().any(|other| other == user) {
                step.used_by.push(user.to_owned());
            }
            return Ok(());
        }
        let step = match self.process.registry.record(&import.plugin) {
            Some(record) => PlannedLoad {
                name: record.name.to_string(),
                version: record.version.to_string(),
                file: PathBuf::from(&*record.origin),
                used_by: vec![user.to_owned()],
                is_loaded: true,
            },
            None => {
                let origin = Origin::Named(import.plugin.clone());
                let found = peek(self.process, &origin, Some(&import.plugin));
                let found = found.map_err(|error| match error.kind() {
                    ErrorKind::NoFile => Error::new(ErrorKind::NoProvider, error.said()),
                    _ => error,
                })?;
                self.visit(&import.plugin, &found.imports)?;
                PlannedLoad {
                    name: found.name,
                    version: found.version,
                    file: found.file,
                    used_by: vec![user.to_owned()],
                    is_loaded: false,
                }
            }
        };
        takes(import, &step.version, &step.file)?;
        self.steps.push(step);
        Ok(())
    }
}

/// Whether the plugin of this version in `file` will do.
fn takes(import: &PluginImport, version: &str, file: &Path) -> Result<(), Error> {
    if import.takes(version) {
        return Ok(());
    }
    let expected = &import.requirement;
    let found = if version.is_empty() { "none" } else { version };
    let file = file.display();
    let message = format!("expected version {expected}, found {found} in {file}");
    Err(Error::new(ErrorKind::ProviderVersion, message))
}

/// Loads the plugins that `source` imports functions of, under `name` if that is given, and then has
/// `act` load it: what came of that, and those that were loaded for it, in their order.
pub(crate) fn with_providers<R>(
    process: &'static Process,
    policy: &Policy,
    source: Source,
    name: Option<&str>,
    act: impl FnOnce(Source) -> Result<R, Error>,
) -> Result<(R, Vec<Plugin>), Error> {
    let Plan { steps } = plan(process, &source, name)?;
    let mut brought = Brought {
        process,
        loaded: Vec::new(),
        expected: Vec::new(),
    };
    if let Some((asked, providers)) = steps.split_last() {
        for step in providers {
            brought.load(policy, step, &asked.name)?;
        }
    }
    let done = act(source)?;
    Ok((done, mem::take(&mut brought.loaded)))
}

/// Providers that were loaded for somebody; unloaded again when dropped, last loaded first.
struct Brought {
    process: &'static Process,
    loaded: Vec<Plugin>,
    expected: Vec<Expected>,
}

impl Brought {
    /// Has a provider there, and keeps it from being found unused before it is used by `user`.
    fn load(&mut self, policy: &Policy, step: &PlannedLoad, user: &str) -> Result<(), Error> {
        let process = self.process;
        let deadline = Deadline::after(process.config.load_patience);
        loop {
            if let Some(expected) = process.registry.expect(&step.name, user) {
                self.expected.push(expected);
                return Ok(());
            }
            let source = Source::path(&step.file).named(&step.name).automatic();
            match load::load(process, policy, source, &Params::new()) {
                // Else somebody wanted it for itself, whose load this one shared.
                Ok(plugin) if plugin.is_automatic() => self.loaded.push(plugin),
                Ok(_) => {}
                // Somebody else was faster, or has it unloaded just now.
                Err(error)
                    if matches!(error.kind(), ErrorKind::AlreadyLoaded | ErrorKind::Busy)
                        && !deadline.has_passed() =>
                {
                    clock::nap(Duration::from_millis(1));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        self.expected.clear();
        for plugin in self.loaded.drain(..).rev() {
            // Somebody may want it for itself by now.
            if !plugin.is_automatic() {
                continue;
            }
            let (name, patience) = (plugin.name(), self.process.config.load_patience);
            match unload(self.process, &plugin, Deadline::after(patience)) {
                Ok(Unloaded::Gone(_)) => {}
                Ok(Unloaded::Zombie(left) | Unloaded::Pinned(left)) => {
                    tracing::warn!(target: "plug::load", %left, "loaded for nobody, and stays");
                }
                Err(error) => {
                    tracing::warn!(target: "plug::load", name, %error, "loaded for nobody, and stays");
                }
            }
        }
    }
}

fn unload(
    process: &'static Process,
    plugin: &Plugin,
    deadline: Deadline,
) -> Result<Unloaded, Error> {
    let departure = Departure::begin(process, plugin.name(), Some(plugin.generation()))?;
    if !plugin.is_automatic() {
        departure.cancel();
        let message = "it is wanted for itself by now";
        return Err(Error::new(ErrorKind::InUse, message).plugin(plugin.name()));
    }
    departure.wait(deadline)
}

/// What became of each plugin, in the order in which they were unloaded.
type Done = Vec<(String, Result<Unloaded, Error>)>;

/// See [`Loader::unload_unused`](crate::Loader::unload_unused).
pub(crate) fn unload_unused(process: &'static Process, deadline: Deadline) -> Result<Done, Error> {
    calls::must_be_outside("unload")?;
    let mut done = Done::new();
    let mut tried = Vec::new();
    loop {
        let unused = process.registry.records().into_iter().rev().find(|record| {
            record.automatic.load(Ordering::Relaxed)
                && state::word(record.id).0 == record.live_word()
                && !tried.contains(&record.generation)
                && record.lineage.users().is_empty()
        });
        let Some(record) = unused else {
            return Ok(done);
        };
        tried.push(record.generation);
        let plugin = Plugin::new(record);
        let name = plugin.name().to_owned();
        done.push((name, unload(process, &plugin, deadline)));
    }
}
