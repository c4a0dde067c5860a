//! What outsiders can hand to the loader: the bytes of a file, its author's words, and the messages
//! of a socket. Each function takes any bytes and must neither panic nor hang.
//!
//! `fuzz/run SECONDS` runs them under libFuzzer, and with them those that the loader itself has for
//! signatures, reports of probes and files of directives; the tests `fuzzing` and `signing` of the
//! workspace run the same functions on mutated seeds with a stable compiler.

use std::env;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::OnceLock;
use std::time::Duration;

use plug_loader::control::{Options, Server};
use plug_loader::image::{Facts, Info, RewritePolicy, damages, plan, validate};
use plug_loader::{Config, Loader, Policy, Trust};

/// The bytes of a file, through everything that looks at them before ld.so does.
pub fn validator(bytes: &[u8]) {
    let findings = damages(bytes);
    let Ok(facts) = Facts::read(bytes) else {
        assert!(!findings.is_empty());
        return;
    };
    // Of the one that stops at the first finding and the one that tells all, neither knows better.
    assert_eq!(validate(&facts, bytes).is_ok(), findings.is_empty());
    let info = Info::read(&facts, bytes);
    if findings.is_empty() {
        assert!(info.is_ok() || !info.unwrap_err().expected.is_empty());
        for edit in plan(&facts, bytes, &RewritePolicy::new(7)) {
            let end = usize::try_from(edit.offset).unwrap() + edit.bytes.len();
            assert!(end <= bytes.len(), "{}", edit.what);
        }
    }
}

/// A folder of this process's own.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = env::temp_dir().join(format!("plug-fuzz-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    })
}

/// A plugin with room for metadata: its bytes, and where the room is.
fn template() -> &'static (Vec<u8>, usize, usize) {
    static TEMPLATE: OnceLock<(Vec<u8>, usize, usize)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let source = folder().join("template.c");
        let library = folder().join("template.so");
        fs::write(&source, "const char plug_meta_v1[4096] = \"name=x\";\n").expect("a source");
        let built = Command::new("gcc")
            .args(["-shared", "-fPIC", "-nostdlib", "-o"])
            .args([&library, &source])
            .status();
        assert!(built.expect("gcc").success());
        let bytes = fs::read(library).expect("a library");
        let facts = Facts::read(&bytes).expect("intact");
        let symbols = facts.symbols(&bytes);
        let is_room = |name: &[u8]| name == b"plug_meta_v1";
        let room = symbols
            .iter()
            .find(|s| is_room(facts.symbol_name(&bytes, s)));
        let room = room.expect("room for metadata");
        let at = facts.offset_at(room.value, room.size).expect("in the file");
        let (at, size) = (
            usize::try_from(at).unwrap(),
            usize::try_from(room.size).unwrap(),
        );
        (bytes, at, size)
    })
}

/// What an author says, as the bytes behind the metadata symbol.
pub fn metadata(bytes: &[u8]) {
    let (template, at, size) = template();
    let mut file = template.clone();
    let len = bytes.len().min(*size);
    file[*at..at + size].fill(0);
    file[*at..at + len].copy_from_slice(&bytes[..len]);
    let facts = Facts::read(&file).expect("only its strings differ");
    match Info::read(&facts, &file) {
        Ok(info) => {
            assert!(info.fields().all(|(key, _)| !key.is_empty()));
            let offers = info.interfaces().chain(info.services());
            assert!(offers.into_iter().all(|offer| !offer.name.is_empty()));
            assert!(info.exports().all(|export| !export.signature.is_empty()));
            for (_, told) in info.fields().filter(|(key, _)| *key == "signature") {
                let name = told.split(':').next().unwrap_or_default();
                let compared = info.signature(name);
                assert!(compared.is_none_or(|text| text.starts_with("fn(")));
            }
            for import in info.imports() {
                let told = import.signature.as_deref();
                assert!(told.is_none_or(|text| text.starts_with("fn(")));
                assert!(!import.plugin.is_empty() && !import.symbol.is_empty());
                let _takes = import.takes(info.version().unwrap_or_default());
            }
            for offer in info.interfaces().chain(info.services()) {
                let _fields = info.table(offer.name, offer.major, offer.minor);
            }
        }
        Err(malformed) => assert!(!malformed.to_string().is_empty()),
    }
}

/// A host with a socket and no plugins.
fn host() -> &'static Server {
    static HOST: OnceLock<(Loader, Server)> = OnceLock::new();
    let (_, server) = HOST.get_or_init(|| {
        let loader = Loader::new(Config::default()).expect("the first loader");
        // SAFETY: nothing is loaded: no message brings a descriptor.
        let trust = unsafe { Trust::new(Policy::default()) };
        let mut options = Options::default();
        options.socket = Some(folder().join("socket"));
        let server = loader.serve_control(&trust, options).expect("a socket");
        (loader, server)
    });
    server
}

/// All that one client ever says. The host must answer or hang up, and take the next client.
pub fn protocol(bytes: &[u8]) {
    let mut socket = UnixStream::connect(host().path()).expect("the host listens");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    // A host that has heard enough hangs up.
    let _heard = socket.write_all(bytes);
    let _over = socket.shutdown(Shutdown::Write);
    let mut reply = [0; 4096];
    loop {
        match socket.read(&mut reply) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            // The fuzzer's own alarm: a read with a time limit does not go on by itself.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("the host neither answers nor hangs up: {error}"),
        }
    }
}
