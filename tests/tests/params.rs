//! Parameters that plugins declare, in three languages: what is given at a load, what is written
//! while the plugin is Live, and what is refused.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use plug_loader::{Error, ErrorKind, Params, Plugin, Source};
use plug_tests::host::Host;
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, rust_plugin};

const PATIENCE: Duration = Duration::from_secs(10);

const RUST: &str = r#"
plug_api::params! {
    /// how hard to try
    pub static LEVEL: int(-2..=9) = 6, writable, check: not_seven;
    /// how long to wait
    pub static WAIT: duration("1ms"..="1h") = "500ms";
    /// how to go about it
    pub static MODE: enum("fast"|"best") = "fast";
    /// what to listen on
    pub static PORTS: list(uint(1..=65535)) = "80,443";
    /// where to write
    pub static TARGET: string;
}

fn not_seven(level: &i64) -> plug_api::Result {
    match level {
        7 => Err(plug_api::Error::new("seven is taken")),
        8 => panic!("eight is too much"),
        _ => Ok(()),
    }
}

fn init(ctx: &plug_api::Context) -> plug_api::Result {
    let told: Vec<String> = ctx.params().map(|(key, value)| format!("{key}={value}")).collect();
    let told = told.join(" ");
    let expected = format!(
        "level={} mode={} ports={} target={} wait={}",
        LEVEL.get(),
        MODE.get(),
        PORTS.get().iter().map(u64::to_string).collect::<Vec<_>>().join(","),
        TARGET.get(),
        WAIT.get().as_nanos(),
    );
    if told == expected { Ok(()) } else { Err(format!("{told} is not {expected}").into()) }
}

plug_api::plugin! {
    name: "picky", version: "1.0.0", description: "for a test", license: "MIT",
    init: init, exit: || (),
}

plug_api::export! {
    pub fn level() -> i64 { LEVEL.get() }
    pub fn wait_ns() -> u64 { WAIT.get().as_nanos() as u64 }
}
"#;

/// The same in C and C++; `@FAIL@` is how the setter refuses.
const NATIVE: &str = r#"
#include "plugin_api.h"
#ifdef __cplusplus
#include <stdexcept>
#endif

static int64_t held;
static uint64_t waits;

static int32_t set_level(const plug_host_context *ctx, plug_str text) {
    int64_t number;
    if (!plug_int(text, &number)) {
        plug_raise(ctx, "not a number");
        return PLUG_FAILED;
    }
    if (number == 7) {
#ifdef __cplusplus
        throw std::runtime_error("seven is taken");
#else
        plug_raise(ctx, "seven is taken");
        return PLUG_FAILED;
#endif
    }
    __atomic_store_n(&held, number, __ATOMIC_SEQ_CST);
    return PLUG_OK;
}

PLUG_PARAM_WRITABLE(level, "int(-2..=9)", "6", "how hard to try", set_level);
PLUG_PARAM(wait, "duration(1ms..=1h)", "500ms", "how long to wait");
PLUG_PARAM(mode, "enum(fast|best)", "fast", "how to go about it");
PLUG_PARAM(ports, "list(uint(1..=65535))", "80,443", "what to listen on");
PLUG_PARAM_REQUIRED(target, "string", "where to write");

static int32_t init(const plug_host_context *ctx) {
    plug_str text;
    int64_t level;
    if (!plug_param(ctx, "level", &text) || !plug_int(text, &level) || level != held) return -2;
    if (!plug_param(ctx, "wait", &text) || !plug_uint(text, &waits)) return -3;
    if (!plug_param(ctx, "mode", &text) || !plug_param(ctx, "ports", &text)) return -4;
    return plug_param(ctx, "target", &text) ? PLUG_OK : -5;
}
static void stop(void) {}

PLUG_PLUGIN("picky", "1.0.0", "for a test", "MIT", init, stop);
PLUG_EXPORT(int64_t, level, (void)) { return __atomic_load_n(&held, __ATOMIC_SEQ_CST); }
PLUG_EXPORT(uint64_t, wait_ns, (void)) { return waits; }
"#;

fn each_language(test: impl Fn(&Host, &Path)) {
    let scratch = Scratch::new("params");
    let host = Host::new();
    let files: [PathBuf; 3] = [
        rust_plugin(&scratch, "picky-rust", RUST),
        c_plugin(&scratch, "picky", NATIVE),
        cpp_plugin(&scratch, "picky-cpp", NATIVE),
    ];
    for file in files {
        test(&host, &file);
    }
}

fn load(host: &Host, file: &Path, params: &[(&str, &str)]) -> Result<Plugin, Error> {
    let params = params
        .iter()
        .fold(Params::new(), |all, (key, value)| all.with(*key, *value));
    host.loader.load(&host.trust, Source::path(file), &params)
}

fn level(plugin: &Plugin) -> i64 {
    let level = plugin.function::<unsafe extern "C" fn() -> i64>("level");
    // SAFETY: the signature is the plugin's.
    unsafe { level.expect("exported").call(()) }.expect("live")
}

fn values(plugin: &Plugin) -> String {
    let settings = plugin.params();
    let values = settings
        .iter()
        .map(|s| format!("{}={}", s.param.name, s.value));
    values.collect::<Vec<_>>().join(" ")
}

#[test]
fn values_and_defaults_reach_the_plugin_before_init() {
    isolated!({
        each_language(|host, file| {
            let plugin = load(host, file, &[("target", "here")]).expect("loads");
            assert_eq!(level(&plugin), 6);
            assert_eq!(
                values(&plugin),
                "level=6 mode=fast ports=80,443 target=here wait=500ms"
            );
            host.unload("picky");

            let given = [
                ("Target", "x"),
                ("target", ""),
                ("level", "-0x2"),
                ("wait", "1m30s"),
                ("mode", "best"),
                ("ports", "1, 2"),
            ];
            let Err(error) = load(host, file, &given) else {
                panic!("names are compared with their case");
            };
            assert_eq!(error.kind(), ErrorKind::Parameter);
            let plugin = load(host, file, &given[1..]).expect("loads");
            assert_eq!(level(&plugin), -2);
            assert_eq!(
                values(&plugin),
                "level=-2 mode=best ports=1,2 target= wait=90s"
            );
            let wait = plugin.function::<unsafe extern "C" fn() -> u64>("wait_ns");
            // SAFETY: the signature is the plugin's.
            assert_eq!(
                unsafe { wait.expect("exported").call(()) },
                Ok(90_000_000_000)
            );
            host.unload("picky");
        });
    });
}

#[test]
fn what_does_not_fit_refuses_the_load_and_shows_the_declaration() {
    isolated!({
        each_language(|host, file| {
            let refused = |params: &[(&str, &str)]| {
                let error = load(host, file, params).expect_err("refused");
                assert_eq!(error.kind(), ErrorKind::Parameter, "{error}");
                assert_eq!(host.loader.plugins().len(), 0);
                error.to_string()
            };
            assert_eq!(
                refused(&[("target", "x"), ("levle", "1")]),
                "picky: metadata: parameter levle: expected one of level, mode, ports, target, \
                 wait, found no such parameter; did you mean level? declared as level: \
                 int(-2..=9) = 6, writable; how hard to try"
            );
            assert_eq!(
                refused(&[("target", "x"), ("colour", "1")]),
                "picky: metadata: parameter colour: expected one of level, mode, ports, target, \
                 wait, found no such parameter; leave it out"
            );
            assert_eq!(
                refused(&[("target", "x"), ("level", "10")]),
                "picky: metadata: parameter level: expected int(-2..=9), found \"10\"; declared as \
                 level: int(-2..=9) = 6, writable; how hard to try"
            );
            assert_eq!(
                refused(&[("level", "1")]),
                "picky: metadata: parameter target: expected a value, found none given; declared \
                 as target: string; where to write"
            );
            assert_eq!(
                refused(&[("target", "x"), ("level", "7")]),
                "picky: init: parameter level: \"7\" refused by the plugin: seven is taken; \
                 declared as level: int(-2..=9) = 6, writable; how hard to try"
            );
            // Nothing of all that stays behind.
            let _plugin = load(host, file, &[("target", "x")]).expect("loads");
            host.unload("picky");
        });
    });
}

#[test]
fn a_writable_one_is_written_while_callers_run_and_may_be_refused() {
    isolated!({
        each_language(|host, file| {
            let plugin = load(host, file, &[("target", "x")]).expect("loads");
            let set = |key: &str, value: &str| plugin.set_param(key, value, PATIENCE);
            let text = |result: Result<(), Error>| result.expect_err("refused").to_string();

            assert_eq!(
                text(set("wait", "1s")),
                "picky: parameter wait: expected one that is declared writable, found one that is \
                 set at the load only: wait: duration(1ms..=1h) = 500ms; how long to wait; load the \
                 plugin anew with it"
            );
            assert_eq!(
                text(set("level", "7")),
                "picky: parameter level: \"7\" refused by the plugin: seven is taken"
            );
            assert!(text(set("level", "ten")).contains("expected int(-2..=9), found \"ten\""));
            assert!(text(set("lever", "1")).contains("did you mean level?"));
            assert_eq!(
                (level(&plugin), plugin.params()[0].value.as_str()),
                (6, "6")
            );

            // What callers see is one of the values written, and what is shown is the last one.
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                let callers: Vec<_> = (0..2)
                    .map(|_| {
                        scope.spawn(|| {
                            let mut calls = 0_u32;
                            while !is_over.load(Ordering::Relaxed) || calls == 0 {
                                assert!((0..=6).contains(&level(&plugin)));
                                calls += 1;
                            }
                            calls
                        })
                    })
                    .collect();
                let writers: Vec<_> = (0..2)
                    .map(|n| {
                        let plugin = &plugin;
                        scope.spawn(move || {
                            for round in 0..100 {
                                let value = ((round + n) % 6).to_string();
                                plugin.set_param("level", &value, PATIENCE).expect("fits");
                            }
                        })
                    })
                    .collect();
                for writer in writers {
                    writer.join().expect("no panic");
                }
                is_over.store(true, Ordering::Relaxed);
                for caller in callers {
                    assert!(caller.join().expect("no panic") > 0);
                }
            });
            assert_eq!(plugin.params()[0].value, level(&plugin).to_string());
            host.unload("picky");
            let gone = set("level", "1").expect_err("refused");
            assert_eq!(gone.kind(), ErrorKind::Gone, "{gone}");
        });
    });
}

#[test]
fn a_panic_in_a_check_is_a_refusal_and_a_setter_that_hangs_holds_the_plugin() {
    isolated!({
        let scratch = Scratch::new("params");
        let host = Host::new();
        let rust = rust_plugin(&scratch, "picky-rust", RUST);
        let plugin = load(&host, &rust, &[("target", "x")]).expect("loads");
        let refused = plugin
            .set_param("level", "8", PATIENCE)
            .expect_err("refused");
        assert_eq!(
            refused.to_string(),
            "picky: parameter level: \"8\" refused by the plugin: panicked: eight is too much"
        );
        assert_eq!(level(&plugin), 6);
        host.unload("picky");

        let hangs = NATIVE.replace(
            "if (number == 7) {",
            "while (number == 5) {}\n if (number == 7) {",
        );
        let hangs = hangs.replace("while (number == 5)", "while (number == 5 && !let_go)");
        let hangs = hangs.replace(
            "static uint64_t waits;",
            "static uint64_t waits;\nstatic volatile int let_go;\n\
             PLUG_EXPORT(void, release, (void)) { let_go = 1; }",
        );
        let file = c_plugin(&scratch, "hangs", &hangs);
        let plugin = load(&host, &file, &[("target", "x")]).expect("loads");
        let late = plugin
            .set_param("level", "5", Duration::from_millis(50))
            .expect_err("no answer");
        assert_eq!(
            late.to_string(),
            "picky: parameter level: no answer from the plugin in 50ms"
        );
        let held = host
            .loader
            .unload("picky", plug_loader::Deadline::now())
            .expect_err("held");
        assert_eq!(held.kind(), ErrorKind::Deadline, "{held}");
        let release = plugin.function::<unsafe extern "C" fn()>("release");
        // SAFETY: the signature is the plugin's.
        unsafe { release.expect("exported").call(()) }.expect("live");
        host.unload("picky");
    });
}

#[test]
fn a_plugin_that_declares_none_takes_any_and_bad_declarations_are_refused() {
    isolated!({
        let scratch = Scratch::new("params");
        let host = Host::new();
        let source = |params: &str| {
            format!(
                "#include \"plugin_api.h\"\n{params}\n\
                 static int32_t init(const plug_host_context *ctx) {{ (void)ctx; return PLUG_OK; }}\n\
                 static void stop(void) {{}}\n\
                 PLUG_PLUGIN(\"bare\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n"
            )
        };
        let bare = c_plugin(&scratch, "bare", &source(""));
        let plugin = load(&host, &bare, &[("any", "thing")]).expect("loads");
        assert_eq!(plugin.params(), []);
        let error = plugin
            .set_param("any", "thing", PATIENCE)
            .expect_err("refused");
        assert_eq!(
            error.to_string(),
            "bare: parameter any: expected none, since the plugin declares none"
        );
        host.unload("bare");

        for (n, (declared, expected)) in [
            (
                "PLUG_PARAM(a, \"number\", \"1\", \"\");",
                "expected a type: bool, int(A..=B)",
            ),
            (
                "PLUG_PARAM(a, \"int(0..=1)\", \"2\", \"\");",
                "expected a default that fits its type",
            ),
            (
                "PLUG_PARAM(a, \"int\", \"2\", \"\");\nPLUG_META_(_x, \"param=a:bool\");",
                "expected one parameter of a name",
            ),
            (
                "PLUG_META_(_x, \"param-doc=b:text\");",
                "expected a param= of that name",
            ),
            ("PLUG_META_(_x, \"param-default=b\");", "expected NAME:TEXT"),
        ]
        .into_iter()
        .enumerate()
        {
            let file = c_plugin(&scratch, &format!("bad{n}"), &source(declared));
            let error = load(&host, &file, &[]).expect_err("refused").to_string();
            assert!(error.contains(expected), "{declared}: {error}");
        }
    });
}
