//! Files of directives: what they say, which of them counts, what is wrong with them, and what a load
//! makes of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use plug_loader::{Config, Digest, Directives, ErrorKind, Params, Plugin, Source, Taint};
use plug_tests::host::{Host, seconds, useful};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, library};

/// What is in effect: kind, name, key, value, and file and line.
fn shown(directives: &Directives) -> Vec<String> {
    let all = directives.all().into_iter().map(|one| {
        let file = one.place.file.strip_prefix("/").unwrap_or(&one.place.file);
        let file = file.iter().rev().take(2).collect::<Vec<_>>();
        let file: PathBuf = file.into_iter().rev().collect();
        let (kind, name, key) = (one.kind.name(), one.name, one.key);
        let place = format!("{}:{}", file.display(), one.place.line);
        format!("{kind} {name} {key} {} {place}", one.value)
    });
    all.collect()
}

/// Why a file with this text is refused.
fn refusal(text: &str) -> String {
    let error = Directives::parse("/d/x.toml", text.as_bytes()).expect_err(text);
    assert_eq!(error.kind(), ErrorKind::Directives);
    error.to_string()
}

#[test]
fn later_files_override_values_and_lengthen_lists() {
    let scratch = Scratch::new("directives");
    let write = |name: &str, text: &str| scratch.write(name, text);
    write(
        "low/10-a.toml",
        "search = [\"/one\"]\npreload = [\"x-y\"]\n[alias]\ncrc = \"checksum\"\n\
         [options.codec-a]\nlevel = 1\nmode = \"slow\"\n",
    );
    // Read after the other one, though its folder comes first.
    write("low/30-c.toml", "search = [\"/three\"]\n");
    write(
        "high/20-b.toml",
        "preload = [\"x_y\", \"z\"]\nsearch = [\n  \"/two\",\n]\nalias.crc = \"/opt/libcrc.so\"\n\
         [options.codec_a]\nlevel = 0x10\nratio = 0.5\nquick = true\n\
         [policy.\"*\"]\npath = \"allow\"\n[policy.codec-a]\npath = \"refuse\"\n",
    );
    write("high/ignored.conf", "this is not TOML");
    let folders = [scratch.path().join("low"), scratch.path().join("high")];
    let directives = Directives::read(&folders).unwrap();
    assert_eq!(
        shown(&directives),
        [
            "search   /one low/10-a.toml:1",
            "search   /two high/20-b.toml:3",
            "search   /three low/30-c.toml:1",
            "alias crc  /opt/libcrc.so high/20-b.toml:5",
            "option codec-a level 16 high/20-b.toml:7",
            "option codec-a mode slow low/10-a.toml:7",
            "option codec-a quick true high/20-b.toml:9",
            "option codec-a ratio 0.5 high/20-b.toml:8",
            "policy * path allow high/20-b.toml:11",
            "policy codec-a path refuse high/20-b.toml:13",
            "preload   x-y low/10-a.toml:2",
            "preload   z high/20-b.toml:1",
        ]
    );
    let options = directives.options("codec-a");
    assert_eq!(options.get("level"), Some("16"));
    assert_eq!(directives.options("codec_a"), options);
    assert_eq!(directives.options("other"), Params::new());
    assert_eq!(directives.preload().collect::<Vec<_>>(), ["x-y", "z"]);
}

#[test]
fn a_file_of_the_same_name_in_a_later_folder_replaces_the_whole_file() {
    let scratch = Scratch::new("directives");
    scratch.write(
        "low/10-a.toml",
        "search = [\"/low\"]\npreload = [\"low\"]\n",
    );
    scratch.write("low/20-b.toml", "search = [\"/masked\"]\n");
    // Never read, since it is replaced.
    scratch.write("low/30-c.toml", "search = 7\n");
    scratch.write("high/10-a.toml", "search = [\"/high\"]\n");
    scratch.write("high/30-c.toml", "");
    symlink("/dev/null", scratch.path().join("high/20-b.toml")).unwrap();
    let folders = [scratch.path().join("low"), scratch.path().join("high")];
    let directives = Directives::read(&folders).unwrap();
    assert_eq!(shown(&directives), ["search   /high high/10-a.toml:1"]);
    let replaced: Vec<_> = directives
        .files()
        .iter()
        .map(|file| &file.replaced_by)
        .collect();
    assert_eq!(replaced.len(), 6);
    assert_eq!(
        replaced[0].as_deref(),
        Some(&*scratch.path().join("high/10-a.toml"))
    );
    assert_eq!(replaced[1], &None);
    // The other way round it is an error.
    let folders = folders.into_iter().rev();
    let error = Directives::read(folders).expect_err("a wrong type");
    assert!(
        error
            .to_string()
            .contains("low/30-c.toml:1: search: expected an array of strings")
    );
}

#[test]
fn what_is_wrong_is_told_with_file_line_key_expected_and_found() {
    for (text, told) in [
        (
            "\nserach = []\n",
            "/d/x.toml:2: serach: expected one of search, alias, deny, options, policy, preload, \
             found no such key; did you mean search?",
        ),
        (
            "[deny]\nname = []",
            "/d/x.toml:2: deny.name: expected one of names, digests, found no such key; did you \
             mean names?",
        ),
        (
            "search = \"/x\"",
            "/d/x.toml:1: search: expected an array of strings, found a string, \"/x\"",
        ),
        (
            "search = [\n\"/x\",\n7]",
            "/d/x.toml:3: search: expected a string, found an integer, 7",
        ),
        (
            "search = [\"x\"]",
            "/d/x.toml:1: search: expected an absolute path, found \"x\"",
        ),
        (
            "alias = 1",
            "/d/x.toml:1: alias: expected a table, found an integer, 1",
        ),
        (
            "alias.x = \"a/b\"",
            "/d/x.toml:1: alias.x: expected a plugin's name or an absolute path, found \"a/b\"",
        ),
        (
            "alias.\"a b\" = \"x\"",
            "/d/x.toml:1: alias: expected a plugin's name, found \"a b\"",
        ),
        (
            "[alias]\na = \"b\"\nb = \"c\"\nc = \"b\"",
            "/d/x.toml:2: alias.a: expected a name that leads to a plugin, found \"b\", which leads \
             in a circle",
        ),
        (
            "[deny]\ndigests = [\"abc\"]",
            "/d/x.toml:2: deny.digests: expected 64 hexadecimal digits of a SHA-256 digest, found \
             \"abc\"",
        ),
        (
            "preload = [\"../x\"]",
            "/d/x.toml:1: preload: expected a plugin's name, found \"../x\"",
        ),
        (
            "[options.x]\nlevel = [1]",
            "/d/x.toml:2: options.x.level: expected a string, an integer, a float or a boolean, \
             found an array, [1]",
        ),
        (
            "[options.x]\nlevel = 1979-05-27",
            "/d/x.toml:2: options.x.level: expected a string, an integer, a float or a boolean, \
             found a datetime, 1979-05-27",
        ),
        (
            "[options.x]\nlevel = \"a\\u0000b\"",
            "/d/x.toml:2: options.x.level: expected a string without NUL, found a string, \
             \"a\\u0000b\"",
        ),
        (
            "[policy.x]\nnodelet = \"taint\"",
            "/d/x.toml:2: policy.x.nodelet: expected one of executable-stack, writable-code, \
             text-relocations, nodelete, gnu-unique, static-tls, missing-library, undefined-symbol, \
             link-order, path, found no such key; did you mean nodelete?",
        ),
        (
            "[policy.x]\npath = \"refused\"",
            "/d/x.toml:2: policy.x.path: expected one of allow, taint, refuse, found \"refused\"; did \
             you mean refuse?",
        ),
    ] {
        assert_eq!(refusal(text), told, "{text}");
    }
    // What is no TOML at all is told in the words of its reader, and with the line.
    for (text, line) in [
        ("a = \n", 1),
        ("\n\n[x", 3),
        ("search = []\nsearch = []", 2),
    ] {
        let told = refusal(text);
        assert!(told.starts_with(&format!("/d/x.toml:{line}: ")), "{told}");
    }
    let error = Directives::parse("/d/x.toml", b"\n\xff").expect_err("no UTF-8");
    let told = "/d/x.toml:2: expected UTF-8, found a byte that is none";
    assert_eq!(error.to_string(), told);
    // Nor does depth cost the reader its stack.
    let deep = format!("search = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refusal(&deep).starts_with("/d/x.toml:1: "));
}

#[test]
fn folders_and_files_that_others_may_write_are_refused() {
    let scratch = Scratch::new("directives");
    let file = scratch.write("d/x.toml", "");
    let folder = scratch.path().join("d");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for path in [&file, &folder] {
        mode(path, 0o777);
        let error = Directives::read([&folder]).expect_err("writable by others");
        let told = error.to_string();
        assert!(told.starts_with(&path.display().to_string()), "{told}");
        assert!(
            told.contains("writable by its owner alone, found mode 0777"),
            "{told}"
        );
        mode(path, 0o755);
    }
    Directives::read([&folder]).unwrap();
    let missing = scratch.path().join("missing");
    let error = Directives::read([&missing]).expect_err("a folder that is not there");
    assert_eq!(error.kind(), ErrorKind::Directives);
    assert!(error.to_string().contains("No such file"), "{error}");
    // A pipe would be waited for.
    let fifo = folder.join("pipe.toml");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    let error = Directives::read([&folder]).expect_err("a pipe");
    assert!(
        error.to_string().contains("expected a regular file"),
        "{error}"
    );
}

/// A host that is told this.
fn told(text: &str) -> Host {
    let mut config = Config::default();
    config.directives = Directives::parse("/d/x.toml", text.as_bytes()).unwrap();
    Host::with(config)
}

fn load(host: &Host, name: &str) -> Result<Plugin, plug_loader::Error> {
    host.loader
        .load(&host.trust, Source::plugin(name), &Params::new())
}

#[test]
fn a_bare_name_is_found_by_aliases_and_search_paths() {
    isolated!({
        let scratch = Scratch::new("directives");
        let foreign = "int one(void);\nint one(void) { return 1; }\n";
        library(&scratch, "first/libword_x.so", foreign, &[]);
        library(&scratch, "second/libword-x.so", foreign, &[]);
        library(&scratch, "second/other.so", foreign, &[]);
        fs::write(scratch.path().join("second/libnot.so.txt"), "").unwrap();
        let dir = scratch.path().display();
        let host = told(&format!(
            "search = [\"/nowhere\", \"{dir}/first\", \"{dir}/second\"]\n\
             [alias]\nshort = \"long_one\"\nlong-one = \"other\"\nfile = \"{dir}/second/libword-x.so\"\n"
        ));
        for (name, found) in [
            // The first folder counts, and not the spelling.
            ("word-x", "first/libword_x.so"),
            ("short", "second/other.so"),
            ("file", "second/libword-x.so"),
        ] {
            let plugin = load(&host, name).unwrap();
            let expected = scratch.path().join(found).display().to_string();
            assert_eq!(plugin.origin(), expected);
            host.unload(plugin.name());
        }
        for name in ["not", "shrt", "../second/other", ""] {
            let error = load(&host, name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::NoFile, "{error}");
        }
        let error = load(&host, "shrt").expect_err("misspelt");
        let expected = format!(
            "shrt: no plugin \"shrt\": expected libshrt.so in /nowhere, {dir}/first, {dir}/second; \
             did you mean the alias short?"
        );
        assert_eq!(error.to_string(), expected);
    });
}

const PICKY: &str = r#"
#include "plugin_api.h"
PLUG_PARAM(level, "int(0..=9)", "6", "how hard to try");
PLUG_PARAM(mode, "enum(fast|best)", "fast", "how to go about it");
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("picky-one", "1.0.0", "for a test", "MIT", init, stop);
"#;

#[test]
fn options_stand_below_what_the_load_says() {
    isolated!({
        let scratch = Scratch::new("directives");
        let file = c_plugin(&scratch, "picky", PICKY);
        let host =
            told("[options.picky_one]\nlevel = 3\nmode = \"best\"\n[options.wrong]\nlvel = 1\n");
        let values = |plugin: &Plugin| {
            let all = plugin.params().into_iter();
            all.map(|set| set.value).collect::<Vec<_>>()
        };
        let load = |source, params| host.loader.load(&host.trust, source, &params);
        let given = Params::new().with("level", "4");
        let plugin = load(Source::path(&file), given).unwrap();
        assert_eq!(values(&plugin), ["4", "best"]);
        // Options belong to the name that a plugin is loaded under.
        let source = Source::path(&file).named("another");
        let plugin = load(source, Params::new()).unwrap();
        assert_eq!(values(&plugin), ["6", "fast"]);
        let source = Source::path(&file).named("wrong");
        let error = load(source, Params::new()).expect_err("no such parameter");
        assert_eq!(error.kind(), ErrorKind::Parameter);
        assert!(error.to_string().contains("did you mean level?"), "{error}");
    });
}

#[test]
fn denied_plugins_are_refused_by_any_of_their_names_and_by_their_digests() {
    isolated!({
        let scratch = Scratch::new("directives");
        let file = c_plugin(&scratch, "picky", PICKY);
        let checksum = Digest::of_file(useful("checksum")).unwrap();
        let dir = scratch.path().display();
        let host = told(&format!(
            "search = [\"{dir}\"]\nalias.innocent = \"picky\"\n[deny]\n\
             names = [\"picky_one\", \"spare\"]\ndigests = [\"{checksum}\"]\n"
        ));
        let other = Source::path(&file).named("other");
        let refused = [
            (
                host.load(&file),
                "plugin picky-one is on the deny list at /d/x.toml:4",
            ),
            (
                host.loader.load(&host.trust, other, &Params::new()),
                "plugin picky-one is on the deny list at /d/x.toml:4",
            ),
            (
                load(&host, "innocent"),
                "plugin picky-one is on the deny list",
            ),
            (
                load(&host, "spare"),
                "plugin spare is on the deny list at /d/x.toml:4",
            ),
            (
                host.load(useful("checksum")),
                "is on the deny list at /d/x.toml:5",
            ),
        ];
        for (loaded, why) in refused {
            let error = loaded.expect_err(why);
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        host.useful("base64");
    });
}

#[test]
fn policies_are_those_of_the_plugin_and_the_rest_everybodys() {
    isolated!({
        let scratch = Scratch::new("directives");
        let build = |name: &str| {
            let source = "int one(void);\nint one(void) { return 1; }\n";
            library(
                &scratch,
                &format!("lib{name}.so"),
                source,
                &["-Wl,-z,nodelete"],
            )
        };
        let host =
            told("[policy.\"*\"]\nnodelete = \"refuse\"\n[policy.good]\nnodelete = \"taint\"\n");
        let error = host.load(build("bad")).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::NotAdmitted, "{error}");
        let plugin = host.load(build("good")).unwrap();
        assert!(plugin.taints().has(Taint::Pinned), "{}", plugin.taints());
        // The host's own rules count where nothing is said.
        host.useful("base64");
    });
}

#[test]
fn preload_goes_in_order_and_past_what_is_refused() {
    isolated!({
        let folders = ["base64", "checksum"].map(useful);
        let folders = folders.each_ref().map(|file| file.parent().unwrap());
        let host = told(&format!(
            "search = {folders:?}\npreload = [\"base64\", \"missing\", \"checksum\"]\n"
        ));
        let outcome: Vec<_> = host
            .loader
            .preload(&host.trust)
            .into_iter()
            .map(|(name, loaded)| (name, loaded.map_err(|error| error.kind()).err()))
            .collect();
        let expected = [
            ("base64".to_owned(), None),
            ("missing".to_owned(), Some(ErrorKind::NoFile)),
            ("checksum".to_owned(), None),
        ];
        assert_eq!(outcome, expected);
        let loaded = host.loader.plugins();
        let names: Vec<&str> = loaded.iter().map(Plugin::name).collect();
        assert_eq!(names, ["base64", "checksum"]);
        let kinds: Vec<_> = host.loader.shutdown(seconds(10)).unwrap();
        assert!(kinds.iter().all(|(_, verdict)| verdict.is_ok()));
    });
}
