//! Names as their authors wrote them, for people to read: never in a host, and never in JSON.

use std::borrow::Cow;
use std::fmt;

use cpp_demangle::{DemangleOptions, Symbol};

/// Bytes of the longest name shown: names come from files, and short ones can stand for endless
/// ones.
const LONGEST: usize = 16 << 10;

/// The name `mangled` stands for in Rust or C++; itself where it stands for none.
pub(crate) fn demangle(mangled: &str) -> Cow<'_, str> {
    let mut name = Bounded(String::new());
    let written = if let Ok(rust) = rustc_demangle::try_demangle(mangled) {
        // The alternate form leaves the hash out.
        fmt::write(&mut name, format_args!("{rust:#}")).is_ok()
    } else if mangled.starts_with("_Z")
        && let Ok(cpp) = Symbol::new(mangled)
    {
        let options = DemangleOptions::new();
        cpp.structured_demangle(&mut name, &options).is_ok()
    } else {
        false
    };
    if written && !name.0.is_empty() {
        name.0.into()
    } else {
        mangled.into()
    }
}

/// Text that refuses to grow beyond [`LONGEST`].
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if self.0.len() + more.len() > LONGEST {
            return Err(fmt::Error);
        }
        self.0.push_str(more);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demangle_of_rust_cpp_and_c_names_reads_as_written() {
        for (mangled, written) in [
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            (
                "_ZN5codec6encodeEPKcm",
                "codec::encode(char const*, unsigned long)",
            ),
            ("_ZTV5Codec", "{vtable(Codec)}"),
            ("encode", "encode"),
            ("_Z", "_Z"),
            ("_ZN", "_ZN"),
            ("_R", "_R"),
            ("fn@+0x1139", "fn@+0x1139"),
            ("plug.filter", "plug.filter"),
            ("", ""),
        ] {
            assert_eq!(demangle(mangled), written, "{mangled}");
        }
    }

    #[test]
    fn demangle_of_a_name_that_stands_for_an_endless_one_keeps_it() {
        // Each parameter is a pair of the one before.
        let mut mangled = "_Z1fSt4pairIiiE".to_owned();
        mangled.push_str("S_IS0_S0_E");
        for n in 1..30 {
            let last = if n < 10 {
                n.to_string()
            } else {
                char::from(b'A' + u8::try_from(n - 10).unwrap()).to_string()
            };
            mangled.push_str(&format!("S_IS{last}_S{last}_E"));
        }
        assert!(demangle(&mangled).len() <= LONGEST);
    }
}
