//! The fuzz targets on mutated seeds, for a few seconds each and with a stable compiler.
//!
//! `fuzz/run` runs the same functions under libFuzzer. `PLUG_FUZZ_SECONDS` makes this longer,
//! `PLUG_SEED` chooses other mutations.

use std::env;
use std::fs;
use std::panic;
use std::process::Command;
use std::time::{Duration, Instant};

use plug_tests::isolated;
use plug_tests::mutation::Random;
use plug_tests::standalone::{Scratch, repository, run};

#[path = "../../fuzz/src/lib.rs"]
mod targets;

fn number(name: &str, default: u64) -> u64 {
    let value = env::var(name).ok().and_then(|value| value.parse().ok());
    value.unwrap_or(default)
}

/// The committed seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = repository().join("fuzz/seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| fs::read(path).unwrap())
        .collect()
}

/// Another input: bits flipped, bytes put in, taken out and copied from another one.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.number() as u8,
            2 => bytes.truncate(at),
            3 => {
                let tokens = b"\0{}[]\":,=\\/.\xff9";
                let token = tokens[random.below(tokens.len())];
                bytes.insert(at, token);
            }
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let end = (from + random.below(64)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            _ if !bytes.is_empty() => {
                let end = (at + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {}
        }
    }
    bytes
}

fn fuzz(name: &str, seeds: &[Vec<u8>], target: fn(&[u8])) {
    let seed = number("PLUG_SEED", 1);
    let mut random = Random::new(seed);
    let began = Instant::now();
    let (mut runs, mut slowest) = (0u32, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(number("PLUG_FUZZ_SECONDS", 2)) || runs < 200 {
        let input = match seeds.get(runs as usize) {
            Some(seed) => seed.clone(),
            None => mutated(seeds, &mut random),
        };
        let started = Instant::now();
        if let Err(panic) = panic::catch_unwind(|| target(&input)) {
            let kept = env::temp_dir().join(format!("plug-fuzz-{name}-{seed}-{runs}"));
            fs::write(&kept, &input).unwrap();
            println!("the input is kept in {}", kept.display());
            panic::resume_unwind(panic);
        }
        slowest = slowest.max(started.elapsed());
        runs += 1;
    }
    println!("{name}: {runs} runs, PLUG_SEED={seed}, slowest {slowest:?}");
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
}

#[test]
fn validator_takes_any_bytes() {
    let scratch = Scratch::new("fuzz");
    let source = "int x = 1; static int y; int *p = &y; _Thread_local int t;\n\
                  int f(int n) { return n + x + t; }\n";
    let source = scratch.write("x.c", source);
    let mut seeds = Vec::new();
    for flags in [
        &["-nostdlib", "-Wl,--hash-style=both"][..],
        &["-Wl,-z,pack-relative-relocs"],
    ] {
        let library = scratch.path().join("x.so");
        let mut gcc = Command::new("gcc");
        gcc.args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source)
            .args(flags);
        run(&mut gcc);
        seeds.push(fs::read(library).unwrap());
    }
    fuzz("validator", &seeds, targets::validator);
}

#[test]
fn metadata_takes_any_bytes() {
    fuzz("metadata", &seeds("metadata"), targets::metadata);
}

#[test]
fn files_of_directives_take_any_bytes() {
    fuzz(
        "directives",
        &seeds("directives"),
        plug_loader::fuzzing::directives,
    );
}

#[test]
fn the_socket_takes_any_bytes() {
    isolated!({
        fuzz("protocol", &seeds("protocol"), targets::protocol);
    });
}
