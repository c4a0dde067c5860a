//! What a plugin's author says about it: the `key=value` strings behind its metadata symbols.
//!
//! Thread context; read from the file's bytes, so that it can refuse before a byte of the plugin
//! runs. Nothing here judges the values beyond their form.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::str;

use plug_api::abi::METADATA_PREFIX;

use super::dynsym::ElfSymbol;
use super::facts::Facts;
use super::param::Param;
use super::plugin_import::{self, PluginImport};
use super::prototype;

/// Bytes of metadata a plugin may have in all.
pub(super) const MAX_METADATA: u64 = 64 * 1024;
/// Functions of other plugins that a plugin may import.
const MAX_IMPORTS: usize = 256;
/// Bytes a plugin's name may have.
pub(super) const MAX_NAME: usize = 64;

/// The author's metadata, in the file's order. Empty for a foreign file, which has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// Every `key=value` found.
    pub fields: Vec<(String, String)>,
}

/// One `export=` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Export<'a> {
    /// The exported symbol.
    pub name: &'a str,
    /// Its signature as text, in the author's language.
    pub signature: &'a str,
}

/// One `interface=` or `service=` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offer<'a> {
    /// Name of the interface.
    pub name: &'a str,
    /// Major version: another one is another interface.
    pub major: u32,
    /// Minor version: higher ones only append.
    pub minor: u32,
}

/// Metadata that is not what it should be: symbol, place, expected and found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Malformed {
    /// The metadata symbol.
    pub symbol: String,
    /// File offset of the string at fault.
    pub offset: u64,
    /// What should be there.
    pub expected: &'static str,
    /// What is.
    pub found: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            symbol,
            offset,
            expected,
            found,
        } = self;
        write!(
            f,
            "metadata {symbol} at {offset:#x}: expected {expected}, found {found}"
        )
    }
}

impl Error for Malformed {}

impl Info {
    /// Reads the metadata of the file whose facts and bytes are given.
    ///
    /// # Errors
    /// The first string that is not `key=value` in plain UTF-8, or a field that is not of its form.
    pub fn read(facts: &Facts, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut info = Self::default();
        let mut left = MAX_METADATA;
        let mut last: Option<(&ElfSymbol, String)> = None;
        for symbol in &facts.declared {
            let name = facts.symbol_name(bytes, symbol);
            if !name.starts_with(METADATA_PREFIX.as_bytes()) {
                continue;
            }
            let label = String::from_utf8_lossy(name).into_owned();
            info.read_symbol(facts, bytes, symbol, &label, &mut left)?;
            last = Some((symbol, label));
        }
        if let Some((symbol, label)) = &last
            && info.name().is_none()
        {
            let offset = facts
                .offset_at(symbol.value, symbol.size)
                .unwrap_or(symbol.entry_offset);
            let (expected, found) = ("a name= somewhere", "none".into());
            return Err(Malformed {
                symbol: label.clone(),
                offset,
                expected,
                found,
            });
        }
        if let Some((symbol, label)) = last
            && let Some((expected, found)) = info.params_objection()
        {
            return Err(Malformed {
                symbol: label,
                offset: symbol.entry_offset,
                expected,
                found,
            });
        }
        Ok(info)
    }

    fn read_symbol(
        &mut self,
        facts: &Facts,
        bytes: &[u8],
        symbol: &ElfSymbol,
        label: &str,
        left: &mut u64,
    ) -> Result<(), Malformed> {
        let refuse = |offset: u64, expected: &'static str, found: String| {
            Err(Malformed {
                symbol: label.to_owned(),
                offset,
                expected,
                found,
            })
        };
        let place = facts.offset_at(symbol.value, symbol.size);
        let text = facts.bytes_at(bytes, symbol.value, symbol.size);
        let (Some(start), Some(text)) = (place, text) else {
            let found = format!("{:#x}+{:#x}", symbol.value, symbol.size);
            return refuse(symbol.entry_offset, "strings inside the file", found);
        };
        let Some(rest) = left.checked_sub(symbol.size) else {
            return refuse(
                start,
                "at most 65536 bytes in all",
                format!("{} more", symbol.size),
            );
        };
        *left = rest;
        let Some((0, strings)) = text.split_last() else {
            return refuse(
                start,
                "strings that end in NUL",
                format!("{} bytes", text.len()),
            );
        };
        let mut offset = start;
        for string in strings.split(|byte| *byte == 0) {
            let at = offset;
            offset = offset.saturating_add(u64::try_from(string.len()).unwrap_or(0) + 1);
            if string.is_empty() {
                // A C literal ends in a NUL of its own, behind the one that ends its last string.
                continue;
            }
            let shown = || format!("{:?}", String::from_utf8_lossy(string));
            let Ok(string) = str::from_utf8(string) else {
                return refuse(at, "UTF-8", shown());
            };
            if string.chars().any(char::is_control) {
                return refuse(at, "no control characters", shown());
            }
            let Some((key, value)) = string.split_once('=').filter(|(key, _)| !key.is_empty())
            else {
                return refuse(at, "key=value", shown());
            };
            if let Some(expected) = self.objection(key, value) {
                return refuse(at, expected, shown());
            }
            self.fields.push((key.to_owned(), value.to_owned()));
        }
        Ok(())
    }

    /// What is wrong with a field, as the form it should have.
    fn objection(&self, key: &str, value: &str) -> Option<&'static str> {
        match key {
            "name" if self.name().is_some() => Some("one name"),
            "name" if !is_name(value) => Some("a name of 1 to 64 of A-Z a-z 0-9 _ -"),
            "interface" | "service" if offer(value).is_none() => Some("NAME/MAJOR.MINOR"),
            "import" => match PluginImport::parse(value) {
                None => Some("PLUGIN:SYMBOL:REQUIREMENT, with a requirement such as ^1.2"),
                Some(import) => {
                    let mut others = self.all("import").filter_map(|it| it.split(':').nth(1));
                    if others.any(|symbol| symbol == import.symbol) {
                        return Some("one import of a symbol");
                    }
                    let is_full = self.all("import").count() >= MAX_IMPORTS;
                    is_full.then_some("at most 256 imports")
                }
            },
            "signature" | "import-signature" | "layout" | "table" if !value.contains(':') => {
                Some("NAME:TEXT")
            }
            "export" if export(value).is_none() => Some("NAME:SIGNATURE"),
            "permanent" if value.trim().is_empty() => Some("a reason"),
            "param" => match value.parse::<Param>() {
                Err(expected) => Some(expected),
                Ok(param) if self.param(&param.name).is_some() => Some("one parameter of a name"),
                Ok(_) => None,
            },
            "param-default" | "param-doc" | "param-set" if !value.contains(':') => {
                Some("NAME:TEXT")
            }
            _ => None,
        }
    }

    /// What is wrong with the parameters as a whole.
    fn params_objection(&self) -> Option<(&'static str, String)> {
        for key in ["param-default", "param-doc", "param-set"] {
            for value in self.all(key) {
                let name = value.split_once(':').map_or(value, |(name, _)| name);
                if self.param(name).is_none() {
                    let found = format!("{key} of {name:?}");
                    return Some(("a param= of that name", found));
                }
            }
        }
        let mut params = self.params();
        params.find_map(|param| {
            let default = param.default.as_deref()?;
            let fits = param.kind.canonical(default).is_some();
            (!fits).then(|| ("a default that fits its type", param.to_string()))
        })
    }

    /// All fields, in the author's order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The value of the first field with this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// The values of all fields with this key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// Whether the file has no metadata: an ordinary library, loadable but without `init`.
    pub fn is_foreign(&self) -> bool {
        self.fields.is_empty()
    }

    /// The plugin's name.
    pub fn name(&self) -> Option<&str> {
        self.get("name")
    }

    /// Its version.
    pub fn version(&self) -> Option<&str> {
        self.get("version")
    }

    /// What it is for.
    pub fn description(&self) -> Option<&str> {
        self.get("description")
    }

    /// Its license.
    pub fn license(&self) -> Option<&str> {
        self.get("license")
    }

    /// The version of the binary contract it was built against.
    pub fn api(&self) -> Option<&str> {
        self.get("api")
    }

    /// Why it can never be unloaded; none for one that can.
    pub fn permanent(&self) -> Option<&str> {
        self.get("permanent")
    }

    /// Its panic strategy.
    pub fn panic(&self) -> Option<&str> {
        self.get("panic")
    }

    /// The functions it exports.
    pub fn exports(&self) -> impl Iterator<Item = Export<'_>> {
        self.all("export").filter_map(export)
    }

    /// The signature of the exported function `name` in the form in which both sides compare it; none
    /// where the plugin tells none, or one of types that it does not describe.
    pub fn signature(&self, name: &str) -> Option<String> {
        prototype::signature(self, name)
    }

    /// The fields of the table `name/major.minor` that it exports, in the form in which both sides
    /// compare them; none where the plugin does not tell them.
    pub fn table(&self, name: &str, major: u32, minor: u32) -> Option<String> {
        prototype::table(self, &format!("{name}/{major}.{minor}"))
    }

    /// The functions of other plugins that it imports, by plugin and name.
    pub fn imports(&self) -> Vec<PluginImport> {
        plugin_import::imports(self)
    }

    /// The parameters it declares, with their defaults and documentation, by name: compilers keep
    /// no order between the author's declarations.
    pub fn params(&self) -> impl Iterator<Item = Param> {
        let mut texts: Vec<&str> = self.all("param").collect();
        texts.sort_unstable();
        texts.into_iter().filter_map(|text| {
            let mut param: Param = text.parse().ok()?;
            param.default = self
                .of_param("param-default", &param.name)
                .map(str::to_owned);
            param.setter = self.of_param("param-set", &param.name).map(str::to_owned);
            param.doc = self
                .of_param("param-doc", &param.name)
                .unwrap_or_default()
                .into();
            Some(param)
        })
    }

    /// The declared parameter `name`; `-` and `_` are the same.
    pub fn param(&self, name: &str) -> Option<Param> {
        self.params()
            .find(|param| canonical_name(&param.name) == canonical_name(name))
    }

    /// What the field `key` says of the parameter `name`.
    fn of_param(&self, key: &str, name: &str) -> Option<&str> {
        self.fields()
            .filter(|(k, _)| *k == key)
            .filter_map(|(_, value)| value.split_once(':'))
            .find_map(|(of, text)| (of == name).then_some(text.trim()))
    }

    /// The interfaces it exports for the host.
    pub fn interfaces(&self) -> impl Iterator<Item = Offer<'_>> {
        self.all("interface").filter_map(offer)
    }

    /// The services it exports for others.
    pub fn services(&self) -> impl Iterator<Item = Offer<'_>> {
        self.all("service").filter_map(offer)
    }
}

/// Whether `name` can name a plugin: 1 to 64 of `A-Z a-z 0-9 _ -`.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_name_byte)
}

/// The form in which names are compared: `-` equals `_`.
pub fn canonical_name(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of a file without metadata: its stem without `lib` in front and `.so…` behind.
///
/// What a name may not hold becomes `_`, and what is too long is cut: `libstdc++.so.6` is `stdc__`.
pub fn foreign_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = file
        .strip_prefix("lib")
        .filter(|rest| !rest.starts_with('.'))
        .unwrap_or(&file);
    // The last ".so" that ends a component, so that "libx.sorted.so.1" keeps its middle.
    let end = stem
        .rmatch_indices(".so")
        .find(|(at, _)| {
            stem.get(at + 3..)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
        .map_or(stem.len(), |(at, _)| at);
    let name: String = stem
        .chars()
        .zip(0..end.min(MAX_NAME))
        .map(|(c, _)| {
            if u8::try_from(c).is_ok_and(is_name_byte) {
                c
            } else {
                '_'
            }
        })
        .collect();
    if name.is_empty() {
        "unnamed".into()
    } else {
        name
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn export(value: &str) -> Option<Export<'_>> {
    let (name, signature) = value.split_once(':')?;
    (!name.is_empty() && !signature.is_empty()).then_some(Export { name, signature })
}

fn offer(value: &str) -> Option<Offer<'_>> {
    let (name, version) = value.rsplit_once('/')?;
    let (major, minor) = version.split_once('.')?;
    let name = Some(name).filter(|name| !name.is_empty())?;
    Some(Offer {
        name,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_name_strips_prefix_and_suffix() {
        for (path, name) in [
            ("/usr/lib/libz.so.1.2.13", "z"),
            ("libstdc++.so.6", "stdc__"),
            ("codec.so", "codec"),
            ("lib.so", "lib"),
            ("libx.sorted.so.1", "x_sorted"),
            ("libplain", "plain"),
            (".so", "unnamed"),
            ("/", "unnamed"),
            ("libgcc_s.so.1", "gcc_s"),
        ] {
            assert_eq!(foreign_name(Path::new(path)), name, "{path}");
        }
        let long = format!("lib{}.so", "ä".repeat(200));
        assert!(is_name(&foreign_name(Path::new(&long))));
    }

    #[test]
    fn canonical_name_equates_dash_and_underscore() {
        assert_eq!(canonical_name("word-count_x"), "word_count_x");
    }

    #[test]
    fn offer_reads_name_and_versions() {
        let read = offer("plug.filter/1.20");
        assert_eq!(
            read,
            Some(Offer {
                name: "plug.filter",
                major: 1,
                minor: 20
            })
        );
        for bad in [
            "",
            "x",
            "x/1",
            "/1.0",
            "x/1.0.0",
            "x/a.b",
            "x/-1.0",
            "x/4294967296.0",
        ] {
            assert_eq!(offer(bad), None, "{bad}");
        }
    }

    #[test]
    fn is_name_refuses_what_could_be_a_path() {
        for bad in ["", ".", "../x", "a b", "ä", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_name("word-count_2"));
    }
}
