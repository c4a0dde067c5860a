//! Damaged plugins: what the validator lets pass must not bring ld.so down.
//!
//! 20,000 mutants of real plugins in three languages, or as many as `PLUG_MUTANTS` says. Each that
//! passes is staged and edited as by a load, and opened, searched and closed in a forked process of
//! its own; a sample of all goes to plain dlopen, constructors included, for comparison. `PLUG_SEED`
//! makes another set of mutants.

use std::collections::BTreeMap;
use std::env;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use plug_loader::image::{Image, ImageError, Opened, RewritePolicy, damages, next_nonce};
use plug_tests::child;
use plug_tests::ending::{End, become_nobody, in_child, open_search_close};
use plug_tests::mutation::{Random, STRUCTURES, Sample};
use plug_tests::standalone::Scratch;

/// Processes that work on the mutants: as many as the smallest machine has processors.
const SERVERS: usize = 2;

/// Of how many mutants one goes to plain dlopen.
const SAMPLED: usize = 4;

const FEATURES: &str = r#"
#include <stdlib.h>
#include <math.h>
int built;
static int hidden = 7;
int data_word = 42;
const char table[300] = "x";
_Thread_local int per_thread = 3;
int *escape = &hidden;
__attribute__((constructor)) static void build(void) { built += 1; }
__attribute__((destructor)) static void tear(void) { built = 0; }
__attribute__((weak)) int weak_one(int x) { return x + 1; }
int add(int a, int b) { return a + b + hidden + per_thread; }
static int chosen(int x) { return x * 2; }
static int (*pick(void))(int) { return chosen; }
int twice(int) __attribute__((ifunc("pick")));
char *grab(void) { return malloc(atoi("12")); }
double root(double x) { return pow(x, 0.5); }
"#;

const STANDARD: &str = r#"
#include <map>
#include <string>
#include <thread>
struct Noisy { ~Noisy(); int n = 0; };
Noisy::~Noisy() { n = -1; }
thread_local Noisy noisy;
struct Registry { inline static std::map<std::string, int> all; };
template <class T> int &counter() { static int n; return n; }
extern "C" int count(const char *name) {
    counter<int>()++;
    noisy.n++;
    return Registry::all[name] += 1;
}
"#;

fn compile(scratch: &Scratch, name: &str, compiler: &str, source: &str, flags: &[&str]) -> Sample {
    let extension = if compiler == "g++" { "cpp" } else { "c" };
    let input = scratch.write(&format!("{name}.{extension}"), source);
    let output = scratch.path().join(format!("{name}.so"));
    let mut command = Command::new(compiler);
    command.args(["-shared", "-fPIC", "-O1", "-g0"]);
    command.arg("-o").arg(&output).arg(&input).args(flags);
    plug_tests::standalone::run(&mut command);
    Sample::new(name, fs::read(output).unwrap())
}

/// Plugins of this repository in three languages, without what debuggers alone read, and one small
/// library for each feature of linkers.
fn samples(scratch: &Scratch) -> Vec<Sample> {
    let map = scratch.write(
        "map",
        "V1 { global: add; twice; }; V2 { global: weak_one; root; } V1;\n",
    );
    let script = format!("-Wl,--version-script={}", map.display());
    let mut samples = vec![
        compile(
            scratch,
            "c-gnu",
            "gcc",
            FEATURES,
            &["-lm", "-Wl,--hash-style=gnu"],
        ),
        compile(
            scratch,
            "c-sysv",
            "gcc",
            FEATURES,
            &["-lm", "-Wl,--hash-style=sysv,-z,lazy"],
        ),
        compile(
            scratch,
            "c-versions",
            "gcc",
            FEATURES,
            &[
                "-lm",
                &script,
                "-mtls-dialect=gnu2",
                "-Wl,--hash-style=both,-z,now",
            ],
        ),
        compile(
            scratch,
            "c-relr",
            "gcc",
            FEATURES,
            &["-lm", "-Wl,-z,pack-relative-relocs"],
        ),
        compile(scratch, "c++", "g++", STANDARD, &[]),
    ];
    for name in ["checksum", "base64", "wordcount"] {
        let path = plug_example_plugins::path(name).expect("built");
        let stripped = scratch.path().join(name);
        let mut strip = Command::new("strip");
        strip.args(["--strip-debug", "-o"]).arg(&stripped).arg(path);
        plug_tests::standalone::run(&mut strip);
        samples.push(Sample::new(name, fs::read(stripped).unwrap()));
    }
    samples
}

/// What was seen of one structure.
#[derive(Clone, Debug, Default)]
struct Row {
    stopped: usize,
    passed: BTreeMap<End, usize>,
    plain: BTreeMap<End, usize>,
}

/// Works on every `SERVERS`th mutant and prints a row for each structure.
fn serve(server: usize) {
    // After what libtest leaves without an end.
    println!();
    let (count, seed) = plan();
    let scratch = Scratch::new("mutation");
    let samples = samples(&scratch);
    let path = scratch.path().join("mutant.so");
    for folder in [scratch.path(), &path] {
        let _made = fs::File::options().create(true).append(true).open(folder);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder, mode).unwrap();
    }
    for library in [c"libstdc++.so.6", c"libm.so.6"] {
        // SAFETY: libraries of the system, which the samples need as well.
        unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
    }
    let all: Vec<(&Sample, usize)> = samples
        .iter()
        .flat_map(|sample| {
            sample
                .structures()
                .into_iter()
                .map(move |structure| (sample, structure))
        })
        .collect();
    let mut rows = vec![Row::default(); STRUCTURES.len()];
    for n in (server..count).step_by(SERVERS) {
        let (sample, structure) = all[n % all.len()];
        let mut random = Random::new(seed ^ n as u64);
        let mutant = sample.mutant(structure, n / all.len(), &mut random);
        if mutant == sample.bytes {
            continue;
        }
        fs::write(&path, &mutant).unwrap();
        let row = &mut rows[structure];
        let names = names(sample);
        if (n / SERVERS).is_multiple_of(SAMPLED) {
            let plain = CString::new(path.as_os_str().as_bytes()).unwrap();
            let end = in_child(|| {
                become_nobody();
                open_search_close(&plain, &names);
            });
            *row.plain.entry(end).or_default() += 1;
        }
        match prepare(&path) {
            Err(error) => {
                row.stopped += 1;
                assert!(!error.to_string().is_empty());
            }
            Ok(image) => {
                let link = image.staged.link(&image.name, None).unwrap();
                let mut end = in_child(|| open_search_close(link.path(), &names));
                if end == End::Crash {
                    // Its own code may have run: a function that became one which chooses another.
                    fs::write(&path, sample.without_resolvers(&mutant)).unwrap();
                    let calm = prepare(&path).map(|image| image.staged.link(&image.name, None));
                    let again = calm.map(|link| {
                        let link = link.unwrap();
                        in_child(|| open_search_close(link.path(), &names))
                    });
                    if again.is_ok_and(|end| matches!(end, End::Loaded | End::Refused)) {
                        end = End::Code;
                    }
                }
                *row.passed.entry(end).or_default() += 1;
                let outside_code = !sample.differs_in_code(&mutant);
                if matches!(end, End::Crash | End::Assert | End::Hang) && outside_code {
                    let kept = env::temp_dir().join(format!("plug-mutant-{seed}-{n}.so"));
                    fs::write(&kept, &mutant).unwrap();
                    println!(
                        "=bad {end:?} {} of {}: {}",
                        STRUCTURES[structure],
                        sample.name,
                        kept.display()
                    );
                }
            }
        }
    }
    for (structure, row) in rows.iter().enumerate() {
        let counts = |ends: &BTreeMap<End, usize>| {
            let count = |end| ends.get(&end).copied().unwrap_or(0).to_string();
            [
                End::Loaded,
                End::Refused,
                End::Code,
                End::Crash,
                End::Assert,
                End::Hang,
            ]
            .map(count)
            .join(" ")
        };
        println!(
            "=row {structure} {} {} {}",
            row.stopped,
            counts(&row.passed),
            counts(&row.plain)
        );
    }
}

/// A file as a load prepares it; what policy would refuse is not loaded either.
fn prepare(path: &Path) -> Result<Image, ImageError> {
    Image::prepare(
        &Opened::open(path)?,
        &RewritePolicy::new(next_nonce()),
        None,
    )
}

/// Some names that the sample exports, and one that it does not.
fn names(sample: &Sample) -> Vec<CString> {
    static NAMES: OnceLock<std::sync::Mutex<BTreeMap<String, Vec<CString>>>> = OnceLock::new();
    let names = NAMES.get_or_init(Default::default);
    let mut names = names.lock().unwrap();
    let found = names.entry(sample.name.clone()).or_insert_with(|| {
        let facts = plug_loader::image::Facts::read(&sample.bytes).unwrap();
        let symbols = facts.symbols(&sample.bytes);
        let named = symbols
            .iter()
            .take(200)
            .map(|symbol| facts.symbol_name(&sample.bytes, symbol));
        named
            .chain([&b"no_such_name"[..]])
            .filter_map(|name| CString::new(name).ok())
            .collect()
    });
    found.clone()
}

/// How many mutants, and from which seed.
fn plan() -> (usize, u64) {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse().ok());
    let count = number("PLUG_MUTANTS").unwrap_or(20_000);
    (
        usize::try_from(count).unwrap(),
        number("PLUG_SEED").unwrap_or(1),
    )
}

const TEST: &str = "no_mutant_that_passes_brings_ld_so_down";

#[test]
fn no_mutant_that_passes_brings_ld_so_down() {
    if let Some(server) = child::role().and_then(|role| role.strip_prefix("mutants-")?.parse().ok())
    {
        serve(server);
        return;
    }
    let (count, seed) = plan();
    println!("{count} mutants, PLUG_SEED={seed}");
    let began = Instant::now();
    let servers: Vec<_> = (0..SERVERS)
        .map(|server| child::spawn(TEST, &format!("mutants-{server}")))
        .collect();
    let mut rows = vec![[0usize; 13]; STRUCTURES.len()];
    let mut bad = Vec::new();
    for server in servers {
        let patience = Duration::from_secs(120) + Duration::from_millis(20) * count as u32;
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
    // The test can fail: without the validator, they do bring ld.so down.
    assert!(
        sum(10) + sum(11) + sum(12) > sum(7) / 20,
        "plain dlopen survives all"
    );
    assert!(sum(0) > count / 4 && sum(1) > count / 20, "{rows:?}");
}

/// The table per structure.
fn print(rows: &[[usize; 13]]) {
    println!(
        "{:16} {:>6} {:>8}  passed: {:>6} {:>6} {:>5} {:>6}   plain dlopen: {:>6} {:>6} {:>6} {:>6} {:>6}",
        "structure",
        "all",
        "stopped",
        "loads",
        "error",
        "code",
        "CRASH",
        "loads",
        "error",
        "crash",
        "assert",
        "hang"
    );
    for (name, row) in STRUCTURES.iter().zip(rows) {
        let all: usize = row[..7].iter().sum();
        println!(
            "{name:16} {all:6} {:7.1}%          {:6} {:6} {:5} {:6}                 {:6} {:6} {:6} {:6} {:6}",
            row[0] as f64 * 100.0 / all.max(1) as f64,
            row[1],
            row[2],
            row[3],
            row[4] + row[5] + row[6],
            row[7],
            row[8],
            row[9] + row[10],
            row[11],
            row[12]
        );
    }
}

/// Where mutants that fail are kept is told; nothing else is left behind.
#[test]
fn every_sample_is_intact_before_it_is_damaged() {
    let scratch = Scratch::new("samples");
    for sample in samples(&scratch) {
        assert_eq!(damages(&sample.bytes), [], "{}", sample.name);
        let path: PathBuf = scratch.write("intact.so", "");
        fs::write(&path, &sample.bytes).unwrap();
        assert!(prepare(&path).is_ok(), "{}", sample.name);
    }
}
