//! `plugctl config` and `plugctl serve --config`, through the real binary.

mod kit;

use std::fs;

use kit::Place;

const PICKY: &str = r#"
#include "plugin_api.h"
PLUG_PARAM(level, "int(0..=9)", "6", "how hard to try");
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("picky", "1.0.0", "for a test", "MIT", init, stop);
"#;

#[test]
fn what_is_in_effect_is_shown_with_file_and_line() {
    let place = Place::new();
    let dir = place.dir.display();
    for (name, text) in [
        ("low/10.toml", "search = [\"/lost\"]\n"),
        (
            "high/10.toml",
            "search = [\"/opt\"]\n\n[options.x]\nlevel = 9\n",
        ),
    ] {
        let path = place.dir.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, text).expect("file");
    }
    let (low, high) = (format!("{dir}/low"), format!("{dir}/high"));
    let width = format!("{high}/10.toml").len().max("Value".len());
    let shown = format!(
        "Directive  Name  Key    {:width$}  Where\n\
         search     -     -      {:width$}  {high}/10.toml:1\n\
         option     x     level  {:width$}  {high}/10.toml:4\n\
         replaced   -     -      {high}/10.toml  {low}/10.toml\n",
        "Value", "/opt", "9"
    );
    place.run(&["config", &low, &high]).is(0, &shown, "");
    let json = place.run(&["--json", "config", &low, &high]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["files"][0]["replaced_by"], format!("{high}/10.toml"));
    assert_eq!(json["directives"][1]["kind"], "option");
    assert_eq!(json["directives"][1]["key"], "level");
    assert_eq!(json["directives"][1]["line"], 4);

    fs::write(place.dir.join("high/20.toml"), "[optoins.x]\n").expect("file");
    let told = format!(
        "plugctl: {high}/20.toml:1: optoins: expected one of search, alias, deny, options, policy, \
         preload, found no such key; did you mean options?\n"
    );
    place.run(&["config", &high]).is(5, "", &told);
    place.run(&["serve", "--config", &high]).is(5, "", &told);
}

#[test]
fn a_host_finds_gives_refuses_and_preloads_as_it_is_told() {
    let place = Place::new();
    let dir = place.dir.display();
    place.plugin("picky", PICKY, &[]);
    place.plugin("early", &PICKY.replace("\"picky\"", "\"early\""), &[]);
    place.plugin("evil", &PICKY.replace("\"picky\"", "\"evil\""), &[]);
    let text = format!(
        "search = [\"{dir}\"]\npreload = [\"early\"]\nalias.p = \"picky\"\n\
         deny.names = [\"evil\"]\noptions.picky.level = 2\n"
    );
    fs::create_dir(place.dir.join("plug.d")).expect("folder");
    fs::write(place.dir.join("plug.d/x.toml"), text).expect("file");
    let folder = format!("{dir}/plug.d");
    let _host = place.serve("one", &["--config", &folder]);
    assert_eq!(place.run(&["info", "early"]).code, Some(0));
    let loaded = place.run(&["load", "p"]);
    assert_eq!(loaded.code, Some(0), "{loaded:?}");
    place.run(&["params", "picky", "level"]).is(0, "2\n", "");
    let told =
        format!("plugctl: evil: verify: plugin evil is on the deny list at {folder}/x.toml:4\n");
    let evil = format!("{dir}/libevil.so");
    place.run(&["load", &evil]).is(5, "", &told);
    let missing =
        format!("plugctl: nobody: no plugin \"nobody\": expected libnobody.so in {dir}\n");
    place.run(&["load", "nobody"]).is(3, "", &missing);
}
