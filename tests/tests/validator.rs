//! The validator against every library of the system, and against files made wrong on purpose.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use plug_loader::image::{Facts, Finding, Severity, damages, validate};
use plug_tests::standalone::{Scratch, run};

fn shared_objects(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() {
            shared_objects(&path, found);
        } else if kind.is_file() && (name.ends_with(".so") || name.contains(".so.")) {
            found.push(path);
        }
    }
}

/// Every shared object under the system's library folders.
fn system_libraries() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let toolchains = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let folders = ["/usr/lib", "/usr/lib64", "/lib64", "/usr/local/lib", "/opt"].map(PathBuf::from);
    for folder in folders.into_iter().chain(toolchains) {
        shared_objects(&folder, &mut paths);
    }
    paths.sort();
    paths.dedup();
    paths
}

#[test]
fn no_intact_library_of_the_system_is_called_corrupt() {
    let (mut n_intact, mut n_bytes) = (0, 0);
    let mut refused = Vec::new();
    let mut corrupt = Vec::new();
    let (mut facts_time, mut rules_time) = (Duration::ZERO, Duration::ZERO);
    for path in system_libraries() {
        let Ok(bytes) = fs::read(&path) else { continue };
        let began = Instant::now();
        let facts = Facts::read(&bytes);
        facts_time += began.elapsed();
        if let Ok(facts) = &facts {
            let began = Instant::now();
            let checked = validate(facts, &bytes);
            rules_time += began.elapsed();
            if checked.is_ok() {
                n_intact += 1;
                n_bytes += bytes.len();
                continue;
            }
        }
        let findings = damages(&bytes);
        let worst = findings.iter().max_by_key(|finding| finding.severity);
        match worst.expect("a reason").severity {
            Severity::Corrupt => corrupt.push((path, findings)),
            _ => refused.push((path, bytes, findings)),
        }
    }
    println!(
        "{n_intact} intact, {n_bytes} bytes, {} refused; facts {facts_time:?}, rules {rules_time:?}",
        refused.len()
    );
    for (path, findings) in &corrupt {
        println!("{}: {}", path.display(), findings[0]);
    }
    assert!(corrupt.is_empty(), "{} called corrupt", corrupt.len());
    assert!(n_intact > 0);
    // What is refused is something else, and the reason says what.
    for (path, bytes, findings) in refused {
        let [
            Finding {
                expected, found, ..
            },
        ] = &findings[..]
        else {
            panic!("{path:?}: {findings:?}");
        };
        let is = |mark: &str| expected.contains(mark) || found.contains(mark);
        let right = match bytes.get(..20) {
            Some(start) if start.starts_with(b"\x7fELF") => {
                match (start[4], start[18], start[16]) {
                    (1, _, _) => is("32-bit"),
                    (_, 183, _) => is("aarch64"),
                    (_, 62, kind) => kind != 3 && is("ET_"),
                    _ => is("machine") || is("riscv") || is("ppc64") || is("s390"),
                }
            }
            _ => is("an ELF file"),
        };
        assert!(right, "{path:?}: {findings:?}");
    }
}

const SOURCE: &str = r#"
int data_word = 42;
static int hidden = 7;
int *escape = &hidden;
_Thread_local int per_thread = 3;
__attribute__((constructor)) static void build(void) { data_word++; }
int add(int a, int b) { return a + b + hidden + per_thread; }
"#;

/// Sets `width` bytes at `at`.
fn set(bytes: &mut [u8], at: u64, value: u64, width: usize) {
    let at = usize::try_from(at).unwrap();
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

fn get(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// File offset of the entry in `PT_DYNAMIC` with this tag; its value is 8 bytes on.
fn entry(bytes: &[u8], tag: u64) -> u64 {
    let facts = Facts::read(bytes).unwrap();
    let start = facts.offset_at(facts.dynamic.vaddr, 16).unwrap();
    let mut places = (0..facts.dynamic.size / 16).map(|n| start + n * 16);
    places.find(|at| get(bytes, *at) == tag).expect("the tag")
}

/// File offset of the table that an entry names.
fn table(bytes: &[u8], tag: u64) -> u64 {
    let vaddr = get(bytes, entry(bytes, tag) + 8);
    let facts = Facts::read(bytes).unwrap();
    facts.offset_at(vaddr, 1).expect("in the file")
}

/// File offset of the first program header of this type.
fn header(bytes: &[u8], kind: u32) -> u64 {
    let count = u64::from(bytes[56]);
    let mut places = (0..count).map(|n| 64 + n * 56);
    let is = |at: &u64| get(bytes, *at) & 0xffff_ffff == u64::from(kind);
    places.find(is).expect("the header")
}

const SYMTAB: u64 = 6;
const RELA: u64 = 7;
const RELASZ: u64 = 8;
const RELACOUNT: u64 = 0x6fff_fff9;
const GNU_HASH: u64 = 0x6fff_fef5;
const HASH: u64 = 4;
const VERNEED: u64 = 0x6fff_fffe;
const VERSYM: u64 = 0x6fff_fff0;
const INIT_ARRAYSZ: u64 = 27;

#[test]
fn each_kind_of_damage_is_found_where_it_is() {
    let scratch = Scratch::new("damages");
    let source = scratch.write("x.c", SOURCE);
    let library = scratch.path().join("x.so");
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-Wl,--hash-style=both", "-o"]);
    run(gcc.arg(&library).arg(source));
    let intact = fs::read(library).unwrap();
    assert_eq!(damages(&intact), []);

    type Change = fn(&mut Vec<u8>) -> u64;
    let cases: [(&str, &str, Change); 19] = [
        ("elf-header", "no flags", |b| {
            set(b, 48, 1, 4);
            48
        }),
        (
            "segments",
            "thread-locals below 1 GiB with an alignment",
            |b| {
                let at = header(b, 7);
                set(b, at + 48, 0, 8);
                at
            },
        ),
        ("dynamic", "DT_VERSYM", |b| {
            let at = entry(b, VERSYM);
            set(b, at, 0x6fff_e000, 8);
            entry(b, VERNEED)
        }),
        ("dynamic", "a library's name", |b| {
            let at = entry(b, 1);
            set(b, at + 8, 0, 8);
            at
        }),
        ("dynamic", "a known tag", |b| {
            let at = entry(b, 3);
            set(b, at, 0x1234, 8);
            at
        }),
        ("symbols", "a zeroed symbol first", |b| {
            let at = table(b, SYMTAB);
            set(b, at + 8, 1, 8);
            at
        }),
        ("symbols", "a known binding", |b| {
            let at = table(b, SYMTAB) + 24;
            set(b, at + 4, 0x70, 1);
            at
        }),
        ("symbols", "a function in code", |b| {
            let facts = Facts::read(b).unwrap();
            let symbols = facts.symbols(b);
            let add = symbols
                .iter()
                .find(|s| facts.symbol_name(b, s) == b"add")
                .unwrap();
            set(b, add.entry_offset + 8, 0x10, 8);
            add.entry_offset
        }),
        ("hash", "the hash of the symbol's name", |b| {
            let at = table(b, GNU_HASH);
            let buckets = get(b, at) & 0xffff_ffff;
            let bloom = get(b, at + 8) & 0xffff_ffff;
            let chain = at + 16 + bloom * 8 + buckets * 4;
            let word = get(b, chain) as u32 ^ 0x10;
            set(b, chain, word.into(), 4);
            chain
        }),
        ("hash", "a bloom filter that knows each name", |b| {
            let at = table(b, GNU_HASH) + 16;
            set(b, at, 0, 8);
            at
        }),
        ("hash", "each symbol in the bucket of its name", |b| {
            // Two buckets change places.
            let at = table(b, HASH) + 8;
            let words = get(b, at);
            set(b, at, words.rotate_right(32), 8);
            at
        }),
        ("versions", "the hash of the version's name", |b| {
            let at = table(b, VERNEED) + 16;
            set(b, at, 1, 4);
            at
        }),
        ("versions", "a file of DT_NEEDED", |b| {
            let at = table(b, VERNEED);
            set(b, at + 4, 1, 4);
            at
        }),
        ("relocations", "a known type", |b| {
            // The last one: those before are relative, and counted as such.
            let size = get(b, entry(b, RELASZ) + 8);
            let at = table(b, RELA) + size - 24;
            set(b, at + 8, 5, 4);
            at
        }),
        ("relocations", "an address in the image", |b| {
            let at = table(b, RELA);
            set(b, at + 16, 1 << 40, 8);
            at
        }),
        ("relocations", "a target in a writable segment", |b| {
            let at = table(b, RELA);
            set(b, at, 0x1000, 8);
            at
        }),
        ("relocations", "a target of its own", |b| {
            let at = table(b, RELA);
            let other = get(b, at + 24);
            set(b, at, other, 8);
            at + 24
        }),
        ("relocations", "a relocation for each slot", |b| {
            let at = entry(b, INIT_ARRAYSZ);
            let size = get(b, at + 8);
            set(b, at + 8, size + 8, 8);
            let facts = Facts::read(b).unwrap();
            facts.offset_at(facts.dynamic.vaddr, 16).unwrap()
        }),
        ("unwind", "the record of this function", |b| {
            let facts = Facts::read(b).unwrap();
            let frames = facts.eh_frame_hdr.unwrap().vaddr;
            let at = facts.offset_at(frames, 20).unwrap() + 12;
            let start = get(b, at) as u32 + 1;
            set(b, at, start.into(), 4);
            at
        }),
    ];
    for (code, expected, change) in cases {
        let mut bytes = intact.clone();
        let at = change(&mut bytes);
        let findings = damages(&bytes);
        let first = findings
            .first()
            .unwrap_or_else(|| panic!("{expected}: nothing found"));
        assert_eq!(
            (first.code.name(), first.expected.as_str(), first.severity),
            (code, expected, Severity::Corrupt),
            "{first}"
        );
        assert_eq!(first.offset, Some(at), "{first}");
        assert!(!first.found.is_empty(), "{first}");
    }
}

const POINTERS: &str = r#"
static int words[400];
#define P4 words, words, words, words,
#define P20 P4 P4 P4 P4 P4
int *pointers[] = { P20 P20 P20 P20 P20 P20 P20 P20 P20 P20 };
extern int *further[];
int **all[] = { pointers, further };
int *further[] = { P20 P20 };
__attribute__((constructor)) static void build(void) { words[0]++; }
"#;

/// Relocations that are alike are looked at in runs: one that is not, anywhere in a run, is found as
/// if it were alone.
#[test]
fn damage_anywhere_in_a_run_of_relocations_is_found_there() {
    let scratch = Scratch::new("runs");
    let source = scratch.write("x.c", POINTERS);
    let library = scratch.path().join("x.so");
    run(Command::new("gcc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source));
    let intact = fs::read(library).unwrap();
    assert_eq!(damages(&intact), []);
    let facts = Facts::read(&intact).unwrap();
    let start = table(&intact, RELA);
    let n_relative = get(&intact, entry(&intact, RELACOUNT) + 8);
    assert!(n_relative > 240, "{n_relative}");
    let target = |n: u64| get(&intact, start + n * 24);
    let find = |n: u64, field: u64, value: u64, width: usize| {
        let mut bytes = intact.clone();
        set(&mut bytes, start + n * 24 + field, value, width);
        let findings = damages(&bytes);
        let first = findings.first();
        let first = first.unwrap_or_else(|| panic!("relocation {n}: nothing found"));
        (first.expected.clone(), first.offset)
    };
    for n in 0..n_relative {
        let place = Some(start + n * 24);
        // One that another relocation has, before or after: the later of the two is told.
        for other in [0, n / 2, n.saturating_sub(1), n + 1, n_relative - 1] {
            if other != n && other < n_relative {
                let later = Some(start + n.max(other) * 24);
                let found = find(n, 0, target(other), 8);
                assert_eq!(
                    found,
                    ("a target of its own".to_owned(), later),
                    "{n} {other}"
                );
            }
        }
        let expected = [
            (
                0,
                facts.dynamic.vaddr + 8,
                8,
                "a target that ld.so does not read",
            ),
            (
                0,
                facts.segments[0].vaddr + 64,
                8,
                "a target in a writable segment",
            ),
            (0, 1 << 40, 8, "a target inside a segment"),
            (16, u64::MAX, 8, "an address in the image"),
            (
                16,
                facts.span.vaddr + facts.span.size + 1,
                8,
                "an address in the image",
            ),
            (8, 5, 4, "relative ones first (DT_RELACOUNT)"),
            (12, 1, 4, "no symbol"),
        ];
        for (field, value, width, what) in expected {
            assert_eq!(
                find(n, field, value, width),
                (what.to_owned(), place),
                "{n}"
            );
        }
        // At an odd place it shares bytes with the next.
        if (0..n_relative).any(|other| target(other) == target(n) + 8) {
            assert_eq!(find(n, 0, target(n) + 4, 8).0, "a target of its own", "{n}");
        }
    }
}

/// `object` 0.40 shifts a hash by what the file says, which panics in debug builds; ld.so takes the
/// number modulo 32.
#[test]
fn a_bloom_shift_that_makes_another_parser_panic_is_a_finding() {
    let scratch = Scratch::new("shift");
    let source = scratch.write("x.c", SOURCE);
    let library = scratch.path().join("x.so");
    run(Command::new("gcc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source));
    let mut bytes = fs::read(library).unwrap();
    let at = table(&bytes, GNU_HASH) + 12;
    set(&mut bytes, at, 32, 4);
    let findings = damages(&bytes);
    assert_eq!(
        findings[0].to_string(),
        format!("hash: DT_GNU_HASH at {at:#x}: expected a bloom shift below 32, found 32")
    );
}

#[test]
fn programs_and_other_machines_are_refused_and_not_called_corrupt() {
    let program = fs::read(env::current_exe().unwrap()).unwrap();
    let findings = damages(&program);
    let [finding] = &findings[..] else {
        panic!("{findings:?}");
    };
    assert_eq!(finding.severity, Severity::Refused, "{finding}");
    assert!(finding.found.contains("a program"), "{finding}");
    for (bytes, what) in [
        (&b""[..], "nothing"),
        (b"#!/bin/sh\n", "23 21"),
        (b"\x7fELF\x01\x01\x01", "32-bit"),
    ] {
        let findings = damages(bytes);
        assert_eq!(findings[0].severity, Severity::Refused);
        assert!(findings[0].found.contains(what), "{}", findings[0]);
    }
}
