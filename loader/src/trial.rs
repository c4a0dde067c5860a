//! A version on trial: whether it has failed, and the way back to the one whose place it has.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use plug_readside::state::State;

use crate::calls;
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Stage};
use crate::faults::Raised;
use crate::image::sealed;
use crate::lineage::Expected;
use crate::params::Params;
use crate::policy::Policy;
use crate::process::Process;
use crate::record::Record;
use crate::replace::{self, Replaced};
use crate::trust::{Source, Trust};

/// How often it is looked whether a version on trial has left.
const LOOK: Duration = Duration::from_millis(100);

/// A version that took another one's place on trial: see
/// [`Loader::replace_on_trial`](crate::Loader::replace_on_trial). Dropped, it is kept.
///
/// It has failed when a call of it failed: one that ended in a panic or an exception that the plugin
/// caught, or in an error that it raised, also on a thread that the plugin had the loader start. A
/// parameter or a state that it refuses is no failure. Calls that do not fail cost nothing for it. What
/// else a host takes for a failure, it may roll back for as well.
///
/// ```no_run
/// use std::time::Duration;
/// use plug_loader::{Deadline, Error, Loader, Params, Source, Trust};
///
/// fn update(loader: &Loader, trust: &Trust) -> Result<(), Error> {
///     let seconds = Duration::from_secs(5);
///     let soon = || Deadline::after(seconds);
///     let source = Source::path("./greeter-2.so");
///     let trial = loader.replace_on_trial(trust, "greeter", source, &Params::new(), soon())?;
///     if let Some(fault) = trial.wait(seconds) {
///         println!("{fault}");
///         let back = trial.roll_back(trust, soon())?;
///         println!("generation {} is the old version", back.plugin.generation());
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "nothing is rolled back unless the trial is asked to"]
pub struct Trial {
    process: &'static Process,
    replaced: Replaced,
    /// The old version's file as it was loaded.
    bytes: Vec<u8>,
    /// The digests of what it brought.
    brought: Vec<Digest>,
    /// The plugins that the old version imports functions of: it needs them again.
    _providers: Vec<Expected>,
}

/// The first failure of a version on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The function that was called, or the interface.
    pub function: Box<str>,
    /// What it said of the failure.
    pub message: Box<str>,
    /// How long after the switch it was.
    pub after: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.function, self.message)
    }
}

impl Trial {
    pub(crate) fn begin(
        process: &'static Process,
        policy: &Policy,
        name: &str,
        source: Source,
        params: &Params,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        // While its copy is there; where there is no such plugin, the replace says so.
        let kept = process.registry.record(name).map(|old| {
            let kept = originals(&old).ok_or_else(|| {
                let message = "the old version's copy cannot be read to be kept; replace it without \
                               a trial";
                let error = Error::new(ErrorKind::Stage, message);
                error.at(Stage::Stage).plugin(name)
            });
            kept.map(|kept| (old, kept))
        });
        let (old, (bytes, brought)) = match kept.transpose()? {
            Some((old, kept)) => (Some(old), kept),
            None => (None, Default::default()),
        };
        let only = old.as_ref().map(|old| old.generation);
        let imports = old.iter().flat_map(|old| &old.imports);
        let providers = imports.filter_map(|binding| {
            let provider = &binding.import().plugin;
            process.registry.expect(provider, name)
        });
        let providers: Vec<Expected> = providers.collect();
        let replaced = replace::replace(process, policy, (name, only), source, params, deadline)?;
        Ok(Self {
            process,
            replaced,
            bytes,
            brought,
            _providers: providers,
        })
    }

    /// What the replace did.
    #[must_use]
    pub fn replaced(&self) -> &Replaced {
        &self.replaced
    }

    /// The first failure of the new version, if it has failed by now.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault_until(Deadline::now())
    }

    /// Waits on the calling thread until the new version has failed, or has been in force for so
    /// long, or is not any more: none if it has not failed in that time.
    #[must_use]
    pub fn wait(&self, first: Duration) -> Option<Fault> {
        let rest = first.saturating_sub(self.replaced.switched.elapsed());
        let deadline = Deadline::after(rest);
        loop {
            let fault = self.fault_until(Deadline::after(deadline.remaining().min(LOOK)));
            if fault.is_some() || deadline.has_passed() || !self.is_in_force() {
                return fault.filter(|fault| fault.after <= first);
            }
        }
    }

    /// Whether the new version still has the place: it may have been unloaded or replaced since.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.replaced.plugin.state() == State::Live
    }

    fn fault_until(&self, deadline: Deadline) -> Option<Fault> {
        let record = self.replaced.plugin.record();
        let raised = record.context.faults().wait(deadline)?;
        let Raised {
            address,
            message,
            at,
        } = raised;
        Some(Fault {
            function: record.function_at(address),
            message,
            after: at.saturating_duration_since(self.replaced.switched),
        })
    }

    /// Puts the old version in the place of the new one: another replace, by which the bytes of the
    /// old version become a new generation. It gets the parameters that the old one was loaded with,
    /// and those that were written since; and the state that the new version saves, if it saves any.
    ///
    /// Blocks as [`Loader::replace`](crate::Loader::replace) does; `deadline` is for the same.
    ///
    /// # Errors
    /// As [`Loader::replace`](crate::Loader::replace), by the rules that hold now: the new version
    /// stays, and it may be tried again. [`ErrorKind::HandOver`] where the new version does not save
    /// its state or the old one refuses it; [`ErrorKind::Gone`] where the new version has been
    /// replaced or unloaded since; [`ErrorKind::Probe`] where a library that the old one brought is
    /// not the same any more; [`ErrorKind::Stage`] where there is no memory for the bytes.
    pub fn roll_back(&self, trust: &Trust, deadline: Deadline) -> Result<Replaced, Error> {
        calls::must_be_outside("rolling a replace back")?;
        let (old, new) = (self.replaced.old.record(), &self.replaced.plugin);
        let bytes = sealed("plug-former", &self.bytes).map_err(|error| {
            let message = "no memory file for the old version";
            let error = Error::new(ErrorKind::Stage, message).because(error);
            error.at(Stage::Stage).plugin(&old.name)
        })?;
        let source = old.order.again(bytes, &old.origin, self.brought.clone());
        let written = old.settings.shown().into_iter();
        let written = written.filter(|setting| setting.param.is_writable);
        let params = written.fold(old.order.params.clone(), |all, setting| {
            all.with(setting.param.name, setting.value)
        });
        replace::replace(
            self.process,
            trust.policy(),
            (&old.name, Some(new.generation())),
            source,
            &params,
            deadline,
        )
    }

    /// Ends the trial: the new version is kept.
    #[must_use]
    pub fn keep(self) -> Replaced {
        self.replaced
    }
}

/// The bytes that a version was loaded from, and the digests of what it brought.
fn originals(old: &Record) -> Option<(Vec<u8>, Vec<Digest>)> {
    let (plugin, brought) = old.parts.split_first()?;
    let digests = brought
        .iter()
        .map(|part| Some(Digest::of(&part.original()?)));
    Some((plugin.original()?, digests.collect::<Option<_>>()?))
}
