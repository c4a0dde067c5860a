//! Plugins that strangers built, loaded: the frozen version 1, the README's, parameters, services.

use std::sync::atomic::{AtomicU64, Ordering};

use plug_api::abi::{HostContext, Interface};
use plug_loader::{ErrorKind, Params, Source};
use plug_tests::host::Host;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, native, repository, rust_plugin};
use plug_tests::{isolated, process};

type Add = unsafe extern "C" fn(u64, u64) -> u64;

/// The table that `tests/abi/v1/frozen.c` exports.
#[repr(C)]
struct Frozen {
    twice: unsafe extern "C-unwind" fn(u64) -> u64,
}

// SAFETY: repr(C), and there is only version 1.0.
unsafe impl Interface for Frozen {
    const NAME: &'static str = "test.frozen";
    const MAJOR: u32 = 1;
    const MINOR: u32 = 0;
}

/// The same interface as a later host knows it.
#[repr(C)]
struct FrozenNext(Frozen);

// SAFETY: repr(C); version 2 is another interface.
unsafe impl Interface for FrozenNext {
    const NAME: &'static str = "test.frozen";
    const MAJOR: u32 = 2;
    const MINOR: u32 = 0;
}

fn frozen(scratch: &Scratch) -> std::path::PathBuf {
    let folder = repository().join("tests/abi/v1");
    native(
        scratch,
        "gcc",
        "-std=c11",
        "frozen",
        &folder.join("frozen.c"),
        &folder,
    )
}

#[test]
fn frozen_plugin_of_version_1_keeps_loading() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("frozen");
        let path = frozen(&scratch);
        let plugin = host.load(&path).expect("version 1 loads for ever");
        let table = plugin.interface::<Frozen>().expect("exported");
        // SAFETY: the function is what the frozen header says, and does not leave the call.
        let twice = unsafe { table.call_raw(|table, _: *const HostContext| (table.twice)(21)) };
        assert_eq!(twice, Ok(42));
        let next = plugin
            .interface::<FrozenNext>()
            .expect_err("another version");
        assert_eq!(next.kind(), ErrorKind::InterfaceVersion);
        assert!(
            next.to_string()
                .contains("expected 2.0 of 8 bytes, found 1.0 of 8 bytes"),
            "{next}"
        );
        let name = plugin.name().to_owned();
        host.unload(&name);
        let refused = host
            .loader
            .load(
                &host.trust,
                Source::path(&path),
                &Params::new().with("refuse", "yes"),
            )
            .expect_err("asked to refuse");
        assert_eq!(refused.kind(), ErrorKind::InitFailed);
        assert!(refused.to_string().contains("asked to refuse"), "{refused}");
    });
}

#[test]
fn readme_plugin_built_in_an_empty_folder_loads_in_three_languages() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("stranger");
        let readme = std::fs::read_to_string(repository().join("README.md")).expect("README");
        let rust = readme
            .split("```rust\n")
            .skip(1)
            .filter_map(|block| block.split("```").next())
            .find(|block| block.contains("plugin!"))
            .expect("the README has a plugin");
        let c = "#include \"plugin_api.h\"\n\
                 static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
                 static void stop(void) {}\n\
                 PLUG_PLUGIN(\"in-c\", \"1.0.0\", \"adds\", \"MIT\", init, stop);\n\
                 PLUG_EXPORT(uint64_t, add, (uint64_t a, uint64_t b)) { return a + b; }\n";
        let cpp = c.replace("in-c", "in-cpp");
        for path in [
            rust_plugin(&scratch, "hello", rust),
            c_plugin(&scratch, "in-c", c),
            cpp_plugin(&scratch, "in-cpp", &cpp),
        ] {
            let plugin = host.load(&path).expect("loads");
            let add = plugin.function::<Add>("add").expect("exported");
            // SAFETY: the signature is the plugin's.
            assert_eq!(unsafe { add.call((2, 3)) }, Ok(5), "{}", path.display());
            let name = plugin.name().to_owned();
            host.unload(&name);
        }
        assert!(!process::objects().iter().any(|name| name.contains("plug-")));
    });
}

/// A service of the host.
#[repr(C)]
struct Counter {
    add: extern "C" fn(u64) -> u64,
}

// SAFETY: repr(C), one version.
unsafe impl Interface for Counter {
    const NAME: &'static str = "test.counter";
    const MAJOR: u32 = 1;
    const MINOR: u32 = 2;
}

static TOTAL: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(n: u64) -> u64 {
    TOTAL.fetch_add(n, Ordering::SeqCst) + n
}

static COUNTER: Counter = Counter { add: count };

#[test]
fn plugin_uses_the_services_and_parameters_of_its_host() {
    isolated!({
        let host = Host::new();
        host.loader.offer(&COUNTER);
        let scratch = Scratch::new("services");
        let path = c_plugin(
            &scratch,
            "user",
            "#include \"plugin_api.h\"\n\
             #include <string.h>\n\
             typedef struct counter { uint64_t (*add)(uint64_t n); } counter;\n\
             static const counter *used;\n\
             static int32_t init(const plug_host_context *ctx) {\n\
                 plug_str step;\n\
                 if (plug_service(ctx, \"test.counter\", 2, 0) != NULL) return -2;\n\
                 if (plug_service(ctx, \"test.counter\", 1, 3) != NULL) return -3;\n\
                 used = (const counter *)plug_service(ctx, \"test.counter\", 1, 1);\n\
                 if (used == NULL) return -4;\n\
                 if (!plug_param(ctx, \"step\", &step)) return -5;\n\
                 used->add(step.len);\n\
                 return PLUG_OK;\n\
             }\n\
             static void stop(void) { used->add(1000); }\n\
             PLUG_PLUGIN(\"user\", \"1.0.0\", \"uses a service\", \"MIT\", init, stop);\n\
             PLUG_EXPORT(uint64_t, bump, (void)) { return used->add(1); }\n",
        );
        let params = Params::new().with("step", "x").with("step", "four");
        let plugin = host
            .loader
            .load(&host.trust, Source::path(&path), &params)
            .expect("loads");
        assert_eq!(TOTAL.load(Ordering::SeqCst), 4);
        let bump = plugin
            .function::<unsafe extern "C" fn() -> u64>("bump")
            .expect("exported");
        // SAFETY: the signature is the plugin's.
        assert_eq!(unsafe { bump.call(()) }, Ok(5));
        host.unload("user");
        assert_eq!(TOTAL.load(Ordering::SeqCst), 1005);
    });
}
