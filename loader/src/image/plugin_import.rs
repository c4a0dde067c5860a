//! What a plugin says about the functions of other plugins that it imports.
//!
//! Thread context; read from the file's bytes.

#![forbid(unsafe_code)]

use std::fmt;

use plug_api::abi::{ABI_VERSION, IMPORT_PREFIX, ImportSlot};
use semver::{Version, VersionReq};

use super::dynsym::ElfSymbol;
use super::facts::Facts;
use super::info::{Info, is_name};
use super::prototype;
use super::segment::u32_at;

/// One function of another plugin that a plugin imports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PluginImport {
    /// The other plugin's name.
    pub plugin: String,
    /// The function it exports.
    pub symbol: String,
    /// Which of its versions will do, as Cargo writes it.
    pub requirement: String,
    /// The function's signature in the form in which both sides compare it; none where the plugin
    /// does not describe its types.
    pub signature: Option<String>,
}

impl fmt::Display for PluginImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            plugin,
            symbol,
            requirement,
            ..
        } = self;
        write!(f, "{symbol} of {plugin} {requirement}")
    }
}

impl PluginImport {
    /// What an `import=` field says, without the signature.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let mut parts = value.splitn(3, ':');
        let (plugin, symbol, requirement) = (parts.next()?, parts.next()?, parts.next()?);
        let is_symbol = !symbol.is_empty()
            && symbol
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (is_name(plugin) && is_symbol && required(requirement).is_some()).then(|| Self {
            plugin: plugin.to_owned(),
            symbol: symbol.to_owned(),
            requirement: requirement.trim().to_owned(),
            signature: None,
        })
    }

    /// Whether a plugin of this version will do; `*` takes one of any, and of none.
    pub fn takes(&self, version: &str) -> bool {
        match (required(&self.requirement), Version::parse(version.trim())) {
            (Some(wanted), Ok(version)) => wanted.matches(&version),
            (Some(wanted), Err(_)) => wanted == VersionReq::STAR,
            (None, _) => false,
        }
    }
}

fn required(text: &str) -> Option<VersionReq> {
    VersionReq::parse(text.trim()).ok()
}

/// The functions of other plugins that a plugin with this metadata imports, by plugin and name.
pub(super) fn imports(info: &Info) -> Vec<PluginImport> {
    let mut all: Vec<PluginImport> = info.all("import").filter_map(PluginImport::parse).collect();
    for import in &mut all {
        import.signature = prototype::told_by(info, "import-signature", &import.symbol);
    }
    // Compilers keep no order between the author's declarations.
    all.sort_by(|a, b| (&a.plugin, &a.symbol).cmp(&(&b.plugin, &b.symbol)));
    all
}

/// The imports with the link-time addresses of their slots.
///
/// # Errors
/// The first one without a slot that the loader can write: expected and found.
pub(crate) fn slots(
    facts: &Facts,
    info: &Info,
    bytes: &[u8],
) -> Result<Vec<(PluginImport, u64)>, String> {
    /// Of version 1: those of later ones are longer.
    const SIZE: u64 = 40;
    const { assert!(size_of::<ImportSlot>() as u64 >= SIZE) };
    // What the plugin says of it: the version, and then the size.
    let says = |symbol: &ElfSymbol| {
        let said = facts.bytes_at(bytes, symbol.value, 8)?;
        Some((u32_at(said, 0)?, u32_at(said, 4)?))
    };
    let slot = |import: PluginImport| {
        let name = format!("{IMPORT_PREFIX}{}", import.symbol);
        let symbol = facts
            .declared
            .iter()
            .find(|symbol| facts.symbol_name(bytes, symbol) == name.as_bytes());
        let found = match symbol {
            None => "none".to_owned(),
            Some(symbol) if symbol.size < SIZE => format!("{} bytes", symbol.size),
            Some(symbol) if !is_writable(facts, symbol.value, SIZE) => "read-only ones".to_owned(),
            Some(symbol) if symbol.value % 8 != 0 => format!("them at {:#x}", symbol.value),
            Some(symbol) => match says(symbol) {
                Some((ABI_VERSION, size)) if u64::from(size) >= SIZE => {
                    return Ok((import, symbol.value));
                }
                said => {
                    let (version, size) = said.unwrap_or_default();
                    format!("version {version} of {size} bytes")
                }
            },
        };
        Err(format!(
            "import {import}: expected a slot of version {ABI_VERSION}, {SIZE} writable, aligned bytes, under \
             the exported symbol {name}, found {found}; declare it by plug-api's macro and do not hide the symbol"
        ))
    };
    info.imports().into_iter().map(slot).collect()
}

fn is_writable(facts: &Facts, vaddr: u64, len: u64) -> bool {
    let sealed = facts.relro.is_some_and(|relro| {
        vaddr < relro.vaddr.saturating_add(relro.size) && vaddr.saturating_add(len) > relro.vaddr
    });
    let mut segments = facts.segments.iter();
    !sealed && segments.any(|segment| segment.is_writable() && segment.holds(vaddr, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(requirement: &str) -> Option<PluginImport> {
        PluginImport::parse(&format!("base64:encode:{requirement}"))
    }

    #[test]
    fn requirements_are_cargos() {
        for (requirement, version, takes) in [
            ("^1.2", "1.4.0", true),
            ("^1.2", "1.1.9", false),
            ("^1.2", "2.0.0", false),
            ("1", "1.9.9", true),
            (">=1.2, <3", "2.9.0", true),
            (">=1.2, <3", "3.0.0", false),
            ("*", "0.0.1", true),
            ("*", "", true),
            ("*", "2024a", true),
            ("^1", "", false),
            ("^1", "1.2", false),
            ("=1.2.3", "1.2.3", true),
        ] {
            let import = import(requirement).expect("a requirement");
            assert_eq!(import.takes(version), takes, "{requirement} and {version}");
        }
    }

    #[test]
    fn what_is_no_import_is_refused() {
        for bad in [
            "",
            "base64",
            "base64:encode",
            "base64:encode:",
            "base64:encode:newest",
            ":encode:*",
            "base64::*",
            "base64:en code:*",
            "base 64:encode:*",
        ] {
            assert_eq!(PluginImport::parse(bad), None, "{bad}");
        }
    }
}
