//! What each method answers.
//!
//! Runs on the server's thread and must not wait: what may take long is handed back as a job.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::fstat;
use serde::Serialize;

use super::jobs::Job;
use super::listing::Listing;
use super::messages::{
    DESCRIPTION, DescribeReply, Field, INTERFACE, InfoReply, LoadReply, UnloadReply,
};
use super::rows;
use super::wire::{self, Call, Fault, Parameters};
use crate::deadline::Deadline;
use crate::departure::Departure;
use crate::loader::Loader;
use crate::params::Params;
use crate::plugin::Plugin;
use crate::registry::canonical;
use crate::trust::{Source, Trust};

/// The interface that every varlink service has.
const SERVICE: &str = "org.varlink.service";

const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

/// Longest wait for an unload: its plugin refuses calls meanwhile, whether or not the client
/// that asked for it is still there.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What methods work on.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) loader: Loader,
    pub(super) trust: Trust,
    pub(super) name: String,
    pub(super) max_file: u64,
}

/// What is to be done about a call.
#[derive(Debug)]
pub(super) enum Answer {
    /// Send this.
    Reply(Vec<u8>),
    /// Send this row by row.
    Listing(Listing),
    /// Send events after this number until the client goes.
    Events(u64),
    /// Do this, then send its result.
    Job(Job),
    /// Do this, telling every second who is waited for.
    Unload(Job, Waiting),
}

/// An unload in progress.
#[derive(Debug)]
pub(super) struct Waiting {
    name: String,
    plugin: Option<Plugin>,
}

impl Waiting {
    /// Who is waited for at this moment.
    pub(super) fn reply(&self, host: &Host) -> Vec<u8> {
        let holders = self
            .plugin
            .as_ref()
            .map(|plugin| host.loader.holders(plugin));
        let reply = UnloadReply {
            name: self.name.clone(),
            generation: self.plugin.as_ref().map_or(0, Plugin::generation),
            verdict: "waiting".to_owned(),
            holders: holders.iter().flatten().map(rows::holder).collect(),
            ..UnloadReply::default()
        };
        wire::reply(&reply, true)
    }
}

impl Host {
    /// Answers one call that came with `descriptors`.
    pub(super) fn answer(
        self: &Arc<Self>,
        call: Call,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Answer, Fault> {
        let Call {
            method,
            mut parameters,
            more,
            oneway: _,
            upgrade,
        } = call;
        if upgrade {
            return Err(Fault::MethodNotImplemented(method));
        }
        let (interface, name) = method
            .rsplit_once('.')
            .ok_or_else(|| Fault::InvalidParameter("method".to_owned()))?;
        match (interface, name) {
            (SERVICE, "GetInfo") => parameters.end().map(|()| self.get_info()),
            (SERVICE, "GetInterfaceDescription") => {
                let of: String = parameters.take("interface")?;
                parameters.end()?;
                get_interface_description(of)
            }
            (INTERFACE, "Describe") => parameters.end().map(|()| self.describe()),
            (INTERFACE, "List") => {
                parameters.end()?;
                let host = Arc::clone(self);
                let row = move |plugin: &Plugin| rows::plugin(&host.loader, plugin);
                listing("plugins", self.loader.plugins(), row, more)
            }
            (INTERFACE, "Load") => self.load(parameters, descriptors),
            (INTERFACE, "Unload") => self.unload(parameters, more),
            (INTERFACE, "Info") => self.named(parameters).map(|plugin| self.info(&plugin)),
            (INTERFACE, "Symbols") => {
                let plugin = self.named(parameters)?;
                listing("symbols", plugin.symbol_table(), rows::symbol, more)
            }
            (INTERFACE, "Resolve") => {
                let texts: Vec<String> = parameters.take("addresses")?;
                let at: Option<u64> = parameters.take("at")?;
                parameters.end()?;
                let addresses: Vec<usize> = texts
                    .iter()
                    .map(|text| address(text))
                    .collect::<Option<_>>()
                    .ok_or_else(|| Fault::InvalidParameter("addresses".to_owned()))?;
                let host = Arc::clone(self);
                let row = move |address: &usize| match at {
                    Some(load) => rows::resolved_at(&host.loader, load, *address),
                    None => rows::resolved(&host.loader, *address),
                };
                listing("resolved", addresses, row, more)
            }
            (INTERFACE, "Workers") => {
                parameters.end()?;
                listing("workers", self.loader.workers(), rows::worker, more)
            }
            (INTERFACE, "Events") => {
                let after: u64 = parameters.take("after")?;
                parameters.end()?;
                Ok(match more {
                    true => Answer::Events(after),
                    false => Answer::Reply(self.events(after, false).0),
                })
            }
            (INTERFACE, "History") => {
                parameters.end()?;
                listing("departed", self.loader.history(), rows::departed, more)
            }
            (SERVICE | INTERFACE, _) => Err(Fault::MethodNotFound(method)),
            _ => Err(Fault::InterfaceNotFound(interface.to_owned())),
        }
    }

    /// Events after number `after`, as many as fit one reply, and the number of the last one.
    pub(super) fn events(&self, after: u64, continues: bool) -> (Vec<u8>, u64) {
        let events = self.loader.events(after, Deadline::now());
        let numbers: Vec<u64> = events.iter().map(|event| event.sequence).collect();
        let texts = events.into_iter().map(|e| wire::text(&rows::event(&e)));
        let (text, n) = Listing::new("events", texts).first(continues);
        let last = n.checked_sub(1).and_then(|last| numbers.get(last));
        (text, last.copied().unwrap_or(after))
    }

    fn get_info(&self) -> Answer {
        #[derive(Serialize)]
        struct Info<'a> {
            vendor: &'a str,
            product: &'a str,
            version: &'a str,
            url: &'a str,
            interfaces: [&'a str; 2],
        }
        reply(&Info {
            vendor: "Plug",
            product: &self.name,
            version: env!("CARGO_PKG_VERSION"),
            url: "",
            interfaces: [SERVICE, INTERFACE],
        })
    }

    fn describe(&self) -> Answer {
        reply(&DescribeReply {
            name: self.name.clone(),
            pid: process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            membarrier: self.loader.capabilities().membarrier,
            workers: self.loader.workers().len() as u64,
            plugins: self.loader.plugins().len() as u64,
        })
    }

    fn info(&self, plugin: &Plugin) -> Answer {
        reply(&InfoReply {
            filename: plugin.origin().to_owned(),
            fields: rows::fields(plugin),
            digest: plugin.digest().map(|d| d.to_string()).unwrap_or_default(),
            stages: rows::stages(plugin.load_times()),
            plugin: rows::plugin(&self.loader, plugin),
        })
    }

    /// The plugin that the only parameter names, zombies included.
    fn named(&self, mut parameters: Parameters) -> Result<Plugin, Fault> {
        let name: String = parameters.take("name")?;
        parameters.end()?;
        let plugin = self.loader.plugin(&name).or_else(|| {
            let wanted = canonical(&name);
            let mut plugins = self.loader.plugins().into_iter();
            plugins.find(|plugin| plugin.record().canonical == wanted)
        });
        plugin.ok_or(Fault::NotFound(name))
    }

    fn load(
        self: &Arc<Self>,
        mut parameters: Parameters,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<Answer, Fault> {
        let file: usize = parameters.take("file")?;
        let path: String = parameters.take("path")?;
        let name: Option<String> = parameters.take("name")?;
        let permanent: Option<bool> = parameters.take("permanent")?;
        let given: Vec<Field> = parameters.take("params")?;
        parameters.end()?;
        if file >= descriptors.len() {
            return Err(Fault::NoDescriptor);
        }
        let file = descriptors.swap_remove(file);
        let size = fstat(&file).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        if size > self.max_file {
            let most = self.max_file;
            return Err(rows::refused(
                "open",
                "open",
                format!("{path:?}: expected at most {most} bytes, found {size}"),
            ));
        }
        let source = Source::opened(file, Path::new(&path));
        let source = match &name {
            Some(name) => source.named(name),
            None => source,
        };
        let source = match permanent {
            Some(true) => source.permanent(),
            Some(false) | None => source,
        };
        let params = given
            .into_iter()
            .fold(Params::new(), |all, field| all.with(field.key, field.value));
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

    fn unload(self: &Arc<Self>, mut parameters: Parameters, more: bool) -> Result<Answer, Fault> {
        let name: String = parameters.take("name")?;
        let generation: Option<u64> = parameters.take("generation")?;
        let wait: u64 = parameters.take("wait_micros")?;
        parameters.end()?;
        let wait = Duration::from_micros(wait);
        if wait > LONGEST_WAIT {
            return Err(Fault::InvalidParameter("wait_micros".to_owned()));
        }
        let waiting = Waiting {
            plugin: self.loader.plugin(&name),
            name: name.clone(),
        };
        let host = Arc::clone(self);
        let work = move || {
            let departure = Departure::begin(host.loader.process, &name, generation);
            match departure.and_then(|departure| departure.wait(Deadline::after(wait))) {
                Ok(unloaded) => wire::reply(&rows::unloaded(unloaded), false),
                Err(error) => wire::error(&rows::fault(&error, &name)),
            }
        };
        let job = Job {
            name: "unload",
            work: Box::new(work),
        };
        Ok(match more {
            true => Answer::Unload(job, waiting),
            false => Answer::Job(job),
        })
    }
}

fn get_interface_description(of: String) -> Result<Answer, Fault> {
    #[derive(Serialize)]
    struct Description {
        description: &'static str,
    }
    let description = match of.as_str() {
        SERVICE => SERVICE_DESCRIPTION,
        INTERFACE => DESCRIPTION,
        _ => return Err(Fault::InterfaceNotFound(of)),
    };
    Ok(reply(&Description { description }))
}

fn reply<T: Serialize>(parameters: &T) -> Answer {
    Answer::Reply(wire::reply(parameters, false))
}

/// Rows made one by one, as they are sent.
fn listing<T: Send + 'static, R: Serialize>(
    key: &'static str,
    items: Vec<T>,
    row: impl Fn(&T) -> R + Send + 'static,
    more: bool,
) -> Result<Answer, Fault> {
    let texts = items.into_iter().map(move |item| wire::text(&row(&item)));
    sent(Listing::new(key, texts), more)
}

fn sent(listing: Listing, more: bool) -> Result<Answer, Fault> {
    match more {
        true => Ok(Answer::Listing(listing)),
        false => listing.whole().map(Answer::Reply),
    }
}

/// An address as hexadecimal text, with or without `0x`.
fn address(text: &str) -> Option<usize> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    usize::from_str_radix(digits, 16)
        .ok()
        .filter(|_| !digits.starts_with('+'))
}
