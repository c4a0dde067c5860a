//! `plugctl replace` through the real binary: what it tells of both versions, and the exact text of
//! each refusal, after which the old version is as it was.

mod kit;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use plug_loader::authority::detached_path;
use plug_loader::{Event, EventKind, Params, PluginFn, Source, Vote};

use kit::told::{self, Told, say};
use kit::{Ended, Place, eventually, hostile};

/// A version of a plugin whose `exit` waits while a file is there.
const SOURCE: &str = r#"
#include "plugin_api.h"
#include <time.h>
#include <unistd.h>

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }

static void stop(void) {
    const struct timespec nap = {0, 1000000};
    while (access("@HOLD@", F_OK) == 0) {
        nanosleep(&nap, NULL);
    }
}

PLUG_PLUGIN("codec", "@VERSION@", "for a test", "MIT", init, stop);
"#;

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Runs plugctl to its end.
fn run(place: &Place, args: &[&str]) -> Ended {
    place.run(args).without_waits()
}

/// The file of a version, whose `exit` waits while `hold` is there.
fn version(place: &Place, version: &str, hold: &str, flags: &[&str]) -> String {
    let source = SOURCE.replace("@VERSION@", version).replace("@HOLD@", hold);
    let file = place.plugin(&format!("codec-{version}"), &source, flags);
    text(&file).to_owned()
}

/// What `list` says of the plugins: version, state and generation.
fn listed(place: &Place) -> Vec<(String, String, u64)> {
    let rows = run(place, &["--json", "list"]).json();
    let rows = rows.as_array().expect("rows").iter().map(|row| {
        let text = |key: &str| row[key].as_str().expect(key).to_owned();
        let generation = row["generation"].as_u64().expect("generation");
        (text("version"), text("state"), generation)
    });
    rows.collect()
}

fn live(version: &str, generation: u64) -> Vec<(String, String, u64)> {
    vec![(version.to_owned(), "Live".to_owned(), generation)]
}

#[test]
fn both_versions_are_told_and_what_became_of_the_old_one() {
    let place = Place::new();
    let hold = place.dir.join("hold");
    let [one, two] = ["1.0.0", "2.0.0"].map(|name| version(&place, name, "/no/such/file", &[]));
    let late = version(&place, "3.0.0", text(&hold), &[]);
    let pinned = version(&place, "4.0.0", "/no/such/file", &["-Wl,-z,nodelete"]);
    let host = place.serve("one", &["--workers", "1", &one]);

    run(&place, &["replace", "codec", &two]).is(
        0,
        "codec 2.0.0, generation 2, is Live in the place of codec 1.0.0, generation 1; in 1 ms\n\
         generation 1: quiesced 1 worker in 1 ms: 1 idle, 0 drained\n",
        "",
    );
    assert_eq!(listed(&place), live("2.0.0", 2));
    let reply = run(&place, &["--json", "replace", "codec", &late]).json();
    assert_eq!(reply["plugin"]["generation"], 3);
    assert_eq!(reply["plugin"]["version"], "3.0.0");
    assert_eq!(reply["old_version"], "2.0.0");
    let former = &reply["former"];
    assert_eq!(
        (&former["name"], &former["generation"], &former["verdict"]),
        (&"codec".into(), &2.into(), &"unloaded".into())
    );

    // Its exit does not return in time.
    fs::write(&hold, "").expect("file");
    let ended = run(&place, &["replace", "codec", &pinned, "--wait", "4"]);
    let why = "plugctl: codec, generation 3, is closed but still mapped until its holders let go: \
               its exit has not returned; the thread plug-exit is in it";
    assert_eq!(
        (ended.code, ended.stderr.lines().next_back()),
        (Some(7), Some(why)),
        "{ended:?}"
    );
    assert_eq!(
        kit::masked(&ended.stdout),
        kit::masked(
            "codec 4.0.0, generation 4, is Live in the place of codec 3.0.0, generation 3; in 1 ms"
        )
    );
    fs::remove_file(&hold).expect("file");
    eventually(|| (listed(&place) == live("4.0.0", 4)).then_some(()));

    let ended = run(&place, &["replace", "codec", &one]);
    assert_eq!(ended.code, Some(7), "{ended:?}");
    let why = "plugctl: codec, generation 4, is closed but stays mapped for ever: ";
    assert!(ended.stderr.starts_with(why), "{ended:?}");
    assert_eq!(listed(&place)[0], live("1.0.0", 5)[0]);
    drop(host);
}

#[test]
fn an_old_version_in_use_is_told_with_its_holders_and_leaves_by_itself() {
    let place = Place::new();
    let holding = place.holding_plugin("holding", &[]);
    holding.hold();
    let host = place.serve("use", &["--workers", "1", holding.file()]);
    eventually(|| {
        let workers = run(&place, &["workers", "--json"]).json();
        (workers[0]["inside"][0]["plugin"] == "holding").then_some(())
    });
    let replace = ["replace", "holding", holding.file(), "--wait", "0.2"];
    run(&place, &replace).is(
        6,
        "holding 1.0.0, generation 2, is Live in the place of holding 1.0.0, generation 1; in 1 ms\n",
        "plugctl: holding, generation 1, is still in use after 200.0 ms; it leaves when nobody is \
         inside any more\n\
         Holder Thread TID Count Since Where\n\
         call io-0 1 1 1 ms plug.filter\n",
    );
    let states = |place: &Place| {
        let listed = listed(place).into_iter();
        listed.map(|(_, state, n)| (state, n)).collect::<Vec<_>>()
    };
    assert_eq!(
        states(&place),
        [("Going".to_owned(), 1), ("Live".to_owned(), 2)]
    );
    holding.release();
    eventually(|| (states(&place) == [("Live".to_owned(), 2)]).then_some(()));
    host.end().is(0, "", "");
}

type Twice = unsafe extern "C" fn(u64) -> u64;

/// A host that has a handle to a plugin's function, and calls it when it is told to.
fn host() {
    let mut twice: Option<PluginFn<Twice>> = None;
    let mut subscription = None;
    told::host(|loader, trust, words| match words {
        ["load", file] => {
            let loaded = loader.load(trust, Source::path(file), &Params::new());
            twice = loaded.expect("loads").function("twice").ok();
        }
        ["unload", name] => {
            let deadline = plug_loader::Deadline::after(std::time::Duration::from_secs(60));
            let _left = loader.unload(name, deadline).expect("unloads");
        }
        ["veto", name] => {
            let name = (*name).to_owned();
            let guard = move |event: &Event| match event.kind {
                EventKind::Coming if *event.plugin == *name => Vote::Veto("not on my watch".into()),
                _ => Vote::Go,
            };
            subscription = Some(loader.subscribe("guard", guard).expect("subscribes"));
        }
        ["let"] => drop(subscription.take()),
        ["call"] => {
            let twice = twice.expect("exported");
            // SAFETY: the signature that was compared.
            let answer = unsafe { twice.call((21,)) };
            say(&format!("{answer:?}"));
        }
        _ => panic!("{words:?}"),
    });
}

/// A version that refuses in the way that it is compiled to.
const REFUSING: &str = r#"
#include "plugin_api.h"
#include <time.h>
#include <unistd.h>

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}

#ifndef STATELESS
static int32_t save(const plug_host_context *ctx, plug_put put, void *to) {
#ifdef KEEPS
    plug_raise(ctx, "the cache is being written");
    return PLUG_FAILED;
#endif
#ifdef HANGS
    const struct timespec nap = {0, 1000000};
    while (access(HANGS, F_OK) == 0) {
        nanosleep(&nap, NULL);
    }
#endif
    (void)ctx;
    put(to, 3, "abc", 3);
    return PLUG_OK;
}

static int32_t restore(const plug_host_context *ctx, uint32_t version, const void *bytes, size_t len) {
    (void)version, (void)bytes, (void)len;
#ifdef REJECTS
    plug_raise(ctx, "form 3 is from the future");
    return PLUG_FAILED;
#endif
#ifdef SILENT
    (void)ctx;
    return -7;
#endif
    (void)ctx;
    return PLUG_OK;
}
PLUG_HAND_OVER(save, restore);
#endif

#ifdef FOREVER
PLUG_PERMANENT("its threads never end");
#endif
PLUG_PLUGIN("codec", "1.0.0", "for a test", "MIT", init, stop);
#ifdef NARROW
PLUG_EXPORT(uint32_t, twice, (uint32_t n)) { return 2 * n; }
#elif defined DATA
__attribute__((visibility("default"))) int twice = 2;
#elif !defined MISSING
PLUG_EXPORT(uint64_t, twice, (uint64_t n)) { return 2 * n; }
#endif
"#;

#[test]
fn each_refusal_has_its_text_and_leaves_the_old_version() {
    if told::is_host() {
        return host();
    }
    let place = Place::new();
    let compiled = |name: &str, flags: &[&str]| {
        let file = place.plugin(name, REFUSING, flags);
        text(&file).to_owned()
    };
    let good = compiled("good", &[]);
    let keeps = compiled("keeps", &["-DKEEPS"]);
    let whole = fs::read(&good).expect("file");
    let cut = place.dir.join("libcut.so");
    fs::write(&cut, &whole[..48]).expect("file");
    let hold = place.dir.join("hold");
    fs::write(&hold, "").expect("file");
    let hangs = compiled("hangs", &[&format!("-DHANGS=\"{}\"", hold.display())]);

    let mut host = Told::new(
        &place,
        "each_refusal_has_its_text_and_leaves_the_old_version",
    );
    let replace = |file: &str| run(&place, &["replace", "codec", file, "--wait", "30"]);
    replace(&good).is(3, "", "plugctl: no plugin named codec\n");
    for (old, new, code, refusal) in [
        (
            &good,
            compiled("missing", &["-DMISSING"]),
            5,
            "activate: no exported symbol \"twice\"",
        ),
        (
            &good,
            compiled("data", &["-DDATA"]),
            5,
            "activate: symbol \"twice\": expected a function, found data",
        ),
        (
            &good,
            compiled("narrow", &["-DNARROW"]),
            5,
            "activate: function twice: expected fn(u64) -> u64, found fn(u32) -> u32; rebuild the \
             older of the two",
        ),
        (
            &keeps,
            good.clone(),
            1,
            "activate: the old version refuses to save: the cache is being written",
        ),
        (
            &good,
            compiled("rejects", &["-DREJECTS"]),
            1,
            "activate: the new version refuses state 3: form 3 is from the future",
        ),
        (
            &good,
            compiled("silent", &["-DSILENT"]),
            1,
            "activate: the new version refuses state 3: no message given",
        ),
        (
            &good,
            compiled("stateless", &["-DSTATELESS"]),
            1,
            "activate: the old version saves its state; expected plug_restore_v1 in the new one, \
             found none",
        ),
        (
            &good,
            text(&cut).to_owned(),
            5,
            "facts: ELF header at 0x0: expected 64 bytes, found the file ends at 0x30",
        ),
    ] {
        host.tell(&format!("load {old}"));
        let ended = replace(&new);
        ended.is(code, "", &format!("plugctl: codec: {refusal}\n"));
        assert_eq!(listed(&place).len(), 1, "{refusal}");
        assert_eq!(host.tell("call"), "Ok(42)", "{refusal}");
        host.tell("unload codec");
    }

    host.tell(&format!("load {hangs}"));
    let late = run(&place, &["replace", "codec", &good, "--wait", "0.2"]);
    let why = "codec: activate: the old version has not saved its state when the deadline passed";
    late.is(6, "", &format!("plugctl: {why}\n"));
    assert_eq!(host.tell("call"), "Ok(42)");
    let late = run(
        &place,
        &["--json", "replace", "codec", &good, "--wait", "0.2"],
    );
    let failure: serde_json::Value = serde_json::from_str(&late.stderr).expect("JSON");
    assert_eq!(
        (&failure["stage"], &failure["kind"], &failure["message"]),
        (&"activate".into(), &"deadline".into(), &why.into())
    );
    // While one is under way, another one is refused.
    let first = place
        .command(&["replace", "codec", &good, "--wait", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("plugctl");
    eventually(|| (listed(&place).len() == 2).then_some(()));
    replace(&good).is(
        4,
        "",
        "plugctl: codec: claim: it is being replaced; try again when that is done\n",
    );
    fs::remove_file(&hold).expect("file");
    let first = first.wait_with_output().expect("plugctl");
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    assert_eq!(host.tell("call"), "Ok(42)");

    let place = Place::new();
    let forever = compiled("forever", &["-DFOREVER"]);
    let host = place.serve("keeps", &["--workers", "1", &forever]);
    run(&place, &["replace", "codec", &good]).is(
        4,
        "",
        "plugctl: codec: claim: it is permanent: its threads never end; it stays until the process \
         ends\n",
    );
    run(&place, &["replace", "codec", "/no/such.so"]).is(
        3,
        "",
        "plugctl: /no/such.so: No such file or directory (os error 2)\n",
    );
    let mut load = place
        .command(&["load", &hostile("constructor-slow")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("plugctl");
    eventually(|| {
        let coming = listed(&place)
            .into_iter()
            .any(|(_, state, _)| state == "Coming");
        coming.then_some(())
    });
    run(&place, &["replace", "constructor-slow", &good]).is(
        4,
        "",
        "plugctl: constructor-slow: claim: the plugin is Coming, not Live\n",
    );
    assert!(load.wait().expect("plugctl").success());
    drop(host);
}

/// A version whose `save` and `restore` panic in some of them.
const PANICKING: &str = r#"
plug_api::params! {
    /// what panics
    pub static PANICS: string = "";
}

plug_api::hand_over! { save: save, restore: restore }

fn save() -> Result<plug_api::State, plug_api::Error> {
    assert!(PANICS.get() != "save", "no state to speak of");
    Ok(plug_api::State { version: 1, bytes: Vec::new() })
}

fn restore(_state: &plug_api::State) -> plug_api::Result {
    assert!(PANICS.get() != "restore", "no room for state");
    Ok(())
}

plug_api::plugin! {
    name: "panicking", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_| Ok(()), exit: || (),
}
"#;

#[test]
fn panics_of_save_and_restore_in_rust_are_refusals() {
    let place = Place::new();
    let file = place.rust_plugin("panicking", PANICKING);
    let file = text(&file);
    let host = place.serve("panics", &["--workers", "1"]);
    let loaded = run(&place, &["load", file, "panics=save"]);
    assert_eq!(loaded.code, Some(0), "{loaded:?}");
    let refused = "plugctl: panicking: activate: the old version refuses to save: panicked: no state \
                   to speak of\n";
    run(&place, &["replace", "panicking", file]).is(1, "", refused);
    assert_eq!(listed(&place), live("1.0.0", 1));
    let unloaded = run(&place, &["unload", "panicking", "--wait", "10"]);
    assert_eq!(unloaded.code, Some(0), "{unloaded:?}");
    let loaded = run(&place, &["load", file]);
    assert_eq!(loaded.code, Some(0), "{loaded:?}");
    let refused = "plugctl: panicking: activate: the new version refuses state 1: panicked: no room \
                   for state\n";
    let replace = ["replace", "panicking", file, "panics=restore"];
    run(&place, &replace).is(1, "", refused);
    // Parameters are the new version's, and checked like those of a load.
    let replace = ["replace", "panicking", file, "panic=restore"];
    run(&place, &replace).is(
        5,
        "",
        "plugctl: panicking: metadata: parameter panic: expected one of panics, found no such \
         parameter; did you mean panics? declared as panics: string = \"\"; what panics\n",
    );
    assert_eq!(listed(&place), live("1.0.0", 3));
    let replaced = run(&place, &["replace", "panicking", file, "panics=save"]);
    assert_eq!(replaced.code, Some(0), "{replaced:?}");
    run(&place, &["params", "panicking", "panics"]).is(0, "save\n", "");
    // Events tell both versions.
    let events = run(&place, &["--json", "events"]).json();
    let events = events.as_array().expect("rows");
    let replaced = events.iter().position(|row| row["kind"] == "replaced");
    let at = replaced.expect("told");
    let (live, replaced) = (&events[at - 1], &events[at]);
    assert_eq!(live["kind"], "live");
    assert_eq!(replaced["by"], live["generation"]);
    assert!(replaced["generation"].as_u64() < live["generation"].as_u64());
    let text = run(&place, &["events"]).stdout;
    let by = format!(
        " replaced panicking generation {}: by generation {}",
        replaced["generation"], live["generation"]
    );
    assert!(text.lines().any(|line| line.ends_with(&by)), "{text}");
    host.end().code_is(0);
}

/// A version on trial; @BODY@ is what each block of the stream does.
const TRIED: &str = r#"
#include "plug_filter.h"

static int instance;
static uint32_t form = @FORM@;

static void *create(const plug_host_context *ctx, const plug_params *params) {
    (void)ctx, (void)params;
    return &instance;
}

static int32_t process(void *self, const uint8_t *input, size_t len, const plug_sink *out) {
    (void)self, (void)input, (void)len, (void)out;
    @BODY@
    return PLUG_OK;
}

static int32_t finish(void *self, const plug_sink *out) {
    (void)self, (void)out;
    return PLUG_OK;
}

static void destroy(void *self) { (void)self; }

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}

static int32_t save(const plug_host_context *ctx, plug_put put, void *to) {
    (void)ctx;
    put(to, form, "", 0);
    return PLUG_OK;
}

static int32_t restore(const plug_host_context *ctx, uint32_t version, const void *bytes, size_t len) {
    (void)bytes, (void)len;
    if (version > form) {
        plug_raise(ctx, "the state is from the future");
        return PLUG_FAILED;
    }
    return PLUG_OK;
}

static const plug_filter_v1 TABLE = {create, process, finish, destroy};
PLUG_INTERFACES(PLUG_FILTER_V1(TABLE));
PLUG_HAND_OVER(save, restore);
PLUG_PLUGIN_WITH_INTERFACES("tried", "@VERSION@", "for a test", "MIT", init, stop);
"#;

/// The file of a version that takes state up to `form`.
fn tried(place: &Place, version: &str, form: &str, body: &str) -> String {
    let source = TRIED
        .replace("@VERSION@", version)
        .replace("@FORM@", form)
        .replace("@BODY@", body);
    let file = place.plugin(&format!("tried-{version}"), &source, &[]);
    text(&file).to_owned()
}

#[test]
fn a_version_is_rolled_back_under_the_signature_that_it_had() {
    let place = Place::new();
    let one = tried(&place, "1.0.0", "1", "");
    let raises = "plug_raise(plug_context(), \"no luck\");";
    let two = tried(&place, "2.0.0", "1", raises);
    let keys = place.dir.join("keys");
    fs::create_dir(&keys).expect("folder");
    let (public, secret) = (keys.join("a.pub"), place.dir.join("a.key"));
    let (public, secret) = (text(&public), text(&secret));
    run(&place, &["keygen", "-W", "-p", public, "-s", secret]).code_is(0);
    run(&place, &["sign", "-W", "-s", secret, &one]).code_is(0);
    let args = [
        "--workers",
        "1",
        "--signatures",
        "enforce",
        "--keys",
        text(&keys),
        &one,
    ];
    let host = place.serve("signed", &args);
    let replace = ["replace", "tried", &two, "--roll-back-within", "60"];
    let unsigned = run(&place, &replace);
    assert_eq!((unsigned.code, unsigned.stdout.as_str()), (Some(5), ""));
    let why = "plugctl: tried: verify: signature: expected one by a trusted key, found none";
    assert!(unsigned.stderr.starts_with(why), "{unsigned:?}");
    assert_eq!(listed(&place), live("1.0.0", 1));

    run(&place, &["sign", "-W", "-s", secret, &two]).code_is(0);
    // Neither the old version's file nor its signature is there any more.
    fs::remove_file(&one).expect("file");
    fs::remove_file(detached_path(Path::new(&one))).expect("signature");
    let back = run(&place, &replace);
    assert_eq!(back.code, Some(1), "{back:?}");
    let end = "plug.filter failed: no luck; it was rolled back\n";
    assert!(back.stderr.ends_with(end), "{back:?}");
    assert_eq!(listed(&place)[0].0, "1.0.0");
    host.end().code_is(0);
}

#[test]
fn a_version_on_trial_is_kept_or_rolled_back_and_the_reason_is_told() {
    let place = Place::new();
    let build = |version: &str, form: &str, body: &str| tried(&place, version, form, body);
    let raises = "plug_raise(plug_context(), \"the table is empty\");";
    let one = build("1.0.0", "1", "");
    let two = build("2.0.0", "1", "");
    let fails = build("3.0.0", "1", raises);
    let fails_in_the_future = build("4.0.0", "2", raises);
    let host = place.serve("tries", &["--workers", "1", &one]);
    let replace = |file: &str, within: &str| {
        run(
            &place,
            &[
                "replace",
                "tried",
                file,
                "--roll-back-within",
                within,
                "--wait",
                "30",
            ],
        )
    };
    let switched = |new: &str, n: u64, old: &str, m: u64| {
        format!(
            "tried {new}, generation {n}, is Live in the place of tried {old}, generation {m}; in 1 ms"
        )
    };
    // How many were idle is the worker's affair.
    let lines = |ended: &Ended| {
        let is_ours = |line: &&str| !line.contains(": quiesced ");
        let lines = ended.stdout.lines().filter(is_ours);
        lines.map(kit::masked).collect::<Vec<_>>()
    };

    let kept = replace(&two, "300ms");
    assert_eq!((kept.code, kept.stderr.as_str()), (Some(0), ""), "{kept:?}");
    let expected = [
        switched("2.0.0", 2, "1.0.0", 1),
        "generation 2: none of its calls failed: it is kept".to_owned(),
    ];
    assert_eq!(lines(&kept), expected.map(|line| kit::masked(&line)));

    // The old version's file is not what is loaded again.
    fs::write(&two, "something else").expect("file");
    let back = replace(&fails, "60s");
    let fault = "plugctl: tried, generation 3, was on trial for 1 ms when plug.filter failed: the table is \
                 empty; it was rolled back";
    assert_eq!(
        (back.code, kit::masked(&back.stderr)),
        (Some(1), kit::masked(fault)),
        "{back:?}"
    );
    let expected = [
        switched("3.0.0", 3, "2.0.0", 2),
        switched("2.0.0", 4, "3.0.0", 3),
    ];
    assert_eq!(lines(&back), expected.map(|line| kit::masked(&line)));
    assert_eq!(listed(&place), live("2.0.0", 4));

    let args = [
        "--json",
        "replace",
        "tried",
        &fails,
        "--roll-back-within",
        "60",
    ];
    let back = run(&place, &args);
    assert_eq!(back.code, Some(1), "{back:?}");
    let reply: serde_json::Value = serde_json::from_str(&back.stdout).expect("JSON");
    let trial = &reply["trial"];
    assert_eq!(trial["verdict"], "rolled_back");
    assert_eq!(trial["fault"], "plug.filter failed: the table is empty");
    assert_eq!(trial["plugin"]["generation"], 6);
    assert_eq!(trial["plugin"]["version"], "2.0.0");
    assert_eq!(trial["former"]["verdict"], "unloaded");
    let failure: serde_json::Value = serde_json::from_str(&back.stderr).expect("JSON");
    assert_eq!(failure["kind"], "rolled_back");

    // The old version does not take its state.
    let stays = replace(&fails_in_the_future, "60s");
    let why = "plugctl: tried, generation 7, was on trial for 1 ms when plug.filter failed: the table is \
               empty; it stays, since it was not rolled back: tried: activate: the new version \
               refuses state 2: the state is from the future";
    assert_eq!(
        (stays.code, kit::masked(&stays.stderr)),
        (Some(1), kit::masked(why)),
        "{stays:?}"
    );
    assert_eq!(
        lines(&stays),
        [kit::masked(&switched("4.0.0", 7, "2.0.0", 6))]
    );
    assert_eq!(listed(&place), live("4.0.0", 7));
    let wrong = run(
        &place,
        &["replace", "tried", &one, "--roll-back-within", "2h"],
    );
    wrong.code_is(2);
    host.end().code_is(0);
}

#[test]
fn a_version_that_leaves_while_it_is_on_trial_is_not_told_as_kept() {
    let place = Place::new();
    let none = place.dir.join("none");
    let [one, two] = ["1.0.0", "2.0.0"].map(|name| version(&place, name, text(&none), &[]));
    let _host = place.serve("one", &["--workers", "1", &one]);
    let trial = place
        .command(&["replace", "codec", &two, "--roll-back-within", "600s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("plugctl");
    eventually(|| (listed(&place) == live("2.0.0", 2)).then_some(()));
    run(&place, &["unload", "codec", "--wait", "30"]).code_is(0);
    // Long before the trial would be over.
    let ended = Ended::of(trial.wait_with_output().expect("ends")).without_waits();
    ended.code_is(1);
    assert!(!ended.stdout.contains("it is kept"), "{ended:?}");
    let told = "plugctl: codec: codec, generation 2, was unloaded or replaced before its trial was over; \
                none of its calls failed";
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(
        told.ends_with(last.trim_start_matches("plugctl: ")),
        "{ended:?}"
    );
}

/// What a subscriber of the host's vetoes is refused, as a load and in another version's place.
#[test]
fn a_veto_is_told_by_whom_and_why() {
    if told::is_host() {
        return host();
    }
    let place = Place::new();
    let none = place.dir.join("none");
    let [one, two] = ["1.0.0", "2.0.0"].map(|name| version(&place, name, text(&none), &[]));
    let mut host = Told::new(&place, "a_veto_is_told_by_whom_and_why");
    let told = "plugctl: codec: publish: vetoed by the subscriber guard: not on my watch\n";
    host.tell("veto codec");
    run(&place, &["load", &one]).is(4, "", told);
    assert_eq!(listed(&place), []);
    host.tell("let");
    run(&place, &["load", &one]).code_is(0);
    let before = listed(&place);
    host.tell("veto codec");
    run(&place, &["replace", "codec", &two]).is(4, "", told);
    assert_eq!(listed(&place), before);
    host.tell("let");
    run(&place, &["replace", "codec", &two]).code_is(0);
    assert_eq!(listed(&place)[0].0, "2.0.0");
}
