//! What each method answers.
//!
//! Runs on the server's thread and must not wait: what may take long is handed back as a job.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::guard::{Guard, Guards};
use super::jobs::Job;
use super::listing::Listing;
use super::messages::{
    DESCRIPTION, DescribeReply, INTERFACE, InfoReply, UnloadReply, UnusedReply, VoteReply,
};
use super::rows;
use super::wire::{self, Call, Fault, Parameters};
use crate::deadline::Deadline;
use crate::departure::Departure;
use crate::error::ErrorKind;
use crate::image::is_name;
use crate::loader::Loader;
use crate::plugin::Plugin;
use crate::registry::canonical;
use crate::settlement;
use crate::subscribers::Vote;
use crate::trust::Trust;

/// The interface that every varlink service has.
const SERVICE: &str = "org.varlink.service";

const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

/// Longest wait for an unload: its plugin refuses calls meanwhile, whether or not the client
/// that asked for it is still there. The same for a replace, whose old version does.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What methods work on.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) loader: Loader,
    pub(super) trust: Trust,
    pub(super) name: String,
    pub(super) max_file: u64,
    pub(super) guards: Arc<Guards>,
}

/// What is to be done about a call.
#[derive(Debug)]
pub(super) enum Answer {
    /// Send this.
    Reply(Vec<u8>),
    /// Send this row by row.
    Listing(Listing),
    /// Send events after this number until the client goes, which is asked about plugins that are
    /// Coming if it has a guard.
    Events(u64, Option<Guard>),
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
        let name = self.name.clone();
        let verdict = "waiting".to_owned();
        let left = match &self.plugin {
            Some(_) => None,
            None => settlement::find_lingering(host.loader.process, &name),
        };
        let holders = match (&self.plugin, &left) {
            (Some(plugin), _) => {
                let holders = host.loader.holders(plugin);
                holders.iter().map(rows::holder).collect()
            }
            (None, Some(left)) => rows::debtors(left),
            (None, None) => Vec::new(),
        };
        let closed = left.as_ref().map_or(0, |left| left.generation);
        let reply = UnloadReply {
            name,
            generation: self.plugin.as_ref().map_or(closed, Plugin::generation),
            verdict,
            reasons: left.map_or_else(Vec::new, |left| left.reasons),
            holders,
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
            (INTERFACE, "Plan") => self.plan(parameters, descriptors),
            (INTERFACE, "Replace") => self.replace(parameters, descriptors),
            (INTERFACE, "Unload") => self.unload(parameters, more),
            (INTERFACE, "UnloadUnused") => self.unload_unused(parameters),
            (INTERFACE, "Info") => self.named(parameters).map(|plugin| self.info(&plugin)),
            (INTERFACE, "Params") => {
                let plugin = self.named(parameters)?;
                Ok(reply(&rows::params(&plugin)))
            }
            (INTERFACE, "SetParam") => self.set_param(parameters),
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
                    true => Answer::Events(after, None),
                    false => Answer::Reply(self.events(after, false).0),
                })
            }
            (INTERFACE, "Guard") => self.guard(parameters, more),
            (INTERFACE, "Vote") => self.vote(parameters),
            (INTERFACE, "History") => {
                parameters.end()?;
                listing("departed", self.loader.history(), rows::departed, more)
            }
            (SERVICE | INTERFACE, _) => Err(Fault::MethodNotFound(method)),
            _ => Err(Fault::InterfaceNotFound(interface.to_owned())),
        }
    }

    fn guard(&self, mut parameters: Parameters, more: bool) -> Result<Answer, Fault> {
        let name: String = parameters.take("name")?;
        parameters.end()?;
        if !is_name(&name) {
            return Err(Fault::InvalidParameter("name".to_owned()));
        }
        if !more {
            return Err(Fault::ExpectedMore);
        }
        // Before it is asked, so that it hears of whatever it is asked about.
        let events = self.loader.events(0, Deadline::now());
        let after = events.last().map_or(0, |event| event.sequence);
        match self.guards.post(&self.loader, name.clone()) {
            Ok(Some(guard)) => Ok(Answer::Events(after, Some(guard))),
            Ok(None) => {
                let message = format!("another guard is called {name}; choose another name");
                Err(rows::refused("", "busy", message))
            }
            Err(error) => Err(rows::fault(&error, &name)),
        }
    }

    fn vote(&self, mut parameters: Parameters) -> Result<Answer, Fault> {
        let guard: String = parameters.take("guard")?;
        let generation: u64 = parameters.take("generation")?;
        let veto: Option<String> = parameters.take("veto")?;
        parameters.end()?;
        let vote = veto.map_or(Vote::Go, |reason| Vote::Veto(reason.into()));
        match self.guards.vote(&guard, generation, vote) {
            true => Ok(reply(&VoteReply {})),
            false => Err(Fault::NotFound(guard)),
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
            stages: rows::stages(plugin.load_times()),
            plugin: rows::plugin(&self.loader, plugin),
            sha256: plugin
                .digest()
                .map_or_else(String::new, |digest| digest.to_string()),
            dependencies: plugin.dependencies().iter().map(rows::dependency).collect(),
            edits: plugin.edits().map(rows::edit).collect(),
            pinned: plugin.pinned_because().to_vec(),
            unedited: plugin
                .unedited()
                .map(|(object, why)| format!("{object}: {why}"))
                .collect(),
        })
    }

    fn set_param(&self, mut parameters: Parameters) -> Result<Answer, Fault> {
        let name: String = parameters.take("name")?;
        let key: String = parameters.take("key")?;
        let value: String = parameters.take("value")?;
        let wait = wait(&mut parameters)?;
        parameters.end()?;
        let plugin = self.find(name)?;
        let work = move || match plugin.set_param(&key, &value, wait) {
            Ok(()) => wire::reply(&rows::params(&plugin), false),
            Err(error) => wire::error(&rows::fault(&error, plugin.name())),
        };
        Ok(Answer::Job(Job {
            name: "param",
            work: Box::new(work),
        }))
    }

    /// The plugin that the only parameter names, zombies included.
    fn named(&self, mut parameters: Parameters) -> Result<Plugin, Fault> {
        let name: String = parameters.take("name")?;
        parameters.end()?;
        self.find(name)
    }

    /// The plugin of this name, zombies included.
    fn find(&self, name: String) -> Result<Plugin, Fault> {
        let plugin = self.loader.plugin(&name).or_else(|| {
            let wanted = canonical(&name);
            let mut plugins = self.loader.plugins().into_iter();
            plugins.find(|plugin| plugin.record().canonical == wanted)
        });
        plugin.ok_or(Fault::NotFound(name))
    }

    fn unload_unused(self: &Arc<Self>, mut parameters: Parameters) -> Result<Answer, Fault> {
        let wait = wait(&mut parameters)?;
        parameters.end()?;
        let host = Arc::clone(self);
        let work = move || match host.loader.unload_unused(Deadline::after(wait)) {
            Ok(done) => {
                let done = done.into_iter().map(rows::unused).collect();
                wire::reply(&UnusedReply { done }, false)
            }
            Err(error) => wire::error(&rows::fault(&error, "")),
        };
        Ok(Answer::Job(Job {
            name: "unload",
            work: Box::new(work),
        }))
    }

    fn unload(self: &Arc<Self>, mut parameters: Parameters, more: bool) -> Result<Answer, Fault> {
        let name: String = parameters.take("name")?;
        let generation: Option<u64> = parameters.take("generation")?;
        let wait = wait(&mut parameters)?;
        parameters.end()?;
        let waiting = Waiting {
            plugin: self.loader.plugin(&name),
            name: name.clone(),
        };
        let host = Arc::clone(self);
        let work = move || {
            let deadline = Deadline::after(wait);
            let departure = Departure::begin(host.loader.process, &name, generation);
            let error = match departure.and_then(|departure| departure.wait(deadline)) {
                Ok(unloaded) => return wire::reply(&rows::unloaded(unloaded), false),
                Err(error) => error,
            };
            let Some(left) = error.lingering().filter(|left| !left.is_pinned) else {
                return wire::error(&rows::fault(&error, &name));
            };
            match host.loader.wait_for_zombie(&name, deadline) {
                // It may have left before it could be waited for.
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    wire::error(&rows::fault(&error, &name))
                }
                _ => {
                    let reply = UnloadReply {
                        name: left.plugin.to_string(),
                        generation: left.generation,
                        verdict: "collected".to_owned(),
                        ..UnloadReply::default()
                    };
                    wire::reply(&reply, false)
                }
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

/// How long the caller wants to wait.
pub(super) fn wait(parameters: &mut Parameters) -> Result<Duration, Fault> {
    let micros: u64 = parameters.take("wait_micros")?;
    bounded(micros, "wait_micros")
}

/// So many microseconds, unless they are too many for `what` they are for.
pub(super) fn bounded(micros: u64, what: &str) -> Result<Duration, Fault> {
    let time = Duration::from_micros(micros);
    match time > LONGEST_WAIT {
        true => Err(Fault::InvalidParameter(what.to_owned())),
        false => Ok(time),
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
