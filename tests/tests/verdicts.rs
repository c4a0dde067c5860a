//! What an unload says when the plugin does not leave.

use std::sync::mpsc;
use std::thread;

use plug_loader::{ErrorKind, State, SymbolReader, Unloaded};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, include, native};

const PLAIN: &str = "#include \"plugin_api.h\"\n\
    static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
    static void stop(void) {}\n\
    PLUG_PLUGIN(\"NAME\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n";

#[test]
fn unload_of_a_file_marked_nodelete_is_pinned_and_says_so() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("nodelete");
        let source = scratch.write("n.c", &PLAIN.replace("NAME", "stays"));
        let object = scratch.path().join("stays.so");
        let done = std::process::Command::new("gcc")
            .args(["-shared", "-fPIC", "-Wl,-z,nodelete", "-I"])
            .arg(include())
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .status();
        assert!(done.is_ok_and(|status| status.success()));
        let plugin = host.load(&object).expect("loads");
        match host.loader.unload("stays", seconds(5)).expect("closes") {
            Unloaded::Pinned(left) => {
                assert!(left.to_string().contains("DF_1_NODELETE"), "{left}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(plugin.state(), State::Zombie);
        let found = SymbolReader::new()
            .resolve(plugin.range().0)
            .expect("still mapped");
        assert_eq!(found.state(), State::Zombie);
        assert_eq!(host.loader.zombies().len(), 1);
        // Its name is free: the next load is another one.
        let again = host.load(&object).expect("loads beside it");
        assert_ne!(again.generation(), plugin.generation());
        assert_ne!(again.range().0, plugin.range().0);
    });
}

#[test]
fn unload_with_a_thread_local_of_a_living_thread_is_a_zombie_until_it_ends() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("zombie");
        let source = PLAIN.replace("NAME", "lingers")
            + "#include <string>\n\
               PLUG_EXPORT(uint64_t, touch, (void)) {\n\
                   thread_local std::string text(100, 'x');\n\
                   return text.size();\n\
               }\n";
        let path = cpp_plugin(&scratch, "lingers", &source);
        let plugin = host.load(&path).expect("loads");
        let touch = plugin
            .function::<unsafe extern "C" fn() -> u64>("touch")
            .expect("exported");
        let (touched, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            // SAFETY: the signature is the plugin's.
            touched.send(unsafe { touch.call(()) }).expect("told");
            let _ = ended.recv();
        });
        assert_eq!(told.recv().expect("called"), Ok(100));
        let verdict = host.loader.unload("lingers", seconds(5)).expect("closes");
        assert!(matches!(verdict, Unloaded::Zombie(_)), "{verdict:?}");
        assert_eq!(plugin.state(), State::Zombie);
        let again = host
            .loader
            .unload("lingers", seconds(1))
            .expect_err("closed already");
        assert_eq!(again.kind(), ErrorKind::Busy);
        assert!(again.lingering().is_some());
        drop(end);
        thread.join().expect("the thread survives its destructor");
        // ld.so collects it at somebody's next dlclose.
        let other = c_plugin(&scratch, "other", &PLAIN.replace("NAME", "other"));
        host.load(&other).expect("loads");
        host.unload("other");
        let deadline = seconds(10);
        while !host.loader.zombies().is_empty() {
            host.loader.reclaim();
            assert!(!deadline.has_passed(), "still {:?}", host.loader.zombies());
        }
        assert_eq!(plugin.state(), State::Empty);
        assert!(SymbolReader::new().resolve(plugin.range().0).is_none());
        let source = scratch.write("last.c", &PLAIN.replace("NAME", "last"));
        host.load(native(
            &scratch,
            "gcc",
            "-std=c11",
            "last",
            &source,
            &include(),
        ))
        .expect("loads");
    });
}

#[test]
fn failed_load_that_stays_mapped_is_a_zombie_that_readers_see() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("refuses");
        let text = PLAIN
            .replace("NAME", "refuses")
            .replace("return PLUG_OK;", "return PLUG_FAILED;");
        let source = scratch.write("r.c", &text);
        let object = scratch.path().join("refuses.so");
        let done = std::process::Command::new("gcc")
            .args(["-shared", "-fPIC", "-Wl,-z,nodelete", "-I"])
            .arg(include())
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .status();
        assert!(done.is_ok_and(|status| status.success()));
        for n in 1..=3 {
            let error = host.load(&object).expect_err("its init refuses");
            assert_eq!(error.kind(), ErrorKind::InitFailed);
            let left = error.lingering().expect("marked nodelete").clone();
            assert!(left.to_string().contains("DF_1_NODELETE"), "{left}");
            assert_eq!(
                host.loader.zombies().len(),
                n,
                "its name is free, it is not forgotten"
            );
            assert!(host.loader.zombies().contains(&left));
            let zombie = host
                .loader
                .plugins()
                .into_iter()
                .find(|plugin| plugin.generation() == left.generation)
                .expect("listed");
            assert_eq!(zombie.state(), State::Zombie);
            let found = SymbolReader::new()
                .resolve(zombie.range().0)
                .expect("still mapped");
            assert_eq!(found.generation, left.generation);
        }
    });
}
