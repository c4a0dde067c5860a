//! The plugins in C and C++ on the page for authors are what it says; those in Rust, and the code on the
//! page for hosts, are compiled as documentation of the tests' kit.

use std::fs;

use plug_tests::host::Host;
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, repository};

/// The one block of `language` on the page for authors.
fn block(language: &str) -> String {
    let text = fs::read_to_string(repository().join("docs/authors.md")).expect("page");
    let (_, rest) = text
        .split_once(&format!("\n```{language}\n"))
        .expect("a block");
    rest.split_once("\n```").expect("closed").0.to_owned() + "\n"
}

#[test]
fn the_plugin_in_c_greets() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("guide"));
        let file = c_plugin(&scratch, "guide", &block("c"));
        let plugin = host.load(file).expect("loads");
        assert_eq!(plugin.name(), "greeter");
        let length = plugin.function::<unsafe extern "C" fn() -> u64>("greeting_length");
        // SAFETY: the signature on the page.
        let length = unsafe { length.expect("exported").call(()) };
        assert_eq!(length, Ok("hello, world".len() as u64));
        host.unload("greeter");
    });
}

#[test]
fn the_plugin_in_cpp_guards_its_function() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("guide"));
        let file = cpp_plugin(&scratch, "guide", &block("cpp"));
        let plugin = host.load(file).expect("loads");
        let length = plugin.function::<unsafe extern "C" fn(u64) -> u64>("greeting_length");
        let length = length.expect("exported");
        // SAFETY: the signature on the page.
        assert_eq!(unsafe { length.call((7,)) }, Ok(7));
        // SAFETY: as above. No string is as long.
        let refused = unsafe { length.call((u64::MAX,)) }.expect_err("too long");
        assert!(refused.to_string().contains("basic_string"), "{refused}");
        host.unload("greeter");
    });
}
