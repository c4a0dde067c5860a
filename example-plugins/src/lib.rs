//! Where the example plugins are, whatever built them, and the filters among them linked in.
//!
//! Plugins in C and C++ and the hostile ones are made by this package's build script, checksum
//! by cargo.

use std::env;
use std::path::{Path, PathBuf};

use plug_api::abi::Descriptor;
use plug_filter::FilterV1;

/// The profile's directory that the build script wrote to.
const BUILT: &str = env!("PLUG_PLUGIN_DIR");

/// The useful plugins that need no other one.
pub const USEFUL: [&str; 3] = ["checksum", "base64", "wordcount"];

/// Plugins that import functions of useful ones: each, and the one that must be there.
pub const USERS: [(&str, &str); 2] = [("mime", "base64"), ("reading", "wordcount")];

/// The hostile plugins.
pub const HOSTILE: [&str; 9] = [
    "init-fails",
    "init-panics",
    "export-panics",
    "export-throws",
    "constructor-crashes",
    "constructor-slow",
    "never-returns",
    "no-descriptor",
    "wrong-abi",
];

/// The file of the useful plugin `name`, if it was built.
///
/// Looks beside the running program first, so that a copied target directory works, and takes
/// the youngest: cargo leaves a library that is only a dependency in `deps/`, perhaps beside an
/// older one that an earlier build put in the right place.
pub fn path(name: &str) -> Option<PathBuf> {
    let file = format!("lib{}.so", name.replace('-', "_"));
    find(&file, |dir| vec![dir.to_path_buf(), dir.join("deps")])
}

/// The file of the hostile plugin `name`, if it was built; `_` stands for `-`, too.
pub fn hostile(name: &str) -> Option<PathBuf> {
    let file = format!("lib{}.so", name.replace('_', "-"));
    find(&file, |dir| vec![dir.join("hostile")])
}

fn find(file: &str, places: impl Fn(&Path) -> Vec<PathBuf>) -> Option<PathBuf> {
    let program = env::current_exe().ok();
    let beside = program
        .iter()
        .flat_map(|program| program.ancestors().skip(1).take(2));
    let youngest = |dirs: Vec<PathBuf>| {
        let files = dirs
            .iter()
            .map(|dir| dir.join(file))
            .filter(|path| path.is_file());
        files.max_by_key(|path| {
            path.metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
        })
    };
    youngest(beside.flat_map(&places).collect()).or_else(|| youngest(places(Path::new(BUILT))))
}

/// The descriptors of the useful plugins as linked into this library, by name.
pub fn linked() -> [(&'static str, &'static Descriptor); 3] {
    unsafe extern "C" {
        safe static base64_plug_descriptor_v1: Descriptor;
        safe static wordcount_plug_descriptor_v1: Descriptor;
    }
    [
        ("checksum", checksum::descriptor()),
        ("base64", &base64_plug_descriptor_v1),
        ("wordcount", &wordcount_plug_descriptor_v1),
    ]
}

/// The filter tables of [`linked`].
pub fn linked_filters() -> [(&'static str, &'static FilterV1); 3] {
    linked().map(|(name, descriptor)| {
        // SAFETY: all three are declared by the macros, and are part of the program.
        let table = unsafe { plug_filter::table_of(descriptor) };
        (name, table.expect("each of them is a filter"))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn path_finds_every_plugin() {
        let users = super::USERS.map(|(name, _)| name);
        for name in super::USEFUL.into_iter().chain(users) {
            assert!(super::path(name).is_some(), "{name}");
        }
        for name in super::HOSTILE {
            assert!(super::hostile(name).is_some(), "{name}");
        }
        assert_eq!(super::path("none"), None);
    }
}
