//! What happens to a plugin's file after it was opened does not happen to the plugin.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use plug_loader::Digest;
use plug_loader::{ErrorKind, Params, PluginFn, Source};
use plug_tests::host::{Host, useful};
use plug_tests::isolated;
use plug_tests::mutation::Random;
use plug_tests::standalone::{Scratch, run};

type Encode = unsafe extern "C" fn(*const u8, usize, *mut u8, usize) -> usize;

/// How often something happens to a file.
const TIMES: u32 = 1000;

fn encode(function: &PluginFn<Encode>) -> Vec<u8> {
    let mut out = [0; 64];
    let input = b"any carnal pleas";
    // SAFETY: the function's own signature, and room for what it writes.
    let n = unsafe { function.call((input.as_ptr(), input.len(), out.as_mut_ptr(), out.len())) };
    out[..n.expect("live")].to_vec()
}

/// One of the things that happen to files.
fn mistreat(path: &Path, original: &[u8], random: &mut Random, with_garbage: bool) {
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap();
    let some = random.below(original.len()) as u64;
    match random.below(if with_garbage { 7 } else { 5 }) {
        0 => file.set_len(some).unwrap(),
        1 => {
            // What a copy that was cut short leaves on some file systems.
            file.set_len(some).unwrap();
            file.set_len(original.len() as u64).unwrap();
        }
        2 => fs::remove_file(path).unwrap(),
        3 => {
            let new = path.with_extension("new");
            fs::write(&new, original).unwrap();
            fs::rename(new, path).unwrap();
        }
        4 => fs::write(path, original).unwrap(),
        5 => fs::write(path, vec![0x0f; random.below(2 * original.len())]).unwrap(),
        _ => {
            let mut bytes = original.to_vec();
            for byte in bytes.iter_mut().skip(some as usize) {
                *byte = random.number() as u8;
            }
            fs::write(path, bytes).unwrap();
        }
    }
}

#[test]
fn the_original_may_be_overwritten_cut_and_deleted_at_any_moment() {
    isolated!({
        let scratch = Scratch::new("overwritten");
        let host = Host::new();
        let original = fs::read(useful("base64")).unwrap();
        let [resident, reloaded] =
            ["resident.so", "reloaded.so"].map(|name| scratch.path().join(name));
        fs::write(&resident, &original).unwrap();
        fs::write(&reloaded, &original).unwrap();
        let plugin = host.load(&resident).expect("loads");
        let function = plugin
            .function::<Encode>("base64_encode")
            .expect("exported");
        let expected = encode(&function);
        let (over, calls) = (AtomicBool::new(false), AtomicU64::new(0));
        let (mut loaded, mut refused) = (0, 0);
        thread::scope(|scope| {
            // The old code answers all the time.
            scope.spawn(|| {
                // Relaxed: only the flag and the number matter, nothing is published with them.
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(encode(&function), expected);
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
            scope.spawn(|| {
                let mut random = Random::new(1);
                for _ in 0..TIMES {
                    mistreat(&resident, &original, &mut random, true);
                    mistreat(&reloaded, &original, &mut random, false);
                    thread::sleep(Duration::from_micros(random.below(800) as u64));
                }
                over.store(true, Ordering::Relaxed);
            });
            // Whatever was loaded is the whole file, never a torn one.
            while !over.load(Ordering::Relaxed) {
                let source = Source::path(&reloaded).named("again");
                match host.loader.load(&host.trust, source, &Params::new()) {
                    Ok(again) => {
                        assert_eq!(again.digest(), Some(Digest::of(&original)));
                        let function = again.function::<Encode>("base64_encode").expect("exported");
                        assert_eq!(encode(&function), expected);
                        host.unload("again");
                        loaded += 1;
                    }
                    Err(error) => {
                        let kinds = [ErrorKind::Open, ErrorKind::Stage, ErrorKind::Damaged];
                        assert!(kinds.contains(&error.kind()), "{error}");
                        refused += 1;
                    }
                }
            }
        });
        let calls = calls.into_inner();
        println!("{calls} calls, {loaded} loads of the whole file, {refused} refused");
        assert!(
            calls > 1000 && loaded > 0 && refused > 0,
            "{calls} {loaded} {refused}"
        );
        host.unload("base64");
    });
}

#[test]
fn a_link_that_changes_its_mind_cannot_mix_two_files() {
    isolated!({
        let scratch = Scratch::new("links");
        let host = Host::new();
        let build = |name: &str, value: u32| -> PathBuf {
            let source = scratch.write("x.c", &format!("int value(void) {{ return {value}; }}\n"));
            let library = scratch.path().join(name);
            run(Command::new("gcc")
                .args(["-shared", "-fPIC", "-o"])
                .arg(&library)
                .arg(source));
            library
        };
        let files = [build("one.so", 1), build("two.so", 2)];
        let digests = files
            .clone()
            .map(|file| Digest::of(&fs::read(file).unwrap()));
        let link = scratch.path().join("plugin.so");
        symlink(&files[0], &link).unwrap();
        let over = AtomicBool::new(false);
        let mut seen = [0; 2];
        thread::scope(|scope| {
            scope.spawn(|| {
                let new = scratch.path().join("new");
                let mut n = 0;
                // Relaxed: only the flag matters.
                while !over.load(Ordering::Relaxed) {
                    n += 1;
                    symlink(&files[n % 2], &new).unwrap();
                    fs::rename(&new, &link).unwrap();
                }
            });
            for _ in 0..500 {
                let source = Source::path(&link).named("linked");
                let plugin = host
                    .loader
                    .load(&host.trust, source, &Params::new())
                    .expect("loads");
                let value = plugin
                    .function::<unsafe extern "C" fn() -> i32>("value")
                    .expect("exported");
                // SAFETY: the function's own signature.
                let value = unsafe { value.call(()) }.expect("live") as usize;
                assert_eq!(plugin.digest(), Some(digests[value - 1]));
                seen[value - 1] += 1;
                host.unload("linked");
            }
            over.store(true, Ordering::Relaxed);
        });
        println!("{seen:?}");
        assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
    });
}
