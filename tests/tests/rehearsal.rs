//! Damaged plugins and a host that has them rehearsed: whatever is broken, the host must stay.
//!
//! Mutants of this repository's plugins in three languages, code included, 2,000 or as many as
//! `PLUG_MUTANTS` says; `PLUG_SEED` makes another set. Each is loaded and unloaded by a host of its
//! own, a process with the real loader that has a probe, and beside it opened and closed by plain
//! dlopen in another process. No host may die or hang.

use std::env;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use plug_loader::probe::Probe;
use plug_loader::{Config, Error, Stage};
use plug_tests::child;
use plug_tests::ending::{End, become_nobody, in_child, open_search_close};
use plug_tests::host::{Host, seconds, useful};
use plug_tests::mutation::{Random, STRUCTURES, Sample};
use plug_tests::standalone::{Scratch, run};

/// Processes that work on the mutants: as many as the smallest machine has processors.
const SERVERS: usize = 2;

/// What became of a mutant in a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Refused before anything of it ran anywhere.
    Stopped,
    /// Refused because of its probe.
    Rehearsed,
    /// Passed its probe, and refused by the host's own load.
    Refused,
    /// Loaded, and unloaded or known why not.
    Loaded,
    /// The host ended during the load.
    Death,
    /// The host ended once the plugin was Live.
    LateDeath,
}

const FATES: [Fate; 6] = [
    Fate::Stopped,
    Fate::Rehearsed,
    Fate::Refused,
    Fate::Loaded,
    Fate::Death,
    Fate::LateDeath,
];

/// How far a host has come, in memory that it shares with who watches it.
struct Progress(&'static AtomicUsize);

impl Progress {
    const LOADING: usize = 100;
    const LIVE: usize = 101;

    fn new() -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping of a page.
        let page = unsafe { libc::mmap(ptr::null_mut(), 4096, protection, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        // SAFETY: a page of zeros that is never unmapped.
        Self(unsafe { &*page.cast::<AtomicUsize>() })
    }

    /// SeqCst: cold, and the other process looks when this one has ended.
    fn set(&self, step: usize) {
        self.0.store(step, Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// The plugin as it is installed, without what debuggers alone read.
fn sample(scratch: &Scratch, name: &str) -> Sample {
    let stripped = scratch.path().join(name);
    let mut strip = Command::new("strip");
    strip.args(["--strip-debug", "-o"]).arg(&stripped);
    run(strip.arg(useful(name)));
    Sample::new(name, fs::read(stripped).unwrap())
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: a valid limit.
    unsafe { libc::setrlimit(resource, &raw const limit) };
}

/// Which step refused it.
fn refusal(error: &Error) -> Fate {
    match error.stage() {
        Some(stage) if stage < Stage::Probe => Fate::Stopped,
        Some(Stage::Probe) => Fate::Rehearsed,
        _ => Fate::Refused,
    }
}

/// A host that loads the file and unloads it; ends this process.
fn host(path: &Path, program: &Path, progress: &Progress) -> ! {
    limit(libc::RLIMIT_CORE, 0);
    limit(libc::RLIMIT_CPU, 30);
    // SAFETY: plain calls; a host that hangs is a host that is lost.
    unsafe {
        libc::alarm(120);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        libc::dup2(null, 1);
        libc::dup2(null, 2);
    }
    let fate = catch_unwind(|| {
        let mut plan = Probe::by(program);
        plan.deadline = Duration::from_secs(10);
        plan.processor = Duration::from_secs(1);
        let mut config = Config::default();
        config.probe = Some(plan);
        let host = Host::with(config);
        progress.set(Progress::LOADING);
        match host.load(path) {
            Ok(plugin) => {
                progress.set(Progress::LIVE);
                let _known = host.loader.unload_exactly(&plugin, seconds(5));
                Fate::Loaded
            }
            Err(error) => refusal(&error),
        }
    });
    if let Ok(fate) = fate {
        progress.set(FATES.iter().position(|known| *known == fate).unwrap());
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) };
}

/// What becomes of the file in a host of its own; how it ended, where it died.
fn fate(path: &Path, program: &Path, progress: &Progress) -> (Fate, i32) {
    progress.set(Progress::LOADING);
    // SAFETY: this process has one thread, so that the child may do anything.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        host(path, program, progress);
    }
    let mut status = 0;
    // SAFETY: an own child and room for its status.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {}
    let fate = match progress.get() {
        _ if !libc::WIFEXITED(status) && progress.get() != Progress::LIVE => Fate::Death,
        _ if !libc::WIFEXITED(status) => Fate::LateDeath,
        Progress::LOADING => Fate::Death,
        Progress::LIVE => Fate::LateDeath,
        step => FATES[step],
    };
    (fate, status)
}

/// Lets others than root read and run it.
fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Works on every `SERVERS`th mutant and prints a row for each structure.
fn serve(server: usize) {
    // After what libtest leaves without an end.
    println!();
    let (count, seed) = plan();
    let scratch = Scratch::new("rehearsal");
    let samples = ["base64", "wordcount", "checksum"].map(|name| sample(&scratch, name));
    let program = scratch.path().join("plug-probe");
    fs::copy(env!("CARGO_BIN_EXE_plug-probe"), &program).unwrap();
    let path = scratch.path().join("mutant.so");
    fs::write(&path, "").unwrap();
    for path in [scratch.path(), &program, &path] {
        open_to_all(path);
    }
    let mutants = fs::File::options().write(true).open(&path).unwrap();
    // What broken code does is done without root's rights; the folder is then nobody's to remove.
    let _is_root = chown(scratch.path(), Some(65534), Some(65534));
    become_nobody();
    // SAFETY: a plain call: what this process is, is its own to read again.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    let progress = Progress::new();
    let write = |bytes: &[u8]| {
        mutants.set_len(0).unwrap();
        mutants.write_all_at(bytes, 0).unwrap();
    };
    for sample in &samples {
        write(&sample.bytes);
        let (fate, status) = fate(&path, &program, &progress);
        assert_eq!(fate, Fate::Loaded, "{}, intact: {status:#x}", sample.name);
    }
    let all: Vec<(&Sample, usize)> = samples
        .iter()
        .flat_map(|sample| {
            let structures = sample.structures().into_iter();
            structures.map(move |structure| (sample, structure))
        })
        .collect();
    let mut rows = [[0; 9]; STRUCTURES.len()];
    let plain = CString::new(path.as_os_str().as_bytes()).unwrap();
    for n in (server..count).step_by(SERVERS) {
        let (sample, structure) = all[n % all.len()];
        let mut random = Random::new(seed ^ n as u64);
        let mutant = sample.mutant(structure, n / all.len(), &mut random);
        if mutant == sample.bytes {
            continue;
        }
        write(&mutant);
        let row = &mut rows[structure];
        let (fate, status) = fate(&path, &program, &progress);
        row[FATES.iter().position(|known| *known == fate).unwrap()] += 1;
        if matches!(fate, Fate::Death | Fate::LateDeath) {
            let kept = env::temp_dir().join(format!("plug-rehearsed-{seed}-{n}.so"));
            fs::write(&kept, &mutant).unwrap();
            println!(
                "=bad {fate:?} {} of {}, status {status:#x}: {}",
                STRUCTURES[structure],
                sample.name,
                kept.display()
            );
        }
        row[match in_child(|| open_search_close(&plain, &[])) {
            End::Loaded => 6,
            End::Refused => 7,
            End::Code | End::Crash | End::Assert | End::Hang => 8,
        }] += 1;
    }
    for (structure, row) in rows.iter().enumerate() {
        let numbers = row.map(|n| n.to_string()).join(" ");
        println!("=row {structure} {numbers}");
    }
}

/// How many mutants, and from which seed.
fn plan() -> (usize, u64) {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse().ok());
    let count = number("PLUG_MUTANTS").unwrap_or(2_000);
    (
        usize::try_from(count).unwrap(),
        number("PLUG_SEED").unwrap_or(1),
    )
}

const TEST: &str = "no_mutant_ends_a_host_that_has_it_rehearsed";

#[test]
fn no_mutant_ends_a_host_that_has_it_rehearsed() {
    if let Some(server) = child::role().and_then(|role| role.strip_prefix("hosts-")?.parse().ok()) {
        serve(server);
        return;
    }
    let (count, seed) = plan();
    println!("{count} mutants, PLUG_SEED={seed}");
    let began = Instant::now();
    let servers: Vec<_> = (0..SERVERS)
        .map(|server| child::spawn(TEST, &format!("hosts-{server}")))
        .collect();
    let mut rows = [[0usize; 9]; STRUCTURES.len()];
    let mut bad = Vec::new();
    for server in servers {
        let patience = Duration::from_secs(240) + Duration::from_millis(250) * count as u32;
        let ended = child::finish(server, patience);
        assert!(ended.succeeded(), "{:?}\n{}", ended.status, ended.output);
        for line in ended.output.lines() {
            if let Some(numbers) = line.strip_prefix("=row ") {
                let mut numbers = numbers.split(' ').map(|n| n.parse::<usize>().unwrap());
                let row = &mut rows[numbers.next().unwrap()];
                row.iter_mut().zip(numbers).for_each(|(sum, n)| *sum += n);
            }
            bad.extend(line.strip_prefix("=bad ").map(str::to_owned));
        }
    }
    print(&rows);
    println!("{:.1?}", began.elapsed());
    let sum = |column: usize| rows.iter().map(|row| row[column]).sum::<usize>();
    assert!(bad.is_empty(), "{} mutants:\n{}", bad.len(), bad.join("\n"));
    // The test can fail: plain dlopen dies of many, and it is the probe that some are stopped by.
    assert!(sum(8) > count / 20, "plain dlopen survives all: {rows:?}");
    assert!(sum(1) > count / 100, "no probe dies: {rows:?}");
    assert!(sum(0) > count / 10 && sum(3) > count / 20, "{rows:?}");
}

/// The table per structure: mutants as the host saw them, and plain dlopen beside it.
fn print(rows: &[[usize; 9]]) {
    let line = |name: &str, row: &[usize; 9]| {
        let all: usize = row[..6].iter().sum();
        let [
            stopped,
            probe,
            refused,
            loaded,
            dead,
            late,
            opened,
            errors,
            plain,
        ] = row;
        println!(
            "{name:16} {all:6} {stopped:8} {probe:6} {refused:8} {loaded:7} {dead:7} {late:6} \
             {opened:15} {errors:6} {plain:7}"
        );
    };
    println!(
        "{:16} {:>6} {:>8} {:>6} {:>8} {:>7} {:>7} {:>6} {:>15} {:>6} {:>7}",
        "structure",
        "all",
        "stopped",
        "probe",
        "refused",
        "loaded",
        "DEATHS",
        "later",
        "plain: loaded",
        "error",
        "deaths"
    );
    let mut all = [0; 9];
    for (name, row) in STRUCTURES.iter().zip(rows) {
        if row.iter().sum::<usize>() > 0 {
            line(name, row);
        }
        all.iter_mut().zip(row).for_each(|(sum, n)| *sum += n);
    }
    line("all", &all);
}
