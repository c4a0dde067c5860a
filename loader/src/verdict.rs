//! How an unload ended.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::error::Stage;
use crate::footprint::account::Balance;
use crate::footprint::blocks::Frames;
use crate::lingering::{Lingering, Observed};
use crate::quiesce::WorkerProof;
use crate::record::Record;
use crate::roots::Root;

/// How an unload ended. What it says was observed, not assumed.
#[derive(Clone, Debug)]
#[must_use = "an unload may leave the plugin mapped"]
pub enum Unloaded {
    /// The plugin is out of the process.
    Gone(UnloadReport),
    /// It is closed, but something still holds its mapping, or its `exit` has not returned yet;
    /// collected by itself when that ends.
    Zombie(Lingering),
    /// It refuses all calls, and stays mapped for ever: the file asks for it, or somebody was found
    /// inside after its `exit`.
    Pinned(Lingering),
}

impl Unloaded {
    /// Whether the plugin is out of the process.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }
}

impl fmt::Display for Unloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(report) => write!(f, "{} is unloaded", report.plugin),
            Self::Zombie(left) => write!(f, "{left}; it goes by itself when that ends"),
            Self::Pinned(left) => write!(f, "{left}; it stays for ever"),
        }
    }
}

/// What an unload saw.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UnloadReport {
    /// The plugin's name.
    pub plugin: Box<str>,
    /// The load it was.
    pub generation: u64,
    /// For every worker how it was proved outside.
    pub workers: Vec<WorkerProof>,
    /// How long each stage took.
    pub stages: Vec<(Stage, Duration)>,
    /// What was seen of its mapping.
    pub observed: Observed,
    /// Pointers into it that the host's or another plugin's data still had, and that may be of no use
    /// any more: whoever follows one crashes. Not looked for where [`Config::audit`] is off.
    ///
    /// [`Config::audit`]: crate::Config::audit
    pub warnings: Vec<Root>,
    /// What it held when it was unmapped, if it was loaded with [`Source::accounted`] and held
    /// anything. Its destructors had run, so that nobody gives that back any more.
    ///
    /// [`Source::accounted`]: crate::Source::accounted
    pub leaks: Option<Leaks>,
}

/// What a plugin held when it was unmapped: an estimate, see [`Balance`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leaks {
    /// How much.
    pub balance: Balance,
    /// Who allocated the blocks, the most bytes first; empty unless the plugin was loaded with
    /// [`Accounting::Sites`](crate::Accounting::Sites).
    pub sites: Vec<LeakSite>,
}

/// Blocks that one place of a plugin's code allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeakSite {
    /// The innermost function of the plugin's on the way to the allocation that the file names and
    /// that is not a standard library's; where there is none, the innermost one, or the link-time
    /// address of its call; empty where that is not known either.
    pub symbol: Box<str>,
    /// How many blocks.
    pub blocks: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Leaks {
    /// What `record`'s plugin holds, if that is counted and anything.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let account = record.account?;
        let balance = account.balance().filter(|balance| !balance.is_even())?;
        let mut sites: Vec<LeakSite> = Vec::new();
        for site in account.sites() {
            let symbol = name_of(&site.frames, record);
            match sites.iter_mut().find(|other| other.symbol == symbol) {
                Some(other) => {
                    other.blocks += site.blocks;
                    other.bytes += site.bytes;
                }
                None => sites.push(LeakSite {
                    symbol,
                    blocks: site.blocks,
                    bytes: site.bytes,
                }),
            }
        }
        sites.sort_by_key(|site| u64::MAX - site.bytes);
        Some(Self { balance, sites })
    }
}

/// The function that an allocation is told of.
fn name_of(frames: &Frames, record: &Record) -> Box<str> {
    // Return addresses: each call is before its own.
    let mut calls = frames
        .iter()
        .take_while(|at| **at != 0)
        .map(|at| at.wrapping_sub(1));
    let named = calls.clone().map(|at| record.symbol_at(at));
    let named: Vec<Box<str>> = named.filter(|name| !name.is_empty()).collect();
    let own = named.iter().find(|name| !is_standard(name));
    match own.or(named.first()) {
        Some(name) => name.clone(),
        None => calls
            .next()
            .map_or_else(Box::default, |at| record.function_at(at)),
    }
}

/// Whether a symbol is that of a standard library's part which was compiled into the plugin, or of
/// the way from Rust's allocations to the allocator.
fn is_standard(symbol: &str) -> bool {
    /// Beginnings of mangled names: of Rust's crates, and of C++'s namespaces.
    const CRATES: [&str; 9] = [
        "_ZN3std",
        "_ZN4core",
        "_ZN5alloc",
        "_ZNSt",
        "_ZSt",
        "_ZN9__gnu_cxx",
        "__rust_",
        "__rdl_",
        "__rg_",
    ];
    // Of the newer kind of Rust's, whose crates stand behind other things.
    let newer = ["_3std", "_4core", "_5alloc"];
    let is_newer = symbol.starts_with("_R") && newer.iter().any(|name| symbol.contains(name));
    // An implementation for a type: the standard's own, or one without a path.
    let of_type = symbol.split_once("_$LT$").filter(|(before, _)| {
        let digits = before.strip_prefix("_ZN");
        digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let is_for_standard = of_type.is_some_and(|(_, of)| {
        let of = of.split("$u20$as$u20$").next().unwrap_or_default();
        let own = ["std..", "core..", "alloc.."];
        own.iter().any(|path| of.starts_with(path)) || !of.contains("..")
    });
    is_newer
        || is_for_standard
        || symbol.contains("GlobalAlloc")
        || symbol.contains("___rust")
        || symbol.contains("___rdl_")
        || symbol.contains("___rg_")
        || CRATES.iter().any(|name| symbol.starts_with(name))
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Balance {
            heap_bytes,
            heap_blocks,
            mapped_bytes,
            mappings,
            descriptors,
            ..
        } = self.balance;
        write!(
            f,
            "{heap_blocks} blocks of together {heap_bytes} bytes, {mappings} mappings of \
             {mapped_bytes} bytes, {descriptors} descriptors"
        )
    }
}
