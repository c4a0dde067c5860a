//! Joins the metadata of a plugin into one array of `key=value\0` strings, at compile time.
//!
//! Hidden from the docs: the macros are the interface.

use crate::abi;
use crate::portable::{Item, Layout, layout_len, signature_len, write_layout, write_signature};

/// Compiler that built this crate, and with it the plugin.
pub const TOOLCHAIN: &str = match option_env!("PLUG_API_TOOLCHAIN") {
    Some(version) => version,
    None => "rustc of unknown version",
};

/// Target triple.
pub const TARGET: &str = match option_env!("PLUG_API_TARGET") {
    Some(target) => target,
    None if cfg!(all(
        target_arch = "x86_64",
        target_os = "linux",
        target_env = "gnu"
    )) =>
    {
        "x86_64-unknown-linux-gnu"
    }
    None if cfg!(all(
        target_arch = "aarch64",
        target_os = "linux",
        target_env = "gnu"
    )) =>
    {
        "aarch64-unknown-linux-gnu"
    }
    None => "unknown",
};

/// A piece of the metadata.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Text as it is.
    Text(&'a str),
    /// Text with small letters for capitals.
    Lower(&'a str),
    /// A number in decimal.
    Number(u32),
    /// The signature of a function, as both sides compare it.
    Signature(&'a [Item], Item),
    /// The fields of a struct, if they are told.
    Layout(Option<&'a Layout>),
    /// The zero that ends a string.
    End,
}

/// [`abi::ABI_VERSION`], the value of the key `api`.
pub const API: Part<'static> = Part::Number(abi::ABI_VERSION);

/// Length of the joined `parts`.
pub const fn len(parts: &[Part<'_>]) -> usize {
    let (mut i, mut total) = (0, 0);
    while i < parts.len() {
        total += match parts[i] {
            Part::Text(text) | Part::Lower(text) => text.len(),
            Part::Number(number) => digits(number),
            Part::Signature(args, ref output) => signature_len(args, output),
            Part::Layout(Some(layout)) => layout_len(layout),
            Part::Layout(None) => 0,
            Part::End => 1,
        };
        i += 1;
    }
    total
}

/// The joined `parts`; `N` is their [`len`].
#[expect(
    clippy::missing_panics_doc,
    reason = "runs only while the plugin is compiled"
)]
pub const fn join<const N: usize>(parts: &[Part<'_>]) -> [u8; N] {
    let mut out = [0; N];
    let (mut i, mut at) = (0, 0);
    while i < parts.len() {
        match parts[i] {
            Part::Text(text) | Part::Lower(text) => {
                let is_lower = matches!(parts[i], Part::Lower(_));
                let text = text.as_bytes();
                let mut j = 0;
                while j < text.len() {
                    assert!(text[j] != 0, "metadata must not contain a zero byte");
                    out[at + j] = if is_lower {
                        text[j].to_ascii_lowercase()
                    } else {
                        text[j]
                    };
                    j += 1;
                }
                at += text.len();
            }
            Part::Number(number) => {
                let width = digits(number);
                let (mut rest, mut j) = (number, width);
                while j > 0 {
                    j -= 1;
                    out[at + j] = digit(rest);
                    rest /= 10;
                }
                at += width;
            }
            Part::Signature(args, ref output) => {
                write_signature(out.split_at_mut(at).1, args, output);
                at += signature_len(args, output);
            }
            Part::Layout(Some(layout)) => {
                write_layout(out.split_at_mut(at).1, layout);
                at += layout_len(layout);
            }
            Part::Layout(None) => {}
            Part::End => at += 1,
        }
        i += 1;
    }
    out
}

/// `name`, refused while compiling when a host could not use it as a name.
#[expect(
    clippy::missing_panics_doc,
    reason = "runs only while the plugin is compiled"
)]
pub const fn name(name: &str) -> &str {
    let bytes = name.as_bytes();
    assert!(!bytes.is_empty(), "a plugin needs a name");
    let mut i = 0;
    while i < bytes.len() {
        let ok = bytes[i].is_ascii_alphanumeric() || matches!(bytes[i], b'-' | b'_' | b'.');
        assert!(
            ok,
            "a plugin's name consists of letters, digits, '-', '_' and '.'"
        );
        i += 1;
    }
    name
}

const fn digits(number: u32) -> usize {
    match number.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    }
}

const fn digit(number: u32) -> u8 {
    b"0123456789"[(number % 10) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_text_and_numbers_gives_zero_ended_strings() {
        const PARTS: &[Part<'_>] = &[
            Part::Text("a="),
            Part::Number(0),
            Part::End,
            Part::Text("b="),
            Part::Number(4_294_967_295),
            Part::Text("."),
            Part::Number(10),
            Part::End,
        ];
        const LEN: usize = len(PARTS);
        assert_eq!(&join::<LEN>(PARTS), b"a=0\0b=4294967295.10\0");
    }
}
