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
