//! Commands that need no host: files, completions, manual pages, usage.

mod kit;

use std::fs;
use std::process::Command;

use kit::{Place, example, hostile};

fn nm(path: &str) -> String {
    let output = Command::new("nm")
        .args(["-D", "--defined-only", "-S", path])
        .output()
        .expect("nm");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn symbols_of_files_are_what_nm_prints() {
    let place = Place::new();
    let system = ["libc.so.6", "libstdc++.so.6", "libm.so.6", "libgcc_s.so.1"];
    let system = system.map(|name| format!("/usr/lib/x86_64-linux-gnu/{name}"));
    let names = ["checksum", "base64", "wordcount", "mime", "reading"].map(example);
    for path in system
        .iter()
        .filter(|path| fs::exists(path).unwrap())
        .chain(&names)
    {
        let text = place.run(&["symbols", "--no-demangle", path]);
        assert_eq!((text.code, text.stderr.as_str()), (Some(0), ""), "{path}");
        let expected = nm(path);
        assert_eq!(sorted(&text.stdout), sorted(&expected), "{path}");

        let rows = place.run(&["--json", "symbols", path]).json();
        let mut lines: Vec<String> = Vec::new();
        for row in rows.as_array().expect("array") {
            let text = |key: &str| row[key].as_str().expect(key);
            let at = match (text("version"), row["default"].as_bool().expect("default")) {
                ("", _) => String::new(),
                (version, true) => format!("@@{version}"),
                (version, false) => format!("@{version}"),
            };
            let address = text("address").strip_prefix("0x").expect("hexadecimal");
            let size = match row["size"].as_u64().expect("size") {
                0 => String::new(),
                size => format!("{size:016x} "),
            };
            lines.push(format!(
                "{address:0>16} {size}{} {}{at}",
                text("kind"),
                text("name")
            ));
        }
        lines.sort_unstable();
        assert_eq!(lines, sorted(&expected), "{path}");
    }
}

#[test]
fn symbols_of_cpp_are_shown_as_written_unless_told_otherwise() {
    let place = Place::new();
    let source = place.dir.join("names.cpp");
    fs::write(
        &source,
        "namespace codec { int encode(int n) { return n; } }\n",
    )
    .unwrap();
    let library = place.dir.join("libnames.so");
    let built = Command::new("g++")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.unwrap().success());
    let library = library.to_str().unwrap();
    let shown = place.run(&["symbols", library]).stdout;
    assert!(shown.contains(" T codec::encode(int)\n"), "{shown}");
    let mangled = place.run(&["symbols", library, "--no-demangle"]).stdout;
    assert!(mangled.contains(" T _ZN5codec6encodeEi\n"), "{mangled}");
    let rows = place.run(&["symbols", library, "--json"]).json();
    let names = rows.as_array().unwrap().iter().map(|row| &row["name"]);
    assert!(names.into_iter().any(|name| name == "_ZN5codec6encodeEi"));
    assert!(!rows.to_string().contains("codec::encode"));
}

#[test]
fn info_of_a_file_has_modinfos_layout() {
    let place = Place::new();
    let path = example("base64");
    let all = place.run(&["info", &path]);
    assert_eq!((all.code, all.stderr.as_str()), (Some(0), ""));
    let head: Vec<&str> = all.stdout.lines().take(4).collect();
    let expected = [
        format!("filename:       {path}"),
        "name:           base64".to_owned(),
        "version:        1.0.0".to_owned(),
        "description:    base64 of a stream".to_owned(),
    ];
    assert_eq!(head, expected);
    place
        .run(&["info", "-F", "version", &path])
        .is(0, "1.0.0\n", "");
    let null = place.run(&["info", "-0", &path]);
    assert!(
        null.stdout
            .starts_with(&format!("filename:{path}\0name:base64\0version:1.0.0\0"))
    );
    assert_eq!(
        place.run(&["info", "-0", "-F", "name", &path]).stdout,
        "base64\0"
    );
    assert_eq!(
        place.run(&["info", "--json", &path]).json()["license"],
        "MIT OR Apache-2.0"
    );
    // Every edit is told to those who ask, and counted for all.
    let json = place.run(&["info", "--json", &path]).json();
    let edits = json["edit"].as_array().expect("several");
    assert_eq!(json["edits"], edits.len().to_string().as_str());
    let hidden = |edit: &serde_json::Value| {
        let text = edit.as_str().unwrap_or_default();
        text.starts_with("DT_FINI_ARRAY at 0x")
            && text.ends_with("hidden from ld.so; the loader runs it")
    };
    assert!(edits.iter().any(hidden), "{edits:?}");
    assert!(!all.stdout.contains("\nedit: "));
    assert!(
        all.stdout.contains("libc.so.6 shared (ld.so)"),
        "{}",
        all.stdout
    );
    let missing = format!("plugctl: {path} has no field colour\n");
    place
        .run(&["info", "-F", "colour", &path])
        .is(1, "", &missing);
}

#[test]
fn files_that_are_none_have_their_own_codes() {
    let place = Place::new();
    place.run(&["info", "/no/such.so"]).is(
        3,
        "",
        "plugctl: /no/such.so: No such file or directory (os error 2)\n",
    );
    let text = place.dir.join("text.so");
    fs::write(&text, "no library").unwrap();
    let text = text.to_str().unwrap();
    let ended = place.run(&["symbols", text]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(5), ""));
    assert!(
        ended.stderr.contains("expected an ELF file"),
        "{}",
        ended.stderr
    );
    let json = place.run(&["--json", "symbols", text]);
    let failure: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(failure["kind"], "damaged");
    assert_eq!(failure["holders"], serde_json::json!([]));
}

#[test]
fn a_bare_name_with_so_that_exists_is_a_file() {
    let place = Place::new();
    fs::copy(hostile("wrong-abi"), place.dir.join("here.so")).unwrap();
    let output = place
        .command(&["info", "-F", "name", "here.so"])
        .current_dir(&place.dir)
        .output();
    kit::Ended::of(output.unwrap()).is(0, "wrong-abi\n", "");
    place
        .run(&["info", "not-here.so"])
        .is(3, "", "plugctl: no live host\n");
}

#[test]
fn usage_errors_have_code_2() {
    let place = Place::new();
    for args in [
        &["bogus"][..],
        &["unload"],
        &["unload", "x", "--wait", "-1"],
        &["load", "x.so", "novalue"],
        &["resolve", "xyz"],
        &["serve", "--workers", "0"],
    ] {
        let ended = place.run(args);
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(2), ""),
            "{args:?}"
        );
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn completions_and_manual_pages_are_generated() {
    let place = Place::new();
    for (shell, mark) in [
        ("bash", "_plugctl()"),
        ("zsh", "#compdef plugctl"),
        ("fish", "complete"),
    ] {
        let script = place.run(&["completions", shell]);
        assert_eq!((script.code, script.stderr.as_str()), (Some(0), ""));
        assert!(script.stdout.contains(mark), "{shell}");
    }
    let dir = place.dir.join("man");
    let pages = place.run(&["man", dir.to_str().unwrap()]);
    assert_eq!((pages.code, pages.stderr.as_str()), (Some(0), ""));
    assert!(
        pages.stdout.contains("/plugctl-unload.1\n"),
        "{}",
        pages.stdout
    );
    for page in pages.stdout.lines() {
        assert!(fs::read_to_string(page).unwrap().contains(".TH"), "{page}");
    }
}
