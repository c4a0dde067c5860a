//! Every command against real hosts: what it prints, where, and its exit code.

mod kit;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

use kit::{Ended, Place, eventually, example, hostile, signal};

#[test]
fn a_plugin_from_load_to_history() {
    let place = Place::new();
    place.run(&["list"]).is(3, "", "plugctl: no live host\n");
    place
        .run(&["hosts"])
        .is(1, "Host PID Version Workers Plugins Barrier Socket\n", "");
    let host = place.serve("life", &["--workers", "3"]);

    let listed = place.run(&["--json", "hosts"]).json();
    assert_eq!(listed[0]["name"], "life");
    assert_eq!(listed[0]["pid"], host.pid);
    assert_eq!(
        (&listed[0]["workers"], &listed[0]["plugins"]),
        (&3.into(), &0.into())
    );
    assert_eq!(listed[0]["socket"], host.socket.to_str().unwrap());

    place
        .run(&["list"])
        .is(0, "Plugin Size Used by State Version Calls Taints\n", "");
    let base64 = example("base64");
    place.run(&["load", &base64, "wrap=76"]).is(
        0,
        "base64 1.0.0 is Live at 0x1: 1 bytes, generation 1, in 1 ms\n",
        "",
    );
    // Refused at once, with the reason.
    place.run(&["load", &base64]).is(
        4,
        "",
        "plugctl: base64: claim: a plugin of this name is Live; unload it first or load under \
         another name\n",
    );
    place.run(&["load", &base64, "--name", "second"]).is(
        0,
        "second 1.0.0 is Live at 0x1: 1 bytes, generation 2, in 1 ms\n",
        "",
    );

    // Workers found both.
    let rows = eventually(|| {
        let rows = place.run(&["list", "--json"]).json();
        let called = |n: usize| rows[n]["calls"].as_u64().is_some_and(|calls| calls > 0);
        (called(0) && called(1)).then_some(rows)
    });
    let row = rows[0].as_object().unwrap();
    let keys: Vec<&str> = row.keys().map(String::as_str).collect();
    let expected = [
        "automatic",
        "base",
        "build_id",
        "calls",
        "drift",
        "generation",
        "interfaces",
        "name",
        "permanent",
        "refs",
        "size",
        "state",
        "taints",
        "used_by",
        "users",
        "version",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        (&row["name"], &row["version"]),
        (&"base64".into(), &"1.0.0".into())
    );
    assert_eq!(
        (&row["state"], &row["generation"]),
        (&"Live".into(), &1.into())
    );
    assert_eq!(row["interfaces"], serde_json::json!(["plug.filter/1.0"]));

    // The descriptor's file is told as the caller named it.
    let info = place.run(&["info", "base64"]);
    assert!(info.stdout.starts_with(&format!(
        "filename:       {base64}\nname:           base64\n"
    )));
    place
        .run(&["info", "-F", "state", "base64"])
        .is(0, "Live\n", "");

    // Run-time symbols are the file's, moved by the base.
    let base = rows[0]["base"].as_str().unwrap();
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let of_file = place.run(&["symbols", &base64, "--json"]).json();
    let of_plugin = place.run(&["symbols", "base64", "--json"]).json();
    assert_eq!(
        of_file.as_array().unwrap().len(),
        of_plugin.as_array().unwrap().len()
    );
    for (file, plugin) in of_file
        .as_array()
        .unwrap()
        .iter()
        .zip(of_plugin.as_array().unwrap())
    {
        for key in ["name", "version", "default", "size", "kind"] {
            assert_eq!(file[key], plugin[key]);
        }
        let (at, moved) = (
            file["address"].as_str().unwrap(),
            plugin["address"].as_str().unwrap(),
        );
        assert_eq!(number(at) + number(base), number(moved));
    }

    // Addresses: inside a symbol, and nobody's.
    let encode = of_plugin
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == "base64_encode");
    let address = format!(
        "{:#x}",
        number(encode.unwrap()["address"].as_str().unwrap()) + 4
    );
    place.run(&["resolve", &address, "10"]).is(
        0,
        "Address Plugin Symbol Generation State\n\
         0x1 base64 base64_encode+0x4 1 Live\n\
         0x1 - - - -\n",
        "",
    );
    let resolved = place.run(&["resolve", &address, "--json"]).json();
    assert_eq!(resolved[0]["symbol"], "base64_encode");
    assert_eq!(
        (&resolved[0]["offset"], &resolved[0]["state"]),
        (&4.into(), &"Live".into())
    );
    place.run(&["resolve", "10"]).is(
        1,
        "Address Plugin Symbol Generation State\n0x1 - - - -\n",
        "",
    );

    let workers = place.run(&["workers", "--json"]).json();
    let names: Vec<&str> = workers
        .as_array()
        .unwrap()
        .iter()
        .map(|w| w["thread"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 3);
    assert!(
        names.iter().all(|name| name.starts_with("io-")),
        "{names:?}"
    );

    // All names are attempted; the first failure counts.
    let ended = place.run(&["unload", "nobody", "base64", "second", "--wait", "10"]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_eq!(ended.stderr, "plugctl: no plugin named nobody\n");
    let lines: Vec<String> = ended.stdout.lines().map(kit::masked).collect();
    for (line, name) in lines.iter().zip(["base64", "second"]) {
        assert_eq!(
            line,
            &format!("{name}: quiesced _ workers in _ time: _ idle, _ drained")
        );
    }
    assert_eq!(lines.len(), 2);

    let left = place.run(&["history", "--json"]).json();
    let names: Vec<&str> = left
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["second", "base64"]);
    // What the address was is still known, whatever comes to lie there.
    let again = place.run(&["load", &base64]);
    assert_eq!(again.code, Some(0), "{again:?}");
    let late = place.run(&["resolve", "--at", "1", &address, "10"]);
    assert_eq!(late.code, Some(0), "{late:?}");
    let lines: Vec<&str> = late.stdout.lines().collect();
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(
        words[1..5],
        ["base64", "base64_encode+0x4", "1", "Unloaded"]
    );
    assert!(lines[1].ends_with(" ago"), "{late:?}");
    assert_eq!(lines[2].split_whitespace().next(), Some("0x10"));
    let row = &place
        .run(&["resolve", "--at", "1", &address, "--json"])
        .json()[0];
    assert_eq!(
        (&row["version"], &row["offset"]),
        (&"1.0.0".into(), &4.into())
    );
    assert!(row["left_micros"].as_u64().is_some_and(|left| left > 0));
    assert_eq!(
        place.run(&["resolve", "--at", "99", &address]).code,
        Some(1)
    );
    place.run(&["unload", "base64", "--wait", "10"]);

    let events = place.run(&["events", "--json"]).json();
    let kinds: Vec<String> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            format!(
                "{} {}",
                event["plugin"].as_str().unwrap(),
                event["kind"].as_str().unwrap()
            )
        })
        .filter(|event| event.starts_with("base64"))
        .collect();
    assert_eq!(
        kinds,
        [
            "base64 coming",
            "base64 live",
            "base64 failed",
            "base64 going",
            "base64 unloaded",
            "base64 coming",
            "base64 live",
            "base64 going",
            "base64 unloaded"
        ]
    );
    host.end().is(0, "", "");
    place.run(&["list"]).is(3, "", "plugctl: no live host\n");
}

#[test]
fn files_that_do_not_fit_have_code_5_and_refusing_ones_code_1() {
    let place = Place::new();
    let host = place.serve("fit", &["--workers", "1"]);
    place.run(&["load", &hostile("wrong-abi")]).is(
        5,
        "",
        "plugctl: wrong-abi: metadata: metadata: api: expected 1, found 99; rebuild the plugin \
         with this host's plug-api\n",
    );
    let ended = place.run(&["load", "/etc/passwd"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(5), ""));
    assert_eq!(
        ended.stderr.matches("expected an ELF file").count(),
        1,
        "{}",
        ended.stderr
    );
    place.run(&["load", &hostile("init-fails")]).is(
        1,
        "",
        "plugctl: init-fails: init: init returned -1: no license for this host\n",
    );
    place.run(&["load", "/no/such.so"]).is(
        3,
        "",
        "plugctl: /no/such.so: No such file or directory (os error 2)\n",
    );
    let json = place.run(&["--json", "load", &hostile("init-fails")]);
    let failure: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(
        (&failure["stage"], &failure["kind"]),
        (&"init".into(), &"init_failed".into())
    );
    host.end().is(0, "", "");
}

#[test]
fn an_unload_of_a_plugin_in_use_names_its_holder() {
    let place = Place::new();
    let holding = place.holding_plugin("holding", &[]);
    holding.hold();
    let host = place.serve("use", &["--workers", "1", holding.file()]);
    let tid = eventually(|| {
        let workers = place.run(&["workers", "--json"]).json();
        let inside = workers[0]["inside"][0]["plugin"] == "holding";
        inside.then(|| workers[0]["tid"].to_string())
    });
    place.run(&["workers"]).is(
        0,
        &format!(
            "Worker TID Calls Quiescent Inside\n\
             io-0 {tid} 1 1 holding in plug.filter since 1 ms\n"
        ),
        "",
    );
    place.run(&["list"]).is(
        0,
        "Plugin Size Used by State Version Calls Taints\nholding 1 1 io-0 Live 1.0.0 1 -\n",
        "",
    );
    let ended = place.run(&["unload", "holding", "--wait", "0"]);
    let table = "Holder Thread TID Count Since Where\n\
                 call io-0 1 1 1 ms plug.filter\n";
    ended.is(4, "", &format!("plugctl: holding is in use\n{table}"));
    assert!(ended.stderr.contains(&format!(" {tid} ")), "{ended:?}");
    place.run(&["unload", "holding", "--wait", "0.2"]).is(
        6,
        "",
        &format!("plugctl: holding is still in use after 200.0 ms\n{table}"),
    );
    let ended = place.run(&["--json", "unload", "holding", "--wait", "0"]);
    let failure: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!(
        (&failure["kind"], &failure["stage"]),
        (&"deadline".into(), &"drain".into())
    );
    assert_eq!(failure["holders"][0]["thread"], "io-0");

    // It stayed Live. A wait that is long enough tells who is waited for, then the proof.
    place
        .run(&["info", "-F", "state", "holding"])
        .is(0, "Live\n", "");
    let mut child = place
        .command(&["unload", "holding", "--wait", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert_eq!(
        kit::masked(&line),
        "plugctl: waiting for holding: worker io-0 (tid _) in plug.filter since _ time"
    );
    // Somebody else is told that it is on its way.
    place.run(&["unload", "holding"]).is(
        4,
        "",
        "plugctl: holding: going: the plugin is Going, not Live\n",
    );
    holding.release();
    let ended = Ended::of(child.wait_with_output().unwrap());
    ended.is(0, "quiesced 1 worker in 1 s: 0 idle, 1 drained\n", "");
    host.end().is(0, "", "");
}

#[test]
fn a_load_that_takes_long_shows_progress() {
    let place = Place::new();
    let host = place.serve("slow", &["--workers", "1"]);
    let slow = hostile("constructor-slow");
    let ended = place.run(&["load", &slow]);
    let live = "constructor-slow 1.0.0 is Live at 0x1: 1 bytes, generation 1, in 2.0 s";
    assert_eq!(
        (ended.code, kit::masked(&ended.stdout)),
        (Some(0), kit::masked(live))
    );
    let told: Vec<&str> = ended.stderr.lines().collect();
    let waiting = |n| format!("plugctl: waiting for {slow}: its load is in progress for {n} s");
    // The second second may end just before the load does.
    assert!(!told.is_empty() && told.len() < 4, "{told:?}");
    for (n, line) in told.iter().enumerate() {
        assert_eq!(*line, waiting(n + 1));
    }
    host.end().is(0, "", "");
}

#[test]
fn a_plugin_that_stays_mapped_has_code_7() {
    let place = Place::new();
    let stays = place.holding_plugin("stays", &["-Wl,-z,nodelete"]);
    let host = place.serve("pin", &["--workers", "1", stays.file()]);
    let ended = place.run(&["unload", "stays", "--wait", "10"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(7), ""),
        "{ended:?}"
    );
    let begin =
        "plugctl: stays is closed but stays mapped for ever: the file is marked DF_1_NODELETE";
    assert!(ended.stderr.starts_with(begin), "{}", ended.stderr);
    let events = place.run(&["events", "--json"]).json();
    assert_eq!(events.as_array().unwrap().last().unwrap()["kind"], "pinned");
    // Asked again, it is no more in use than before.
    let again = place.run(&["unload", "stays"]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(7), ""));
    again.is(
        7,
        "",
        "plugctl: stays was closed 1 ms ago and stays mapped for ever: the file is marked \
         DF_1_NODELETE: its author says that unloading is unsafe; still mapped after dlclose\n",
    );
    let again = place.run(&["unload", "stays", "--json"]);
    assert_eq!(again.code, Some(7));
    assert!(again.stderr.contains("\"kind\":\"pinned\""), "{again:?}");
    place
        .run(&["info", "-F", "state", "stays"])
        .is(0, "Pinned\n", "");
    let rows = place.run(&["list", "--json"]).json();
    assert_eq!(rows[0]["lingering"]["pinned"], true, "{rows:?}");
    drop(host);
}

/// A plugin whose init leaves something behind.
const LEAKING: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <fcntl.h>
#include <stdlib.h>
static void *volatile sink;
__attribute__((noinline)) static void careless(void) { for (int i = 0; i < 3; i++) sink = malloc(1000); }
static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    careless();
    sink = calloc(1, 24);
    return open("/dev/null", O_RDONLY) < 0;
}
static void stop(void) {}
PLUG_PLUGIN("leaking", "1.0.0", "leaks", "MIT", init, stop);
"#;

#[test]
fn what_a_plugin_holds_is_listed_and_what_it_leaves_is_told() {
    let place = Place::new();
    let leaking = place.plugin("leaking", LEAKING, &[]);
    let file = leaking.to_str().expect("text");
    let host = place.serve("counts", &["--workers", "1", &example("checksum")]);
    assert_eq!(place.run(&["load", file, "--account"]).code, Some(0));
    let listed = place.run(&["list"]);
    let lines: Vec<&str> = listed.stdout.lines().collect();
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let heads = words(lines[0]);
    assert_eq!(
        heads[heads.len() - 4..],
        ["Heap", "Blocks", "Mapped", "FDs"]
    );
    assert!(lines[1].trim_end().ends_with("-"), "{listed:?}");
    let row = words(lines[2]);
    assert_eq!(row[row.len() - 4..], ["3024", "4", "0", "1"]);
    place.run(&["info", "-F", "account", "leaking"]).is(
        0,
        "4 blocks of 3024 bytes, 0 mappings of 0 bytes, 1 descriptor\n",
        "",
    );
    let rows = place.run(&["list", "--json"]).json();
    assert_eq!(rows[0].get("account"), None);
    assert_eq!(rows[1]["account"]["heap_bytes"], 3024);
    // Exact: numbers and all.
    let ended = place.run(&["unload", "leaking"]);
    let mut lines = ended.stdout.lines();
    assert!(
        lines
            .next()
            .is_some_and(|line| line.starts_with("quiesced 1 worker in "))
    );
    let left = "left 4 blocks of 3024 bytes, 0 mappings of 0 bytes, 1 descriptor";
    assert_eq!(lines.collect::<Vec<_>>(), [left], "{ended:?}");
    assert_eq!(ended.code, Some(0));

    assert_eq!(place.run(&["load", file, "--leaks"]).code, Some(0));
    let ended = place.run(&["unload", "leaking"]);
    let lines: Vec<&str> = ended.stdout.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            left,
            "  3 blocks of 3000 bytes by careless",
            "  1 block of 24 bytes by plug_init_"
        ],
        "{ended:?}"
    );
    assert_eq!(place.run(&["load", file, "--leaks"]).code, Some(0));
    let left = place.run(&["unload", "leaking", "--json"]).json();
    assert_eq!(left["leaks"]["sites"][0]["symbol"], "careless");
    assert_eq!(left["leaks"]["account"]["descriptors"], 1);
    assert_eq!(left["observed"]["listed"], false);
    host.end().is(0, "", "");
}

#[test]
fn two_hosts_are_told_apart() {
    let place = Place::new();
    let (one, two) = (
        place.serve("one", &[]),
        place.serve("two", &[&example("wordcount")]),
    );
    let several = format!(
        "plugctl: several live hosts: one (pid {}), two (pid {}); choose one with --host PID\n",
        one.pid, two.pid
    );
    let ended = place.run(&["list"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str(), ended.stderr),
        (Some(2), "", several)
    );
    let count = |host: &str| {
        let rows = place.run(&["--host", host, "list", "--json"]).json();
        rows.as_array().unwrap().len()
    };
    assert_eq!((count("one"), count("two")), (0, 1));
    assert_eq!(count(&two.pid.to_string()), 1);
    assert_eq!(count(one.socket.to_str().unwrap()), 0);
    place
        .run(&["--host", "three", "list"])
        .is(3, "", "plugctl: no live host called three\n");
    let ended = place.run(&["--host", "/no/such.sock", "list"]);
    ended.is(
        3,
        "",
        "plugctl: no host at /no/such.sock: No such file or directory (os error 2)\n",
    );
    // A host that was killed leaves its socket; nobody minds.
    let socket = one.socket.clone();
    drop(one);
    assert!(socket.exists());
    assert_eq!(
        place
            .run(&["list", "--json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let ended = place.run(&["--host", socket.to_str().unwrap(), "list"]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    two.end().is(0, "", "");
}

#[test]
fn a_host_killed_while_a_client_waits_is_told_within_a_second() {
    let place = Place::new();
    let holding = place.holding_plugin("holding", &[]);
    holding.hold();
    let host = place.serve("killed", &["--workers", "1", holding.file()]);
    eventually(|| {
        let workers = place.run(&["workers", "--json"]).json();
        (workers[0]["inside"][0]["plugin"] == "holding").then_some(())
    });
    let mut child = place
        .command(&["unload", "holding", "--wait", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("plugctl: waiting for holding"), "{line}");
    let mut follower = place
        .command(&["events", "-f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(follower.stdout.take().unwrap());
    let mut first = String::new();
    events.read_line(&mut first).unwrap();
    assert_eq!(
        kit::masked(&first).split(' ').nth(2),
        Some("coming"),
        "{first}"
    );

    let pid = host.pid;
    signal(pid, "KILL");
    let began = Instant::now();
    let mut rest = String::new();
    while stderr.read_line(&mut rest).unwrap() > 0 {}
    let status = child.wait().unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(status.code(), Some(1));
    let said =
        format!("plugctl: host killed (pid {pid}) closed the connection before it answered\n");
    assert!(rest.ends_with(&said), "{rest}");
    let ended = Ended::of(follower.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.stderr), (Some(1), said));
    drop(host);
}

#[test]
fn a_client_killed_while_the_host_works_changes_nothing() {
    let place = Place::new();
    let holding = place.holding_plugin("holding", &[]);
    holding.hold();
    let host = place.serve("alone", &["--workers", "1", holding.file()]);
    eventually(|| {
        let workers = place.run(&["workers", "--json"]).json();
        (workers[0]["inside"][0]["plugin"] == "holding").then_some(())
    });
    let mut child = place
        .command(&["unload", "holding", "--wait", "60"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually(|| {
        let state = place.run(&["info", "-F", "state", "holding"]).stdout;
        (state == "Going\n").then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    place.run(&["load", &example("base64")]).is(
        0,
        "base64 1.0.0 is Live at 0x1: 1 bytes, generation 2, in 1 ms\n",
        "",
    );
    holding.release();
    eventually(|| {
        let left = place.run(&["history", "--json"]).json();
        (left[0]["name"] == "holding").then_some(())
    });
    eventually(|| {
        let rows = place.run(&["list", "--json"]).json();
        rows[0]["calls"].as_u64().filter(|calls| *calls > 0)
    });
    host.end().is(0, "", "");
}

#[test]
fn serve_works_on_a_file_in_a_chain_and_reports_faults() {
    let place = Place::new();
    let input = place.dir.join("input");
    std::fs::write(&input, "a few words\n").unwrap();
    let (first, second) = (example("base64"), example("wordcount"));
    let input = input.to_str().unwrap();
    let socket = place.dir.join("plug/own.sock");
    let args = ["--chain", "--full-speed", "--input", input, &first, &second];
    let host = place.serve("chain", &args);
    eventually(|| {
        let rows = place.run(&["list", "--json"]).json();
        let calls = |n: usize| rows[n]["calls"].as_u64().unwrap();
        (calls(0) > 100 && calls(1) > 100).then_some(())
    });
    host.end().is(0, "", "");
    assert!(!socket.exists());
    place.run(&["serve", "--input", "/no/such"]).is(
        3,
        "",
        "plugctl: /no/such: No such file or directory (os error 2)\n",
    );
    let missing = place.run(&["serve", "/no/such.so"]);
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(3), ""));
}

/// What `command` prints on a terminal.
fn on_a_terminal(mut command: Command) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("terminal");
    unlockpt(&master).expect("terminal");
    let slave = ptsname(&master, Vec::new()).expect("terminal");
    let slave = File::options()
        .write(true)
        .open(slave.to_str().expect("terminal"))
        .expect("terminal");
    let status = command
        .env("TERM", "xterm")
        .stdout(slave)
        .status()
        .expect("terminal");
    assert!(status.success());
    drop(command);
    let mut text = Vec::new();
    // The end of a terminal that nobody has open any more is an error.
    let _end = File::from(master).read_to_end(&mut text);
    String::from_utf8(text)
        .expect("terminal")
        .replace("\r\n", "\n")
}

#[test]
fn terminals_get_colours_unless_no_color_is_set() {
    let place = Place::new();
    let host = place.serve("colour", &[&example("base64")]);
    let coloured = on_a_terminal(place.command(&["list"]));
    assert!(coloured.contains("\x1b[1mPlugin"), "{coloured:?}");
    assert!(coloured.contains("\x1b[32mLive"), "{coloured:?}");
    let mut command = place.command(&["list"]);
    command.env("NO_COLOR", "1");
    let plain = on_a_terminal(command);
    assert!(
        !plain.contains('\x1b') && plain.contains("Live"),
        "{plain:?}"
    );
    let mut piped = place.run(&["list"]).stdout;
    piped.retain(|c| c == '\x1b');
    assert_eq!(piped, "");
    host.end().is(0, "", "");
}

#[test]
fn events_are_followed_until_nobody_reads() {
    let place = Place::new();
    let host = place.serve("follow", &["--workers", "1"]);
    let mut follower = place
        .command(&["events", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let base64 = example("base64");
    assert_eq!(place.run(&["load", &base64]).code, Some(0));
    for kind in ["coming", "live"] {
        let event: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(
            (&event["plugin"], &event["kind"]),
            (&"base64".into(), &kind.into())
        );
    }
    drop(lines);
    assert_eq!(
        place.run(&["unload", "base64", "--wait", "10"]).code,
        Some(0)
    );
    assert_eq!(follower.wait().unwrap().code(), Some(0));
    host.end().is(0, "", "");
}
