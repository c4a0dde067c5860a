//! Plugins that use plugins, through the real binary: `load --with-deps` and `--dry-run`, `list`,
//! `info`, `unload --unused`, and each refusal word for word.

mod kit;

use std::fs;
use std::path::PathBuf;
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
    let both = format!("{}{}", json.stdout, json.stderr);
    assert!(both.contains("\"in_use\""), "{json:?}");
    let replace = |file: &str| place.run(&["replace", "base", file]);
    let path = |name: &str, text: &str| {
        let path = place.plugin(name, text, &[]);
        path.to_str().expect("text").to_owned()
    };
    let newer = path("base2", &source("base", "2.0.0", &[]));
    replace(&newer).is(
        5,
        "",
        "plugctl: base: activate: import from_base of base ^1 by user: expected version ^1, found \
         2.0.0\n",
    );
    let other = source("base", "1.5.0", &[]).replace("from_base, (void)", "other_name, (void)");
    replace(&path("base3", &other)).is(
        5,
        "",
        "plugctl: base: activate: import from_base of base ^1 by user: no exported symbol \
         \"from_base\"\n",
    );
    let other = source("base", "1.5.0", &[]).replace("from_base, (void)", "from_base, (int32_t n)");
    let other = other.replace("{ return 1; }", "{ return (uint64_t)n; }");
    replace(&path("base4", &other)).is(
        5,
        "",
        "plugctl: base: activate: import from_base of base ^1 by user: function from_base: expected \
         fn() -> u64, found fn(i32) -> u64; rebuild the older of the two\n",
    );
    let round = source("base", "1.5.0", &[("user", "*")]);
    replace(&path("base5", &round)).is(
        5,
        "",
        "plugctl: base: imports: import from_user of user *: plugins would import of each other: \
         base -> user -> base\n",
    );
    replace(&path("base6", &source("base", "1.5.0", &[]))).code_is(0);
    place
        .run(&["info", "base", "-F", "used-by"])
        .is(0, "user\n", "");
    place.run(&["unload", "user", "base"]).code_is(0);
}

/// What holds a plugin at a point while a file is there.
struct Hold {
    file: PathBuf,
    define: String,
}

impl Hold {
    fn new(place: &Place) -> Self {
        let file = place.dir.join("hold");
        fs::write(&file, "").expect("file");
        let define = format!("-DHOLD=\"{}\"", file.display());
        Self { file, define }
    }

    /// Compiler's flags: `hold()` waits.
    fn flags<'a>(&'a self, init: &'a str) -> [&'a str; 5] {
        [
            "-include",
            "unistd.h",
            "-D_DEFAULT_SOURCE",
            &self.define,
            init,
        ]
    }

    fn release(&self) {
        fs::remove_file(&self.file).expect("there");
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Where the test has failed, whoever waits ends all the same.
        let _released = fs::remove_file(&self.file);
    }
}

/// Waits until `list` shows `state`.
fn until(place: &Place, state: &str) {
    for _ in 0..3_000 {
        if place.run(&["list"]).stdout.contains(state) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{state} is not seen");
}

const WAITING: &str = "while (access(HOLD, F_OK) == 0) { usleep(1000); }";

/// A provider on its way in is waited for, until it is there, has failed, or for half a minute.
#[test]
fn a_provider_on_its_way_in_is_waited_for_and_no_longer() {
    let place = Place::new();
    let _host = place.finding();
    let user = place.node("user", "1.0.0", &[("base", "^1")], &[]);
    for (end, code, told) in [
        ("return PLUG_OK;", 0, ""),
        (
            "return PLUG_FAILED;",
            3,
            "plugctl: user: imports: import from_base of base ^1: base was waited for, and its load \
             failed\n",
        ),
        (
            "return PLUG_OK;",
            6,
            "plugctl: user: imports: import from_base of base ^1: base is still Coming\n",
        ),
    ] {
        let hold = Hold::new(&place);
        let init = format!("-DINIT={WAITING} {end}");
        let base = place.node("base", "1.4.0", &[], &hold.flags(&init));
        thread::scope(|scope| {
            let hold = hold;
            let coming = scope.spawn(|| place.run(&["load", &base]));
            until(&place, "Coming");
            let waiting = scope.spawn(|| place.run(&["load", &user]));
            if code == 6 {
                // Half a minute, by default.
                let waited = waiting.join().expect("ends");
                waited.code_is(code);
                assert_eq!(
                    waited.stderr.lines().last().unwrap_or_default(),
                    told.trim_end()
                );
                hold.release();
                coming.join().expect("ends").code_is(0);
                return;
            }
            // One more load in the host: the user's, which waits.
            thread::sleep(Duration::from_millis(500));
            assert!(!waiting.is_finished(), "it did not wait");
            hold.release();
            let waited = waiting.join().expect("ends");
            waited.code_is(code);
            assert_eq!(
                waited.stderr.lines().last().unwrap_or_default(),
                told.trim_end()
            );
            coming.join().expect("ends");
        });
        for name in ["user", "base"] {
            place.run(&["unload", name]);
        }
        assert_eq!(place.run(&["list"]).stdout.lines().count(), 1);
    }
}

/// A provider on its way out is none, and a closed user that a thread keeps keeps its provider.
#[test]
fn plugins_on_their_way_out_are_told_as_such() {
    let place = Place::new();
    let _host = place.finding();
    let user = place.node("user", "1.0.0", &[("base", "^1")], &[]);
    let hold = Hold::new(&place);
    let text = source("base", "1.4.0", &[]).replace(
        "static void stop(void) {}",
        &format!("static void stop(void) {{ {WAITING} }}"),
    );
    let base = place.plugin("base", &text, &hold.flags("-DNONE"));
    place
        .run(&["load", base.to_str().expect("text")])
        .code_is(0);
    thread::scope(|scope| {
        let hold = hold;
        let going = scope.spawn(|| place.run(&["unload", "base", "--wait", "60"]));
        until(&place, "Going");
        place.run(&["load", &user]).is(
            4,
            "",
            "plugctl: user: imports: import from_base of base ^1: base is Going, not Live; load it \
             again\n",
        );
        hold.release();
        going.join().expect("ends").code_is(0);
    });
    let base = place.node("base", "1.4.0", &[], &[]);
    place.run(&["load", &base]).code_is(0);
    let hold = Hold::new(&place);
    let thread = format!(
        "#include <pthread.h>\nstatic void *wait(void *none) {{ {WAITING} return none; }}\n"
    );
    let text = thread + &source("user", "1.0.0", &[("base", "^1")]);
    let init = "-DINIT=pthread_t t; return pthread_create(&t, NULL, wait, NULL);";
    let user = place.plugin("waiting", &text, &hold.flags(init));
    place
        .run(&["load", user.to_str().expect("text")])
        .code_is(0);
    place.run(&["unload", "user", "--wait", "0"]).code_is(7);
    place.run(&["unload", "base"]).is(
        4,
        "",
        "plugctl: base: going: it is used by user (closed, and kept by its holders); unload that \
         first\n",
    );
    hold.release();
    place.run(&["unload", "user", "--wait", "60"]).code_is(0);
    place.run(&["unload", "base"]).code_is(0);
}
