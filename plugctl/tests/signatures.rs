//! keygen, sign, verify, and hosts that ask for signatures: through the real binary, and side by
//! side with the standard tool where it is installed.

mod kit;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::{Place, example};

/// A place with a key pair without a password, a folder of trusted keys, and a signed plugin.
struct Signed {
    place: Place,
    file: PathBuf,
}

impl Signed {
    fn new() -> Self {
        let place = Place::new();
        fs::create_dir(place.dir.join("keys")).expect("there");
        mode(&place.dir.join("keys"), 0o755);
        let made = place.here(&["keygen", "-W", "-p", "keys/author.pub", "-s", "author.key"]);
        made.is(
            0,
            "public key: keys/author.pub\nsecret key: author.key\n",
            "",
        );
        let file = place.dir.join("libbase64.so");
        fs::copy(example("base64"), &file).expect("there");
        Self { place, file }
    }

    fn here(&self, args: &[&str]) -> kit::Ended {
        self.place.here(args)
    }

    /// The id of the key.
    fn id(&self) -> String {
        let text = fs::read_to_string(self.place.dir.join("keys/author.pub")).expect("there");
        let line = text.lines().next().expect("there");
        line.rsplit_once(' ').expect("there").1.to_owned()
    }

    /// What a signature of the plugin is bound to.
    fn comment(&self) -> String {
        let seen = self.here(&["info", "-F", "build-id", "./libbase64.so"]);
        format!(
            "name=base64 version=1.0.0 abi=1 build-id={}",
            seen.stdout.trim()
        )
    }
}

trait Here {
    fn here(&self, args: &[&str]) -> kit::Ended;
}

impl Here for Place {
    /// Runs plugctl in the place's folder.
    fn here(&self, args: &[&str]) -> kit::Ended {
        let mut command = self.command(args);
        kit::Ended::of(command.current_dir(&self.dir).output().expect("plugctl"))
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("there");
}

#[test]
fn sign_and_verify_tell_who_signed_what() {
    let signed = Signed::new();
    let (id, comment) = (signed.id(), signed.comment());
    let verify = ["verify", "--keys", "keys", "libbase64.so"];
    let none = "plugctl: libbase64.so: signature: expected one by a trusted key, found none; sign \
                the file with plugctl sign\n";
    signed.here(&verify).is(5, "", none);

    let sign = ["sign", "-s", "author.key", "libbase64.so"];
    signed
        .here(&sign)
        .is(0, &format!("libbase64.so.minisig: {comment}\n"), "");
    let good = format!("libbase64.so: signed by key {id}: {comment}\n");
    signed.here(&verify).is(0, &good, "");
    signed
        .here(&["verify", "-p", "keys/author.pub", "libbase64.so"])
        .is(0, &good, "");

    let deny = signed.place.dir.join("deny");
    fs::write(&deny, format!("key {id}\n")).expect("there");
    mode(&deny, 0o600);
    let denied =
        format!("plugctl: libbase64.so: signature: by key {id}, which is on the deny list\n");
    let with_list = ["verify", "--keys", "keys", "--deny", "deny", "libbase64.so"];
    signed.here(&with_list).is(5, "", &denied);

    // Another key of the same folder is trusted as well; one outside is not.
    signed.here(&["keygen", "-W", "-p", "other.pub", "-s", "other.key"]);
    signed.here(&["sign", "-s", "other.key", "libbase64.so"]);
    let other = fs::read_to_string(signed.place.dir.join("other.pub")).expect("there");
    let other = other
        .lines()
        .next()
        .expect("there")
        .rsplit_once(' ')
        .expect("there")
        .1
        .to_owned();
    let stranger = format!(
        "plugctl: libbase64.so: signature: expected one by a trusted key, found one by key {other}; \
         put its public key among the trusted ones\n"
    );
    signed.here(&verify).is(5, "", &stranger);

    // Existing keys are not overwritten, and a secret one is its owner's alone.
    let again = signed.here(&["keygen", "-W", "-p", "other.pub", "-s", "other.key"]);
    again.is(1, "", "plugctl: other.key: File exists (os error 17)\n");
    let secret = fs::metadata(signed.place.dir.join("other.key")).expect("there");
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
    signed.here(&["verify", "libbase64.so"]).code_is(2);
    signed.here(&["verify", "--keys", "keys", "none.so"]).is(
        3,
        "",
        "plugctl: none.so: No such file or directory (os error 2)\n",
    );
}

#[test]
fn appended_signatures_travel_with_the_file() {
    let signed = Signed::new();
    let original = fs::read(&signed.file).expect("there");
    let sign = ["sign", "--append", "-s", "author.key", "libbase64.so"];
    let comment = signed.comment();
    // Twice: the second replaces the first.
    for _ in 0..2 {
        signed
            .here(&sign)
            .is(0, &format!("libbase64.so: {comment}\n"), "");
    }
    let bytes = fs::read(&signed.file).expect("there");
    assert!(bytes.starts_with(&original) && bytes.len() < original.len() + 600);
    assert!(!signed.place.dir.join("libbase64.so.minisig").exists());
    let verify = ["verify", "--keys", "keys", "libbase64.so"];
    let good = format!("libbase64.so: signed by key {}: {comment}\n", signed.id());
    signed.here(&verify).is(0, &good, "");

    // strip(1) drops what ELF does not describe.
    let stripped = Command::new("strip").arg(&signed.file).status();
    assert!(stripped.expect("strip").success());
    let none = "plugctl: libbase64.so: signature: expected one by a trusted key, found none; sign \
                the file with plugctl sign\n";
    signed.here(&verify).is(5, "", none);
}

#[test]
fn passwords_protect_secret_keys() {
    let signed = Signed::new();
    fs::write(signed.place.dir.join("password"), "open sesame\nnot this\n").expect("there");
    fs::write(signed.place.dir.join("wrong"), "open barley\n").expect("there");
    let keygen = [
        "keygen",
        "-p",
        "p.pub",
        "-s",
        "p.key",
        "--password-file",
        "password",
    ];
    signed
        .here(&keygen)
        .is(0, "public key: p.pub\nsecret key: p.key\n", "");
    let sign = |password: &str| {
        signed.here(&[
            "sign",
            "-s",
            "p.key",
            "--password-file",
            password,
            "libbase64.so",
        ])
    };
    sign("wrong").is(1, "", "plugctl: p.key: wrong password for that key\n");
    sign("password").code_is(0);
    signed
        .here(&["verify", "-p", "p.pub", "libbase64.so"])
        .code_is(0);
}

#[test]
fn standard_tool_and_plugctl_understand_each_other() {
    let signed = Signed::new();
    let run = |args: &[&str]| {
        let mut command = Command::new("minisign");
        let output = command.args(args).current_dir(&signed.place.dir).output();
        output.ok().map(kit::Ended::of)
    };
    if run(&["-v"]).is_none() {
        let why = "minisign is not installed: only its fixed vectors are tested, in plug-tests";
        writeln!(std::io::stdout(), "{why}").expect("standard output");
        return;
    }
    let comment = signed.comment();
    // Signed here, verified there.
    signed
        .here(&["sign", "-s", "author.key", "libbase64.so"])
        .code_is(0);
    let there = run(&["-V", "-m", "libbase64.so", "-p", "keys/author.pub"]).expect("there");
    let expected =
        format!("Signature and comment signature verified\nTrusted comment: {comment}\n");
    there.is(0, &expected, "");

    // A key from there, used here; and a signature from there, by either key.
    run(&["-G", "-W", "-p", "keys/tool.pub", "-s", "tool.key"])
        .expect("there")
        .code_is(0);
    mode(&signed.place.dir.join("keys/tool.pub"), 0o644);
    signed
        .here(&["sign", "-s", "tool.key", "libbase64.so"])
        .code_is(0);
    let verify = ["verify", "--keys", "keys", "libbase64.so"];
    signed.here(&verify).code_is(0);
    for key in ["tool.key", "author.key"] {
        let sign = ["-S", "-W", "-s", key, "-m", "libbase64.so", "-t", &comment];
        run(&sign).expect("there").code_is(0);
        signed.here(&verify).code_is(0);
    }
    // Its own comment says nothing of the plugin, and its old form is not of the hash.
    run(&["-S", "-W", "-s", "tool.key", "-m", "libbase64.so"])
        .expect("there")
        .code_is(0);
    let bare = signed.here(&verify);
    bare.code_is(5);
    assert!(
        bare.stderr
            .contains("trusted comment: expected key=value, found"),
        "{bare:?}"
    );
    run(&[
        "-S",
        "-W",
        "-l",
        "-s",
        "tool.key",
        "-m",
        "libbase64.so",
        "-t",
        &comment,
    ])
    .expect("there")
    .code_is(0);
    signed.here(&verify).is(
        5,
        "",
        "plugctl: libbase64.so: signature: expected a signature of the file's hash (ED), found a \
         legacy one (Ed); sign the file again\n",
    );
}

#[test]
fn hosts_ask_for_signatures_and_taint_what_is_let_in() {
    let signed = Signed::new();
    let keys = signed.place.dir.join("keys");
    let keys = keys.to_str().expect("there");
    let file = signed.file.to_str().expect("there");
    let strict = ["--signatures", "enforce", "--keys", keys];
    let _strict = signed.place.serve("strict", &strict);
    let _lenient = signed
        .place
        .serve("lenient", &["--signatures", "permissive", "--keys", keys]);
    let load = |host: &str| signed.place.run(&["--host", host, "load", file]);
    let none = format!(
        "plugctl: {file:?}: verify: signature: expected one by a trusted key, found none; sign the \
         file with plugctl sign\n"
    );
    load("strict").is(5, "", &none);
    load("lenient").code_is(0);
    let list = signed
        .place
        .run(&["--host", "lenient", "--json", "list"])
        .json();
    assert_eq!(list[0]["taints"], "E");
    signed
        .place
        .run(&["--host", "lenient", "unload", "base64"])
        .code_is(0);

    signed
        .here(&["sign", "-s", "author.key", "libbase64.so"])
        .code_is(0);
    for host in ["strict", "lenient"] {
        load(host).code_is(0);
        let list = signed.place.run(&["--host", host, "--json", "list"]).json();
        assert_eq!(list[0]["taints"], "", "{host}");
    }
    // A folder of keys that others can write is no use to a host.
    mode(Path::new(keys), 0o777);
    let refused = signed
        .place
        .run(&["serve", "--signatures", "enforce", "--keys", keys]);
    let expected = format!(
        "plugctl: {keys}: expected it to be writable by its owner alone, found mode 0777; chmod \
         go-w it\n"
    );
    refused.is(1, "", &expected);
}

#[test]
fn force_lets_in_what_would_end_the_host_by_a_panic() {
    let place = Place::new();
    let source = r#"
#include "plugin_api.h"
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_VISIBLE_ const plug_descriptor plug_descriptor_v1 =
    {PLUG_ABI_VERSION, sizeof(plug_descriptor), init, stop, 0, 0};
PLUG_META_(, "name=aborts\0version=1.0.0\0api=1\0panic=abort");
"#;
    let path = place.plugin("aborts", source, &[]);
    let file = path.to_str().expect("there");
    let _host = place.serve("plain", &[]);
    let why = "metadata: panic: expected unwind, found abort; a panic of the plugin would end the \
               host: build it with panic=unwind, or force the load";
    let refused = format!("plugctl: aborts: metadata: {why}\n");
    place.run(&["load", file]).is(5, "", &refused);
    let notes = "  note conformance: metadata: expected a version, a description and a license, found \
                 no description\n  note conformance: metadata: expected a version, a description and \
                 a license, found no license\n";
    let told = format!(
        "{file}: refused\n  unloadable: no, because it is not loaded\n  refused abi: {why}\n{notes}"
    );
    place.run(&["check", file]).is(5, &told, "");
    let told = format!("{file}: ok\n  unloadable: yes\n  taint abi: {why}\n{notes}");
    place.run(&["check", "--force", file]).is(0, &told, "");
    place.run(&["load", "--force", file]).code_is(0);
    let list = place.run(&["--json", "list"]).json();
    assert_eq!(list[0]["taints"], "F");
    let bad = kit::hostile("wrong-abi");
    let refused = "plugctl: wrong-abi: metadata: metadata: api: expected 1, found 99; rebuild the \
                   plugin with this host's plug-api\n";
    place.run(&["load", "--force", &bad]).is(5, "", refused);
}
