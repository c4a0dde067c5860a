//! The example filters, linked statically and driven through their tables, against the tools
//! whose output they claim to give.

use std::fs;
use std::process::Command;
use std::ptr;

use fastrand::Rng;
use plug_filter::{FilterV1, Instance, ParamList};
use plug_tests::standalone::Scratch;

fn inputs() -> Vec<Vec<u8>> {
    let mut random = Rng::with_seed(0x9e37_79b9_7f4a_7c15);
    let mut inputs: Vec<Vec<u8>> = [
        &b""[..],
        b"a",
        b"ab",
        b"abc",
        b"abcd",
        b" \t\n\x0b\x0c\r ",
        b" one  two one\n",
    ]
    .map(<[u8]>::to_vec)
    .into();
    for len in [1, 15, 16, 17, 3071, 3072, 3073, 100_000] {
        inputs.push((0..len).map(|_| random.u64(..).to_le_bytes()[3]).collect());
    }
    let mut text = Vec::new();
    while text.len() < 200_000 {
        let length = 1 + random.usize(..3);
        text.extend((0..length).map(|_| b"abcdeABC\xff"[random.usize(..9)]));
        text.extend((0..1 + random.usize(..2)).map(|_| b" \n\t\r"[random.usize(..4)]));
    }
    inputs.push(text);
    inputs
}

/// Streams `input` through a new instance in blocks of random lengths, empty ones among them.
fn filtered(table: &FilterV1, input: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut output = Vec::new();
    let mut out = |bytes: &[u8]| output.extend_from_slice(bytes);
    // SAFETY: the table is part of this program, and needs no context.
    let instance = unsafe { Instance::create(table, ptr::null(), &ParamList::default()) };
    let mut instance = instance.expect("the filter takes no parameters");
    let longest = 1 + [1, 7, 100, 5000, 70_000][random.usize(..5)];
    let mut rest = input;
    while !rest.is_empty() {
        let (block, after) = rest.split_at(random.usize(..longest + 1).min(rest.len()));
        // SAFETY: the table is the instance's.
        assert_eq!(unsafe { instance.process(table, block, &mut out) }, 0);
        rest = after;
    }
    // SAFETY: as above; once.
    assert_eq!(unsafe { instance.finish(table, &mut out) }, 0);
    // SAFETY: as above.
    unsafe { instance.destroy(table) };
    output
}

fn check(name: &str, script: &str) {
    let tables = plug_example_plugins::linked_filters();
    let (_, table) = tables
        .into_iter()
        .find(|(other, _)| *other == name)
        .unwrap();
    let scratch = Scratch::new(name);
    let mut random = Rng::with_seed(1 + name.len() as u64);
    for input in inputs() {
        let file = scratch.path().join("input");
        fs::write(&file, &input).unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", script, "sh"])
            .arg(&file)
            .env("LC_ALL", "C");
        let expected = command.output().unwrap();
        assert!(expected.status.success(), "{script}");
        for _ in 0..5 {
            let got = filtered(table, &input, &mut random);
            assert!(got == expected.stdout, "{name} of {} bytes", input.len());
        }
    }
}

#[test]
fn checksum_any_split_equals_cksum() {
    check("checksum", r#"cksum < "$1""#);
}

#[test]
fn base64_any_split_equals_base64() {
    check("base64", r#"base64 -w0 "$1""#);
}

#[test]
fn wordcount_any_split_equals_sort_uniq() {
    // Leading white space leaves an empty line, which is no word.
    check(
        "wordcount",
        r#"tr -s '[:space:]' '\n' < "$1" | sed '1{/^$/d}' | sort | uniq -c"#,
    );
}

#[test]
fn one_shot_exports_equal_the_streams() {
    for input in inputs() {
        let mut checksum = checksum::Checksum::new();
        checksum.update(&input);
        // SAFETY: the pointer and the length are those of a slice.
        let value = unsafe { checksum::checksum_of(input.as_ptr(), input.len()) };
        assert_eq!(value, u64::from(checksum.value()));
    }
}
