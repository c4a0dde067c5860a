//! `plugctl watch` through the real binary: files that are copied over, renamed over and half written,
//! garbage, folders that go and come back, and how it ends.

mod kit;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use kit::{Place, masked, signal};

const SOURCE: &str = r#"
#include "plugin_api.h"
static int32_t init(const plug_host_context *ctx) {
    plug_str text;
    return plug_param(ctx, "level", &text) && plug_text_eq(text, "3") ? PLUG_OK : PLUG_FAILED;
}
static void stop(void) {}
PLUG_PARAM_REQUIRED(level, "int", "given each time");
PLUG_PLUGIN("my-codec", "@VERSION@", "for a test", "MIT", init, stop);
"#;

fn version(place: &Place, version: &str) -> Vec<u8> {
    let source = SOURCE.replace("@VERSION@", version);
    let file = place.plugin(&format!("built-{version}"), &source, &[]);
    fs::read(file).expect("file")
}

/// A watch that runs, and its lines on both streams.
struct Watching {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            // Nobody listens when the test has ended.
            let _heard = send.send(line.expect("text"));
        }
    });
    receive
}

impl Watching {
    fn start(place: &Place, path: &Path) -> Self {
        let path = path.to_str().expect("text");
        let mut child = place
            .command(&["watch", "my-codec", path, "level=3"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("plugctl");
        let watching = Self {
            out: lines(child.stdout.take().expect("piped")),
            err: lines(child.stderr.take().expect("piped")),
            child,
        };
        assert_eq!(watching.out(), format!("watching {path}"));
        watching
    }

    /// Its next line on the standard output.
    fn out(&self) -> String {
        let line = self.out.recv_timeout(Duration::from_secs(60));
        line.unwrap_or_else(|_| {
            panic!(
                "silent; errors: {:?}",
                self.err.try_iter().collect::<Vec<_>>()
            )
        })
    }

    /// Its next line on the standard error stream but those that tell of a wait.
    fn err(&self) -> String {
        loop {
            let line = self.next_err();
            if !line.starts_with("plugctl: waiting for ") {
                return line;
            }
        }
    }

    fn next_err(&self) -> String {
        self.err
            .recv_timeout(Duration::from_secs(60))
            .expect("a line")
    }

    /// It tells that the plugin was replaced.
    #[track_caller]
    fn replaced(&self, new: &str, generation: u64, old: &str, former: u64) {
        let text = format!(
            "my-codec {new}, generation {generation}, is Live in the place of my-codec {old}, \
             generation {former}; in 1 ms"
        );
        assert_eq!(masked(&self.out()), masked(&text));
        let text = format!("generation {former}: quiesced 1 worker in 1 ms: 1 idle, 0 drained");
        assert_eq!(masked(&self.out()), masked(&text));
    }

    fn end(mut self, by: &str) -> Option<i32> {
        signal(self.child.id(), by);
        self.child.wait().expect("ends").code()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn in_force(place: &Place) -> String {
    let info = place.run(&["info", "-F", "version", "my-codec"]);
    info.stdout.trim().to_owned()
}

#[test]
fn a_file_that_has_changed_takes_the_plugins_place_and_garbage_does_not() {
    let place = Place::new();
    let [one, two, three] = ["1.0.0", "2.0.0", "3.0.0"].map(|name| version(&place, name));
    let host = place.serve("watched", &["--workers", "1"]);
    let folder = place.dir.join("watched");
    fs::create_dir(&folder).expect("folder");
    let file = folder.join("any name.so");
    let watching = Watching::start(&place, &file);

    fs::write(&file, &one).expect("file");
    let loaded = "my-codec 1.0.0 is Live at 0x1: 1 bytes, generation 1, in 1 ms";
    assert_eq!(masked(&watching.out()), masked(loaded));

    fs::write(&file, "neither an ELF file nor anything else").expect("file");
    let refused = watching.err();
    assert!(
        refused.starts_with("plugctl: my-codec: facts: ")
            && refused.contains("expected an ELF file"),
        "{refused}"
    );
    assert_eq!(in_force(&place), "1.0.0");

    // As linkers do.
    let other = folder.join("any name.so.tmp");
    fs::write(&other, &two).expect("file");
    fs::rename(&other, &file).expect("renamed");
    watching.replaced("2.0.0", 2, "1.0.0", 1);

    // In two parts, of which the first may be seen and is refused then.
    let (first, rest) = three.split_at(three.len() / 2);
    fs::write(&file, first).expect("file");
    thread::sleep(Duration::from_millis(500));
    let mut open = fs::OpenOptions::new()
        .append(true)
        .open(&file)
        .expect("file");
    std::io::Write::write_all(&mut open, rest).expect("written");
    drop(open);
    watching.replaced("3.0.0", 3, "2.0.0", 2);

    // The same once more is nothing to do, nor is a file that goes.
    fs::write(&file, &three).expect("file");
    thread::sleep(Duration::from_millis(500));
    fs::remove_file(&file).expect("file");
    thread::sleep(Duration::from_millis(500));
    fs::write(&file, &one).expect("file");
    watching.replaced("1.0.0", 4, "3.0.0", 3);

    // Somebody unloaded it meanwhile.
    place
        .run(&["unload", "my-codec", "--wait", "10"])
        .code_is(0);
    fs::write(&file, &two).expect("file");
    let loaded = "my-codec 2.0.0 is Live at 0x1: 1 bytes, generation 5, in 1 ms";
    assert_eq!(masked(&watching.out()), masked(loaded));
    assert_eq!(in_force(&place), "2.0.0");
    assert_eq!(watching.end("INT"), Some(130));
    assert_eq!(in_force(&place), "2.0.0");
    host.end().is(0, "", "");
}

#[test]
fn a_folder_is_watched_for_the_plugins_file_also_where_it_comes_back() {
    let place = Place::new();
    let [one, two] = ["1.0.0", "2.0.0"].map(|name| version(&place, name));
    let host = place.serve("watched", &["--workers", "1"]);
    let folder = place.dir.join("target");
    fs::create_dir(&folder).expect("folder");
    let file = folder.join("libmy_codec.so");
    // What lies there is taken up.
    fs::write(&file, &one).expect("file");
    let watching = Watching::start(&place, &folder);
    let loaded = "my-codec 1.0.0 is Live at 0x1: 1 bytes, generation 1, in 1 ms";
    assert_eq!(masked(&watching.out()), masked(loaded));

    fs::write(folder.join("libother.so"), &two).expect("file");
    fs::remove_dir_all(&folder).expect("folder");
    thread::sleep(Duration::from_millis(300));
    fs::create_dir(&folder).expect("folder");
    fs::write(&file, &two).expect("file");
    watching.replaced("2.0.0", 2, "1.0.0", 1);
    fs::write(&file, &one).expect("file");
    watching.replaced("1.0.0", 3, "2.0.0", 2);
    assert_eq!(watching.end("TERM"), Some(143));
    host.end().is(0, "", "");
}

#[test]
fn what_cannot_be_watched_is_told_at_once() {
    let place = Place::new();
    let path = place.dir.join("none/libcodec.so");
    let path = path.to_str().expect("text");
    place
        .run(&["watch", "codec", path])
        .is(3, "", "plugctl: no live host\n");
    let _host = place.serve("watched", &["--workers", "1"]);
    let ended = place.run(&["watch", "codec", path]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(3), ""),
        "{ended:?}"
    );
    let folder = place.dir.join("none");
    let begin = format!("plugctl: {}: not watched: ", folder.display());
    assert!(ended.stderr.starts_with(&begin), "{ended:?}");
    let json = place.run(&["--json", "watch", "codec", path]);
    let failure: serde_json::Value = serde_json::from_str(&json.stderr).expect("JSON");
    assert_eq!(failure["kind"], "watch");
}

/// One that is closed and stays mapped has given its name up: the next build is loaded, not replaced.
#[test]
fn a_build_beside_a_pinned_one_is_loaded() {
    let place = Place::new();
    let pinned = place.plugin(
        "pinned",
        &SOURCE.replace("@VERSION@", "1.0.0"),
        &["-Wl,-z,nodelete"],
    );
    let pinned = fs::read(pinned).expect("file");
    let _host = place.serve("watched", &["--workers", "1"]);
    let path = place.dir.join("libbuild.so");
    fs::write(&path, &pinned).expect("file");
    let watching = Watching::start(&place, &path);
    assert!(watching.out().contains("my-codec 1.0.0 is Live"));
    place
        .run(&["unload", "my-codec", "--wait", "30"])
        .code_is(7);
    fs::write(&path, version(&place, "2.0.0")).expect("file");
    assert!(watching.out().contains("my-codec 2.0.0 is Live"));
    assert_eq!(in_force(&place), "2.0.0");
    assert_eq!(watching.end("INT"), Some(130));
}
