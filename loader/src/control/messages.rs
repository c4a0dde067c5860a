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
    /// Unformed, Coming, Live, Going or Zombie.
    pub state: String,
    /// Pins and calls in progress.
    pub refs: u64,
    /// Who they belong to.
    pub users: Vec<String>,
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
}

/// One field of metadata, and one parameter of a load: `Field` of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
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
    /// call, `unregistered_calls`, pins or section.
    pub kind: String,
    /// Name of the worker, or of the thread that took the pins; may be empty.
    pub thread: String,
    /// Its thread id; 0 where unknown.
    pub tid: u32,
    /// The plugin's function it is in; may be empty.
    pub function: String,
    /// How many calls or pins.
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
    /// How long the stages took, where it ended a load or unload.
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
    /// Index into the descriptors sent with the message.
    pub file: u32,
    /// Only for messages.
    pub path: String,
    /// The name to load it under, unless the file's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is never to be unloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permanent: Option<bool>,
    /// Parameters for the plugin.
    pub params: Vec<Field>,
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
}

/// Reply of `Unload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadReply {
    /// The plugin.
    pub name: String,
    /// The load it was; 0 while it is not known.
    pub generation: u64,
    /// waiting, unloaded, zombie or pinned.
    pub verdict: String,
    /// Why it stays, if it does.
    pub reasons: Vec<String>,
    /// How each worker was proved outside.
    pub workers: Vec<ProofRow>,
    /// Who is waited for.
    pub holders: Vec<HolderRow>,
    /// How long each stage took.
    pub stages: Vec<StageTime>,
}

/// Reply of `Info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoReply {
    /// The file as it was given.
    pub filename: String,
    /// The author's metadata.
    pub fields: Vec<Field>,
    /// SHA-256 of the file as it was loaded, lowercase hexadecimal; empty where it is not known.
    #[serde(default)]
    pub digest: String,
    /// How long each stage of the load took.
    pub stages: Vec<StageTime>,
    /// The plugin.
    pub plugin: PluginRow,
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
}
