//! The side of a probe that loads the plugin: by the same loader as any host, in a process that may
//! die of it.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Resource, Rlimit, Signal, getpid, getppid, getrlimit, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities, set_no_new_privs};

use super::report::signal_name;
use super::request::{self, Limits, Request};
use super::{FILE, REPORT, VARIABLE};
use crate::config::Config;
use crate::crash::CrashOptions;
use crate::deadline::Deadline;
use crate::error::{CallError, ErrorKind};
use crate::loader::Loader;
use crate::plugin::Plugin;
use crate::sys::clock;
use crate::sys::inherited;
use crate::trust::{Source, Trust};
use crate::verdict::Unloaded;
use crate::witness;

/// How long the unload may wait for the plugin's own users.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long what the plugin leaves behind may take to go.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Makes this process a probe if it was started as one: does its work, and returns with what `main`
/// is to return at once. `None` in any other process, at the cost of a look at the environment.
///
/// `trust` is the word that files are code to be run. Which ones are admitted is what the host says
/// that has them rehearsed, by the policy of its own load.
///
/// Call it first in `main` of a program that is its own probe, before any thread is started and
/// anything is done that a rehearsal should not do:
///
/// ```no_run
/// use std::process::ExitCode;
/// use plug_loader::{Policy, Trust, probe};
///
/// fn main() -> ExitCode {
///     // SAFETY: we run these files with our rights.
///     let trust = unsafe { Trust::new(Policy::default()) };
///     if let Some(code) = probe::serve(&trust) {
///         return code;
///     }
///     // The host.
///     ExitCode::SUCCESS
/// }
/// ```
pub fn serve(trust: &Trust) -> Option<ExitCode> {
    let parent = env::var(VARIABLE).ok()?;
    request::answer();
    let is_own = getppid().is_some_and(|pid| pid.as_raw_nonzero().to_string() == parent);
    // The parent is gone, or this is a program that the plugin started in the probe.
    if !is_own {
        return Some(ExitCode::FAILURE);
    }
    const { assert!(REPORT == FILE + 1 && super::REQUEST == FILE + 2) };
    let Ok([file, report, request]) = inherited::take(FILE) else {
        return Some(ExitCode::FAILURE);
    };
    witness::report_to(report);
    witness::tell(&"hello 1");
    if let Err(why) = rehearse(trust, file, request) {
        say("broken", &why);
    }
    witness::tell(&"end");
    Some(ExitCode::SUCCESS)
}

/// One line, whatever is in the text.
fn say(word: &str, text: &str) {
    let text = text.replace(char::is_control, " ");
    witness::tell(&format_args!("{word} {text}"));
}

/// Loads and unloads; what cannot be done for reasons of the probe's own is the error.
fn rehearse(trust: &Trust, file: OwnedFd, request: OwnedFd) -> Result<(), String> {
    let mut text = Vec::new();
    let read = File::from(request).read_to_end(&mut text);
    read.map_err(|error| format!("read the request: {error}"))?;
    let (request, limits) = Request::read(&text).ok_or("the request is of another version")?;
    limit(limits).map_err(|error| format!("set limits: {error}"))?;
    let loader = Loader::new(Config::default()).map_err(|error| error.to_string())?;
    let options = CrashOptions {
        json_path: Some(format!("/proc/self/fd/{REPORT}").into()),
    };
    // Without it a crash is told by its signal alone.
    if let Err(error) = loader.install_crash_handler(options) {
        tracing::debug!(target: "plug::probe", %error, "no crash handler");
    }
    let before = Traces::look();
    let source = match request.original.clone() {
        Some(original) => Source::copy_of(original, file, &request.path),
        None => Source::opened(file, &request.path),
    };
    let mut source = source.nodelete(request.nodelete).unique(request.unique);
    source.brought.clone_from(&request.brought);
    let source = match &request.name {
        Some(name) => source.named(name),
        None => source,
    };
    let source = if request.force {
        source.force()
    } else {
        source
    };
    let trust = trust.under(request.policy.clone());
    load_and_unload(&loader, &trust, source, &request);
    let began = Instant::now();
    // Threads leave the kernel's list a moment after they have ended.
    let left = loop {
        let left = Traces::look().without(&before);
        if left.is_empty() || began.elapsed() > LAST_WORDS {
            break left;
        }
        clock::nap(Duration::from_micros(200));
    };
    for trace in left {
        say("left", &trace);
    }
    Ok(())
}

fn load_and_unload(loader: &Loader, trust: &Trust, source: Source, request: &Request) {
    let plugin = match loader.load(trust, source, &request.params) {
        Ok(plugin) => plugin,
        // What it brings was replaced: whatever came instead was not to be rehearsed.
        Err(error) if error.kind() == ErrorKind::Probe => {
            say("broken", &error.to_string());
            return;
        }
        Err(error) => {
            let word = match error.kind() {
                ErrorKind::InitFailed => "failed",
                _ => "refused",
            };
            say(word, &format!("{error:#}"));
            if let Some(left) = error.lingering() {
                say("unloaded", &left.to_string());
            }
            return;
        }
    };
    let time = |stage, time: Duration| say("time", &format!("{stage} {}", time.as_micros()));
    for (stage, took) in plugin.load_times() {
        time(stage, *took);
    }
    if request.calls {
        call_all(&plugin);
    }
    match loader.unload_exactly(&plugin, Deadline::after(PATIENCE)) {
        Ok(Unloaded::Gone(report)) => {
            for (stage, took) in &report.stages {
                time(stage, *took);
            }
            say("unloaded", "yes");
        }
        Ok(Unloaded::Zombie(left) | Unloaded::Pinned(left)) => {
            say("unloaded", &left.reasons.join("; "));
        }
        Err(error) => say("unloaded", &error.to_string()),
    }
}

/// Calls the plugin's functions that can be called without knowing more about them, each on a
/// thread that ends.
fn call_all(plugin: &Plugin) {
    for export in plugin.info().exports() {
        if !is_callable(export.signature) {
            continue;
        }
        let name = export.name;
        say("calling", name);
        let called = thread::scope(|scope| scope.spawn(|| plugin.call_plain(name)).join());
        match called {
            Ok(Ok(())) => say("called", name),
            Ok(Err(CallError::Raised(text))) => say("caught", &format!("{name} {text}")),
            // Nobody can have unloaded it; if it cannot be called, the author hears of that.
            Ok(Err(error)) => say("caught", &format!("{name} {error}")),
            Err(_) => say("caught", &format!("{name} a panic that left it")),
        }
    }
}

/// Whether a documented signature, in C, C++ or Rust, takes nothing and returns nothing or a number.
fn is_callable(signature: &str) -> bool {
    const PLAIN: [&str; 35] = [
        "",
        "void",
        "bool",
        "_Bool",
        "char",
        "int",
        "unsigned",
        "long",
        "size_t",
        "float",
        "double",
        "int8_t",
        "int16_t",
        "int32_t",
        "int64_t",
        "uint8_t",
        "uint16_t",
        "uint32_t",
        "uint64_t",
        "()",
        "Status",
        "u8",
        "u16",
        "u32",
        "u64",
        "usize",
        "i8",
        "i16",
        "i32",
        "i64",
        "isize",
        "f32",
        "f64",
        "unsigned int",
        "unsigned long",
    ];
    let result = match signature.strip_prefix("fn()") {
        Some(rest) => rest.trim_start().trim_start_matches("->"),
        None => {
            let Some(result) = signature
                .strip_suffix("(void)")
                .or_else(|| signature.strip_suffix("()"))
                .filter(|result| !result.is_empty())
            else {
                return false;
            };
            result
        }
    };
    PLAIN.contains(&result.trim())
}

/// Gives up what a plugin that is not well could do harm with. It can lower these limits further,
/// and not raise them.
fn limit(limits: Limits) -> rustix::io::Result<()> {
    // The host's end is the probe's; the thread that started it waits for it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_no_new_privs(true)?;
    // Never above what this user has already, which only some may raise.
    let set = |resource, soft: u64, hard: u64| {
        let hard = getrlimit(resource)
            .maximum
            .map_or(hard, |most| most.min(hard));
        let (current, maximum) = (Some(soft.min(hard)), Some(hard));
        setrlimit(resource, Rlimit { current, maximum })
    };
    // The signal that says why comes first, the one that nobody can ignore a second later.
    let last = limits.processor.saturating_add(1);
    set(Resource::Cpu, limits.processor, last)?;
    set(Resource::As, limits.memory, limits.memory)?;
    set(Resource::Nofile, limits.descriptors, limits.descriptors)?;
    set(Resource::Core, 0, 0)?;
    // Who has this right, root among them, could raise the limits.
    let mut own = capabilities(None)?;
    for set in [&mut own.effective, &mut own.permitted, &mut own.inheritable] {
        set.remove(CapabilitySet::SYS_RESOURCE);
    }
    set_capabilities(None, own)
}

/// What can be seen of this process from outside, each with how often it is there.
#[derive(Debug, Default)]
struct Traces(BTreeMap<String, usize>);

impl Traces {
    fn look() -> Self {
        let mut traces = Self::default();
        let own = format!("/plug-{}-", getpid().as_raw_nonzero());
        for task in names("/proc/self/task") {
            let read = |file| fs::read_to_string(format!("/proc/self/task/{task}/{file}"));
            if let Ok(name) = read("comm") {
                let name = name.trim_end();
                // The loader's own, which stay.
                if !matches!(name, "plug-drainer" | "plug-indexer") {
                    traces.add(format!("thread {name}"));
                }
            }
            for _child in read("children").unwrap_or_default().split_whitespace() {
                traces.add("child process".to_owned());
            }
        }
        for descriptor in names("/proc/self/fd") {
            let Ok(target) = fs::read_link(format!("/proc/self/fd/{descriptor}")) else {
                // The one that lists them.
                continue;
            };
            let target = target.display().to_string();
            // Of the loader's own: its folder of names, and copies of what is still mapped.
            if !target.contains(&own) && !target.starts_with("/memfd:") {
                traces.add(format!("descriptor of {target}"));
            }
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (line, what) in [("SigCgt:", "handler of"), ("SigIgn:", "ignored")] {
            let mask = status.lines().find_map(|text| text.strip_prefix(line));
            let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            for signal in (1..=64).filter(|n| mask.unwrap_or(0) >> (n - 1) & 1 == 1) {
                traces.add(format!("{what} {}", signal_name(signal)));
            }
        }
        traces
    }

    fn add(&mut self, trace: String) {
        *self.0.entry(trace).or_default() += 1;
    }

    /// What is there beyond `before`, in words.
    fn without(self, before: &Self) -> Vec<String> {
        let more = self.0.into_iter().filter_map(|(trace, n)| {
            let more = n.saturating_sub(before.0.get(&trace).copied().unwrap_or(0));
            (more > 0).then(|| format!("{more} x {trace}"))
        });
        more.collect()
    }
}

fn names(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_called_that_take_nothing_and_return_a_number() {
        for callable in [
            "fn()",
            "fn() -> Status",
            "int32_t(void)",
            "uint64_t()",
            "unsigned long (void)",
            "void(void)",
        ] {
            assert!(is_callable(callable), "{callable}");
        }
        for other in [
            "unsafe fn()",
            "fn(u64) -> u64",
            "fn() -> Task",
            "plug_task(void)",
            "char *(void)",
            "int(int a)",
            "(void)",
            "",
        ] {
            assert!(!is_callable(other), "{other}");
        }
    }
}
