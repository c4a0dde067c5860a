//! Every library of the system that plain dlopen can load, loaded, called and unloaded under living
//! workers, beside plain dlclose: one process for each library and way.
//!
//! Every tenth by default, and the hard ones; all with `PLUG_SWEEP=all`.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use plug_loader::image::Rule;
use plug_loader::{Params, Plugin, Source, Unloaded, Worker};
use plug_tests::child;
use plug_tests::host::{Host, seconds};
use plug_tests::{libraries, process};

const TEST: &str = "system_libraries_leave_under_living_workers";

/// What a child may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Libraries with what makes an unload hard: dependencies that are pinned by statics of their own
/// and bind back, search paths by `$ORIGIN`.
const HARD: [&str; 8] = [
    "libclang-cpp.so",
    "libLLVM-",
    "libLLVM.so",
    "libabsl_",
    "libopencsd",
    "/gconv/EUC-",
    "/gconv/ISO-2022-",
    "libjava.so",
];

/// The ways in which a library is tried.
const WAYS: [&str; 3] = ["plain", "neutralise", "honour"];

const WORKERS: usize = 2;

/// A call that does no harm, by the name of the function.
type Call = fn(*const c_void) -> bool;

/// Calls `address` as a function without arguments.
fn plainly(address: *const c_void) -> bool {
    // SAFETY: only called for functions of this type.
    let function: extern "C" fn() -> *const c_char = unsafe { std::mem::transmute(address) };
    !function().is_null()
}

fn with_number(address: *const c_void) -> bool {
    // SAFETY: as above.
    let function: extern "C" fn(c_int) = unsafe { std::mem::transmute(address) };
    function(20_000);
    true
}

fn with_version(address: *const c_void) -> bool {
    // SAFETY: as above.
    let function: extern "C" fn(*mut u8) = unsafe { std::mem::transmute(address) };
    let mut version = [0; 4];
    function(version.as_mut_ptr());
    version[0] > 0
}

/// `gconv_init` of a conversion between names that no module knows.
fn with_step(address: *const c_void) -> bool {
    // SAFETY: as above.
    let function: extern "C" fn(*mut [usize; 32]) -> c_int =
        unsafe { std::mem::transmute(address) };
    // `struct __gconv_step`: the names are its fourth and fifth word.
    let mut step = [0; 32];
    step[3] = c"NONE//".as_ptr().addr();
    step[4] = c"NONE//".as_ptr().addr();
    function(&raw mut step);
    true
}

const CALLS: [(&str, Call); 11] = [
    ("zlibVersion", plainly),
    ("sqlite3_libversion", plainly),
    ("png_access_version_number", plainly),
    ("xmlCheckVersion", with_number),
    ("u_getVersion_72", with_version),
    ("u_getVersion_74", with_version),
    ("u_getVersion_76", with_version),
    ("gconv_init", with_step),
    ("BZ2_bzlibVersion", plainly),
    ("lzma_version_string", plainly),
    ("XML_ExpatVersion", plainly),
];

/// Has two threads that live on call `call`, then runs `unload` while they do.
fn under_workers<T>(
    worker: impl Fn(&str) -> Option<Worker> + Sync,
    call: impl Fn(Option<&Worker>) + Sync,
    unload: impl FnOnce() -> T,
) -> T {
    thread::scope(|scope| {
        let (called, told) = mpsc::channel();
        let mut ends = Vec::new();
        for n in 0..WORKERS {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let (called, worker, call) = (called.clone(), &worker, &call);
            scope.spawn(move || {
                let worker = worker(&format!("living-{n}"));
                call(worker.as_ref());
                called.send(()).expect("told");
                while let Err(mpsc::RecvTimeoutError::Timeout) =
                    ended.recv_timeout(Duration::from_micros(200))
                {
                    if let Some(worker) = &worker {
                        worker.quiescent();
                    }
                }
            });
        }
        for _ in 0..WORKERS {
            told.recv().expect("called");
        }
        let result = unload();
        drop(ends);
        result
    })
}

/// What a child of plain dlopen does.
fn plainly_loaded(path: &str) {
    let name = CString::new(path).expect("no zero");
    // SAFETY: what this test is about.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return println!("@unloadable");
    }
    println!("@loaded");
    let handle = handle.expose_provenance();
    let call = |_: Option<&Worker>| {
        for (symbol, call) in CALLS {
            let symbol = CString::new(symbol).expect("no zero");
            let handle = std::ptr::with_exposed_provenance_mut::<c_void>(handle);
            // SAFETY: the handle of above.
            let address = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
            // Not one of another library that it needs.
            let is_own = object_of(address) == Some(path.to_owned());
            if !address.is_null() && is_own {
                assert!(call(address));
            }
        }
    };
    under_workers(
        |_| None,
        call,
        || {
            // SAFETY: the handle of above, once.
            unsafe { libc::dlclose(std::ptr::with_exposed_provenance_mut(handle)) };
            let stays = process::objects().contains(path);
            println!("{}", if stays { "@stays" } else { "@left" });
        },
    );
}

/// The path of the object that an address lies in.
#[expect(
    clippy::disallowed_methods,
    reason = "a child of plain dlopen has no reader"
)]
fn object_of(address: *const c_void) -> Option<String> {
    // SAFETY: plain data of which zeroes are a value.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked about.
    if unsafe { libc::dladdr(address, &raw mut info) } == 0 {
        return None;
    }
    // SAFETY: the name of an object that is open.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(name.to_string_lossy().into_owned())
}

fn call_all(plugin: &Plugin, worker: Option<&Worker>) {
    for (symbol, call) in CALLS {
        let Some(address) = plugin.address_of(symbol) else {
            continue;
        };
        // Through a gate, as any call.
        let pin = plugin.pin().expect("live");
        let _ = worker.map(Worker::quiescent);
        assert!(call(address as *const c_void), "{symbol}");
        drop(pin);
    }
}

/// What a child of the loader does.
fn loaded_by_the_loader(path: &str, nodelete: Rule) {
    let host = Host::new();
    let source = Source::path(path).named("swept").nodelete(nodelete);
    let plugin = match host.loader.load(&host.trust, source, &Params::new()) {
        Ok(plugin) => plugin,
        Err(error) => return println!("@refused {error:#}"),
    };
    println!("@loaded");
    let verdict = under_workers(
        |name| host.loader.worker(name).ok(),
        |worker| call_all(&plugin, worker),
        || host.loader.unload("swept", seconds(30)),
    );
    match verdict {
        Ok(Unloaded::Gone(_)) => println!("@left"),
        Ok(Unloaded::Zombie(left)) => {
            let is_true = left.reasons.iter().all(|reason| undo(reason))
                && host.loader.wait_for_zombie("swept", seconds(20)).is_ok();
            let then = if is_true { UNDONE } else { "" };
            println!("@stays zombie {left}{then}");
        }
        Ok(Unloaded::Pinned(left)) => println!("@stays pinned {left}"),
        Err(error) => println!("@stays {error:#}"),
    }
}

/// What is said of a library that went when what it was held by was taken back for it.
const UNDONE: &str = "; gone once that was undone";

/// Takes back what a library left behind and is held by: a handler that it installed, or a key whose
/// values it destroys, past the imports by which the loader sees such. False for any other reason.
fn undo(reason: &str) -> bool {
    let number = |before: &str| -> Option<c_int> {
        let (_, rest) = reason.split_once(before)?;
        rest.split_ascii_whitespace().next()?.parse().ok()
    };
    if let Some(signal) = number("signal ") {
        // SAFETY: back to what it was before.
        return unsafe { libc::signal(signal, libc::SIG_DFL) } != libc::SIG_ERR;
    }
    match number("the values of key ").map(u32::try_from) {
        // SAFETY: nobody uses it, now that the library is closed.
        Some(Ok(key)) => unsafe { libc::pthread_key_delete(key) == 0 },
        _ => false,
    }
}

/// How a library fared in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Left,
    Stays(String),
    Refused(String),
    Crashed(String),
}

fn fate(path: &str, way: &str) -> Fate {
    let ended = child::run(TEST, &format!("{way}\n{path}"), PATIENCE);
    let line = |start: &str| {
        let mut lines = ended.output.lines();
        lines.find_map(|line| {
            line.split_once(start)
                .map(|(_, rest)| rest.trim().to_owned())
        })
    };
    if let Some(why) = line("@refused") {
        return Fate::Refused(why);
    }
    if line("@unloadable").is_some() {
        return Fate::Refused("dlopen".to_owned());
    }
    if !ended.succeeded() {
        let tail: Vec<&str> = ended.output.lines().rev().take(12).collect();
        return Fate::Crashed(format!("{:?} {}", ended.status, tail.join(" | ")));
    }
    match (line("@left"), line("@stays")) {
        (Some(_), _) => Fate::Left,
        (_, Some(why)) => Fate::Stays(why),
        _ => Fate::Crashed(format!("no verdict: {}", ended.output)),
    }
}

/// Whether a reason names what really holds a library.
fn is_true_reason(why: &str) -> bool {
    why.contains("DF_1_NODELETE")
        || why.contains("is bound to its symbol")
        || why.ends_with(UNDONE)
        || why.contains("thread") && why.contains("started at")
}

#[test]
fn system_libraries_leave_under_living_workers() {
    if let Some(role) = child::role() {
        let (way, path) = role.split_once('\n').expect("way and path");
        return match way {
            "plain" => plainly_loaded(path),
            "neutralise" => loaded_by_the_loader(path, Rule::Neutralise),
            "honour" => loaded_by_the_loader(path, Rule::Honour),
            _ => panic!("{way}"),
        };
    }
    let all = libraries::all();
    let is_hard = |path: &PathBuf| {
        let text = path.to_string_lossy();
        HARD.iter().any(|hard| text.contains(hard))
    };
    let chosen = all
        .iter()
        .enumerate()
        .filter(|(n, path)| libraries::are_all_wanted() || n % 10 == 0 || is_hard(path));
    let waiting: Mutex<Vec<String>> = Mutex::new(
        chosen
            .filter_map(|(_, path)| path.to_str().map(str::to_owned))
            .rev()
            .collect(),
    );
    let n_chosen = waiting.lock().expect("no panic").len();
    let fates: Mutex<BTreeMap<String, [Fate; 3]>> = Mutex::default();
    let strange = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no panic").pop();
                    let Some(path) = next else { break };
                    let plain = fate(&path, "plain");
                    // Not for this test: it does not load, or not without a crash.
                    if matches!(plain, Fate::Refused(_) | Fate::Crashed(_)) {
                        *strange.lock().expect("no panic") += 1;
                        continue;
                    }
                    let own = ["neutralise", "honour"].map(|way| fate(&path, way));
                    let [neutralised, honoured] = own;
                    let all = [plain, neutralised, honoured];
                    fates.lock().expect("no panic").insert(path, all);
                }
            });
        }
    });
    let fates = fates.into_inner().expect("no panic");
    let (loads, strange) = (fates.len(), strange.into_inner().expect("no panic"));
    println!("{loads} of {n_chosen} libraries load plainly ({strange} do not or crash)");
    println!("| way | left | stayed | refused | crashed |\n|---|---|---|---|---|");
    let mut stayed = BTreeMap::new();
    for (n, way) in WAYS.iter().enumerate() {
        let count = |is: fn(&Fate) -> bool| fates.values().filter(|fate| is(&fate[n])).count();
        let stays = count(|fate| matches!(fate, Fate::Stays(_)));
        println!(
            "| {way} | {} | {stays} | {} | {} |",
            count(|fate| *fate == Fate::Left),
            count(|fate| matches!(fate, Fate::Refused(_))),
            count(|fate| matches!(fate, Fate::Crashed(_))),
        );
        stayed.insert(*way, stays);
    }
    let mut faults = Vec::new();
    for (path, fate) in &fates {
        for (way, fate) in WAYS.iter().zip(fate).skip(1) {
            match fate {
                Fate::Left => {}
                Fate::Stays(why) => {
                    println!("{way}: {path} {why}");
                    if !is_true_reason(why) {
                        faults.push(format!("{way}: {path} stays for no reason: {why}"));
                    }
                }
                Fate::Refused(why) | Fate::Crashed(why) => {
                    faults.push(format!("{way}: {path}: {why}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let stays = stayed.get("neutralise").copied().unwrap_or(0);
    assert!(
        stays * 200 <= loads,
        "{stays} of {loads} stay: more than 0.5 %"
    );
    assert!(loads * 2 >= n_chosen, "too few libraries load");
}
