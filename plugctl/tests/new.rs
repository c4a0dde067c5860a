//! `plugctl new`: what it writes builds, passes its test and the check, and is loaded by a host.

mod kit;

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use kit::Place;

/// Runs a program that must succeed.
fn run(command: &mut Command) {
    let output = command.output().expect("started");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Makes a plugin, has it built and tested as the command says, checks and loads what came out.
fn lives(lang: &str, name: &str, environment: &[(&str, &Path)]) {
    let place = Place::new();
    let dir = place.dir.join("made");
    let dir = dir.to_str().expect("text");
    let api = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-api");
    let api = api.to_str().expect("text");
    let made = place.run(&[
        "new", name, "--lang", lang, "--dir", dir, "--api", api, "--json",
    ]);
    assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""));
    let said = made.json();
    let said = said.as_array().expect("lines").iter();
    let said: Vec<&str> = said.map(|line| line.as_str().expect("text")).collect();
    let [build, test, check] = &said[..] else {
        panic!("{said:?}");
    };
    for line in [build, test] {
        let (_, command) = line.split_once(": ").expect("a command");
        let mut words = command.split_ascii_whitespace();
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).envs(environment.iter().copied());
        // Neither the tests' own flags nor their target folder.
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
            command.env_remove(variable);
        }
        run(&mut command);
    }
    let file = check.rsplit_once(' ').expect("a file").1;
    let file = match environment.first() {
        Some((_, target)) => target
            .join("release")
            .join(Path::new(file).file_name().expect("named")),
        None => file.into(),
    };
    let file = file.to_str().expect("text");
    let checked = place.run(&["check", "--probe", "--json", file]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    let report = checked.json();
    assert_eq!(report["verdict"], "ok", "{report}");
    assert_eq!(report["unloadable"], true, "{report}");
    assert_eq!(report["findings"], serde_json::json!([]), "{report}");
    let host = place.serve("new", &[]);
    for command in [vec!["load", file], vec!["unload", name]] {
        let ended = place.run(&command);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    assert_eq!(host.end().code, Some(0));
}

#[test]
fn a_plugin_in_rust_lives() {
    // All that it depends on is built anew: kept for the next time.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new");
    lives("rust", "made-in_rust2", &[("CARGO_TARGET_DIR", &target)]);
}

#[test]
fn a_plugin_in_c_lives() {
    lives("c", "made-in_c2", &[]);
}

#[test]
fn a_plugin_in_cpp_lives() {
    lives("c++", "made-in_cpp2", &[]);
}

#[test]
fn names_and_folders_that_will_not_do_are_refused_untouched() {
    let place = Place::new();
    for name in ["2fast", "a/b", "Big", "a.b", ""] {
        let dir = place.dir.join("refused");
        let ended = place.run(&["new", name, "--dir", dir.to_str().expect("text")]);
        assert_eq!(ended.code, Some(2), "{name}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(
                "expected a name of lower-case letters, digits, - and _ that begins with a letter"
            ),
            "{}",
            ended.stderr
        );
        assert!(!dir.exists());
    }
    let there = place.dir.join("there");
    fs::create_dir(&there).expect("folder");
    let ended = place.run(&["new", "there", "--dir", there.to_str().expect("text")]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("File exists"), "{}", ended.stderr);
    assert_eq!(fs::read_dir(&there).expect("folder").count(), 0);
}
