//! Signatures and the ABI gate: what is refused, and in which words.

use std::fs::{self, Permissions};
use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use minisign::{KeyPair, PublicKey};
use plug_loader::authority::{
    Claims, DenyList, Enforcement, Keys, SignaturePolicy, detached_path, trailer,
};
use plug_loader::checkpoint::{Verdict, set_hook};
use plug_loader::image::Inspection;
use plug_loader::{
    Config, Digest, Error, ErrorKind, Params, Plugin, Source, Stage, Taint, fuzzing,
};
use plug_tests::host::{Host, useful};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, bringing, c_plugin};

/// Made by minisign 0.11: `minisign -G -W`, `minisign -S -t ...` of a file with the bytes `test`,
/// and the same with `-l`.
const KEY: &str = "untrusted comment: minisign public key 33CFE7A357129B63
RWRjmxJXo+fPM9aSTTh/C0nj0ACNsdvu8V91nRHB8vRAMRJ/KX41jWjx
";
const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RURjmxJXo+fPM0ml8In2MZlOS5LxbfWgtXrKgaMLh8zhrdNjAVepomAEKjtH2ERt5gbbmRVU7svFlc5qMzTTFY0srRuCXvpFIgY=
trusted comment: name=hello version=1.0.0 abi=1 build-id=ab
a4Tvsiuw9uX/E98EXYB270HhXzT5e/Wpl1V+sIRC1GiZuCJCQrg4Gq//TeiABbZhOI6xe8AU4ktA1rzKN40FBw==
";
const LEGACY: &str = "untrusted comment: signature from minisign secret key
RWRjmxJXo+fPM2BQ9dyx3XJ5wITzYWopd4v/Ln0jiT9tl5dM31u/Xrx8dmnFzqGpER7MHVid/j6uTmwXBAnCIuqphfLT1m2lIQA=
trusted comment: x
H2565zOlo/0A6cKrLGGAlKSLCY7CYAWaZlFwsGzl9YQNK8DfLGNqarOL7zkBlaeuTUO0gQzirhIGLRH9EmnBAg==
";

fn enforced(key: &str) -> SignaturePolicy {
    SignaturePolicy::new(Enforcement::Enforce, Keys::from_text(key).unwrap())
}

fn why(policy: &SignaturePolicy, file: &[u8], signature: Option<&str>) -> String {
    let refusal = policy.verify(file, signature.map(str::as_bytes));
    refusal.expect_err("refused").to_string()
}

#[test]
fn signatures_of_the_standard_tool_are_verified() {
    let policy = enforced(KEY);
    let signed = policy.verify(b"test", Some(SIGNATURE.as_bytes())).unwrap();
    let signed = signed.expect("by a trusted key");
    assert_eq!(signed.key.to_string(), "33CFE7A357129B63");
    let expected = "name=hello version=1.0.0 abi=1 build-id=ab";
    assert_eq!(signed.claims.to_string(), expected);
    let appended = [&b"test"[..], &trailer(SIGNATURE)].concat();
    assert!(policy.verify(&appended, None).unwrap().is_some());

    let changed = "signature: expected one of this file and this trusted comment by key \
                   33CFE7A357129B63, found another; the file or its signature was changed";
    assert_eq!(why(&policy, b"tesu", Some(SIGNATURE)), changed);
    let tampered = SIGNATURE.replace("version=1.0.0", "version=1.0.1");
    assert_eq!(
        why(&policy, b"test", Some(&tampered)),
        changed,
        "global signature"
    );
    assert_eq!(
        why(&policy, b"test", Some(LEGACY)),
        "signature: expected a signature of the file's hash (ED), found a legacy one (Ed); sign the \
         file again"
    );
    let denied = policy.clone().deny(DenyList::default().key(signed.key));
    assert_eq!(
        why(&denied, b"test", Some(SIGNATURE)),
        "signature: by key 33CFE7A357129B63, which is on the deny list"
    );
    let other = KeyPair::generate_unencrypted_keypair().unwrap();
    let other = enforced(&other.pk.to_box().unwrap().into_string());
    assert_eq!(
        why(&other, b"test", Some(SIGNATURE)),
        "signature: expected one by a trusted key, found one by key 33CFE7A357129B63; put its \
         public key among the trusted ones"
    );
    // The id of a trusted key does not make a signature one of its own.
    let known = KEY.lines().nth(1).unwrap();
    let known = PublicKey::from_base64(known).unwrap().to_bytes();
    let mut forged = KeyPair::generate_unencrypted_keypair()
        .unwrap()
        .pk
        .to_bytes();
    forged[2..10].copy_from_slice(&known[2..10]);
    let forged = PublicKey::from_bytes(&forged).unwrap().to_box().unwrap();
    let forged = forged.into_string();
    assert_eq!(why(&enforced(&forged), b"test", Some(SIGNATURE)), changed);
}

#[test]
fn every_cut_and_every_changed_byte_of_a_signature_is_refused() {
    let policy = enforced(KEY);
    // The untrusted comment is not signed, and the end of the last line may be missing.
    let first = SIGNATURE.find('\n').unwrap();
    for len in 0..SIGNATURE.len() - 1 {
        let cut = &SIGNATURE[..len];
        assert!(
            policy.verify(b"test", Some(cut.as_bytes())).is_err(),
            "{len}"
        );
    }
    for at in (0..SIGNATURE.len()).filter(|at| *at < 18 || *at >= first) {
        let mut bytes = SIGNATURE.as_bytes().to_vec();
        bytes[at] ^= 1;
        let verdict = policy.verify(b"test", Some(&bytes));
        assert!(
            verdict.is_err() || at == SIGNATURE.len() - 1,
            "{at}: {verdict:?}"
        );
    }
    for (text, expected) in [
        (
            "",
            "signature: expected 4 lines, found 0; sign the file again",
        ),
        (
            "\n\n\n\n",
            "signature: line 1: expected \"untrusted comment:\"; sign the file again",
        ),
        (
            &SIGNATURE.replace("\ntrusted", "\nTrusted"),
            "signature: line 3: expected \"trusted comment: \"; sign the file again",
        ),
        (
            &SIGNATURE.replace("==\n", "\n"),
            "signature: line 4: expected 88 characters, found 86; sign the file again",
        ),
        (
            &SIGNATURE.replace("RURjm", "RUFjm"),
            "signature: algorithm: expected \"ED\", found \"EA\"; sign the file again",
        ),
        (
            &SIGNATURE.repeat(2),
            "signature: expected 4 lines, found 8; sign the file again",
        ),
        (
            &"x".repeat(20_000),
            "signature: expected at most 16384 bytes, found 20000; sign the file again",
        ),
    ] {
        assert_eq!(why(&policy, b"test", Some(text)), expected);
    }
}

#[test]
fn mutated_signatures_and_reports_come_back() {
    let appended = [&b"\x7fELF test"[..], &trailer(SIGNATURE)].concat();
    let corpus: Vec<Vec<u8>> = vec![
        KEY.into(),
        SIGNATURE.into(),
        LEGACY.into(),
        appended,
        b"name=hello version=1.0.0 abi=1 build-id=ab".to_vec(),
        b"hello 1\npassed map\ntime map 12\nunloaded yes\nleft 1 x thread\nend\n".to_vec(),
    ];
    let mut random = Rng::with_seed(1);
    let mut random = |below: usize| random.usize(..below);
    let began = Instant::now();
    let mut n = 0;
    while n < 2_000 || began.elapsed() < Duration::from_secs(2) {
        let mut bytes = corpus[n % corpus.len()].clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len().max(1));
            match random(5) {
                0 if !bytes.is_empty() => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => bytes.truncate(at),
                2 if !bytes.is_empty() => drop(bytes.remove(at)),
                3 => {
                    let other = &corpus[random(corpus.len())];
                    bytes.extend_from_slice(&other[random(other.len())..]);
                }
                _ => bytes.insert(at.min(bytes.len()), b"\n =\0~"[random(5)]),
            }
        }
        fuzzing::signature(&bytes);
        fuzzing::report(&bytes);
        n += 1;
    }
}

/// Keys, and a folder of files signed by them.
struct Signer {
    scratch: Scratch,
    pair: KeyPair,
}

impl Signer {
    fn new() -> Self {
        let scratch = Scratch::new("signing");
        let pair = KeyPair::generate_unencrypted_keypair().unwrap();
        let text = pair.pk.to_box().unwrap().into_string();
        scratch.write("keys/author.pub", &text);
        for path in ["keys", "keys/author.pub"] {
            let mode = if path == "keys" { 0o755 } else { 0o644 };
            fs::set_permissions(scratch.path().join(path), Permissions::from_mode(mode)).unwrap();
        }
        Self { scratch, pair }
    }

    fn keys(&self) -> Keys {
        Keys::from_dir(self.scratch.path().join("keys")).unwrap()
    }

    fn sign(&self, bytes: &[u8], comment: &str) -> String {
        let signed = minisign::sign(None, &self.pair.sk, Cursor::new(bytes), Some(comment), None);
        signed.unwrap().into_string()
    }

    /// A copy of an example plugin.
    fn copy(&self, name: &str, to: &str) -> PathBuf {
        let path = self.scratch.path().join(to);
        fs::copy(useful(name), &path).unwrap();
        path
    }

    /// Signs the file at `path` beside it.
    fn detach(&self, path: &Path, comment: &str) {
        let text = self.sign(&fs::read(path).unwrap(), comment);
        fs::write(detached_path(path), text).unwrap();
    }
}

/// The trusted comment that the file at `path` needs.
fn comment(path: &Path) -> String {
    let seen = Inspection::of_file(path).unwrap();
    let build_id = seen.facts.build_id.unwrap_or_default();
    let (version, api) = (seen.info.version(), seen.info.api());
    let (version, api) = (version.unwrap_or_default(), api.unwrap_or_default());
    Claims::new(&seen.name, version, api, &build_id)
        .unwrap()
        .to_string()
}

fn host(policy: SignaturePolicy) -> Host {
    let mut config = Config::default();
    config.signatures = policy;
    Host::with(config)
}

#[track_caller]
fn refused(result: Result<Plugin, Error>, kind: ErrorKind, expected: &str) {
    let error = result.expect_err("refused");
    assert_eq!((error.kind(), &*error.to_string()), (kind, expected));
    let stage = error.stage();
    assert!(
        matches!(stage, Some(Stage::Verify | Stage::Metadata)),
        "{stage:?}"
    );
}

#[test]
fn enforcing_hosts_load_what_is_signed_for_what_it_is() {
    isolated!({
        let signer = Signer::new();
        let host = host(SignaturePolicy::new(Enforcement::Enforce, signer.keys()));
        let path = signer.copy("base64", "libbase64.so");
        let shown = format!("{:?}", path.display().to_string());
        let none = "signature: expected one by a trusted key, found none; sign the file with \
                    plugctl sign";
        refused(
            host.load(&path),
            ErrorKind::Unsigned,
            &format!("{shown}: verify: {none}"),
        );

        signer.detach(&path, &comment(&path));
        let plugin = host.load(&path).expect("signed");
        assert_eq!(plugin.taints().to_string(), "");
        host.unload("base64");

        // Under another name of the file, and under another name of the host's.
        let moved = signer.copy("base64", "renamed.so");
        fs::rename(detached_path(&path), detached_path(&moved)).unwrap();
        let source = Source::path(&moved).named("mine");
        host.loader
            .load(&host.trust, source, &Params::new())
            .expect("signed");
        host.unload("mine");

        // The signature of another file.
        let other = signer.copy("wordcount", "libwordcount.so");
        fs::copy(detached_path(&moved), detached_path(&other)).unwrap();
        let id = signer.keys().ids().next().unwrap();
        let error = host.load(&other).unwrap_err();
        assert!(
            error.to_string().ends_with(&format!(
                "verify: signature: expected one of this file and this trusted comment by key {id}, \
                 found another; the file or its signature was changed"
            )),
            "{error}"
        );

        // Signed by the trusted key, but for another plugin.
        let good = comment(&path);
        for (field, from, to, text) in [
            (
                "name",
                "name=base64",
                "name=codec",
                "expected codec, found base64",
            ),
            (
                "version",
                "version=1.0.0",
                "version=0.9.0",
                "expected 0.9.0, found 1.0.0",
            ),
            ("abi", "abi=1", "abi=2", "expected 2, found 1"),
            ("abi", "abi=1", "abi=", "expected none, found 1"),
        ] {
            signer.detach(&path, &good.replace(from, to));
            let expected =
                format!("base64: verify: signature: {field}: {text}; it was made for another file");
            refused(host.load(&path), ErrorKind::Signature, &expected);
        }
        let other_build = good.rsplit_once('=').unwrap().0.to_owned() + "=00ff";
        signer.detach(&path, &other_build);
        let error = host.load(&path).unwrap_err().to_string();
        assert!(error.contains("build-id: expected 00ff, found "), "{error}");
        signer.detach(&path, "timestamp:1633700835\tfile:libbase64.so\tprehashed");
        let error = host.load(&path).unwrap_err().to_string();
        assert!(
            error.ends_with(
                "trusted comment: expected key=value, found \
                 \"timestamp:1633700835\\tfile:libbase64.so\\tprehashed\"; sign the file with \
                 plugctl sign, or with the comment it prints"
            ),
            "{error}"
        );
    });
}

#[test]
fn appended_signatures_count_until_they_are_stripped_or_doubled() {
    isolated!({
        let signer = Signer::new();
        let host = host(SignaturePolicy::new(Enforcement::Enforce, signer.keys()));
        let path = signer.copy("base64", "libbase64.so");
        let original = fs::read(&path).unwrap();
        let text = signer.sign(&original, &comment(&path));
        let write = |bytes: &[u8]| {
            // By rename, as plugins are replaced.
            let partial = path.with_extension("new");
            fs::write(&partial, bytes).unwrap();
            fs::rename(&partial, &path).unwrap();
        };
        let signed = [&original[..], &trailer(&text)].concat();
        write(&signed);
        host.load(&path).expect("signed");
        host.unload("base64");

        write(&[&signed[..], &trailer(&text)].concat());
        let error = host.load(&path).unwrap_err().to_string();
        assert!(
            error.ends_with(
                "appended signature: expected one, found two; sign the original file again"
            ),
            "{error}"
        );
        write(&original);
        assert_eq!(host.load(&path).unwrap_err().kind(), ErrorKind::Unsigned);
        // One byte between the file and its signature.
        write(&[&original[..], b"\0", &trailer(&text)].concat());
        assert_eq!(host.load(&path).unwrap_err().kind(), ErrorKind::Signature);
        // A detached signature is of the whole file, the appended one included.
        write(&signed);
        signer.detach(&path, &comment(&path));
        host.load(&path).expect("signed twice, differently");
        host.unload("base64");
        fs::write(detached_path(&path), &text).unwrap();
        assert_eq!(host.load(&path).unwrap_err().kind(), ErrorKind::Signature);
    });
}

#[test]
fn permissive_hosts_taint_what_is_not_signed_and_refuse_what_was_changed() {
    isolated!({
        let signer = Signer::new();
        let id = signer.keys().ids().next().unwrap();
        let listed = signer.copy("wordcount", "listed.so");
        let digest = Digest::of(&fs::read(&listed).unwrap());
        let list = signer.scratch.write(
            "deny",
            &format!("# withdrawn\n\nsha256 {digest}\nkey 0123456789ABCDEF\n"),
        );
        fs::set_permissions(&list, Permissions::from_mode(0o600)).unwrap();
        let policy = SignaturePolicy::new(Enforcement::Permissive, signer.keys())
            .deny(DenyList::from_file(&list).unwrap());
        let host = host(policy);
        let path = signer.copy("base64", "libbase64.so");
        let plugin = host.load(&path).expect("unsigned");
        assert!(plugin.taints().has(Taint::Unsigned));
        assert_eq!(plugin.taints().to_string(), "E");
        host.unload("base64");

        signer.detach(&path, &comment(&path));
        assert_eq!(host.load(&path).expect("signed").taints().to_string(), "");
        host.unload("base64");

        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let error = host.load(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Signature);
        assert!(
            error.to_string().contains(&format!("by key {id}")),
            "{error}"
        );

        let expected = format!(
            "{:?}: verify: sha256 {digest} is on the deny list",
            listed.display().to_string()
        );
        refused(host.load(&listed), ErrorKind::Denied, &expected);
    });
}

#[test]
fn descriptors_have_only_the_signature_they_are_given() {
    isolated!({
        let signer = Signer::new();
        let host = host(SignaturePolicy::new(Enforcement::Enforce, signer.keys()));
        let path = signer.copy("base64", "libbase64.so");
        signer.detach(&path, &comment(&path));
        let open = || Source::opened(fs::File::open(&path).unwrap().into(), &path);
        let load = |source| host.loader.load(&host.trust, source, &Params::new());
        assert_eq!(load(open()).unwrap_err().kind(), ErrorKind::Unsigned);
        let text = fs::read(detached_path(&path)).unwrap();
        load(open().signature(text)).expect("signed");
        host.unload("base64");
    });
}

#[test]
fn libraries_that_a_plugin_brings_must_be_signed_like_itself() {
    isolated!({
        let signer = Signer::new();
        let (path, core) = bringing(&signer.scratch, "whole", "", &[]);
        signer.detach(&path, &comment(&path));
        let of_core = format!(
            "whole: needed: dependency libcore.so.1 ({}): ",
            core.display()
        );
        let told = |host: &Host| {
            let error = host.load(&path).expect_err("refused");
            let text = error.to_string();
            (error.kind(), text)
        };
        let enforcing = host(SignaturePolicy::new(Enforcement::Enforce, signer.keys()));
        let none = "signature: expected one by a trusted key, found none; sign the file with \
                    plugctl sign";
        assert_eq!(
            told(&enforcing),
            (ErrorKind::Unsigned, format!("{of_core}{none}"))
        );

        // Made for another library by the trusted key.
        let good = comment(&core);
        signer.detach(&core, &good.replace("name=core", "name=more"));
        let other = "signature: name: expected more, found core; it was made for another file";
        assert_eq!(
            told(&enforcing),
            (ErrorKind::Signature, format!("{of_core}{other}"))
        );

        signer.detach(&core, &good);
        let plugin = enforcing.load(&path).expect("both are signed");
        assert_eq!(plugin.taints().to_string(), "");
        enforcing.unload("whole");

        // Beside the file that a link leads to.
        let real = core.with_file_name("libcore.so.1.2");
        fs::rename(&core, &real).expect("renamed");
        fs::rename(detached_path(&core), detached_path(&real)).expect("renamed");
        symlink(&real, &core).expect("linked");
        enforcing.load(&path).expect("both are signed");
        enforcing.unload("whole");
        fs::rename(&real, &core).expect("renamed");
        fs::remove_file(detached_path(&real)).expect("there");

        let bytes = fs::read(&core).expect("there");
        let appended = [&bytes[..], &trailer(&signer.sign(&bytes, &good))].concat();
        fs::write(&core, appended).expect("written");
        enforcing.load(&path).expect("both are signed");
        enforcing.unload("whole");
    });
}

/// Loads what brings an unsigned library, and what brings a listed one.
fn brings_unsigned_and_listed(enforcement: Enforcement, taints: &str) {
    let signer = Signer::new();
    let (path, _) = bringing(&signer.scratch, "whole", "", &[]);
    signer.detach(&path, &comment(&path));
    let (listed, core) = bringing(&signer.scratch, "listed", "getenv(\"LISTED\");", &[]);
    let digest = Digest::of(&fs::read(&core).expect("there"));
    let policy = SignaturePolicy::new(enforcement, signer.keys());
    let host = host(policy.deny(DenyList::default().digest(digest)));
    let plugin = host.load(&path).expect("its library need not be signed");
    assert_eq!(plugin.taints().to_string(), taints);
    let error = host.load(&listed).expect_err("on the list");
    let expected = format!(
        "listed: needed: dependency libcore.so.1 ({}): sha256 {digest} is on the deny list",
        core.display()
    );
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::Denied, expected)
    );
}

#[test]
fn permissive_hosts_taint_plugins_that_bring_what_is_not_signed() {
    isolated!({ brings_unsigned_and_listed(Enforcement::Permissive, "E") });
}

#[test]
fn listed_libraries_are_refused_where_nothing_is_asked_of_signatures() {
    isolated!({ brings_unsigned_and_listed(Enforcement::Off, "") });
}

#[test]
fn nobody_inherits_the_refusal_of_a_signature_that_is_not_theirs() {
    isolated!({
        let signer = Signer::new();
        let host = host(SignaturePolicy::new(Enforcement::Enforce, signer.keys()));
        let path = signer.copy("base64", "libbase64.so");
        let good = signer.sign(&fs::read(&path).unwrap(), &comment(&path));
        let source = |text: &str| Source::path(&path).signature(text);
        // The first load waits with its bad signature until the second one has ended.
        let (arrived, has_arrived) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let first = Mutex::new(Some((arrived, may_go_on)));
        set_hook(move |point| {
            let first = (point == "load.verify").then(|| first.lock().unwrap().take());
            if let Some((arrived, may_go_on)) = first.flatten() {
                arrived.send(()).unwrap();
                let _told_or_late: Result<(), _> = may_go_on.recv_timeout(Duration::from_secs(20));
            }
            Verdict::Pass
        });
        thread::scope(|scope| {
            let load = |text| host.loader.load(&host.trust, source(text), &Params::new());
            let bad = scope.spawn(move || load("bad"));
            has_arrived.recv().unwrap();
            let result = load(&good);
            go_on.send(()).unwrap();
            result.expect("signed");
            let error = bad.join().unwrap().expect_err("not signed");
            assert_eq!(error.kind(), ErrorKind::Signature, "{error}");
        });
        host.unload("base64");
    });
}

#[test]
fn keys_that_others_could_write_are_not_trusted() {
    let signer = Signer::new();
    let keys = signer.scratch.path().join("keys");
    let key = keys.join("author.pub");
    let refusal = |dir: &Path| Keys::from_dir(dir).unwrap_err();
    fs::set_permissions(&key, Permissions::from_mode(0o664)).unwrap();
    let error = refusal(&keys);
    assert_eq!(error.kind(), ErrorKind::Keys);
    let expected = format!(
        "{}: expected it to be writable by its owner alone, found mode 0664; chmod go-w it",
        key.display()
    );
    assert_eq!(error.to_string(), expected);
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&keys, Permissions::from_mode(0o777)).unwrap();
    assert!(refusal(&keys).to_string().contains("found mode 0777"));
    fs::set_permissions(&keys, Permissions::from_mode(0o755)).unwrap();
    signer.scratch.write("keys/README", "not a key");
    assert_eq!(signer.keys().ids().count(), 1);
    fs::write(&key, "untrusted comment: x\nnot base64\n").unwrap();
    let expected = format!(
        "{}: line 2: expected a public key of minisign's in base64",
        key.display()
    );
    assert_eq!(refusal(&keys).to_string(), expected);
    let list = signer.scratch.write("deny", "key 12\n");
    fs::set_permissions(&list, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(
        DenyList::from_file(&list).unwrap_err().to_string(),
        format!(
            "{}: line 1: expected \"key ID\" or \"sha256 DIGEST\", found \"key 12\"",
            list.display()
        )
    );
}

/// A C plugin whose metadata is as given.
fn with_metadata(scratch: &Scratch, name: &str, fields: &str) -> PathBuf {
    let source = format!(
        "#include \"plugin_api.h\"
        static int32_t init(const plug_host_context *ctx) {{ (void)ctx; return PLUG_OK; }}
        static void stop(void) {{}}
        PLUG_VISIBLE_ const plug_descriptor plug_descriptor_v1 = {{
            PLUG_ABI_VERSION, sizeof(plug_descriptor), init, stop, 0, 0 }};
        PLUG_META_(, \"name={name}\\0version=1.0.0\\0{fields}\");
        "
    );
    c_plugin(scratch, name, &source)
}

#[test]
fn gate_compares_field_by_field_and_force_overlooks_what_can_be() {
    isolated!({
        let scratch = Scratch::new("gate");
        let host = Host::new();
        let force = |path: &Path| {
            let source = Source::path(path).force();
            host.loader.load(&host.trust, source, &Params::new())
        };
        let target = "target=x86_64-unknown-linux-gnu";
        let abort = with_metadata(
            &scratch,
            "aborts",
            &format!("api=1\\0panic=abort\\0{target}"),
        );
        let panic = "metadata: panic: expected unwind, found abort; a panic of the plugin would end \
                     the host: build it with panic=unwind, or force the load";
        let expected = format!("aborts: metadata: {panic}");
        refused(host.load(&abort), ErrorKind::Incompatible, &expected);
        let plugin = force(&abort).expect("forced");
        assert_eq!(plugin.taints().to_string(), "F");
        host.unload("aborts");

        let musl = "target=x86_64-unknown-linux-musl";
        let both = with_metadata(&scratch, "both", &format!("api=1\\0panic=abort\\0{musl}"));
        let expected = format!(
            "both: metadata: metadata: target: expected x86_64-unknown-linux-gnu, found \
             x86_64-unknown-linux-musl; build the plugin for this host's target, or force the load, \
             and {panic}"
        );
        refused(host.load(&both), ErrorKind::Incompatible, &expected);

        // What decides how it is entered is not overlooked, nor is damage.
        let api = with_metadata(
            &scratch,
            "future",
            &format!("api=99\\0panic=abort\\0{target}"),
        );
        let expected = "future: metadata: metadata: api: expected 1, found 99; rebuild the plugin \
                        with this host's plug-api";
        refused(force(&api), ErrorKind::Incompatible, expected);
        let mut bytes = fs::read(&abort).unwrap();
        bytes.truncate(bytes.len() / 3);
        let cut = scratch.path().join("cut.so");
        fs::write(&cut, bytes).unwrap();
        assert_eq!(force(&cut).unwrap_err().kind(), ErrorKind::Damaged);

        // A forced load that fits is not tainted.
        let fits = force(&useful("base64")).expect("fits");
        assert_eq!(fits.taints().to_string(), "");
    });
}
