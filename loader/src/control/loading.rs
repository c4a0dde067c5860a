//! Loads for clients: of a file that came with the call, or that a name stands for, as a new plugin or
//! in the place of another version.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::fstat;

use super::jobs::Job;
use super::messages::{Field, LoadReply, ReplaceReply};
use super::methods::{Answer, Host, wait};
use super::rows;
use super::wire::{self, Fault, Parameters};
use crate::deadline::Deadline;
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
        let work = move || match host.loader.load(&host.trust, source, &params) {
            Ok(plugin) => wire::reply(
                &LoadReply {
                    plugin: rows::plugin(&host.loader, &plugin),
                    stages: rows::stages(plugin.load_times()),
                },
                false,
            ),
            Err(error) => wire::error(&rows::fault(&error, error.plugin_name())),
        };
        Ok(Answer::Job(Job {
            name: "load",
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
        parameters.end()?;
        let host = Arc::clone(self);
        let work = move || {
            let (loader, deadline) = (&host.loader, Deadline::after(wait));
            match loader.replace(&host.trust, &name, source, &params, deadline) {
                Ok(replaced) => wire::reply(
                    &ReplaceReply {
                        plugin: rows::plugin(loader, &replaced.plugin),
                        stages: rows::stages(replaced.plugin.load_times()),
                        old_version: replaced.old.version().to_owned(),
                        former: rows::former(&replaced.old, replaced.former),
                    },
                    false,
                ),
                Err(error) => wire::error(&rows::fault(&error, &name)),
            }
        };
        Ok(Answer::Job(Job {
            name: "replace",
            work: Box::new(work),
        }))
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
        let given: Vec<Field> = parameters.take("params")?;
        let source = match file {
            Some(file) if file < descriptors.len() => {
                self.sent(descriptors.swap_remove(file), &path)?
            }
            Some(_) => return Err(Fault::NoDescriptor),
            None => Source::plugin(path),
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
