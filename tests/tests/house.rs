//! The rules of the house that a reader of the code relies on: floors, unsafe, crates, README.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use plug_tests::matrix::ROWS;
use plug_tests::standalone::repository;

/// The only files of the loader that may contain unsafe code.
const UNSAFE: &[&str] = &[
    "audit",
    "audit/signal",
    "bundle",
    "calls",
    "constructors",
    "context",
    "crash",
    "crash/attempt",
    "crash/handler",
    "crash/memory",
    "crash/registers",
    "footprint",
    "footprint/counting",
    "footprint/exits",
    "footprint/forks",
    "footprint/hooks",
    "footprint/keys",
    "footprint/ledger",
    "footprint/libraries",
    "footprint/mappings",
    "footprint/notices",
    "footprint/signals",
    "footprint/stacks",
    "footprint/timers",
    "fork",
    "handles",
    "handover",
    "imports",
    "index",
    "lend",
    "load",
    "pin",
    "plugin",
    "process",
    "quarantine",
    "reaper",
    "record",
    "registry",
    "runtimes",
    "signature",
    "snapshot",
    "sys/actions",
    "sys/alternate_stack",
    "sys/arguments",
    "sys/clock",
    "sys/code",
    "sys/data",
    "sys/descriptor",
    "sys/dl",
    "sys/inherited",
    "sys/link_map",
    "sys/mapping",
    "sys/membarrier",
    "sys/objects",
    "sys/pages",
    "sys/notices",
    "sys/process_exit",
    "sys/slots",
    "sys/spawn",
    "sys/task",
    "sys/thread",
    "sys/thread_exit",
    "sys/timer",
    "task",
    "threads",
    "trust",
    "unload",
    "unwinding",
    "worker",
    "zombies",
    "lib",
];

/// The one file of the loader that names an outside crate.
const OUTSIDE: &[(&str, &str)] = &[
    ("gimli", "crash/cfi"),
    ("object", "image/elf"),
    ("libloading", "sys/dl"),
    ("dashmap", "flights"),
    ("arc_swap", "registry"),
    ("slab", "pins"),
    ("strsim", "settings"),
    ("semver", "image/plugin_import"),
    ("serde_json", "control/wire"),
    ("toml", "directives/reader"),
    ("minisign_verify", "authority/minisign"),
    ("sha2", "digest"),
];

fn sources(under: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(under).expect("folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Name of each file of the loader, such as `image/elf`, and its text without tests.
fn loader() -> BTreeMap<String, String> {
    let root = repository().join("loader/src");
    sources(&root)
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below").with_extension("");
            let text = fs::read_to_string(&path).expect("text");
            let text = text
                .split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap_or_default();
            (name.display().to_string(), text.to_owned())
        })
        .collect()
}

/// The code of a file without comments.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The floors as the architecture document tells them.
fn floors() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(repository().join("docs/ARCHITECTURE.md")).expect("document");
    let mut floors = BTreeMap::new();
    for line in text.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(floor), Some(files)) = (cells.next(), cells.next()) else {
            continue;
        };
        let Ok(floor) = floor.parse() else { continue };
        for file in files.split('`').skip(1).step_by(2) {
            assert!(
                floors.insert(file.to_owned(), floor).is_none(),
                "{file} stands twice"
            );
        }
    }
    floors
}

#[test]
fn every_file_stands_on_a_floor_and_imports_only_go_down() {
    let floors = floors();
    let files = loader();
    assert!(files.len() > 30);
    let missing: Vec<_> = files
        .keys()
        .filter(|name| !floors.contains_key(*name))
        .collect();
    assert!(
        missing.is_empty(),
        "not in the architecture document: {missing:?}"
    );
    let gone: Vec<_> = floors
        .keys()
        .filter(|name| !files.contains_key(*name))
        .collect();
    assert!(
        gone.is_empty(),
        "in the architecture document only: {gone:?}"
    );
    let mut imports = 0;
    for (file, text) in &files {
        let code = code(text);
        for path in code.split("crate::").skip(1) {
            let path: String = path
                .chars()
                .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
                .collect();
            let mut words = path.split("::").filter(|word| !word.is_empty());
            let first = words.next().unwrap_or_default();
            let second = words.next().unwrap_or_default();
            let nested = format!("{first}/{second}");
            let module = format!("{first}/mod");
            let Some(floor) = [nested.as_str(), first, &module]
                .iter()
                .find_map(|name| floors.get(*name))
            else {
                continue;
            };
            imports += 1;
            // The crate's root and a folder's own root name what is above or beside them.
            if file == "lib" || file.ends_with("/mod") {
                continue;
            }
            assert!(
                *floor <= floors[file],
                "{file} imports {path}, which stands above it"
            );
        }
    }
    assert!(imports > 50, "found only {imports} imports");
}

#[test]
fn unsafe_code_stays_in_the_files_that_are_listed() {
    for (file, text) in loader() {
        let has = code(&text)
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|w| w == "unsafe");
        if UNSAFE.contains(&file.as_str()) {
            continue;
        }
        assert!(!has, "{file} contains unsafe code and is not listed");
        // A folder's root that only names files cannot forbid it for them all.
        if file != "sys/mod" {
            assert!(
                text.contains("#![forbid(unsafe_code)]"),
                "{file} does not forbid unsafe code"
            );
        }
    }
}

#[test]
fn outside_crates_are_named_in_one_file() {
    let files = loader();
    for (name, home) in OUTSIDE {
        for (file, text) in &files {
            let named = code(text).contains(&format!("{name}::"));
            assert_eq!(named, file == home, "{name} in {file}");
        }
    }
}

#[test]
fn the_floors_below_know_nobody() {
    for folder in ["loader/readside/src", "plugin-api/src"] {
        for path in sources(&repository().join(folder)) {
            let text = code(&fs::read_to_string(&path).expect("text"));
            for other in ["plug_loader", "plug_filter", "libc::", "tracing"] {
                assert!(!text.contains(other), "{} names {other}", path.display());
            }
        }
    }
}

#[test]
fn readme_quotes_the_example_host_and_plugin_word_for_word() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("README");
    for (file, most) in [
        ("examples/src/bin/minimal-host.rs", 15),
        ("example-plugins/hello/src/lib.rs", 8),
    ] {
        let text = fs::read_to_string(repository().join(file)).expect("example");
        let body: Vec<&str> = text
            .lines()
            .skip_while(|line| line.starts_with("//!"))
            .collect();
        let body = body.join("\n");
        let body = body.trim();
        assert!(
            readme.contains(body),
            "{file} is not quoted as it stands:\n{body}"
        );
        assert!(
            body.lines().count() <= most,
            "{file} has more than {most} lines"
        );
    }
}

#[test]
fn readme_commands_are_the_ones_the_gate_runs() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("README");
    let gate = fs::read_to_string(repository().join(".ci/run")).expect("gate");
    for command in [
        "cargo run --release --bin pipeline",
        "cargo test --workspace",
    ] {
        assert!(readme.contains(command), "README: {command}");
        assert!(gate.contains(command), ".ci/run: {command}");
    }
}

#[test]
fn every_test_file_runs_tests() {
    for path in sources(&repository().join("tests/tests")) {
        let text = fs::read_to_string(&path).expect("text");
        // One without libtest has its own main.
        let runs = ["#[test]", "\nfn main()"]
            .iter()
            .any(|mark| text.contains(mark));
        assert!(runs, "{} has no test", path.display());
        let ignored = concat!("#[", "ignore");
        assert!(!text.contains(ignored), "{} ignores one", path.display());
    }
}

/// The names of the test functions in `text`.
fn tests_in(text: &str) -> Vec<&str> {
    let after_marks = text.split("#[test]").skip(1);
    let names = after_marks.filter_map(|after| {
        let (_, name) = after.split_once("fn ")?;
        name.split('(').next()
    });
    names.collect()
}

/// Fails unless `statement` names tests, as `file::test`, and all of them exist.
fn assert_shown(statement: &str) {
    let named: Vec<_> = statement
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once("::"))
        .filter(|(file, _)| file.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    assert!(!named.is_empty(), "shown by no test: {statement}");
    for (file, test) in named {
        let path = repository().join(format!("tests/tests/{file}.rs"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            tests_in(&text).contains(&test),
            "no such test: {file}::{test}"
        );
    }
}

#[test]
fn every_threat_names_tests_that_exist() {
    let page = fs::read_to_string(repository().join("docs/SECURITY.md")).expect("page");
    let (_, table) = page.split_once("## Threats").expect("threats");
    let (table, _) = table.split_once("\n## ").expect("an end");
    let rows: Vec<&str> = table.lines().filter(|l| l.starts_with("| **")).collect();
    assert!(rows.len() > 15, "{rows:#?}");
    for row in rows {
        let (_, shown) = row
            .trim_end_matches(" |")
            .rsplit_once(" | ")
            .expect("cells");
        assert_shown(shown);
    }
}

#[test]
fn every_race_of_the_kernels_names_tests_that_exist() {
    let text = fs::read_to_string(repository().join("tests/tests/races.rs")).expect("text");
    let rows = text.lines().filter(|line| line.starts_with("//! | 2"));
    let rows: Vec<&str> = rows.collect();
    assert!(rows.len() > 15, "{rows:#?}");
    for row in rows {
        assert_shown(row);
    }
}

#[test]
fn every_statement_about_true_unload_names_tests_and_rows_that_exist() {
    let page = fs::read_to_string(repository().join("docs/true-unload.md")).expect("page");
    let mut statements = Vec::new();
    let mut is_list = false;
    for line in page.lines() {
        match line.strip_prefix("- ") {
            Some(text) => statements.push(text.to_owned()),
            None if is_list && line.starts_with("  ") => {
                let last = statements.last_mut().expect("a list");
                last.push_str(&line[1..]);
            }
            None => {}
        }
        is_list = line.starts_with("- ") || line.starts_with("  ");
    }
    assert!(statements.len() > 15, "{statements:#?}");
    for statement in &statements {
        assert_shown(statement);
        for row in statement.split('"').skip(1).step_by(2) {
            let is_row = ROWS.iter().any(|other| other.name == row);
            assert!(is_row, "no such row of the matrix: {row}");
        }
    }
}
