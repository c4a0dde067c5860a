//! Loads for clients: of a file that came with the call, or that a name stands for, as a new plugin or
//! in the place of another version.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::fstat;

use super::jobs::Job;
use super::messages::{Field, LoadReply, PlanReply, ReplaceReply};
use super::methods::{Answer, Host, bounded, wait};
use super::rows;
use super::wire::{self, Fault, Parameters};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::params::Params;
use crate::trust::{Accounting, Source};

impl Host {
    pub(super) fn load(
        self: &Arc<Self>,
        mut parameters: Parameters,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Answer, Fault> {
        let name: Option<String> = parameters.take("name")?;
        let (source, params) = self.wanted(&mut parameters, descriptors)?;
        parameters.end()?;
        let source = match name {
            Some(name) => source.named(name),
            None => source,
        };
        let host = Arc::clone(self);
        let work = move || {
            let loader = &host.loader;
            match loader.load_with_providers(&host.trust, source, &params) {
                Ok((plugin, providers)) => {
                    let row = |plugin| rows::plugin(loader, plugin);
                    let reply = LoadReply {
                        plugin: row(&plugin),
                        stages: rows::stages(plugin.load_times()),
                        providers: providers.iter().map(row).collect(),
                    };
                    wire::reply(&reply, false)
                }
                Err(error) => wire::error(&rows::fault(&error, error.plugin_name())),
            }
        };
        Ok(Answer::Job(Job {
            name: "load",
            work: Box::new(work),
        }))
    }

    pub(super) fn plan(
        self: &Arc<Self>,
        mut parameters: Parameters,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<Answer, Fault> {
        let file: Option<usize> = parameters.take("file")?;
        let path: String = parameters.take("path")?;
        let name: Option<String> = parameters.take("name")?;
        parameters.end()?;
        let source = self.source(file, path, &mut descriptors)?;
        let source = match name {
            Some(name) => source.named(name),
            None => source,
        };
        let host = Arc::clone(self);
        let work = move || match host.loader.plan(&source) {
            Ok(plan) => {
                let steps = plan.steps.into_iter().map(rows::planned).collect();
                wire::reply(&PlanReply { steps }, false)
            }
            Err(error) => wire::error(&rows::fault(&error, error.plugin_name())),
        };
        Ok(Answer::Job(Job {
            name: "plan",
            work: Box::new(work),
        }))
    }

    pub(super) fn replace(
        self: &Arc<Self>,
        mut parameters: Parameters,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Answer, Fault> {
        let name: String = parameters.take("name")?;
        let (source, params) = self.wanted(&mut parameters, descriptors)?;
        let wait = wait(&mut parameters)?;
        let trial: Option<u64> = parameters.take("trial_micros")?;
        let trial = trial
            .map(|micros| bounded(micros, "trial_micros"))
            .transpose()?;
        parameters.end()?;
        let host = Arc::clone(self);
        let work = move || {
            let replaced = match trial {
                None => host.replaced(&name, source, &params, wait),
                Some(time) => host.tried(&name, source, &params, wait, time),
            };
            match replaced {
                Ok(reply) => wire::reply(&reply, false),
                Err(error) => wire::error(&rows::fault(&error, &name)),
            }
        };
        Ok(Answer::Job(Job {
            name: "replace",
            work: Box::new(work),
        }))
    }

    /// What a replace answers.
    fn replaced(
        &self,
        name: &str,
        source: Source,
        params: &Params,
        wait: Duration,
    ) -> Result<ReplaceReply, Error> {
        let deadline = Deadline::after(wait);
        let replaced = self
            .loader
            .replace(&self.trust, name, source, params, deadline)?;
        Ok(rows::replaced(&self.loader, &replaced))
    }

    /// What a replace answers that is on trial for this time.
    fn tried(
        &self,
        name: &str,
        source: Source,
        params: &Params,
        wait: Duration,
        time: Duration,
    ) -> Result<ReplaceReply, Error> {
        let (loader, trust) = (&self.loader, &self.trust);
        let deadline = Deadline::after(wait);
        let trial = loader.replace_on_trial(trust, name, source, params, deadline)?;
        // As it is when it takes the place.
        let reply = rows::replaced(loader, trial.replaced());
        let fault = trial.wait(time);
        let rolled_back = fault.map(|fault| {
            let deadline = Deadline::after(wait);
            loop {
                let back = trial.roll_back(trust, deadline);
                // Somebody else is about to replace it, and may fail.
                let is_busy = back
                    .as_ref()
                    .is_err_and(|error| error.kind() == ErrorKind::Busy);
                if !is_busy || deadline.has_passed() {
                    break (fault, back);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let is_in_force = trial.is_in_force();
        Ok(ReplaceReply {
            trial: Some(rows::trial(loader, rolled_back, is_in_force)),
            ..reply
        })
    }

    /// What is to be loaded, and the parameters for it.
    fn wanted(
        &self,
        parameters: &mut Parameters,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<(Source, Params), Fault> {
        let file: Option<usize> = parameters.take("file")?;
        let path: String = parameters.take("path")?;
        let permanent: Option<bool> = parameters.take("permanent")?;
        let force: Option<bool> = parameters.take("force")?;
        let signature: Option<String> = parameters.take("signature")?;
        let account: Option<String> = parameters.take("account")?;
        let with_providers: Option<bool> = parameters.take("with_providers")?;
        let given: Vec<Field> = parameters.take("params")?;
        let source = self.source(file, path, &mut descriptors)?;
        let source = match with_providers {
            Some(true) => source.with_providers(),
            Some(false) | None => source,
        };
        let source = match permanent {
            Some(true) => source.permanent(),
            Some(false) | None => source,
        };
        let source = match force {
            Some(true) => source.force(),
            Some(false) | None => source,
        };
        let source = match signature {
            Some(text) => source.signature(text),
            None => source,
        };
        let source = source.accounted(match account.as_deref() {
            None => Accounting::Off,
            Some("counts") => Accounting::Counts,
            Some("sites") => Accounting::Sites,
            Some(_) => return Err(Fault::InvalidParameter("account".to_owned())),
        });
        let params = given
            .into_iter()
            .fold(Params::new(), |all, field| all.with(field.key, field.value));
        Ok((source, params))
    }

    /// A file that came with the call, or a name.
    fn source(
        &self,
        file: Option<usize>,
        path: String,
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<Source, Fault> {
        match file {
            Some(file) if file < descriptors.len() => {
                self.sent(descriptors.swap_remove(file), &path)
            }
            Some(_) => Err(Fault::NoDescriptor),
            None => Ok(Source::plugin(path)),
        }
    }

    /// A file that came with a call.
    fn sent(&self, file: OwnedFd, path: &str) -> Result<Source, Fault> {
        let size = fstat(&file).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        if size > self.max_file {
            let most = self.max_file;
            return Err(rows::refused(
                "open",
                "open",
                format!("{path:?}: expected at most {most} bytes, found {size}"),
            ));
        }
        Ok(Source::opened(file, Path::new(path)))
    }
}
