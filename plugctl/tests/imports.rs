//! Plugins that use plugins, through the real binary: `load --with-deps` and `--dry-run`, `list`,
//! `info`, `unload --unused`, and each refusal word for word.

mod kit;

use std::fs;
use std::thread;
use std::time::Duration;

use kit::{Host, Place};

/// A plugin in C that exports `from_NAME` and imports it of others.
fn source(name: &str, version: &str, of: &[(&str, &str)]) -> String {
    let mut text = String::from("#include \"plugin_api.h\"\n");
    let mut sum = String::from("1");
    for (other, requirement) in of {
        text += &format!(
            "PLUG_IMPORT(\"{other}\", \"{requirement}\", uint64_t, from_{other}, (void), ());\n"
        );
        sum += &format!(" + from_{other}()");
    }
    text + &format!(
        "#ifndef INIT\n#define INIT return PLUG_OK;\n#endif\n\
         static int32_t init(const plug_host_context *ctx) {{ (void)ctx; INIT }}\n\
         static void stop(void) {{}}\n\
         PLUG_PLUGIN(\"{name}\", \"{version}\", \"for a test\", \"MIT\", init, stop);\n\
         PLUG_EXPORT(uint64_t, from_{name}, (void)) {{ return {sum}; }}\n"
    )
}

impl Place {
    /// Compiles it as `lib<name>.so`.
    fn node(&self, name: &str, version: &str, of: &[(&str, &str)], flags: &[&str]) -> String {
        let path = self.plugin(name, &source(name, version, of), flags);
        path.to_str().expect("text").to_owned()
    }

    /// A host that finds plugins here.
    fn finding(&self) -> Host {
        let folder = self.dir.join("plug.d");
        fs::create_dir(&folder).expect("folder");
        let text = format!("search = [\"{}\"]\n", self.dir.display());
        fs::write(folder.join("search.toml"), text).expect("file");
        self.serve("one", &["--config", folder.to_str().expect("text")])
    }
}

#[test]
fn providers_come_with_a_plugin_and_leave_when_nobody_uses_them() {
    let place = Place::new();
    let dir = place.dir.display();
    place.node("base", "1.4.0", &[], &[]);
    place.node("left", "1.0.0", &[("base", "^1.2")], &[]);
    place.node("right", "2.0.0", &[("base", "^1"), ("left", "*")], &[]);
    let top = place.node("top", "0.1.0", &[("left", "^1"), ("right", ">=2")], &[]);
    let _host = place.finding();
    let order = format!(
        "load    base 1.4.0 from {dir}/libbase.so, used by left, right\n\
         load    left 1.0.0 from {dir}/libleft.so, used by top, right\n\
         load    right 2.0.0 from {dir}/libright.so, used by top\n\
         load    top 0.1.0 from {top}\n"
    );
    place
        .run(&["load", &top, "--with-deps", "--dry-run"])
        .is(0, &order, "");
    // By its name, too, and as JSON.
    let json = place.run(&["--json", "load", "top", "--dry-run"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json[3]["name"], "top");
    assert_eq!(json[0]["used_by"], serde_json::json!(["left", "right"]));
    assert_eq!(json[0]["loaded"], false);
    place.run(&["list"]).is(
        0,
        "Plugin              Size      Used by  State  Version  Calls  Taints\n",
        "",
    );
    let alone = "plugctl: top: imports: import from_left of left ^1: no plugin left is loaded; load it \
                 first, or with its users\n";
    place.run(&["load", &top]).is(3, "", alone);
    place.run(&["load", &top, "--with-deps"]).is(
        0,
        "base 1.4.0 is Live, used by left, right\n\
         left 1.0.0 is Live, used by right, top\n\
         right 2.0.0 is Live, used by top\n\
         top 0.1.0 is Live at 0x1: 1 bytes, generation 1, in 1 ms\n",
        "",
    );
    let listed = place.run(&["list"]).stdout;
    let row = |name: &str| {
        let line = listed.lines().find(|line| line.starts_with(name));
        let words = line.expect("listed").split_whitespace();
        words.skip(2).take(3).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("base"), "2 left,right Live");
    assert_eq!(row("left"), "2 right,top Live");
    assert_eq!(row("right"), "1 top Live");
    assert_eq!(row("top"), "0 Live 0.1.0");
    place
        .run(&["info", "base", "-F", "used-by"])
        .is(0, "left\nright\n", "");
    place.run(&["info", "base", "-F", "automatic"]).is(
        0,
        "loaded because others import functions of it\n",
        "",
    );
    place.run(&["info", "top", "-F", "automatic"]).code_is(1);
    place
        .run(&["info", "left", "-F", "import"])
        .is(0, "base:from_base:^1.2\n", "");
    place.run(&["info", &top, "-F", "import"]).code_is(0);
    for (name, users) in [
        ("base", "left, right"),
        ("left", "right, top"),
        ("right", "top"),
    ] {
        let told = format!("plugctl: {name}: going: it is used by {users}; unload that first\n");
        place.run(&["unload", name]).is(4, "", &told);
    }
    // Nothing is unused yet.
    place.run(&["unload", "--unused"]).is(0, "", "");
    place.run(&["unload", "top", "--unused"]).is(
        0,
        "quiesced 0 workers in 1 ms: 0 idle, 0 drained\n\
         right was unused and is unloaded\nleft was unused and is unloaded\n\
         base was unused and is unloaded\n",
        "",
    );
    assert_eq!(place.run(&["list"]).stdout.lines().count(), 1);
    place.run(&["unload"]).code_is(2);
}

#[test]
fn each_refusal_is_told_word_for_word() {
    let place = Place::new();
    let dir = place.dir.display();
    let _host = place.finding();
    let base = place.node("base", "1.4.0", &[], &[]);
    let load = |file: &str| place.run(&["load", file]);
    let with = |file: &str| place.run(&["load", file, "--with-deps"]);

    // Versions.
    let newer = place.node("newer", "1.0.0", &[("base", "^2")], &[]);
    let told = format!(
        "plugctl: newer: imports: import from_base of base ^2: expected version ^2, found 1.4.0 in \
         {dir}/libbase.so\n"
    );
    with(&newer).is(5, "", &told);
    place.run(&["load", &newer, "--dry-run"]).is(5, "", &told);
    let mine = place.node("mine", "1.0.0", &[("base", "^1"), ("newer", "*")], &[]);
    with(&mine).is(5, "", &told);
    load(&base).code_is(0);
    load(&newer).is(
        5,
        "",
        "plugctl: newer: imports: import from_base of base ^2: expected version ^2, found 1.4.0\n",
    );
    let unversioned = place.node("plain", "rolling", &[], &[]);
    load(&unversioned).code_is(0);
    let picky = place.node("picky", "1.0.0", &[("plain", ">=0.0.1")], &[]);
    load(&picky).is(
        5,
        "",
        "plugctl: picky: imports: import from_plain of plain >=0.0.1: expected version >=0.0.1, found \
         rolling\n",
    );

    // What is not there.
    let lonely = place.node("lonely", "1.0.0", &[("nobody", "^1")], &[]);
    load(&lonely).is(
        3,
        "",
        "plugctl: lonely: imports: import from_nobody of nobody ^1: no plugin nobody is loaded; load \
         it first, or with its users\n",
    );
    let told = format!(
        "plugctl: lonely: imports: import from_nobody of nobody ^1: no plugin \"nobody\": expected \
         libnobody.so in {dir}\n"
    );
    with(&lonely).is(3, "", &told);
    let text = "#include \"plugin_api.h\"\n\
                PLUG_IMPORT(\"base\", \"*\", uint64_t, SYMBOL, ARGS, NAMES);\n\
                static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
                static void stop(void) {}\n\
                PLUG_PLUGIN(\"odd\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n";
    let odd = |n: u32, symbol: &str, args: &str, names: &str| {
        let text = text
            .replace("SYMBOL", symbol)
            .replace("ARGS", args)
            .replace("NAMES", names);
        let path = place.plugin(&format!("odd{n}"), &text, &[]);
        load(path.to_str().expect("text"))
    };
    odd(1, "absent", "(void)", "()").is(
        5,
        "",
        "plugctl: odd: imports: import absent of base *: no exported symbol \"absent\"\n",
    );
    odd(2, "from_base", "(uint32_t n)", "(n)").is(
        5,
        "",
        "plugctl: odd: imports: import from_base of base *: function from_base: expected fn(u32) -> \
         u64, found fn() -> u64; rebuild the older of the two\n",
    );

    // Circles.
    place.node("a", "1.0.0", &[("b", "*")], &[]);
    place.node("b", "1.0.0", &[("c", "*")], &[]);
    place.node("c", "1.0.0", &[("a", "*")], &[]);
    let told = "plugctl: c: imports: import from_a of a *: plugins would import of each other: a -> b \
                -> c -> a\n";
    place.run(&["load", "a", "--with-deps"]).is(5, "", told);
    place.run(&["load", "a", "--dry-run"]).is(5, "", told);

    // Providers that fail take those with them that were loaded for the same plugin.
    place.node("first", "1.0.0", &[], &[]);
    let broken = "-DINIT=plug_raise(ctx, \"out of luck\"); return PLUG_FAILED;";
    place.node("failing", "1.0.0", &[("first", "*")], &[broken]);
    let user = place.node("user", "1.0.0", &[("failing", "*")], &[]);
    let before = place.run(&["list"]).stdout.lines().count();
    with(&user).is(
        1,
        "",
        "plugctl: failing: init: init returned -1: out of luck\n",
    );
    assert_eq!(place.run(&["list"]).stdout.lines().count(), before);
    let early =
        "-DINIT=return PLUG_OK;} __attribute__((constructor)) static void e(void) { from_base();";
    let early = place.node("early", "1.0.0", &[("base", "*")], &[early]);
    load(&early).is(
        5,
        "",
        "plugctl: early: bind: a constructor called from_base of base *, which is bound after the \
         constructors; call it in init or later\n",
    );

    // A replaced provider must do for its users.
    let user = place.node("user", "1.0.0", &[("base", "^1")], &[]);
    load(&user).code_is(0);
    place.run(&["unload", "base"]).is(
        4,
        "",
        "plugctl: base: going: it is used by user; unload that first\n",
    );
    let json = place.run(&["--json", "unload", "base"]);
    assert!(
        json.stderr.contains("\"in_use\"") || json.stdout.contains("\"in_use\""),
        "{json:?}"
    );
    place.run(&["unload", "user", "base"]).code_is(0);
}

/// Loads of a user and of its provider at the same time, by two clients.
#[test]
fn a_user_waits_for_a_provider_on_its_way_in() {
    let place = Place::new();
    let _host = place.finding();
    let slow = "-DINIT=struct timespec t = {1, 0}; nanosleep(&t, NULL); return PLUG_OK;";
    let base = place.node(
        "base",
        "1.4.0",
        &[],
        &["-include", "time.h", "-D_POSIX_C_SOURCE=200809L", slow],
    );
    let user = place.node("user", "1.0.0", &[("base", "^1")], &[]);
    thread::scope(|scope| {
        let base = scope.spawn(|| place.run(&["load", &base]));
        let mut coming = false;
        for _ in 0..600 {
            coming = place.run(&["list"]).stdout.contains("Coming");
            if coming {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        assert!(coming, "it is not seen on its way in");
        let user = place.run(&["load", &user]);
        user.code_is(0);
        base.join().expect("ends").code_is(0);
    });
    place.run(&["unload", "user", "base"]).code_is(0);
}
