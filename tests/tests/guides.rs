//! The plugins in C and C++ on the page for authors are what it says; those in Rust, and the code on the
//! page for hosts, are compiled as documentation of the tests' kit.

use std::fs;
use std::path::PathBuf;

use plug_loader::{ErrorKind, Plugin};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, repository};

/// The two blocks of `language` on the page for authors: a plugin, and one that uses it.
fn blocks(language: &str) -> [String; 2] {
    let text = fs::read_to_string(repository().join("docs/authors.md")).expect("page");
    let opening = format!("\n```{language}\n");
    let blocks = text.split(&opening).skip(1);
    let blocks = blocks.map(|rest| rest.split_once("\n```").expect("closed").0.to_owned() + "\n");
    let blocks: Vec<String> = blocks.collect();
    blocks.try_into().expect("two blocks")
}

/// A greeter and the plugin that uses it, loaded in their order.
fn loaded(host: &Host, files: [PathBuf; 2]) -> [Plugin; 2] {
    let [greeter, letters] = files;
    let refused = host.load(&letters).expect_err("no greeter is there");
    assert_eq!(refused.kind(), ErrorKind::NoProvider, "{refused}");
    [greeter, letters].map(|file| host.load(file).expect("loads"))
}

fn unload(host: &Host) {
    let used = host.loader.unload("greeter", seconds(5)).expect_err("used");
    assert_eq!(used.kind(), ErrorKind::InUse, "{used}");
    host.unload("letters");
    host.unload("greeter");
}

#[test]
fn the_plugin_in_c_greets() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("guide"));
        let [greeter, letters] = blocks("c");
        let files = [("greeter", greeter), ("letters", letters)];
        let files = files.map(|(name, source)| c_plugin(&scratch, name, &source));
        let [plugin, letters] = loaded(&host, files);
        assert_eq!(plugin.name(), "greeter");
        let length = plugin.function::<unsafe extern "C" fn() -> u64>("greeting_length");
        // SAFETY: the signature on the page.
        let length = unsafe { length.expect("exported").call(()) };
        assert_eq!(length, Ok("hello, world".len() as u64));
        let letter = letters.function::<unsafe extern "C" fn(u64) -> u64>("letter_length");
        // SAFETY: the signature on the page.
        let letter = unsafe { letter.expect("exported").call((100,)) };
        assert_eq!(letter, Ok("hello, world".len() as u64 + 100));
        unload(&host);
    });
}

#[test]
fn the_plugin_in_cpp_guards_its_function() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("guide"));
        let [greeter, letters] = blocks("cpp");
        let files = [("greeter", greeter), ("letters", letters)];
        let files = files.map(|(name, source)| cpp_plugin(&scratch, name, &source));
        let [plugin, letters] = loaded(&host, files);
        let length = plugin.function::<unsafe extern "C" fn(u64) -> u64>("greeting_length");
        let length = length.expect("exported");
        // SAFETY: the signature on the page.
        assert_eq!(unsafe { length.call((7,)) }, Ok(7));
        // SAFETY: as above. No string is as long.
        let refused = unsafe { length.call((u64::MAX,)) }.expect_err("too long");
        assert!(refused.to_string().contains("basic_string"), "{refused}");
        let letter = letters.function::<unsafe extern "C" fn(u64, u64) -> u64>("letter_length");
        let letter = letter.expect("exported");
        // SAFETY, here and below: the signature on the page.
        assert_eq!(unsafe { letter.call((7, 100)) }, Ok(107));
        // What the greeter threw is caught.
        assert_eq!(unsafe { letter.call((u64::MAX, 100)) }, Ok(100));
        unload(&host);
    });
}
