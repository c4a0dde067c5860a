//! Plugins that are never unloaded, by their author's word or their host's.

use std::thread;

use plug_loader::image::Inspection;
use plug_loader::{ErrorKind, Params, Plugin, Source, Stage, State, Unloaded};
use plug_tests::host::{Host, seconds, useful};
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, rust_plugin};
use plug_tests::{isolated, process};

const NATIVE: &str = r#"
#include "plugin_api.h"
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PERMANENT("@REASON@");
PLUG_PLUGIN("@NAME@", "1.0.0", "stays", "MIT", init, stop);
PLUG_EXPORT(uint64_t, seven, (void)) { return 7; }
"#;

const RUST: &str = r#"
plug_api::plugin! {
    name: "in-rust",
    version: "1.0.0",
    description: "stays",
    license: "MIT",
    permanent: "its threads never end",
    init: |_ctx| Ok(()),
    exit: || (),
}

plug_api::export! {
    pub fn seven() -> u64 { 7 }
}
"#;

fn native(name: &str, reason: &str) -> String {
    NATIVE.replace("@NAME@", name).replace("@REASON@", reason)
}

/// Every way to unload it is refused with the reason, and it goes on working.
fn assert_stays(host: &Host, plugin: &Plugin, reason: &str) {
    let name = plugin.name();
    assert_eq!(plugin.permanent(), Some(reason));
    let expected =
        format!("{name}: going: it is permanent: {reason}; it stays until the process ends");
    let refusals = [
        host.loader
            .unload(name, seconds(10))
            .expect_err("permanent"),
        host.loader
            .unload_exactly(plugin, seconds(10))
            .expect_err("permanent"),
        host.loader.begin_unload(name).expect_err("permanent"),
    ];
    for refused in refusals {
        assert_eq!(
            (refused.kind(), refused.stage()),
            (ErrorKind::Permanent, Some(Stage::Going))
        );
        assert_eq!(refused.to_string(), expected);
    }
    assert_eq!(plugin.state(), State::Live);
    drop(plugin.pin().expect("live"));
}

#[test]
fn a_declared_one_in_every_language_is_refused_with_its_authors_reason() {
    isolated!({
        let scratch = Scratch::new("permanent");
        let reason = "its threads never end";
        let files = [
            ("in-c", c_plugin(&scratch, "in-c", &native("in-c", reason))),
            (
                "in-cpp",
                cpp_plugin(&scratch, "in-cpp", &native("in-cpp", reason)),
            ),
            ("in-rust", rust_plugin(&scratch, "in-rust", RUST)),
        ];
        let host = Host::new();
        host.useful("base64");
        for (name, file) in &files {
            let seen = Inspection::of_file(file).expect("reads");
            assert_eq!(seen.info.permanent(), Some(reason));
            let plugin = host.load(file).expect("loads");
            assert_eq!(plugin.name(), *name);
            assert_stays(&host, &plugin, reason);
            let seven = plugin.function::<unsafe extern "C" fn() -> u64>("seven");
            // SAFETY: the fixture's signature.
            let seven = unsafe { seven.expect("exported").call(()) };
            assert_eq!(seven, Ok(7));
        }
        assert_eq!(
            host.loader.plugin("base64").expect("there").permanent(),
            None
        );
        // A shutdown takes the others.
        let left = host.loader.shutdown(seconds(10)).expect("outside");
        assert_eq!(left.len(), 4);
        for (name, end) in &left {
            match end {
                Ok(Unloaded::Gone(_)) => assert_eq!(name, "base64"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Permanent, "{error}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert_eq!(host.loader.plugins().len(), 3);
    });
}

#[test]
fn one_that_the_host_made_so_stays_and_shares_no_load_with_one_that_goes() {
    isolated!({
        let host = Host::new();
        let load = |permanent: bool| {
            let source = Source::path(useful("base64"));
            let source = if permanent {
                source.permanent()
            } else {
                source
            };
            host.loader.load(&host.trust, source, &Params::new())
        };
        for round in 0..20 {
            let (kept, other) = thread::scope(|scope| {
                let other = scope.spawn(|| load(false));
                (load(true), other.join().expect("no panic"))
            });
            // Whoever came second was refused, and did not get the other's.
            match (kept, other) {
                (Ok(plugin), Err(refused)) => {
                    let kinds = [ErrorKind::AlreadyLoaded, ErrorKind::Busy];
                    assert!(kinds.contains(&refused.kind()), "{refused}");
                    assert_stays(&host, &plugin, "the host loaded it as such");
                    let (start, end) = plugin.range();
                    assert!(!process::inodes_in(start, end).is_empty());
                    return;
                }
                (Err(refused), Ok(plugin)) => {
                    let kinds = [ErrorKind::AlreadyLoaded, ErrorKind::Busy];
                    assert!(kinds.contains(&refused.kind()), "{refused}");
                    assert_eq!(plugin.permanent(), None);
                    host.unload("base64");
                }
                both => panic!("round {round}: {both:?}"),
            }
        }
        // The other one was always first.
        let plugin = load(true).expect("loads");
        assert_stays(&host, &plugin, "the host loaded it as such");
    });
}

#[test]
fn one_without_a_reason_is_refused_before_it_runs() {
    isolated!({
        let scratch = Scratch::new("permanent");
        let host = Host::new();
        let file = c_plugin(&scratch, "unreasoned", &native("unreasoned", ""));
        let refused = host.load(file).expect_err("malformed");
        assert_eq!(
            (refused.kind(), refused.stage()),
            (ErrorKind::Incompatible, Some(Stage::Metadata))
        );
        let text = refused.to_string();
        assert!(
            text.contains("expected a reason, found \"permanent=\""),
            "{text}"
        );
    });
}

#[test]
fn a_load_that_fails_leaves_even_if_it_was_to_be_permanent() {
    isolated!({
        let host = Host::new();
        let source = Source::path(plug_tests::host::hostile("init-fails")).permanent();
        let failed = host.loader.load(&host.trust, source, &Params::new());
        let failed = failed.expect_err("init fails");
        assert_eq!(
            (failed.kind(), failed.lingering()),
            (ErrorKind::InitFailed, None)
        );
        assert!(!process::objects().iter().any(|name| name.contains("plug-")));
    });
}
