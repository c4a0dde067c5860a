//! What a host's policy admits, what plugins are marked with, and who is told.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use plug_loader::Digest;
use plug_loader::image::{Check, Verdict};
use plug_loader::{
    Action, Config, CrashOptions, Drift, ErrorKind, Matter, Params, Plugin, Policy, Rules, Source,
    Taint, Trust,
};
use plug_tests::child;
use plug_tests::host::{Host, useful};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, bringing, run};

const PLAIN: &str = "int f(void) { return 1; }\n";

fn build(scratch: &Scratch, name: &str, compiler: &str, source: &str, flags: &[&str]) -> PathBuf {
    let extension = if compiler == "g++" { "cpp" } else { "c" };
    let input = scratch.write(&format!("{name}.{extension}"), source);
    let output = scratch.path().join(format!("lib{name}.so"));
    let mut command = Command::new(compiler);
    command
        .args(["-shared", "-fPIC", "-o"])
        .arg(&output)
        .arg(input)
        .args(flags);
    run(&mut command);
    output
}

fn load(host: &Host, policy: Policy, path: &Path) -> Result<Plugin, plug_loader::Error> {
    // SAFETY: libraries made by this test.
    let trust = unsafe { Trust::new(policy) };
    host.loader.load(&trust, Source::path(path), &Params::new())
}

/// A library with each trait, and what the default policy does about it.
fn traits(scratch: &Scratch) -> Vec<(Matter, Action, PathBuf)> {
    let writable = build(scratch, "omagic", "gcc", PLAIN, &[]);
    let mut bytes = fs::read(&writable).unwrap();
    // The data segment becomes executable: linkers do not make such files any more.
    let data = (0..usize::from(bytes[56])).map(|n| 64 + n * 56);
    let data = data
        .filter(|at| bytes[*at] == 1)
        .find(|at| bytes[at + 4] == 6);
    bytes[data.expect("a data segment") + 4] = 7;
    fs::write(&writable, bytes).unwrap();
    let unique = "template <class T> int &n() { static int n; return n; }\n\
                  extern \"C\" int f() { return n<int>()++; }\n";
    let tls = "_Thread_local int x __attribute__((tls_model(\"initial-exec\")));\n\
               int f(void) { return x; }\n";
    let text = "int x; __asm__(\".text\\n.globl g\\n.type g,@function\\ng: movabs $x, %rax\\n ret\\n\");\n";
    let undefined = "int nobody_has_this(void); int f(void) { return nobody_has_this(); }\n";
    build(
        scratch,
        "passing",
        "gcc",
        PLAIN,
        &["-Wl,-soname,libpassing.so.9"],
    );
    let folder = format!("-L{}", scratch.path().display());
    let missing = build(
        scratch,
        "needy",
        "gcc",
        "int f(void); int g(void) { return f(); }\n",
        &[&folder, "-lpassing"],
    );
    vec![
        (
            Matter::ExecutableStack,
            Action::Refuse,
            build(scratch, "stack", "gcc", PLAIN, &["-Wl,-z,execstack"]),
        ),
        (Matter::WritableCode, Action::Refuse, writable),
        (
            Matter::TextRelocations,
            Action::Refuse,
            build(scratch, "textrel", "gcc", text, &["-Wl,-z,notext"]),
        ),
        (
            Matter::NoDelete,
            Action::Taint,
            build(scratch, "nodelete", "gcc", PLAIN, &["-Wl,-z,nodelete"]),
        ),
        (
            Matter::GnuUnique,
            Action::Allow,
            build(scratch, "unique", "g++", unique, &[]),
        ),
        (
            Matter::StaticTls,
            Action::Allow,
            build(scratch, "tls", "gcc", tls, &[]),
        ),
        (
            Matter::LinkOrder,
            Action::Taint,
            build(scratch, "first", "gcc", PLAIN, &["-Wl,-z,initfirst"]),
        ),
        (
            Matter::UndefinedSymbol,
            Action::Allow,
            build(scratch, "undefined", "gcc", undefined, &[]),
        ),
        (Matter::MissingLibrary, Action::Allow, missing),
    ]
}

#[test]
fn each_trait_is_refused_marked_or_let_pass_as_the_policy_says() {
    isolated!({
        let scratch = Scratch::new("traits");
        let host = Host::new();
        for (matter, default, path) in traits(&scratch) {
            assert_eq!(Rules::default().of(matter), default, "{matter:?}");
            // ld.so has no way to open these.
            let opens = !matches!(matter, Matter::UndefinedSymbol | Matter::MissingLibrary);
            let refused = load(&host, Policy::default().with(matter, Action::Refuse), &path);
            let error = refused.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::NotAdmitted, "{error}");
            assert!(error.to_string().contains(matter.name()), "{error}");
            let admitted = [Action::Allow, Action::Taint];
            // Executable stacks would stay for the rest of this process.
            let actions = admitted
                .iter()
                .filter(|_| opens && matter != Matter::ExecutableStack);
            for (n, action) in actions.enumerate() {
                let copy = scratch.path().join(format!("lib{}{n}.so", matter.name()));
                fs::copy(&path, &copy).unwrap();
                let plugin = load(&host, Policy::default().with(matter, *action), &copy)
                    .unwrap_or_else(|error| panic!("{matter:?}: {error}"));
                assert_eq!(
                    plugin.taints().has(matter.taint()),
                    *action == Action::Taint
                );
            }
            if !opens {
                let error = load(&host, Policy::default(), &path).expect_err("refused by ld.so");
                assert_eq!(error.kind(), ErrorKind::Map, "{error}");
            }
        }
    });
}

#[test]
fn rules_of_a_folder_count_where_the_file_lies_and_not_how_it_is_named() {
    isolated!({
        let scratch = Scratch::new("folders");
        let host = Host::new();
        let inner = scratch.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let built = build(&scratch, "nodelete", "gcc", PLAIN, &["-Wl,-z,nodelete"]);
        let inside = inner.join("libinside.so");
        fs::rename(built, &inside).unwrap();
        let link = scratch.path().join("liblink.so");
        symlink(&inside, &link).unwrap();
        let strict = Rules::default().with(Matter::NoDelete, Action::Refuse);
        let inner = fs::canonicalize(inner).unwrap();
        let policy = Policy::default().in_folder(inner, strict);
        for path in [&inside, &link] {
            let error = load(&host, policy.clone(), path).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::NotAdmitted, "{error}");
        }
        let outside = scratch.path().join("liboutside.so");
        fs::copy(&inside, &outside).unwrap();
        let plugin = load(&host, policy, &outside).expect("admitted");
        assert!(plugin.taints().has(Taint::Pinned));
    });
}

#[test]
fn files_that_others_could_replace_are_marked_or_refused() {
    isolated!({
        let scratch = Scratch::new("paths");
        let host = Host::new();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let folder = scratch.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let built = build(&scratch, "plain", "gcc", PLAIN, &[]);
        let path = folder.join("libplain.so");
        fs::rename(built, &path).unwrap();
        let strict = Policy::default().with(Matter::Path, Action::Refuse);
        let mut n = 0;
        let mut is_refused = || {
            n += 1;
            // SAFETY: a library made by this test.
            let trust = unsafe { Trust::new(strict.clone()) };
            let source = Source::path(&path).named(format!("plain-{n}"));
            match host.loader.load(&trust, source, &Params::new()) {
                Ok(_) => None,
                Err(error) => Some(error.to_string()),
            }
        };
        mode(&folder, 0o755);
        mode(&path, 0o755);
        if let Some(why) = is_refused() {
            // The folder for temporary files itself may be anybody's; then nothing is safe here.
            assert!(!why.contains("folder"), "{why}");
            return;
        }
        mode(&path, 0o757);
        let why = is_refused().expect("a file that everybody may write");
        assert!(why.contains("0757") && why.contains("libplain.so"), "{why}");
        mode(&path, 0o755);
        mode(&folder, 0o777);
        let why = is_refused().expect("a folder that everybody may write");
        assert!(why.contains("0777"), "{why}");
        // Nobody can rename what is not his in a sticky one.
        mode(&folder, 0o1777);
        assert_eq!(is_refused(), None);
        mode(&folder, 0o777);
        let plugin = load(&host, Policy::default(), &path).expect("admitted");
        assert_eq!(plugin.taints().to_string(), "W");
    });
}

#[test]
fn marks_outlive_plugins_and_stand_in_crash_reports() {
    const TEST: &str = "marks_outlive_plugins_and_stand_in_crash_reports";
    if child::role().as_deref() == Some(TEST) {
        let scratch = Scratch::new("marks");
        let host = Host::new();
        host.loader
            .install_crash_handler(CrashOptions::default())
            .expect("installs");
        let first = build(&scratch, "first", "gcc", PLAIN, &["-Wl,-z,initfirst"]);
        load(&host, Policy::default(), &first).expect("admitted");
        host.unload("first");
        let stays = build(&scratch, "stays", "gcc", PLAIN, &["-Wl,-z,nodelete"]);
        load(&host, Policy::default(), &stays).expect("admitted");
        std::process::abort();
    }
    let ended = child::run(TEST, TEST, Duration::from_secs(60));
    assert_eq!(ended.signal(), Some(libc::SIGABRT), "{}", ended.output);
    for line in ["plugins linked in: stays(P)", "tainted: IP"] {
        assert!(ended.output.contains(line), "{line}: {}", ended.output);
    }
}

#[test]
fn the_digest_is_that_of_the_file_and_drift_tells_what_became_of_it() {
    isolated!({
        let scratch = Scratch::new("drift");
        let host = Host::new();
        let path = scratch.path().join("libbase64.so");
        fs::copy(useful("base64"), &path).unwrap();
        let original = fs::read(&path).unwrap();
        let plugin = host.load(&path).expect("loads");
        assert_eq!(plugin.drift(), Drift::Same);
        // The copy was edited, the digest is the original's.
        assert_eq!(plugin.digest(), Some(Digest::of(&original)));
        // Written again with the same bytes: not the same file version, and the same content.
        fs::write(&path, &original).unwrap();
        assert_eq!(plugin.drift(), Drift::Same);
        let mut other = original.clone();
        *other.last_mut().unwrap() ^= 1;
        fs::write(&path, &other).unwrap();
        assert_eq!(plugin.drift(), Drift::Changed);
        fs::write(&path, &other[..100]).unwrap();
        assert_eq!(plugin.drift(), Drift::Changed);
        fs::remove_file(&path).unwrap();
        assert_eq!(plugin.drift(), Drift::Gone);
        fs::write(&path, &original).unwrap();
        assert_eq!(plugin.drift(), Drift::Same);
        host.unload("base64");
        assert_eq!(
            plugin.digest(),
            Some(Digest::of(&original)),
            "asked for before"
        );
    });
}

#[test]
fn check_says_what_a_load_would() {
    let scratch = Scratch::new("check");
    let policy = Policy::default().with(Matter::MissingLibrary, Action::Refuse);
    let check = |path: &Path| Check::of_file(path, &policy, false).expect("readable");
    for (matter, default, path) in traits(&scratch) {
        let found = check(&path);
        let named = |finding: &&plug_loader::image::Finding| finding.code.name() == matter.name();
        let finding = found.findings.iter().find(named);
        let finding = finding.unwrap_or_else(|| panic!("{matter:?}: {:?}", found.findings));
        let refused = default == Action::Refuse || matter == Matter::MissingLibrary;
        assert_eq!(found.verdict == Verdict::Refused, refused, "{finding}");
        let stays = refused || matter == Matter::NoDelete;
        assert_eq!(!found.pinned_because.is_empty(), stays, "{matter:?}");
    }
    for name in ["base64", "checksum", "wordcount"] {
        let found = check(&useful(name));
        assert_eq!((found.verdict, found.name.as_str()), (Verdict::Ok, name));
        let grave = found
            .findings
            .iter()
            .filter(|f| f.severity > plug_loader::image::Severity::Taint);
        assert_eq!(grave.count(), 0, "{:?}", found.findings);
    }
}

#[test]
fn what_a_plugin_brings_is_admitted_and_marked_like_itself() {
    isolated!({
        let scratch = Scratch::new("admission-brings");
        let host = Host::new();
        let stack = &["-Wl,-z,execstack"];
        let (path, core) = bringing(&scratch, "stack", "", stack);
        let error = load(&host, Policy::default(), &path).expect_err("refused");
        let core = core.display();
        let expected = format!(
            "stack: needed: executable-stack: dependency libcore.so.1 ({core}): PT_GNU_STACK: \
             expected a stack that is only written, found an executable one, or nothing said; the \
             host's policy does not admit it"
        );
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::NotAdmitted, expected)
        );
        // The rules are those for where it lies.
        let rules = Rules::default().with(Matter::ExecutableStack, Action::Refuse);
        let folder = fs::canonicalize(scratch.path().join("stack")).unwrap();
        let policy = Policy::default().with(Matter::ExecutableStack, Action::Allow);
        let error = load(&host, policy.in_folder(folder, rules), &path).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::NotAdmitted);

        let (path, _) = bringing(&scratch, "stays", "", &["-Wl,-z,nodelete"]);
        let plugin = load(&host, Policy::default(), &path).expect("loads");
        assert_eq!(plugin.taints().to_string(), "P");
        let (path, core) = bringing(&scratch, "open", "", &[]);
        fs::set_permissions(&core, fs::Permissions::from_mode(0o666)).unwrap();
        let plugin = load(&host, Policy::default(), &path).expect("loads");
        assert_eq!(plugin.taints().to_string(), "W");
    });
}

#[test]
fn libraries_in_quarantine_are_not_brought() {
    isolated!({
        let scratch = Scratch::new("admission-quarantine");
        let (path, core) = bringing(&scratch, "whole", "", &[]);
        let digest = Digest::of(&fs::read(&core).unwrap());
        let record = "plugin core\npath /core\nwhy it crashed\nboot 0\n";
        scratch.write(&format!("state/quarantine/{digest}"), record);
        let mut config = Config::default();
        config.state = Some(scratch.path().join("state"));
        let host = Host::with(config);
        let error = host.load(&path).expect_err("refused");
        let expected = format!(
            "whole: needed: dependency libcore.so.1 ({}): in quarantine: it crashed; repair it, or \
             let it in by plugctl quarantine clear {digest}",
            core.display()
        );
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::Quarantined, expected)
        );
        assert!(host.loader.pardon(&digest).unwrap());
        host.load(&path).expect("let in");
    });
}
