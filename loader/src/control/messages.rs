//! The types of `dev.plug.Host.varlink`, for the server and for clients in Rust.
//!
//! Field names are those of the interface file, word for word. Clients ignore fields they do not
//! know; the server refuses them.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// The interface's name.
pub const INTERFACE: &str = "dev.plug.Host";

/// The interface file.
pub const DESCRIPTION: &str = include_str!("dev.plug.Host.varlink");

/// How long one stage of a load or unload took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTime {
    /// The stage.
    pub name: String,
    /// Microseconds.
    pub micros: u64,
}

/// One plugin: `Plugin` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRow {
    /// The name it is loaded under.
    pub name: String,
    /// The version it declares; may be empty.
    pub version: String,
    /// Unformed, Coming, Live, Going, Zombie or Pinned.
    pub state: String,
    /// Plugins that import functions of it, pins, and calls in progress.
    pub refs: u64,
    /// Who they belong to, those plugins first.
    pub users: Vec<String>,
    /// The plugins among them.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// Whether it was loaded only because others import functions of it.
    #[serde(default)]
    pub automatic: bool,
    /// Bytes of address space.
    pub size: u64,
    /// First address, hexadecimal.
    pub base: String,
    /// Lowercase hexadecimal; may be empty.
    pub build_id: String,
    /// The load it is.
    pub generation: u64,
    /// Letters of sticky facts; may be empty.
    pub taints: String,
    /// Calls made of it.
    pub calls: u64,
    /// Its interfaces as `name/major.minor`.
    pub interfaces: Vec<String>,
    /// Why it is never unloaded; empty for one that can be.
    #[serde(default)]
    pub permanent: String,
    /// What became of the file it was loaded from: same, changed, gone or unknown.
    #[serde(default)]
    pub drift: String,
    /// Why it is still mapped, once it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lingering: Option<LingeringRow>,
    /// What it holds of the process, if that is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountRow>,
}

/// What a plugin holds, by its own calls; an estimate: `Account` of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRow {
    /// Bytes of its live blocks.
    pub heap_bytes: u64,
    /// Its live blocks.
    pub heap_blocks: u64,
    /// Bytes of its mappings.
    pub mapped_bytes: u64,
    /// Its mappings.
    pub mappings: u64,
    /// Its open descriptors.
    pub descriptors: u64,
    /// Blocks that it freed and had not allocated.
    pub freed_of_others: u64,
}

/// Blocks that one function allocated: `LeakSite` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakSiteRow {
    /// Its symbol, mangled as in the file, or a link-time address; may be empty.
    pub symbol: String,
    /// How many blocks.
    pub blocks: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What a plugin held when it was unmapped: `Leaks` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaksRow {
    /// How much.
    pub account: AccountRow,
    /// By whom, the most bytes first; empty where that is not noted.
    pub sites: Vec<LeakSiteRow>,
}

/// Why a closed plugin is still mapped: `Lingering` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LingeringRow {
    /// How long ago it was closed.
    pub closed_micros: u64,
    /// Whether it stays for ever.
    pub pinned: bool,
    /// What holds it, in words, threads among it.
    pub reasons: Vec<String>,
}

/// What was seen after ld.so was asked to unmap a plugin: `Observed` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRow {
    /// The never-reused name that it has in ld.so's list.
    pub name: String,
    /// Whether that list still has it.
    pub listed: bool,
    /// Whether an object covers its first address; none where that is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<bool>,
    /// Its first address, hexadecimal.
    pub base: String,
    /// Bytes of its mapping.
    pub size: u64,
    /// Objects that ld.so had removed before.
    pub removals_before: u64,
    /// And afterwards.
    pub removals_after: u64,
}

/// One field of metadata, and one parameter of a load: `Field` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

/// One declared parameter: `Param` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamRow {
    /// Its name.
    pub name: String,
    /// Its type with its range.
    pub kind: String,
    /// Its value, with its unit.
    pub value: String,
    /// Whether it may be left out at the load.
    pub has_default: bool,
    /// What it is then; empty where it may not.
    pub default: String,
    /// Whether it can be written while the plugin is Live.
    pub writable: bool,
    /// The author's line about it.
    pub doc: String,
}

/// One exported symbol: `Symbol` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolRow {
    /// Its name, mangled as in the file.
    pub name: String,
    /// Its version; may be empty.
    pub version: String,
    /// Whether the version is the one that the name alone means (`@@` in nm).
    pub default: bool,
    /// Hexadecimal.
    pub address: String,
    /// Bytes.
    pub size: u64,
    /// The letter that nm prints.
    pub kind: String,
}

/// What an address belongs to: `Resolved` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedRow {
    /// The address asked for, hexadecimal.
    pub address: String,
    /// Empty where no plugin covers it.
    pub plugin: String,
    /// The plugin's version.
    pub version: String,
    /// Empty where no exported symbol covers it.
    pub symbol: String,
    /// Bytes from the symbol's start, or from the plugin's where there is no symbol.
    pub offset: u64,
    /// The load it is.
    pub generation: u64,
    /// The plugin's state; Unloaded for one that left.
    pub state: String,
    /// How long ago the plugin left; none while it is in the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_micros: Option<u64>,
}

/// Who holds a plugin: `Holder` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderRow {
    /// call, `unregistered_calls`, pins, tasks, wakers, thread, section, stack, `perhaps_stack`, or,
    /// of a closed plugin, `thread_locals` or thread.
    pub kind: String,
    /// Name of the worker, or of the thread that took the pins or owes something; may be empty.
    pub thread: String,
    /// Its thread id; 0 where unknown.
    pub tid: u32,
    /// The plugin's function it is in, or was started at; may be empty.
    pub function: String,
    /// How many calls, pins or destructors.
    pub count: u64,
    /// How long it has held at least.
    pub micros: u64,
    /// File and line where the pins were taken; empty for others.
    #[serde(default)]
    pub place: String,
}

/// How a worker was proved outside: `Proof` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofRow {
    /// The worker's name.
    pub thread: String,
    /// Its thread id.
    pub tid: u32,
    /// idle or drained.
    pub proof: String,
    /// How long after the gates had closed.
    pub micros: u64,
}

/// A plugin that a worker is inside of: `Inside` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsideRow {
    /// The plugin.
    pub plugin: String,
    /// The function of the innermost call; may be empty.
    pub function: String,
    /// How long it has been seen there.
    pub micros: u64,
}

/// A worker thread: `Worker` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// The worker's name.
    pub thread: String,
    /// Its thread id.
    pub tid: u32,
    /// The plugins it is inside of.
    pub inside: Vec<InsideRow>,
    /// Calls it has made.
    pub calls: u64,
    /// Quiescent points it has passed.
    pub quiescent: u64,
}

/// What happened to a plugin: `Event` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// Its number; grows by one.
    pub sequence: u64,
    /// Time of day.
    pub unix_micros: u64,
    /// The plugin's name, or the file of a load that failed early.
    pub plugin: String,
    /// The load it belongs to; 0 where there was none yet.
    pub generation: u64,
    /// What happened, in one word.
    pub kind: String,
    /// Why; may be empty.
    pub message: String,
    /// The load that replaced it, where that is what happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<u64>,
    /// How long the stages took: of its load, as far as that has come; of its unload where it was
    /// unloaded.
    pub stages: Vec<StageTime>,
}

/// A plugin that left: `Departed` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepartedRow {
    /// Its name.
    pub name: String,
    /// Its version; may be empty.
    pub version: String,
    /// The load it was.
    pub generation: u64,
    /// Where it was, hexadecimal.
    pub base: String,
    /// Bytes of address space.
    pub size: u64,
    /// Lowercase hexadecimal; may be empty.
    pub build_id: String,
    /// How long ago it left.
    pub micros: u64,
}

/// Parameters of `Load`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadCall {
    /// Index into the descriptors sent with the message; none for a name that the host's directives
    /// tell the file of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<u32>,
    /// That name; with a file only for messages.
    pub path: String,
    /// The name to load it under, unless the file's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is never to be unloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permanent: Option<bool>,
    /// Whether it is loaded although its metadata does not fit the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// Its detached signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// What to count of it: counts, or sites; none for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Whether the plugins that it imports functions of are loaded as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_providers: Option<bool>,
    /// Parameters for the plugin.
    pub params: Vec<Field>,
}

/// Parameters of `Plan`; as those of `Load`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanCall {
    /// Index into the descriptors sent with the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<u32>,
    /// A name; with a file only for messages.
    pub path: String,
    /// The name to load it under, unless the file's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Parameters of `UnloadUnused`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadUnusedCall {
    /// How long to wait for their users, in all.
    pub wait_micros: u64,
}

/// Parameters of `Replace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceCall {
    /// The plugin in whose place it comes.
    pub name: String,
    /// As in [`LoadCall`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<u32>,
    /// As in [`LoadCall`].
    pub path: String,
    /// Whether the new version is never to be unloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permanent: Option<bool>,
    /// As in [`LoadCall`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// As in [`LoadCall`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// As in [`LoadCall`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// As in [`LoadCall`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_providers: Option<bool>,
    /// Parameters for the new version.
    pub params: Vec<Field>,
    /// How long the old version has for saving its state, and its users for leaving it.
    pub wait_micros: u64,
    /// For how long the new version is on trial, at most; none for one that is kept in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_micros: Option<u64>,
}

/// Parameters of `Unload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadCall {
    /// The plugin.
    pub name: String,
    /// The load that is meant; none for whichever has the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// How long to wait for its users at most.
    pub wait_micros: u64,
}

/// Parameters of `Info` and `Symbols`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameCall {
    /// The plugin.
    pub name: String,
}

/// Parameters of `Resolve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveCall {
    /// Hexadecimal addresses.
    pub addresses: Vec<String>,
    /// The load whose addresses they are; none for whatever is there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

/// Parameters of `Events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsCall {
    /// Number of the last event known.
    pub after: u64,
}

/// Parameters of `Guard`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardCall {
    /// What the guard is called, for its votes and for messages.
    pub name: String,
}

/// Parameters of `Vote`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteCall {
    /// Whose vote it is.
    pub guard: String,
    /// The load that it is about.
    pub generation: u64,
    /// Why that is to be refused; none to let it be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veto: Option<String>,
}

/// Reply of `Vote`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteReply {}

/// Reply of `Describe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeReply {
    /// The host's name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// The loader's version.
    pub version: String,
    /// Whether unloads use membarrier.
    pub membarrier: bool,
    /// How many workers there are.
    pub workers: u64,
    /// How many plugins there are.
    pub plugins: u64,
}

/// Reply of `List`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReply {
    /// In order of load, zombies last.
    pub plugins: Vec<PluginRow>,
}

/// Reply of `Load`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReply {
    /// The plugin, Live.
    pub plugin: PluginRow,
    /// How long each stage took.
    pub stages: Vec<StageTime>,
    /// Those that were loaded for it, in their order.
    #[serde(default)]
    pub providers: Vec<PluginRow>,
}

/// Reply of `Plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReply {
    /// In the order of the loads, what was asked for last.
    pub steps: Vec<PlannedRow>,
}

/// One load of a plan: `Planned` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRow {
    /// The name it is loaded under.
    pub name: String,
    /// The version it declares; may be empty.
    pub version: String,
    /// Its file.
    pub path: String,
    /// The plugins that import functions of it.
    pub used_by: Vec<String>,
    /// Whether it is there already.
    pub loaded: bool,
}

/// Reply of `UnloadUnused`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedReply {
    /// What became of each, in their order.
    pub done: Vec<UnusedRow>,
}

/// What became of one plugin that nobody used: `Unused` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedRow {
    /// The plugin.
    pub name: String,
    /// unloaded, zombie, pinned, or refused.
    pub verdict: String,
    /// Why it stays, if it does.
    pub reasons: Vec<String>,
}

/// Reply of `Replace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceReply {
    /// The new version, Live.
    pub plugin: PluginRow,
    /// How long each stage of its load took.
    pub stages: Vec<StageTime>,
    /// The version that the old one declares; may be empty.
    pub old_version: String,
    /// What became of the old one: `generation` is its own, and the verdict unloaded, zombie, pinned
    /// or, where it is left to leave by itself, `in_use`.
    pub former: UnloadReply,
    /// How its trial ended, if it was on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialRow>,
}

/// How the trial of a new version ended: `Trial` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialRow {
    /// kept; left, of one that did not fail and was unloaded or replaced meanwhile; `rolled_back`; or
    /// stayed, of one that failed and could not be rolled back.
    pub verdict: String,
    /// What failed; empty where nothing did.
    pub fault: String,
    /// How long after it took the place that was.
    pub after_micros: u64,
    /// Why it was not rolled back; empty where it was, and where it was not to be.
    pub why: String,
    /// The old version as it is Live again, by its new generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginRow>,
    /// How long each stage of that load took.
    pub stages: Vec<StageTime>,
    /// What became of the new version that was rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<UnloadReply>,
}

/// Reply of `Unload`, and what became of a version that was replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadReply {
    /// The plugin.
    pub name: String,
    /// The load it was; 0 while it is not known.
    pub generation: u64,
    /// waiting, unloaded, zombie, pinned, or collected, of one that was a zombie before and left.
    pub verdict: String,
    /// Why it stays, if it does.
    pub reasons: Vec<String>,
    /// How each worker was proved outside.
    pub workers: Vec<ProofRow>,
    /// Who is waited for.
    pub holders: Vec<HolderRow>,
    /// How long each stage took.
    pub stages: Vec<StageTime>,
    /// What was seen of its mapping, where ld.so was asked to unmap it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ObservedRow>,
    /// Pointers into it that somebody's data still had.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What it left behind, where that was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaks: Option<LeaksRow>,
}

/// Reply of `Info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoReply {
    /// The file as it was given.
    pub filename: String,
    /// The author's metadata.
    pub fields: Vec<Field>,
    /// How long each stage of the load took.
    pub stages: Vec<StageTime>,
    /// The plugin.
    pub plugin: PluginRow,
    /// The SHA-256 of the original; empty once it has left.
    pub sha256: String,
    /// What it needs.
    pub dependencies: Vec<DependencyRow>,
    /// What was changed in its copy, and in those of what it brings.
    pub edits: Vec<EditRow>,
    /// Why it may stay mapped after an unload.
    pub pinned: Vec<String>,
    /// Objects that were loaded without edits, and why.
    pub unedited: Vec<String>,
}

/// One library that a plugin needs: `Dependency` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyRow {
    /// The name by which it is needed.
    pub name: String,
    /// The file; empty where finding it was left to ld.so.
    pub path: String,
    /// The rule by which it was found.
    pub found_by: String,
    /// Whether the plugin has a copy of its own.
    pub private: bool,
}

/// One change of a copy: `Edit` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditRow {
    /// Whose copy, as readers call it.
    pub object: String,
    /// The changed structure.
    pub structure: String,
    /// Place in the file.
    pub offset: u64,
    /// What became of it.
    pub what: String,
    /// What for.
    pub why: String,
}

/// Reply of `Params` and `SetParam`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamsReply {
    /// By name.
    pub params: Vec<ParamRow>,
}

/// Call of `SetParam`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetParamCall {
    /// The plugin.
    pub name: String,
    /// The parameter.
    pub key: String,
    /// The new value.
    pub value: String,
    /// How long to wait for the plugin's answer.
    pub wait_micros: u64,
}

/// Reply of `Symbols`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolsReply {
    /// By address.
    pub symbols: Vec<SymbolRow>,
}

/// Reply of `Resolve`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveReply {
    /// One an address, in their order.
    pub resolved: Vec<ResolvedRow>,
}

/// Reply of `Workers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkersReply {
    /// In order of registration.
    pub workers: Vec<WorkerRow>,
}

/// Reply of `Events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsReply {
    /// In order; a gap in their numbers means that some were missed.
    pub events: Vec<EventRow>,
}

/// Reply of `History`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReply {
    /// The last one first.
    pub departed: Vec<DepartedRow>,
}

/// Error `NotFound`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotFound {
    /// The name that nobody has.
    pub name: String,
}

/// Error `Refused`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Where it happened; may be empty.
    pub stage: String,
    /// The loader's kind of error, in snake case.
    pub kind: String,
    /// The whole text.
    pub message: String,
    /// Who stands in the way.
    pub holders: Vec<HolderRow>,
    /// Why the plugin is still mapped, where it was closed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lingering: Option<LingeringRow>,
}
