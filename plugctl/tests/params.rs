//! `plugctl params` and parameters of `plugctl load`, through the real binary.

mod kit;

use kit::Place;

const SOURCE: &str = r#"
#include "plugin_api.h"
static int32_t set_level(const plug_host_context *ctx, plug_str text) {
    if (plug_text_eq(text, "7")) {
        plug_raise(ctx, "seven is taken");
        return PLUG_FAILED;
    }
    return PLUG_OK;
}
PLUG_PARAM_WRITABLE(level, "int(0..=9)", "6", "how hard to try", set_level);
PLUG_PARAM(cache, "bytes(..=1GiB)", "64KiB", "what to keep");
PLUG_PARAM_REQUIRED(target, "string", "where to write");
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("picky", "1.0.0", "for a test", "MIT", init, stop);
"#;

#[test]
fn parameters_are_shown_set_and_refused() {
    let place = Place::new();
    let file = place.plugin("picky", SOURCE, &[]);
    let file = file.to_str().expect("text");
    let shown = "Parameter  Value  Type             Default          Mode  What\n\
                 cache      64KiB  bytes(..=1GiB)   64KiB            r     what to keep\n\
                 level      6      int(0..=9)       6                rw    how hard to try\n\
                 target     -      string           (must be given)  r     where to write\n";
    place.run(&["params", file]).is(0, shown, "");

    let _host = place.serve("one", &[]);
    place.run(&["load", file, "level=3"]).is(
        5,
        "",
        "plugctl: picky: metadata: parameter target: expected a value, found none given; declared \
         as target: string; where to write\n",
    );
    place.run(&["load", file, "target=x", "lvel=3"]).is(
        5,
        "",
        "plugctl: picky: metadata: parameter lvel: expected one of cache, level, target, found no \
         such parameter; did you mean level? declared as level: int(0..=9) = 6, writable; how hard \
         to try\n",
    );
    let loaded = place.run(&["load", file, "target=here", "level=3", "cache=2MiB"]);
    assert_eq!(loaded.code, Some(0), "{loaded:?}");

    place.run(&["params", "picky", "cache"]).is(0, "2MiB\n", "");
    place.run(&["params", "picky", "level=4"]).is(0, "", "");
    place.run(&["params", "picky", "level"]).is(0, "4\n", "");
    place.run(&["params", "picky", "level=7"]).is(
        5,
        "",
        "plugctl: picky: parameter level: \"7\" refused by the plugin: seven is taken\n",
    );
    place.run(&["params", "picky", "cache=1"]).is(
        5,
        "",
        "plugctl: picky: parameter cache: expected one that is declared writable, found one that is \
         set at the load only: cache: bytes(..=1GiB) = 64KiB; what to keep; load the plugin anew \
         with it\n",
    );
    place
        .run(&["params", "picky", "colour"])
        .is(1, "", "plugctl: picky has no parameter colour\n");
    place.run(&["params", file, "level=1"]).is(
        2,
        "",
        "plugctl: a file's parameters cannot be set: expected a loaded plugin's name\n",
    );
    place
        .run(&["params", "nobody"])
        .is(3, "", "plugctl: no plugin named nobody\n");
    let json = place.run(&["--json", "params", "picky"]).json();
    assert_eq!(
        json[1],
        serde_json::json!({
            "name": "level", "kind": "int(0..=9)", "value": "4", "has_default": true,
            "default": "6", "writable": true, "doc": "how hard to try",
        })
    );
}
