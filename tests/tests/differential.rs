//! What readers say about addresses and names in the system's libraries, against readelf and
//! dlsym: at random and at every kind of boundary, before the search is built and after.
//!
//! Constructors of libraries that nobody chose run here, so that libraries are loaded in child
//! processes, a few in each. One that plain dlopen cannot load, or crashes on, is skipped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use plug_loader::checkpoint::{Verdict, set_hook};
use plug_loader::{Params, Plugin, Resolved, Source, SymbolReader};
use plug_tests::child::{self, Ended};
use plug_tests::host::{Host, seconds};
use plug_tests::libraries;
use plug_tests::process;

const TEST: &str = "addresses_and_names_in_system_libraries_agree_with_readelf_and_dlsym";

/// Addresses asked about in each library.
const ADDRESSES: usize = 2000;

/// Libraries a child loads.
const BATCH: usize = 8;

/// What a child may take for its libraries.
const PATIENCE: Duration = Duration::from_secs(240);

/// Files up to this size have their unwind entries compared, too.
const UNWOUND: u64 = 1 << 20;

/// One symbol as readelf shows it.
#[derive(Debug)]
struct Symbol {
    svma: u64,
    size: u64,
    name: String,
}

/// A library as readelf shows it.
#[derive(Debug, Default)]
struct Oracle {
    /// What an address may be named after.
    named: Vec<Symbol>,
    /// Exported functions: the address of the one that the name alone means, if any.
    functions: BTreeMap<String, Option<u64>>,
    /// Names that a resolver chooses the address of.
    ifuncs: BTreeSet<String>,
    /// First addresses of unwind entries, sorted; none where they were not read.
    entries: Option<Vec<u64>>,
    /// The first executable segment.
    text: (u64, u64),
}

fn readelf(path: &Path, options: &[&str]) -> String {
    let output = Command::new("readelf")
        .args(options)
        .arg(path)
        .output()
        .expect("readelf");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

impl Oracle {
    fn read(path: &Path) -> Self {
        let mut oracle = Self::default();
        let mut is_dynamic = false;
        for line in readelf(path, &["-sW"]).lines() {
            if let Some(table) = line.strip_prefix("Symbol table '") {
                is_dynamic = table.starts_with(".dynsym");
            } else {
                oracle.symbol(line, is_dynamic);
            }
        }
        for line in readelf(path, &["-lW"]).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["LOAD", _, at, _, _, size, flags @ .., _] = &*words
                && flags.concat().contains('E')
                && oracle.text == (0, 0)
            {
                let at = hex(at).expect("an address");
                oracle.text = (at, at + hex(size).expect("a size"));
            }
        }
        if fs::metadata(path).is_ok_and(|file| file.len() <= UNWOUND) {
            let mut entries = BTreeSet::new();
            let mut is_eh = false;
            for line in readelf(path, &["-W", "--debug-dump=frames-interp"]).lines() {
                if line.starts_with("Contents of the ") {
                    is_eh = line.contains(".eh_frame section");
                } else if is_eh
                    && line.contains(" FDE ")
                    && let Some((_, range)) = line.split_once(" pc=")
                {
                    let start = range.split("..").next().expect("a start");
                    entries.extend(hex(start));
                }
            }
            oracle.entries = Some(entries.into_iter().collect());
        }
        oracle
    }

    /// Takes in `Num: Value Size Type Bind Vis Ndx Name`.
    fn symbol(&mut self, line: &str, is_dynamic: bool) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [
            number,
            value,
            size,
            kind,
            binding,
            visibility,
            section,
            name,
            ..,
        ] = &*words
        else {
            return;
        };
        if !number.ends_with(':') || section.parse::<u32>().is_err() {
            return;
        }
        let Some(svma) = hex(value).filter(|_| value.len() == 16) else {
            return;
        };
        let size = if size.starts_with("0x") {
            hex(size).expect("a size")
        } else {
            size.parse().expect("a size")
        };
        let is_exported =
            *binding != "LOCAL" && ["DEFAULT", "PROTECTED"].contains(visibility) && is_dynamic;
        if !["FUNC", "OBJECT", "IFUNC", "NOTYPE"].contains(kind) || (is_dynamic && !is_exported) {
            return;
        }
        // Only in the dynamic table readelf appends the version.
        let version = if is_dynamic {
            name.char_indices().skip(1).find(|(_, c)| *c == '@')
        } else {
            None
        };
        let (name, version) = name.split_at(version.map_or(name.len(), |(at, _)| at));
        let symbol = Symbol {
            svma,
            size,
            name: name.to_owned(),
        };
        self.named.push(symbol);
        if is_exported && *kind == "FUNC" {
            let found = self.functions.entry(name.to_owned()).or_default();
            if version.is_empty() || version.starts_with("@@") {
                *found = Some(svma);
            }
        } else if is_exported && *kind == "IFUNC" {
            self.ifuncs.insert(name.to_owned());
        }
    }

    /// The symbols that an address may be named after, by looking at each.
    fn find(&self, svma: u64) -> Vec<&Symbol> {
        let covers = |s: &&Symbol| svma >= s.svma && svma - s.svma < s.size.max(1);
        let start = self.named.iter().filter(covers).map(|s| s.svma).max();
        let Some(start) = start else {
            return Vec::new();
        };
        let here = self.named.iter().filter(|s| s.svma == start);
        here.filter(covers).collect()
    }

    /// What is wrong with an answer about the link-time address `svma`.
    fn fault(&self, svma: u64, found: &Resolved) -> Option<String> {
        let expected = self.find(svma);
        let name = String::from_utf8_lossy(found.symbol.as_bytes());
        let start = (found.symbol_start - found.bias) as u64;
        if let Some(first) = expected.first() {
            // readelf writes other characters its own way.
            let is_plain = |s: &&Symbol| s.name.bytes().all(|byte| byte.is_ascii_graphic());
            let is_named = expected.iter().any(|symbol| {
                symbol.name == name
                    || (found.symbol.is_truncated() && symbol.name.starts_with(&*name))
            }) || !expected.iter().all(is_plain);
            let is_right = is_named
                && start == first.svma
                && found.offset == svma - first.svma
                && expected.iter().any(|s| s.size == found.symbol_size);
            return (!is_right).then(|| {
                format!(
                    "expected {} at {:#x}, found {name}+{:#x} at {start:#x}",
                    first.name, first.svma, found.offset
                )
            });
        }
        let unnamed = name.strip_prefix("fn@+").and_then(hex);
        if unnamed.is_none() && !name.is_empty() {
            return Some(format!("expected no symbol, found {name}"));
        }
        if unnamed.is_some() && (unnamed != Some(start) || found.offset != svma - start) {
            return Some(format!("{name} starts at {start:#x}"));
        }
        let entries = self.entries.as_ref()?;
        let after = entries.partition_point(|entry| *entry <= svma);
        let entry = after.checked_sub(1).map(|at| entries[at]);
        let is_text = (self.text.0..self.text.1).contains(&svma);
        let entry = entry.filter(|_| is_text && after < entries.len());
        // Where that function has a name and a size, the address lies behind its end.
        let over = entry.map_or(Vec::new(), |entry| self.find(entry));
        let sized = over.iter().filter(|symbol| symbol.size > 0).count();
        let expected = match sized {
            0 => entry,
            _ if sized == over.len() => None,
            _ => return None,
        };
        (unnamed != expected).then(|| {
            let expected = expected.map_or("nothing".to_owned(), |entry| format!("{entry:#x}"));
            format!("expected the function at {expected}, found {name:?}")
        })
    }

    /// Link-time addresses at every edge of a share of the symbols, and at random.
    fn addresses(&self, start: u64, end: u64) -> Vec<u64> {
        let mut random = Rng::with_seed(1);
        let mut random = |below: u64| random.u64(..below);
        let mut addresses = Vec::new();
        let n = self.named.len() as u64;
        while n > 0 && addresses.len() < ADDRESSES * 3 / 4 {
            let some = &self.named[usize::try_from(random(n)).expect("an index")];
            let past = some.svma.wrapping_add(some.size);
            addresses.extend([some.svma.wrapping_sub(1), some.svma]);
            addresses.extend([past.wrapping_sub(1), past]);
        }
        while addresses.len() < ADDRESSES {
            addresses.push(start + random(end - start));
        }
        addresses.retain(|svma| (start..end).contains(svma));
        addresses
    }
}

/// The library that is being loaded: its name, and what came of reading its symbols before the
/// search was built.
static LOADING: Mutex<Option<(String, Oracle, Looked)>> = Mutex::new(None);

/// Faults, and how many addresses were asked about.
#[derive(Debug, Default)]
struct Looked {
    faults: Vec<String>,
    addresses: usize,
}

impl Looked {
    /// Asks about addresses of the library at `bias`.
    fn at(when: &str, oracle: &Oracle, range: (usize, usize), bias: usize) -> Self {
        let svmas = oracle.addresses((range.0 - bias) as u64, (range.1 - bias) as u64);
        let fault = |svma: &u64| {
            let at = usize::try_from(*svma).expect("64 bits") + bias;
            let fault = match SymbolReader::new().resolve(at) {
                Some(found) => oracle.fault(*svma, &found),
                None => Some("no plugin".to_owned()),
            };
            fault.map(|fault| format!("{when} {svma:#x}: {fault}"))
        };
        Self {
            faults: svmas.iter().filter_map(fault).collect(),
            addresses: svmas.len(),
        }
    }
}

/// Called before the search of a library is built, on whatever thread builds it.
fn scan() {
    let mut loading = LOADING.lock().expect("no panic");
    let Some((name, oracle, looked)) = &mut *loading else {
        return;
    };
    let mut place = None;
    SymbolReader::new().walk(|view| {
        if view.name() == name.as_bytes() {
            place = Some((view.range(), view.bias()));
        }
        place.is_none()
    });
    let (range, bias) = place.expect("visible before its search is built");
    *looked = Looked::at("scan", oracle, range, bias);
}

/// Compares one loaded library; the faults, and in numbers what was compared.
fn compare(host: &Host, plugin: &Plugin) -> (Vec<String>, String) {
    host.loader.settle_indexes();
    let loading = LOADING.lock().expect("no panic").take();
    let (_, oracle, scanned) = loading.expect("the one that was loaded");
    let (start, end) = plugin.range();
    let bias = SymbolReader::new().resolve(start).expect("loaded").bias;
    let searched = Looked::at("search", &oracle, (start, end), bias);
    let mut faults = scanned.faults;
    faults.extend(searched.faults);

    let link = process::link_map().into_iter().find(|o| o.bias == bias);
    let link = CString::new(link.expect("ld.so knows it").name).expect("text");
    // SAFETY: a name that ld.so knows; nothing is loaded.
    let handle = unsafe { libc::dlopen(link.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    assert!(!handle.is_null());
    let mut names = 0;
    for (name, svma) in &oracle.functions {
        if oracle.ifuncs.contains(name) || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            continue;
        }
        names += 1;
        let terminated = CString::new(name.as_str()).expect("text");
        // SAFETY: an open handle and a terminated name.
        let theirs = unsafe { libc::dlsym(handle, terminated.as_ptr()) }.addr();
        let theirs = Some(theirs).filter(|at| (start..end).contains(at));
        let ours = plugin.address_of(name);
        if ours != theirs {
            faults.push(format!("{name}: dlsym {theirs:x?}, own {ours:x?}"));
        }
        let readelf = svma.map(|svma| usize::try_from(svma).expect("64 bits") + bias);
        if readelf.is_some() && ours != readelf {
            faults.push(format!("{name}: readelf {readelf:x?}, own {ours:x?}"));
        }
    }
    // SAFETY: opened above.
    unsafe { libc::dlclose(handle) };
    let (symbols, scanned) = (oracle.named.len(), scanned.addresses);
    let numbers = format!("{symbols} {scanned} {} {names}", searched.addresses);
    (faults, numbers)
}

/// A child: loads each library through Plug and tells what it saw.
fn load_each(paths: &[&str]) {
    let host = Host::new();
    set_hook(|point| {
        if point == "index.begin" {
            scan();
        }
        Verdict::Pass
    });
    for (n, path) in paths.iter().enumerate() {
        println!("\n@begin {path}");
        let name = format!("library{n}");
        let oracle = Oracle::read(Path::new(path));
        *LOADING.lock().expect("no panic") = Some((name.clone(), oracle, Looked::default()));
        let source = Source::path(PathBuf::from(path)).named(&name);
        let plugin = match host.loader.load(&host.trust, source, &Params::new()) {
            Ok(plugin) => plugin,
            Err(error) => {
                let why = format!("{error:#}").replace('\n', " ");
                println!("\n@refused {path}: {why}");
                continue;
            }
        };
        let (faults, numbers) = compare(&host, &plugin);
        for fault in faults.iter().take(5) {
            println!("\n@wrong {path}: {fault} ({} faults)", faults.len());
        }
        println!("\n@done {path}: {numbers}");
        // Many stay mapped, for reasons of their own.
        let _unloaded = host.loader.unload(plugin.name(), seconds(10));
    }
    // Not their destructors at the end of a process, too.
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(0) };
}

/// A child: what ld.so alone makes of a library.
fn open_plainly(path: &str) {
    let name = CString::new(path).expect("text");
    // SAFETY: a system library, in a process that exists to see whether it loads.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if !handle.is_null() {
        // SAFETY: opened above.
        unsafe { libc::dlclose(handle) };
        println!("\n@plain {path}");
    }
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(0) };
}

/// What came of the libraries.
#[derive(Debug, Default)]
struct Sweep {
    /// Symbols, addresses scanned, addresses searched and names, of each library.
    done: Vec<[u64; 4]>,
    skipped: Vec<String>,
    failed: Vec<String>,
}

impl Sweep {
    /// Takes in what one child said; returns the libraries that it did not come to.
    fn take(sweep: &Mutex<Self>, batch: &[String], ended: &Ended) -> Vec<String> {
        let mut left: VecDeque<String> = batch.iter().cloned().collect();
        for line in ended.output.lines() {
            let Some((word, rest)) = line.strip_prefix('@').and_then(|l| l.split_once(' ')) else {
                continue;
            };
            let what = || rest.split_once(": ").expect("a path").1;
            match word {
                "wrong" => sweep.lock().expect("no panic").failed.push(rest.to_owned()),
                "done" => {
                    let numbers: Vec<u64> = what()
                        .split(' ')
                        .map(|n| n.parse().expect("a number"))
                        .collect();
                    let numbers = numbers.try_into().expect("four numbers");
                    sweep.lock().expect("no panic").done.push(numbers);
                    left.pop_front();
                }
                "refused" => {
                    let path = left.pop_front().expect("one that was asked for");
                    Self::judge(sweep, &path, format!("refused: {}", what()));
                }
                _ => {}
            }
        }
        if let Some(path) = left.pop_front() {
            let last = ended.output.lines().rfind(|line| !line.is_empty());
            let how = format!("ended {:?} after {:?}", ended.status, last.unwrap_or(""));
            Self::judge(sweep, &path, how);
        }
        left.into()
    }

    /// What did not work through Plug is a failure if ld.so alone can do it.
    fn judge(sweep: &Mutex<Self>, path: &str, how: String) {
        let plain = child::run(TEST, &format!("plain\n{path}"), PATIENCE);
        let works = plain.output.contains(&format!("@plain {path}"));
        let mut sweep = sweep.lock().expect("no panic");
        match works {
            true => sweep
                .failed
                .push(format!("{path}: {how}, but dlopen loads it")),
            false => sweep.skipped.push(format!("{path}: {how}")),
        }
    }
}

#[test]
fn addresses_and_names_in_system_libraries_agree_with_readelf_and_dlsym() {
    if let Some(role) = child::role() {
        let lines: Vec<&str> = role.lines().collect();
        return match &*lines {
            ["plain", path] => open_plainly(path),
            ["plug", paths @ ..] => load_each(paths),
            _ => panic!("{role}"),
        };
    }
    let all = libraries::all();
    let step = if libraries::are_all_wanted() { 1 } else { 10 };
    let chosen = all.iter().step_by(step);
    let chosen: Vec<String> = chosen
        .filter_map(|path| path.to_str().map(str::to_owned))
        .collect();
    let waiting: Mutex<VecDeque<Vec<String>>> =
        Mutex::new(chosen.chunks(BATCH).map(<[String]>::to_vec).collect());
    let sweep = Mutex::new(Sweep::default());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no panic").pop_front();
                    let Some(batch) = next else { break };
                    let role = format!("plug\n{}", batch.join("\n"));
                    let ended = child::run(TEST, &role, PATIENCE);
                    let left = Sweep::take(&sweep, &batch, &ended);
                    if !left.is_empty() {
                        waiting.lock().expect("no panic").push_back(left);
                    }
                }
            });
        }
    });
    let sweep = sweep.into_inner().expect("no panic");
    let sum = |n: usize| sweep.done.iter().map(|numbers| numbers[n]).sum::<u64>();
    println!(
        "{} of {} libraries: {} symbols, {} addresses scanned, {} searched, {} names; {} skipped, \
         {} faults",
        sweep.done.len(),
        all.len(),
        sum(0),
        sum(1),
        sum(2),
        sum(3),
        sweep.skipped.len(),
        sweep.failed.len()
    );
    for skipped in &sweep.skipped {
        println!("skipped {skipped}");
    }
    assert!(sweep.failed.is_empty(), "{}", sweep.failed.join("\n"));
    assert!(sum(1) > 0 && sum(2) > 0);
    assert!(
        sweep.done.len() * 2 >= chosen.len(),
        "too few libraries load"
    );
}
