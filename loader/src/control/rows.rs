//! The loader's values as rows of the interface.

#![forbid(unsafe_code)]

use std::time::{Duration, UNIX_EPOCH};

use plug_readside::state::State;

use super::messages::{
    AccountRow, DepartedRow, DependencyRow, EditRow, EventRow, Field, HolderRow, InsideRow,
    LeakSiteRow, LeaksRow, LingeringRow, ObservedRow, ParamRow, ParamsReply, PlannedRow, PluginRow,
    ProofRow, Refused, ReplaceReply, ResolvedRow, StageTime, SymbolRow, TrialRow, UnloadReply,
    UnusedRow, WorkerRow,
};
use super::wire::Fault;
use crate::dependencies::PlannedLoad;
use crate::error::{Error, ErrorKind, Holder, HolderKind, Stage};
use crate::events::{Event, EventKind};
use crate::footprint::account::Balance;
use crate::history::Departed;
use crate::image::{Dependency, Edit, SymbolRow as Symbol};
use crate::lingering::{Debtor, Lingering, Observed};
use crate::loader::Loader;
use crate::plugin::Plugin;
use crate::presence::WorkerInfo;
use crate::quiesce::Proof;
use crate::replace::Replaced;
use crate::settings::ParamSetting;
use crate::trial::Fault as TrialFault;
use crate::verdict::{LeakSite, Leaks, Unloaded};

pub(super) fn plugin(loader: &Loader, plugin: &Plugin) -> PluginRow {
    let left = match plugin.state() {
        State::Zombie => find_lingering(loader, plugin.generation()),
        _ => None,
    };
    let (refs, users) = match &left {
        Some(left) => {
            let threads = left.debtors.iter().map(|debtor| debtor.thread.to_string());
            (left.debtors.len() as u64, threads.collect())
        }
        None => {
            let holders = loader.holders(plugin);
            let refs = holders.iter().map(|holder| holder.count).sum();
            (refs, users(&holders))
        }
    };
    let state = match &left {
        Some(left) if left.is_pinned => "Pinned",
        _ => plugin.state().name(),
    };
    let used_by: Vec<String> = plugin.used_by().into_iter().map(String::from).collect();
    let refs = refs.saturating_add(used_by.len() as u64);
    let users = used_by.iter().cloned().chain(users).collect();
    let (start, end) = plugin.range();
    PluginRow {
        name: plugin.name().to_owned(),
        version: plugin.version().to_owned(),
        state: state.to_owned(),
        refs,
        users,
        used_by,
        automatic: plugin.is_automatic(),
        size: (end - start) as u64,
        base: hex(start),
        build_id: build_id(plugin),
        generation: plugin.generation(),
        taints: plugin.taints().to_string(),
        drift: plugin.drift().name().to_owned(),
        calls: loader.calls(plugin),
        interfaces: plugin.interfaces().collect(),
        permanent: plugin.permanent().unwrap_or_default().to_owned(),
        lingering: left.as_ref().map(lingering),
        account: plugin.balance().as_ref().map(account),
    }
}

/// One step of a plan.
pub(super) fn planned(step: PlannedLoad) -> PlannedRow {
    PlannedRow {
        name: step.name,
        version: step.version,
        path: step.file.display().to_string(),
        used_by: step.used_by,
        loaded: step.is_loaded,
    }
}

/// What became of one plugin that nobody used.
pub(super) fn unused((name, result): (String, Result<Unloaded, Error>)) -> UnusedRow {
    let (verdict, reasons) = match result {
        Ok(Unloaded::Gone(_)) => ("unloaded", Vec::new()),
        Ok(Unloaded::Zombie(left)) => ("zombie", left.reasons),
        Ok(Unloaded::Pinned(left)) => ("pinned", left.reasons),
        Err(error) => ("refused", vec![format!("{error:#}")]),
    };
    UnusedRow {
        name,
        verdict: verdict.to_owned(),
        reasons,
    }
}

fn account(balance: &Balance) -> AccountRow {
    AccountRow {
        heap_bytes: balance.heap_bytes,
        heap_blocks: balance.heap_blocks,
        mapped_bytes: balance.mapped_bytes,
        mappings: balance.mappings,
        descriptors: balance.descriptors,
        freed_of_others: balance.freed_of_others,
    }
}

fn leaks(leaks: &Leaks) -> LeaksRow {
    let site = |site: &LeakSite| LeakSiteRow {
        symbol: site.symbol.to_string(),
        blocks: site.blocks,
        bytes: site.bytes,
    };
    LeaksRow {
        account: account(&leaks.balance),
        sites: leaks.sites.iter().map(site).collect(),
    }
}

/// What holds the closed plugin that was this load.
fn find_lingering(loader: &Loader, generation: u64) -> Option<Lingering> {
    let mut all = loader.zombies().into_iter();
    all.find(|left| left.generation == generation)
}

pub(super) fn lingering(left: &Lingering) -> LingeringRow {
    LingeringRow {
        closed_micros: micros(left.since.elapsed()),
        pinned: left.is_pinned,
        reasons: left.reasons.clone(),
    }
}

/// The threads that owe a closed plugin something.
pub(super) fn debtors(left: &Lingering) -> Vec<HolderRow> {
    let row = |debtor: &Debtor| {
        let (kind, count) = match debtor.start {
            Some(_) => ("thread", 1),
            None => ("thread_locals", debtor.destructors),
        };
        HolderRow {
            kind: kind.to_owned(),
            thread: debtor.thread.to_string(),
            tid: debtor.tid,
            function: debtor.start.as_deref().unwrap_or_default().to_owned(),
            count: count as u64,
            micros: micros(left.since.elapsed()),
            place: String::new(),
        }
    };
    left.debtors.iter().map(row).collect()
}

fn observed(observed: &Observed) -> ObservedRow {
    let (start, end) = observed.range;
    ObservedRow {
        name: observed.name.to_string(),
        listed: observed.is_listed,
        covered: observed.is_covered,
        base: hex(start),
        size: (end - start) as u64,
        removals_before: observed.removals.0,
        removals_after: observed.removals.1,
    }
}

/// Each user once.
fn users(holders: &[Holder]) -> Vec<String> {
    let mut users: Vec<String> = holders.iter().map(user).collect();
    // Holders of one kind stand together.
    users.dedup();
    users
}

fn user(holder: &Holder) -> String {
    match holder.kind {
        HolderKind::Call => holder.thread.to_string(),
        HolderKind::UnregisteredCalls => "unregistered".to_owned(),
        HolderKind::Pins => "pins".to_owned(),
        HolderKind::Section => "reader".to_owned(),
        HolderKind::Thread => holder.thread.to_string(),
        HolderKind::Tasks => "tasks".to_owned(),
        HolderKind::Wakers => "wakers".to_owned(),
        HolderKind::Stack | HolderKind::PerhapsStack(_) => holder.thread.to_string(),
    }
}

pub(super) fn fields(plugin: &Plugin) -> Vec<Field> {
    let fields = plugin.info().fields.iter();
    fields
        .map(|(key, value)| Field {
            key: key.clone(),
            value: value.clone(),
        })
        .collect()
}

pub(super) fn params(plugin: &Plugin) -> ParamsReply {
    let row = |ParamSetting { param, value }: ParamSetting| ParamRow {
        kind: param.kind.to_string(),
        name: param.name,
        value,
        has_default: param.default.is_some(),
        default: param.default.unwrap_or_default(),
        writable: param.is_writable,
        doc: param.doc,
    };
    ParamsReply {
        params: plugin.params().into_iter().map(row).collect(),
    }
}

pub(super) fn dependency(dependency: &Dependency) -> DependencyRow {
    let path = dependency.path.as_ref();
    DependencyRow {
        name: dependency.name.clone(),
        path: path.map_or_else(String::new, |path| path.display().to_string()),
        found_by: dependency.found_by.name().to_owned(),
        private: dependency.is_private,
    }
}

pub(super) fn edit((object, edit): (&str, &Edit)) -> EditRow {
    EditRow {
        object: object.to_owned(),
        structure: edit.structure.to_owned(),
        offset: edit.offset,
        what: edit.what.clone(),
        why: edit.why.to_owned(),
    }
}

/// One defined symbol as nm would show it, at its run-time address.
pub(super) fn symbol(symbol: &Symbol) -> SymbolRow {
    SymbolRow {
        name: symbol.name.clone(),
        version: symbol.version.clone(),
        default: symbol.is_default,
        address: format!("{:#x}", symbol.address),
        size: symbol.size,
        kind: symbol.kind.to_string(),
    }
}

pub(super) fn resolved(loader: &Loader, address: usize) -> ResolvedRow {
    let Some(found) = loader.reader().resolve(address) else {
        return nobodys(address);
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut symbol = text(found.symbol.as_bytes());
    // The reader copies at most 251 bytes of a name; the plugin's record has them all.
    if found.symbol.is_truncated()
        && let Some(plugin) = loader.plugin(found.plugin.as_str())
        && plugin.generation() == found.generation
    {
        symbol = plugin.record().symbol_at(address).into();
    }
    ResolvedRow {
        address: hex(address),
        plugin: text(found.plugin.as_bytes()),
        version: text(found.version.as_bytes()),
        symbol,
        offset: found.offset,
        generation: found.generation,
        state: found.state().name().to_owned(),
        left_micros: None,
    }
}

/// What an address was to one load.
pub(super) fn resolved_at(loader: &Loader, generation: u64, address: usize) -> ResolvedRow {
    let Some(found) = loader.resolve_at(generation, address) else {
        return nobodys(address);
    };
    let state = match found.since {
        Some(_) => "Unloaded",
        None => found.plugin.state().name(),
    };
    ResolvedRow {
        address: hex(address),
        plugin: found.plugin.name().to_owned(),
        version: found.plugin.version().to_owned(),
        symbol: found.symbol,
        offset: found.offset,
        generation,
        state: state.to_owned(),
        left_micros: found.since.map(micros),
    }
}

fn nobodys(address: usize) -> ResolvedRow {
    ResolvedRow {
        address: hex(address),
        plugin: String::new(),
        version: String::new(),
        symbol: String::new(),
        offset: 0,
        generation: 0,
        state: String::new(),
        left_micros: None,
    }
}

pub(super) fn holder(holder: &Holder) -> HolderRow {
    let kind = holder.kind.name();
    HolderRow {
        kind: kind.to_owned(),
        thread: holder.thread.to_string(),
        tid: holder.tid,
        function: holder.function.to_string(),
        count: holder.count,
        micros: micros(holder.since),
        place: holder.place.map_or_else(String::new, |place| {
            format!("{}:{}", place.file(), place.line())
        }),
    }
}

pub(super) fn worker(worker: &WorkerInfo) -> WorkerRow {
    let inside = worker.inside.iter().map(|inside| InsideRow {
        plugin: inside.plugin.to_string(),
        function: inside.function.to_string(),
        micros: micros(inside.since),
    });
    WorkerRow {
        thread: worker.name.to_string(),
        tid: worker.tid,
        inside: inside.collect(),
        calls: worker.calls,
        quiescent: worker.quiescent,
    }
}

pub(super) fn event(event: &Event) -> EventRow {
    let message = match &event.kind {
        EventKind::Failed(_, why)
        | EventKind::Stayed(why)
        | EventKind::Stalled(why)
        | EventKind::ThreadFailed(why)
        | EventKind::Probed(why) => why.to_string(),
        EventKind::Replaced(by) => format!("by generation {by}"),
        EventKind::Zombie(reasons) | EventKind::Pinned(reasons) => reasons.join("; "),
        EventKind::CrashHandlerReplaced(signals) => {
            let signals: Vec<_> = signals.iter().map(|signal| signal.name()).collect();
            signals.join(", ")
        }
        EventKind::Coming
        | EventKind::Live
        | EventKind::Going
        | EventKind::Unloaded
        | EventKind::Collected => String::new(),
    };
    let by = match event.kind {
        EventKind::Replaced(by) => Some(by),
        _ => None,
    };
    EventRow {
        sequence: event.sequence,
        unix_micros: event.at.duration_since(UNIX_EPOCH).map_or(0, micros),
        plugin: event.plugin.to_string(),
        generation: event.generation,
        kind: event.kind.name().to_owned(),
        message,
        by,
        stages: stages(&event.stages),
    }
}

pub(super) fn departed(departed: &Departed) -> DepartedRow {
    let plugin = &departed.plugin;
    let (start, end) = plugin.range();
    DepartedRow {
        name: plugin.name().to_owned(),
        version: plugin.version().to_owned(),
        generation: plugin.generation(),
        base: hex(start),
        size: (end - start) as u64,
        build_id: build_id(plugin),
        micros: micros(departed.since),
    }
}

pub(super) fn unloaded(unloaded: Unloaded) -> UnloadReply {
    let (verdict, left) = match unloaded {
        Unloaded::Gone(report) => {
            let workers = report.workers.iter().map(|worker| ProofRow {
                thread: worker.name.to_string(),
                tid: worker.tid,
                proof: match worker.proof {
                    Proof::Idle => "idle".to_owned(),
                    Proof::Drained => "drained".to_owned(),
                    Proof::Reaped => "reaped: thread died inside".to_owned(),
                },
                micros: micros(worker.after),
            });
            return UnloadReply {
                name: report.plugin.to_string(),
                generation: report.generation,
                verdict: "unloaded".to_owned(),
                workers: workers.collect(),
                stages: stages(&report.stages),
                observed: Some(observed(&report.observed)),
                warnings: report.warnings.iter().map(ToString::to_string).collect(),
                leaks: report.leaks.as_ref().map(leaks),
                ..UnloadReply::default()
            };
        }
        Unloaded::Zombie(left) => ("zombie", left),
        Unloaded::Pinned(left) => ("pinned", left),
    };
    UnloadReply {
        name: left.plugin.to_string(),
        generation: left.generation,
        verdict: verdict.to_owned(),
        holders: debtors(&left),
        observed: left.observed.as_ref().map(observed),
        reasons: left.reasons,
        ..UnloadReply::default()
    }
}

pub(super) fn replaced(loader: &Loader, replaced: &Replaced) -> ReplaceReply {
    ReplaceReply {
        plugin: plugin(loader, &replaced.plugin),
        stages: stages(replaced.plugin.load_times()),
        old_version: replaced.old.version().to_owned(),
        former: former(&replaced.old, replaced.former.clone()),
        trial: None,
    }
}

/// How a trial ended: with the failure and what came of rolling back, if it came to that.
pub(super) fn trial(
    loader: &Loader,
    ended: Option<(TrialFault, Result<Replaced, Error>)>,
    is_in_force: bool,
) -> TrialRow {
    let mut row = TrialRow {
        verdict: if is_in_force { "kept" } else { "left" }.to_owned(),
        fault: String::new(),
        after_micros: 0,
        why: String::new(),
        plugin: None,
        stages: Vec::new(),
        former: None,
    };
    let Some((fault, back)) = ended else {
        return row;
    };
    (row.fault, row.after_micros) = (fault.to_string(), micros(fault.after));
    match back {
        Ok(back) => {
            row.verdict = "rolled_back".to_owned();
            row.plugin = Some(plugin(loader, &back.plugin));
            row.stages = stages(back.plugin.load_times());
            row.former = Some(former(&back.old, back.former));
        }
        Err(error) => {
            row.verdict = "stayed".to_owned();
            row.why = format!("{error:#}");
        }
    }
    row
}

/// What became of a version that was replaced.
pub(super) fn former(old: &Plugin, former: Result<Unloaded, Error>) -> UnloadReply {
    match former {
        Ok(verdict) => unloaded(verdict),
        Err(error) => UnloadReply {
            name: old.name().to_owned(),
            generation: old.generation(),
            verdict: "in_use".to_owned(),
            reasons: vec![error.to_string()],
            holders: error.blockers().iter().map(holder).collect(),
            ..UnloadReply::default()
        },
    }
}

pub(super) fn stages(times: &[(Stage, Duration)]) -> Vec<StageTime> {
    let times = times.iter().map(|(stage, time)| StageTime {
        name: stage.to_string(),
        micros: micros(*time),
    });
    times.collect()
}

/// A refusal of the loader's; one because nobody has the name `name` is `NotFound`.
pub(super) fn fault(error: &Error, name: &str) -> Fault {
    if error.kind() == ErrorKind::NotFound {
        return Fault::NotFound(name.to_owned());
    }
    // A load that failed may have left something, too, but is refused for its own reason.
    let is_closed = matches!(error.kind(), ErrorKind::Busy | ErrorKind::Deadline);
    let closed = error.lingering().filter(|_| is_closed);
    Fault::Refused(Box::new(Refused {
        stage: error.stage().map_or_else(String::new, |s| s.to_string()),
        // Of a plugin that was closed before, nothing is left to refuse.
        kind: match (error.kind(), closed) {
            (_, Some(left)) if left.is_pinned => "pinned",
            (_, Some(_)) => "zombie",
            (other, None) => kind(other),
        }
        .to_owned(),
        message: format!("{error:#}"),
        holders: match closed {
            Some(left) => debtors(left),
            None => error.blockers().iter().map(holder).collect(),
        },
        lingering: closed.map(lingering),
    }))
}

/// A refusal of the server's own; `stage` is empty where the loader was not asked.
pub(super) fn refused(stage: &str, kind: &str, message: String) -> Fault {
    Fault::Refused(Box::new(Refused {
        stage: stage.to_owned(),
        kind: kind.to_owned(),
        message,
        holders: Vec::new(),
        lingering: None,
    }))
}

fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AlreadyInitialised => "already_initialised",
        ErrorKind::ShutDown => "shut_down",
        ErrorKind::Open => "open",
        ErrorKind::Stage => "stage",
        ErrorKind::Damaged => "damaged",
        ErrorKind::NotAdmitted => "not_admitted",
        ErrorKind::Incompatible => "incompatible",
        ErrorKind::Parameter => "parameter",
        ErrorKind::Unsigned => "unsigned",
        ErrorKind::Signature => "signature",
        ErrorKind::Denied => "denied",
        ErrorKind::Quarantined => "quarantined",
        ErrorKind::Probe => "probe",
        ErrorKind::Keys => "keys",
        ErrorKind::Vetoed => "vetoed",
        ErrorKind::Directives => "directives",
        ErrorKind::State => "state",
        ErrorKind::AlreadyLoaded => "already_loaded",
        ErrorKind::Busy => "busy",
        ErrorKind::NotFound => "not_found",
        ErrorKind::NoFile => "no_file",
        ErrorKind::NoProvider => "no_provider",
        ErrorKind::ProviderVersion => "provider_version",
        ErrorKind::Cycle => "cycle",
        ErrorKind::InUse => "in_use",
        ErrorKind::Unbound => "unbound",
        ErrorKind::TooManyPlugins => "too_many_plugins",
        ErrorKind::Map => "map",
        ErrorKind::InitFailed => "init_failed",
        ErrorKind::HandOver => "hand_over",
        ErrorKind::Thread => "thread",
        ErrorKind::Control => "control",
        ErrorKind::NoSymbol => "no_symbol",
        ErrorKind::NotAFunction => "not_a_function",
        ErrorKind::SignatureMismatch => "signature_mismatch",
        ErrorKind::NoInterface => "no_interface",
        ErrorKind::InterfaceVersion => "interface_version",
        ErrorKind::Gone => "gone",
        ErrorKind::SelfDeadlock => "self_deadlock",
        ErrorKind::Permanent => "permanent",
        ErrorKind::Deadline => "deadline",
        ErrorKind::Barrier => "barrier",
        ErrorKind::CrashHandler => "crash_handler",
        ErrorKind::Forked => "forked",
        ErrorKind::Injected => "injected",
    }
}

fn build_id(plugin: &Plugin) -> String {
    let bytes = plugin.build_id();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex(address: usize) -> String {
    format!("{address:#x}")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
