//! check --probe, hosts that probe, and the quarantine: through the real binary.

mod kit;

use std::fs;

use kit::{Place, example, hostile};

#[test]
fn check_probes_files_and_says_whether_they_can_be_unloaded() {
    let place = Place::new();
    let good = example("base64");
    let rows = place.run(&["--json", "check", "--probe", &good]).json();
    assert_eq!(rows["verdict"], "ok");
    assert_eq!(rows["unloadable"], true);
    assert_eq!(rows["findings"], serde_json::json!([]));
    assert_eq!(rows["probe"]["verdict"], "passed");
    let text = place.run(&["check", "--probe", &good]);
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert_eq!(text.code, Some(0));
    assert_eq!(lines[..2], [&format!("{good}: ok"), "  unloadable: yes"]);
    assert!(
        lines[2].starts_with("  probed in ") && lines[2].contains("init "),
        "{text:?}"
    );

    let crashing = hostile("constructor-crashes");
    let crashed = place.run(&["check", "--probe", &crashing, &good]);
    assert_eq!(crashed.code, Some(5));
    let expected = format!(
        "{crashing}: refused\n  unloadable: no, because it ended its probe in its constructors: \
         SIGSEGV in crash\n"
    );
    assert!(crashed.stdout.starts_with(&expected), "{crashed:?}");
    assert!(
        crashed.stdout.contains(&format!("{good}: ok")),
        "{crashed:?}"
    );
    // Without a probe nothing of it runs.
    let unprobed = place.run(&["check", &crashing]);
    let expected = format!("{crashing}: ok\n  unloadable: yes\n");
    assert!(unprobed.stdout.starts_with(&expected), "{unprobed:?}");

    let pinned = place.plugin(
        "stays",
        "int f(void) { return 1; }",
        &["-Wl,-z,nodelete", "-fvisibility=default"],
    );
    let pinned = pinned.to_str().expect("there");
    let stays = place.run(&["--json", "check", "--probe", pinned]).json();
    assert_eq!(
        (&stays["verdict"], &stays["unloadable"]),
        (&"foreign".into(), &false.into())
    );
    let because = stays["probe"]["because"].as_str().expect("there");
    assert!(because.contains("DF_1_NODELETE"), "{because}");
    let text = place.dir.join("text.so");
    fs::write(&text, "no library").expect("there");
    let corrupt = place.run(&["check", "--probe", text.to_str().expect("there")]);
    assert_eq!(corrupt.code, Some(5));
    assert!(corrupt.stdout.contains("text.so: refused\n"), "{corrupt:?}");
}

#[test]
fn hosts_probe_first_loads_and_remember_what_crashed() {
    let place = Place::new();
    let state = place.dir.join("state");
    let state = state.to_str().expect("there");
    let crashing = hostile("constructor-crashes");
    let digest = plug_loader::Digest::of(&fs::read(&crashing).expect("there"));
    let why = "it ended its probe in its constructors: SIGSEGV in crash";
    let clear = format!(
        "in quarantine: {why}; repair it, or let it in by plugctl quarantine clear {digest}\n"
    );
    let host = place.serve("careful", &["--probe", "--state", state]);
    let first = format!("plugctl: constructor-crashes: probe: {clear}");
    place.run(&["load", &crashing]).is(5, "", &first);
    let again = format!("plugctl: {crashing:?}: verify: {clear}");
    place.run(&["load", &crashing]).is(5, "", &again);
    place.run(&["load", &example("base64")]).code_is(0);
    let events = place.run(&["--json", "events"]).json();
    let events = events.as_array().expect("there").iter();
    let probed = events.filter(|event| event["kind"] == "probed");
    let said: Vec<_> = probed
        .map(|event| event["message"].as_str().expect("there"))
        .collect();
    assert_eq!(
        said,
        [
            "ended its probe in its constructors: SIGSEGV in crash",
            "passed its probe"
        ]
    );
    assert_eq!(host.end().code, Some(0));

    let quarantine = |args: &[&str]| {
        let mut all = vec!["quarantine", "--state", state];
        all.extend(args);
        place.run(&all)
    };
    let line = format!("{digest} constructor-crashes: {why} ({crashing})\n");
    quarantine(&["list"]).is(0, &line, "");
    // A host without probes would have died of it.
    let host = place.serve("careless", &["--state", state]);
    place.run(&["load", &crashing]).is(5, "", &again);
    quarantine(&["clear", &crashing]).is(0, "", "");
    let gone = format!("plugctl: {digest} is not in quarantine\n");
    quarantine(&["clear", &digest.to_string()]).is(3, "", &gone);
    quarantine(&["list"]).is(0, "", "");
    let died = place.run(&["load", &crashing]);
    assert_eq!(died.code, Some(1), "{died:?}");
    let listed = quarantine(&["list"]);
    let line = format!(
        "{digest} constructor-crashes: process {} ended while it was loading it ({crashing})\n",
        host.pid
    );
    listed.is(0, &line, "");
    let unnamed = place.run(&["quarantine", "list"]);
    unnamed.is(
        2,
        "",
        "plugctl: which state folder? Name it by --state or PLUG_STATE\n",
    );
}

#[test]
fn check_tells_authors_what_their_plugin_was_seen_doing() {
    let place = Place::new();
    let notes = |path: &str, more: &[&str]| {
        let args = [&["--json", "check", "--probe"], more, &[path]].concat();
        // Stacks that nobody reads are not worth the time that they take in a debug build.
        let mut command = place.command(&args);
        let output = command.env("RUST_BACKTRACE", "0").output();
        let ended = kit::Ended::of(output.expect("plugctl"));
        let report = ended.json();
        assert_eq!(report["file"], path);
        let findings = report["findings"].as_array().expect("a list");
        let noted = findings.iter().filter(|f| f["code"] == "conformance");
        let noted = noted.map(|f| (text(&f["structure"]), text(&f["found"])));
        (ended.code, noted.collect::<Vec<_>>(), report.clone())
    };

    // Whatever its functions throw is caught.
    for (name, expected) in [
        (
            "export-panics",
            vec![
                ("panics", "the export gives up"),
                ("panics_with_payload", ""),
            ],
        ),
        (
            "export-throws",
            vec![("throws", "the export gives up"), ("throws_int", "")],
        ),
    ] {
        let path = hostile(name);
        let (code, noted, report) = notes(&path, &["--calls"]);
        assert_eq!(
            (code, text(&report["verdict"])),
            (Some(0), "ok".to_owned()),
            "{report}"
        );
        assert_eq!(report["unloadable"], true, "{report}");
        for (function, message) in &expected {
            let structure = format!("its function {function}");
            let told = noted.iter().find(|(place, _)| *place == structure);
            let (_, found) = told.unwrap_or_else(|| panic!("{function}: {report}"));
            let expected = "a panic or an exception, which was caught: ";
            assert!(
                found.starts_with(expected) && found.contains(message),
                "{found}"
            );
        }
        let calls = report["probe"]["calls"].as_array().expect("a list");
        assert_eq!(
            calls.len(),
            expected.len(),
            "not those with parameters: {report}"
        );
        // Unless it is asked for, none is called.
        let (_, noted, report) = notes(&path, &[]);
        assert_eq!(report["probe"]["calls"], serde_json::json!([]));
        assert_eq!(noted, [], "{report}");
    }
    let alone = place.run(&["check", "--calls", &hostile("export-throws")]);
    assert_eq!(alone.code, Some(2), "{alone:?}");

    // One that lets it out is refused, and the function named.
    let leaky = place.cpp_plugin(
        "leaky",
        "#include \"plugin_api.h\"
         static int32_t init(const plug_host_context *) { return PLUG_OK; }
         static void stop() {}
         PLUG_PLUGIN(\"leaky\", \"1.0.0\", \"lets an exception out\", \"MIT\", init, stop);
         PLUG_EXPORT(int32_t, leaks, (void)) { throw 42; }
         PLUG_EXPORT(int32_t, later, (void)) { return 1; }",
    );
    let leaky = leaky.to_str().expect("text");
    let ended = place.run(&["check", "--probe", "--calls", leaky]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    let why = "unloadable: no, because it ended its probe in its function leaks: SIGABRT";
    assert!(ended.stdout.contains(why), "{ended:?}");
    assert!(
        ended.stdout.contains("  called leaks: ended the probe\n"),
        "{ended:?}"
    );
    let report = place.run(&["--json", "check", "--probe", "--calls", leaky]);
    let report: serde_json::Value = serde_json::from_str(&report.stdout).expect("an object");
    assert_eq!(report["verdict"], "refused", "{report}");
    assert_eq!(report["findings"][0]["code"], "probe", "{report}");

    // What is done in constructors is seen, as is what is left.
    let (code, noted, report) = notes(&hostile("constructor-slow"), &[]);
    assert_eq!((code, &report["unloadable"]), (Some(0), &true.into()));
    let seen = noted
        .iter()
        .filter(|(place, _)| place == "its constructors");
    assert_eq!(seen.count(), 1, "{report}");
    let named = noted.iter().find(|(_, found)| found == "dawdle");
    assert_eq!(named.expect("named").0, "DT_INIT_ARRAY", "{report}");
    let littering = place.plugin(
        "litters",
        "#define _GNU_SOURCE
         #include <fcntl.h>
         #include <pthread.h>
         #include <unistd.h>
         #include \"plugin_api.h\"
         static void *forever(void *p) { for (;;) pause(); return p; }
         static int32_t init(const plug_host_context *ctx) {
             pthread_t thread;
             (void)ctx;
             if (open(\"/dev/zero\", O_RDONLY) < 0) { return 7; }
             if (pthread_create(&thread, 0, forever, 0) != 0) { return 8; }
             pthread_setname_np(thread, \"litter\");
             return PLUG_OK;
         }
         static void stop(void) {}
         PLUG_PLUGIN(\"litters\", \"1.0.0\", \"leaves a thread\", \"MIT\", init, stop);",
        &[],
    );
    let (_, noted, report) = notes(littering.to_str().expect("text"), &[]);
    assert_eq!(report["unloadable"], false, "{report}");
    assert!(text(&report["because"][0]).contains("litter"), "{report}");
    for left in ["1 x thread litter", "1 x descriptor of /dev/zero"] {
        let told = noted.iter().any(|(_, found)| found == left);
        assert!(told, "{left}: {report}");
    }

    // What fails in an orderly way is refused with its own words.
    for (name, word) in [
        ("init-fails", "init: init returned"),
        ("init-panics", "init: init returned 1"),
    ] {
        let ended = place.run(&["--json", "check", "--probe", &hostile(name)]);
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).expect("an object");
        assert_eq!(ended.code, Some(5), "{report}");
        assert_eq!(report["verdict"], "refused", "{report}");
        assert_eq!(report["probe"]["verdict"], "failed", "{report}");
        assert!(text(&report["probe"]["message"]).contains(word), "{report}");
    }

    // The useful ones are as they should be.
    for name in ["base64", "checksum", "wordcount", "mime", "reading"] {
        let (code, noted, report) = notes(&example(name), &["--calls"]);
        assert_eq!((code, noted), (Some(0), Vec::new()), "{report}");
        assert_eq!(report["unloadable"], true, "{report}");
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().expect("a text").to_owned()
}
