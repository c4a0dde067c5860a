//! The examples in C and C++ under the loader: their parameters, what they export, and what two of
//! them use of two others.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, io::Write as _};

use plug_filter::{FilterV1, Instance, ParamList};
use plug_loader::{CallError, ErrorKind, Params, Plugin, Source, Stage, State};
use plug_tests::host::{Host, seconds, useful};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin};

type Encode = unsafe extern "C" fn(*const u8, usize, *mut u8, usize) -> usize;
type Count = unsafe extern "C" fn(*const u8, usize) -> u64;

fn load(host: &Host, name: &str, params: &[(&str, &str)]) -> Result<Plugin, plug_loader::Error> {
    let with = |params: Params, (key, value): &(&str, &str)| params.with(*key, *value);
    let params = params.iter().fold(Params::new(), with);
    host.loader
        .load(&host.trust, Source::path(useful(name)), &params)
}

/// What the plugin's filter makes of `input`, block by block.
fn filtered(plugin: &Plugin, input: &[u8], block: usize) -> Vec<u8> {
    let filter = plugin.interface::<FilterV1>().expect("a filter");
    let mut output = Vec::new();
    let mut out = |bytes: &[u8]| output.extend_from_slice(bytes);
    // SAFETY: nothing of the plugin's leaves the call, and the instance is used as the table says.
    let called = unsafe {
        filter.call_raw(|table, context| {
            let instance = Instance::create(table, context, &ParamList::default());
            let mut instance = instance.expect("created");
            for part in input.chunks(block) {
                assert_eq!(instance.process(table, part, &mut out), 0);
            }
            assert_eq!(instance.finish(table, &mut out), 0);
            instance.destroy(table);
        })
    };
    called.expect("called");
    output
}

/// What the shell makes of `input`.
fn oracle(script: &str, input: &[u8]) -> Vec<u8> {
    let scratch = Scratch::new("oracle");
    let file = scratch.path().join("input");
    fs::write(&file, input).expect("written");
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(&file)
        .env("LC_ALL", "C");
    let output = command.output().expect("a shell");
    assert!(output.status.success(), "{script}");
    output.stdout
}

#[test]
fn base64_wraps_its_lines_as_base64_does() {
    isolated!({
        let host = Host::new();
        let bytes: Vec<u8> = (0u32..20_000)
            .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        for wrap in ["0", "1", "3", "4", "76", "4096", "30000"] {
            let base64 = load(&host, "base64", &[("wrap", wrap)]).expect("loads");
            for len in [0, 1, 2, 3, 57, 58, 3072, 20_000] {
                let input = &bytes[..len];
                let expected = oracle(&format!("base64 -w{wrap} \"$1\""), input);
                for block in [1, 100, 7000] {
                    let output = filtered(&base64, input, block);
                    assert!(output == expected, "{len} bytes, {block} at once, -w{wrap}");
                }
            }
            host.unload("base64");
        }
        let refused = load(&host, "base64", &[("wrap", "wide")]).expect_err("no number");
        assert_eq!(refused.kind(), ErrorKind::Parameter);
        assert!(
            refused.to_string().contains("wrap: uint = 0"),
            "the declaration is shown: {refused}"
        );
    });
}

#[test]
fn wordcount_folds_case_where_it_is_told_to() {
    isolated!({
        let host = Host::new();
        let input = b"The cat saw the CAT; \xc3\x84 is not \xc3\xa4 here.\nthe END\tThe end";
        let words = r#"tr -s '[:space:]' '\n' < "$1""#;
        let counted = "sort | uniq -c";
        for (fold, script) in [
            ("false", format!("{words} | {counted}")),
            ("true", format!("{words} | tr A-Z a-z | {counted}")),
        ] {
            let wordcount = load(&host, "wordcount", &[("fold_case", fold)]).expect("loads");
            let expected = oracle(&script, input);
            for block in [1, 5, 1000] {
                let output = filtered(&wordcount, input, block);
                let [output, expected] =
                    [&output, &expected].map(|bytes| String::from_utf8_lossy(bytes));
                assert_eq!(output, expected, "fold_case={fold}");
            }
            host.unload("wordcount");
        }
    });
}

/// What `mime` makes of `text`; room is made as it asks.
fn encoded(mime: &Plugin, text: &[u8]) -> Result<String, CallError> {
    let words = mime.function::<Encode>("mime_words").expect("exported");
    assert!(words.is_compared());
    let mut room = vec![0_u8; 16];
    loop {
        // SAFETY: the signature is compared, and the buffers are as long as they are told to be.
        let len =
            unsafe { words.call((text.as_ptr(), text.len(), room.as_mut_ptr(), room.len())) }?;
        if len <= room.len() {
            room.truncate(len);
            return Ok(String::from_utf8(room).expect("ASCII"));
        }
        room.resize(len, 0);
    }
}

/// What a reader of mail makes of it again, with another program's base64.
fn decoded(words: &str, charset: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for word in words.split("\r\n ").filter(|word| !word.is_empty()) {
        assert!(word.len() <= 75, "{word}");
        let of = word.strip_prefix(&format!("=?{charset}?B?"));
        let of = of.and_then(|rest| rest.strip_suffix("?="));
        let mut base64 = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("base64");
        let mut input = base64.stdin.take().expect("piped");
        input
            .write_all(of.expect("an encoded word").as_bytes())
            .expect("written");
        drop(input);
        let output = base64.wait_with_output().expect("ends");
        assert!(output.status.success(), "{word}");
        if charset == "UTF-8" {
            std::str::from_utf8(&output.stdout).expect("no character is divided");
        }
        text.extend(output.stdout);
    }
    text
}

#[test]
fn mime_encodes_by_base64_and_keeps_it() {
    isolated!({
        let host = Host::new();
        let refused = load(&host, "mime", &[]).expect_err("base64 is not there");
        assert_eq!(
            (refused.kind(), refused.stage()),
            (ErrorKind::NoProvider, Some(Stage::Imports))
        );
        assert_eq!(
            refused.to_string(),
            "mime: imports: import base64_encode of base64 ^1: no plugin base64 is loaded; load it \
             first, or with its users"
        );
        // However its own lines are.
        let base64 = load(&host, "base64", &[("wrap", "4")]).expect("loads");
        let refused = load(&host, "mime", &[("charset", "a b")]).expect_err("no charset");
        assert!(
            refused.to_string().contains("charset: expected"),
            "{refused}"
        );
        assert!(base64.used_by().is_empty());

        // The examples of RFC 2047, section 8.
        let mime = load(&host, "mime", &[("charset", "ISO-8859-1")]).expect("loads");
        assert_eq!(
            encoded(&mime, b"If you can read this yo").as_deref(),
            Ok("=?ISO-8859-1?B?SWYgeW91IGNhbiByZWFkIHRoaXMgeW8=?=")
        );
        host.unload("mime");
        let mime = load(&host, "mime", &[("charset", "ISO-8859-2")]).expect("loads");
        assert_eq!(
            encoded(&mime, b"u understand the example.").as_deref(),
            Ok("=?ISO-8859-2?B?dSB1bmRlcnN0YW5kIHRoZSBleGFtcGxlLg==?=")
        );
        let all: Vec<u8> = (0..=255).collect();
        let words = encoded(&mime, &all).expect("encodes");
        assert_eq!(decoded(&words, "ISO-8859-2"), all);
        host.unload("mime");

        let mime = load(&host, "mime", &[]).expect("loads");
        assert_eq!(encoded(&mime, b"").as_deref(), Ok(""));
        // Every length and every place of a character of each width.
        let mut text = String::new();
        for n in 0..60 {
            let words = encoded(&mime, text.as_bytes()).expect("encodes");
            assert_eq!(decoded(&words, "UTF-8"), text.as_bytes());
            for part in ["a", "ø", "→", "𝄞"].iter().cycle().skip(n).take(n % 4 + 1) {
                text += part;
            }
        }
        assert_eq!(base64.used_by(), ["mime".into()]);
        let used = host.loader.unload("base64", seconds(5)).expect_err("used");
        assert_eq!(
            used.to_string(),
            "base64: going: it is used by mime; unload that first"
        );
        assert_eq!(base64.state(), State::Live);
        host.unload("mime");
        host.unload("base64");
    });
}

/// A plugin in C in the place of an example.
fn stand_in(scratch: &Scratch, name: &str, export: &str) -> PathBuf {
    let source = format!(
        "#include \"plugin_api.h\"\n\
         static int32_t init(const plug_host_context *ctx) {{ (void)ctx; return PLUG_OK; }}\n\
         static void stop(void) {{}}\n\
         PLUG_PLUGIN(\"{name}\", \"1.5.0\", \"for a test\", \"MIT\", init, stop);\n{export}\n"
    );
    c_plugin(scratch, name, &source)
}

#[test]
fn mime_tells_why_base64_failed() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("examples"));
        let signature = "size_t, base64_encode, \
                         (const uint8_t *in, size_t len, char *out, size_t capacity)";
        let mime = |body: &str| {
            let export = format!(
                "PLUG_EXPORT({signature}) {{\n(void)in; (void)out; (void)capacity;\n{body}\n}}"
            );
            host.load(stand_in(&scratch, "base64", &export))
                .expect("loads");
            load(&host, "mime", &[]).expect("loads")
        };
        let away = || {
            host.unload("mime");
            host.unload("base64");
        };
        let failing = mime("plug_raise(plug_context(), \"no ink\"); return len;");
        let error = encoded(&failing, b"text").expect_err("raised");
        assert!(
            error.to_string().contains("base64 fails: no ink"),
            "{error}"
        );
        // Nothing to encode, and nobody asked.
        assert_eq!(encoded(&failing, b"").as_deref(), Ok(""));
        away();
        let lying = mime("return len * 1000;");
        let error = encoded(&lying, b"text").expect_err("refused");
        assert!(error.to_string().contains("that no base64 has"), "{error}");
        away();
        // Another signature is never called.
        let narrow = "PLUG_EXPORT(uint32_t, base64_encode, (uint32_t in)) { return in; }";
        host.load(stand_in(&scratch, "base64", narrow))
            .expect("loads");
        let refused = load(&host, "mime", &[]).expect_err("another signature");
        assert_eq!(refused.kind(), ErrorKind::SignatureMismatch);
        host.unload("base64");
    });
}

fn seconds_to_read(reading: &Plugin, text: &str) -> u64 {
    let function = reading
        .function::<Count>("reading_seconds")
        .expect("exported");
    assert!(function.is_compared());
    // SAFETY: the signature is compared, and the text is as long as it is told to be.
    unsafe { function.call((text.as_ptr(), text.len())) }.expect("tells")
}

#[test]
fn reading_counts_by_wordcount_at_the_speed_of_the_moment() {
    isolated!({
        let host = Host::new();
        let refused = load(&host, "reading", &[]).expect_err("wordcount is not there");
        assert_eq!(refused.kind(), ErrorKind::NoProvider);
        let wordcount = host.useful("wordcount");
        let refused = load(&host, "reading", &[("words_per_minute", "0")]).expect_err("nobody");
        assert_eq!(refused.kind(), ErrorKind::Parameter);
        let reading = load(&host, "reading", &[]).expect("loads");
        let mut text = String::new();
        for n in 0..500 {
            let _ = write!(text, " \t word{n}{}", if n % 7 == 0 { "\n" } else { "" });
        }
        let counted = oracle(r#"wc -w < "$1""#, text.as_bytes());
        let words: u64 = String::from_utf8_lossy(&counted)
            .trim()
            .parse()
            .expect("a number");
        let at = |speed: u64| (words * 60).div_ceil(speed);
        assert_eq!(seconds_to_read(&reading, &text), at(200));
        assert_eq!(seconds_to_read(&reading, ""), 0);
        let patience = Duration::from_secs(10);
        let set = |value: &str| reading.set_param("words_per_minute", value, patience);
        set("431").expect("fits");
        assert_eq!(seconds_to_read(&reading, &text), at(431));
        for refused in ["0", "10001", "fast", "-1"] {
            let error = set(refused).expect_err("does not fit");
            assert_eq!(error.kind(), ErrorKind::Parameter, "{refused}");
            assert_eq!(seconds_to_read(&reading, &text), at(431));
        }
        // A provider that is replaced goes on being called.
        let params = Params::new().with("fold_case", "true");
        let source = Source::path(useful("wordcount"));
        let replaced = host
            .loader
            .replace(&host.trust, "wordcount", source, &params, seconds(20))
            .expect("replaced");
        assert_eq!(replaced.plugin.used_by(), ["reading".into()]);
        assert_eq!(seconds_to_read(&reading, &text), at(431));
        let used = host.loader.unload("wordcount", seconds(5));
        assert_eq!(used.expect_err("used").kind(), ErrorKind::InUse);
        host.unload("reading");
        host.unload("wordcount");
        assert_ne!(wordcount.generation(), replaced.plugin.generation());
    });
}

/// An error of what it imports is no error of its own, where it knows better.
#[test]
fn reading_estimates_where_wordcount_fails() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("examples"));
        let export = "PLUG_EXPORT(uint64_t, count_words, (const uint8_t *text, size_t len)) {\n\
                      (void)text; (void)len;\n\
                      plug_raise(plug_context(), \"out of fingers\"); return 1000000;\n}";
        host.load(stand_in(&scratch, "wordcount", export))
            .expect("loads");
        let reading = load(&host, "reading", &[("words_per_minute", "60")]).expect("loads");
        // Seven words of six bytes.
        assert_eq!(seconds_to_read(&reading, &"hello ".repeat(7)), 7);
        assert_eq!(seconds_to_read(&reading, ""), 0);
        host.unload("reading");
        host.unload("wordcount");
    });
}
