//! `plugctl replace` through the real binary: what it tells of both versions, and the exact text of
//! each refusal, after which the old version is as it was.

mod kit;

use std::fs;
use std::path::Path;

use kit::{Place, eventually};

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

/// The file of a version, whose `exit` waits while `hold` is there.
fn version(place: &Place, version: &str, hold: &str, flags: &[&str]) -> String {
    let source = SOURCE.replace("@VERSION@", version).replace("@HOLD@", hold);
    let file = place.plugin(&format!("codec-{version}"), &source, flags);
    text(&file).to_owned()
}

/// What `list` says of the plugins: version, state and generation.
fn listed(place: &Place) -> Vec<(String, String, u64)> {
    let rows = place.run(&["--json", "list"]).json();
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

    place.run(&["replace", "codec", &two]).is(
        0,
        "codec 2.0.0, generation 2, is Live in the place of codec 1.0.0, generation 1; in 1 ms\n\
         generation 1: quiesced 1 worker in 1 ms: 1 idle, 0 drained\n",
        "",
    );
    assert_eq!(listed(&place), live("2.0.0", 2));
    let reply = place.run(&["--json", "replace", "codec", &late]).json();
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
    let ended = place.run(&["replace", "codec", &pinned, "--wait", "2"]);
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

    let ended = place.run(&["replace", "codec", &one]);
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
        let workers = place.run(&["workers", "--json"]).json();
        (workers[0]["inside"][0]["plugin"] == "holding").then_some(())
    });
    let replace = ["replace", "holding", holding.file(), "--wait", "0.2"];
    place.run(&replace).is(
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
