//! Loads, calls, refusals and unloads through the public API.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{CallError, Deadline, ErrorKind, Stage, State, SymbolReader, Unloaded};
use plug_tests::host::{Host, hostile, seconds, useful};
use plug_tests::{isolated, process};

type ChecksumOf = unsafe extern "C" fn(*const u8, usize) -> u64;

#[test]
fn load_of_each_language_resolves_calls_and_unloads() {
    isolated!({
        let host = Host::new();
        for name in plug_example_plugins::USEFUL {
            let plugin = host.useful(name);
            assert_eq!(plugin.state(), State::Live);
            assert_eq!(plugin.name(), name);
            let (start, end) = plugin.range();
            let inodes = process::inodes_in(start, end);
            assert_eq!(inodes.len(), 1, "one file is mapped in the plugin's range");
            let mut symbols = 0;
            for (name_of, address) in plugin.symbols() {
                symbols += 1;
                let found = SymbolReader::new()
                    .resolve(address)
                    .expect("inside the plugin");
                assert_eq!(found.plugin.as_str(), name);
                assert_eq!(found.generation, plugin.generation());
                assert_eq!(found.state(), State::Live);
                assert_eq!(found.offset, 0, "{}", String::from_utf8_lossy(&name_of));
            }
            assert!(symbols > 1);
            let report = host.unload(name);
            assert_eq!(report.generation, plugin.generation());
            assert_eq!(plugin.state(), State::Empty);
            for inode in inodes {
                assert!(!process::is_mapped(inode), "{name} is still mapped");
            }
            assert!(SymbolReader::new().resolve(start).is_none());
        }
        assert!(!process::objects().iter().any(|name| name.contains("plug-")));
    });
}

#[test]
fn call_after_unload_and_reload_answers_gone() {
    isolated!({
        let host = Host::new();
        let worker = host.loader.worker("w").expect("worker");
        let old = host.useful("checksum");
        let function = old.function::<ChecksumOf>("checksum_of").expect("exported");
        // SAFETY: the signature is the one the plugin exports.
        let first = unsafe { function.call_on(&worker, (b"abc".as_ptr(), 3)) };
        // SAFETY: as above.
        assert_eq!(first, unsafe { function.call((b"abc".as_ptr(), 3)) });
        assert!(first.is_ok());
        host.unload("checksum");
        // SAFETY: as above.
        assert_eq!(
            unsafe { function.call_on(&worker, (b"abc".as_ptr(), 3)) },
            Err(CallError::Gone)
        );
        let new = host.useful("checksum");
        assert_ne!(new.generation(), old.generation());
        // SAFETY: as above.
        assert_eq!(
            unsafe { function.call((b"abc".as_ptr(), 3)) },
            Err(CallError::Gone)
        );
        assert_eq!(old.pin().expect_err("old").kind(), ErrorKind::Gone);
        let function = new.function::<ChecksumOf>("checksum_of").expect("exported");
        // SAFETY: as above.
        assert_eq!(first, unsafe { function.call((b"abc".as_ptr(), 3)) });
    });
}

#[test]
fn load_of_a_live_name_is_refused_and_dash_equals_underscore() {
    isolated!({
        let host = Host::new();
        host.hostile("never-returns").expect("loads");
        let again = host.hostile("never-returns").expect_err("taken");
        assert_eq!(
            (again.kind(), again.stage()),
            (ErrorKind::AlreadyLoaded, Some(Stage::Claim))
        );
        assert!(host.loader.plugin("never_returns").is_some());
        host.unload("never_returns");
        assert_eq!(
            host.loader
                .unload("never-returns", Deadline::now())
                .expect_err("gone")
                .kind(),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn unload_with_a_call_inside_names_the_worker_and_stays_live() {
    isolated!({
        static RELEASED: AtomicU32 = AtomicU32::new(0);
        let host = Host::new();
        let plugin = host.hostile("never-returns").expect("loads");
        let stuck = plugin
            .function::<unsafe extern "C" fn(*const u32) -> u64>("never_returns")
            .expect("exported");
        let loader = host.loader.clone();
        let thread = thread::spawn(move || {
            let worker = loader.worker("io-3").expect("worker");
            // SAFETY: the flag outlives the call.
            unsafe { stuck.call_on(&worker, (RELEASED.as_ptr().cast_const(),)) }
        });
        while host.loader.holders(&plugin).is_empty() {
            thread::yield_now();
        }
        let refused = host
            .loader
            .unload("never-returns", Deadline::after(Duration::from_millis(100)))
            .expect_err("inside");
        assert_eq!(refused.kind(), ErrorKind::Deadline);
        let text = refused.to_string();
        assert!(text.contains("worker io-3 (tid "), "{text}");
        assert!(text.contains("in never_returns"), "{text}");
        assert_eq!(plugin.state(), State::Live);
        RELEASED.store(1, Ordering::Release);
        thread.join().expect("no panic").expect("returned");
        host.unload("never-returns");
    });
}

#[test]
fn unload_waits_for_pins_and_refuses_new_ones() {
    isolated!({
        let host = Host::new();
        let plugin = host.useful("base64");
        let pin = plugin.pin().expect("live");
        let held = host
            .loader
            .unload("base64", Deadline::after(Duration::from_millis(50)));
        let held = held.expect_err("pinned").to_string();
        assert!(held.contains("1 pin held, taken at "), "{held}");
        let loader = host.loader.clone();
        let leaving = thread::spawn(move || loader.unload("base64", seconds(10)));
        while !pin.is_leaving() {
            thread::yield_now();
        }
        assert_eq!(plugin.pin().expect_err("going").kind(), ErrorKind::Gone);
        assert_eq!(plugin.state(), State::Going);
        drop(pin);
        assert!(matches!(
            leaving.join().expect("no panic"),
            Ok(Unloaded::Gone(_))
        ));
    });
}

#[test]
fn unload_waits_for_as_many_pins_as_a_host_may_take() {
    isolated!({
        let host = Host::new();
        let plugin = host.useful("base64");
        let pins: Vec<_> = (0..1 << 16).map(|_| plugin.pin().expect("live")).collect();
        let held = host
            .loader
            .unload("base64", Deadline::after(Duration::from_millis(50)));
        let held = held.expect_err("pinned").to_string();
        assert!(held.contains("65536 pins held"), "{held}");
        drop(pins);
        host.unload("base64");
    });
}

#[test]
fn load_of_hostile_plugins_fails_at_its_stage_and_leaves_nothing() {
    isolated!({
        let host = Host::new();
        host.useful("wordcount");
        host.unload("wordcount");
        let before = (
            process::maps().len(),
            process::descriptors(),
            process::threads(),
        );
        let cases = [
            ("init-fails", ErrorKind::InitFailed, Stage::Init),
            ("init-panics", ErrorKind::InitFailed, Stage::Init),
            ("no-descriptor", ErrorKind::Incompatible, Stage::Metadata),
            ("wrong-abi", ErrorKind::Incompatible, Stage::Metadata),
        ];
        for (name, kind, stage) in cases {
            let error = host.hostile(name).expect_err(name);
            assert_eq!(
                (error.kind(), error.stage()),
                (kind, Some(stage)),
                "{error:#}"
            );
            assert!(error.lingering().is_none(), "{error:#}");
            assert!(host.loader.plugin(name).is_none());
        }
        let wrong = host.hostile("wrong-abi").expect_err("wrong").to_string();
        assert!(wrong.contains("expected 1, found 99"), "{wrong}");
        let panics = host.hostile("init-panics").expect_err("panics").to_string();
        assert!(panics.contains("init returned 1: "), "{panics}");
        let after = (
            process::maps().len(),
            process::descriptors(),
            process::threads(),
        );
        // The allocator may have grown by an arena; the plugins' own mappings are checked by name.
        assert_eq!(before.1, after.1, "descriptors");
        assert_eq!(before.2, after.2, "threads");
        assert!(!process::objects().iter().any(|name| name.contains("plug-")));
    });
}

#[test]
fn call_that_panics_or_throws_becomes_an_error_with_its_message() {
    isolated!({
        let host = Host::new();
        for (name, function) in [("export-panics", "panics"), ("export-throws", "throws")] {
            let plugin = host.hostile(name).expect("loads");
            let function = plugin
                .function::<unsafe extern "C" fn() -> i32>(function)
                .unwrap_or_else(|error| panic!("{error}"));
            // SAFETY: the signature is the plugin's.
            match unsafe { function.call(()) } {
                Err(CallError::Raised(message)) => assert!(!message.is_empty()),
                other => panic!("{name}: {other:?}"),
            }
            host.unload(name);
        }
    });
}

#[test]
fn constructor_that_sleeps_blocks_nobody_and_resolves_as_coming() {
    isolated!({
        let host = Host::new();
        host.useful("wordcount");
        host.unload("wordcount");
        thread::scope(|scope| {
            let slow = scope.spawn(|| host.hostile("constructor-slow"));
            let coming = loop {
                if let Some(coming) = host.loader.plugin("constructor-slow") {
                    break coming;
                }
                thread::yield_now();
            };
            assert_eq!(coming.state(), State::Coming);
            let (_, address) = coming.symbols().swap_remove(0);
            let found = SymbolReader::new().resolve(address).expect("visible");
            assert_eq!(found.state(), State::Coming);
            // Whoever waited for the constructor would wait for the rest of its two seconds, every
            // time. The best of the tries shows what the loader costs, the worst what the other
            // tests on this machine do.
            let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
            let mut within = |what, action: &dyn Fn()| {
                let began = Instant::now();
                action();
                times.entry(what).or_default().push(began.elapsed());
            };
            for _ in 0..20 {
                if coming.state() != State::Coming {
                    break;
                }
                within("load", &|| drop(host.useful("checksum")));
                within("call", &|| {
                    let plugin = host.loader.plugin("checksum").expect("live");
                    let f = plugin
                        .function::<ChecksumOf>("checksum_of")
                        .expect("exported");
                    // SAFETY: the signature is the plugin's.
                    unsafe { f.call((b"x".as_ptr(), 1)) }.expect("called");
                });
                within("unload", &|| drop(host.unload("checksum")));
                within("dlsym", &|| {
                    // SAFETY: dlsym of a libc function.
                    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"getpid".as_ptr()) };
                    assert!(!found.is_null());
                });
                within("thread", &|| {
                    thread::Builder::new()
                        .name("x".into())
                        .spawn(|| thread::current().name().map(str::len))
                        .expect("thread")
                        .join()
                        .expect("no panic");
                });
            }
            assert_eq!(times.len(), 5, "no try was complete");
            for (what, times) in times {
                let best = times.iter().min().expect("tried");
                let worst = times.iter().max().expect("tried");
                println!("{what}: {best:?} to {worst:?}");
                assert!(*best < Duration::from_millis(10), "{what} took {best:?}");
                assert!(
                    *worst < Duration::from_millis(1500),
                    "{what} took {worst:?}"
                );
            }
            assert!(slow.join().expect("no panic").is_ok());
        });
        host.unload("constructor-slow");
    });
}

#[test]
fn concurrent_loads_of_one_file_share_one_result() {
    isolated!({
        let host = Host::new();
        let path = useful("checksum");
        for _ in 0..50 {
            let generations: Vec<u64> = thread::scope(|scope| {
                let loads: Vec<_> = (0..4).map(|_| scope.spawn(|| host.load(&path))).collect();
                loads
                    .into_iter()
                    .filter_map(|load| match load.join().expect("no panic") {
                        Ok(plugin) => Some(plugin.generation()),
                        Err(error) => {
                            // One that came after the first had landed.
                            assert_eq!(error.kind(), ErrorKind::AlreadyLoaded, "{error}");
                            None
                        }
                    })
                    .collect()
            });
            assert!(!generations.is_empty());
            assert!(
                generations.windows(2).all(|pair| pair[0] == pair[1]),
                "{generations:?}"
            );
            host.unload("checksum");
        }
    });
}

#[test]
fn load_of_missing_or_damaged_files_is_refused_with_a_reason() {
    isolated!({
        let host = Host::new();
        let missing = host.load("/nonexistent/x.so").expect_err("missing");
        assert_eq!(
            (missing.kind(), missing.stage()),
            (ErrorKind::Open, Some(Stage::Open))
        );
        let folder = host.load("/tmp").expect_err("folder");
        assert_eq!(folder.kind(), ErrorKind::Open);
        let text = host
            .load(file!())
            .or_else(|_| host.load("/etc/passwd"))
            .expect_err("text");
        assert_eq!(
            (text.kind(), text.stage()),
            (ErrorKind::Damaged, Some(Stage::Facts))
        );
        let path = hostile("never-returns");
        let bytes = std::fs::read(&path).expect("readable");
        let cut = std::env::temp_dir().join(format!("plug-cut-{}.so", std::process::id()));
        std::fs::write(&cut, &bytes[..bytes.len() / 2]).expect("writable");
        let damaged = host.load(&cut).expect_err("cut");
        std::fs::remove_file(&cut).expect("own file");
        assert_eq!(damaged.kind(), ErrorKind::Damaged, "{damaged:#}");
    });
}

#[test]
fn foreign_library_loads_calls_and_unloads() {
    isolated!({
        let host = Host::new();
        let Some(zlib) = ["/lib/x86_64-linux-gnu/libz.so.1", "/usr/lib/libz.so.1"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
        else {
            return;
        };
        let plugin = host.load(zlib).expect("loads");
        assert_eq!(plugin.name(), "libz".trim_start_matches("lib"));
        let crc32 = plugin
            .function::<unsafe extern "C" fn(u64, *const u8, u32) -> u64>("crc32")
            .expect("exported");
        // SAFETY: zlib's documented signature.
        let sum = unsafe { crc32.call((0, b"123456789".as_ptr(), 9)) }.expect("live");
        assert_eq!(sum, 0xcbf4_3926);
        host.unload("z");
    });
}

#[test]
fn second_loader_is_refused() {
    isolated!({
        let _host = Host::new();
        let again = plug_loader::Loader::new(plug_loader::Config::default());
        assert_eq!(
            again.expect_err("second").kind(),
            ErrorKind::AlreadyInitialised
        );
    });
}
