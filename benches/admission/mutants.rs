//! Damaged libraries that pass: how many of them bring ld.so down.

use std::env;
use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::process::Command;

use plug_loader::image::{Image, Opened, RewritePolicy, next_nonce};

use crate::ending::{End, in_child, open_search_close};
use crate::mutation::{Random, STRUCTURES, Sample};
use benches::measure::Plan;

const SOURCE: &str = "#include <stdlib.h>\n\
    int word = 1; static int hidden; int *escape = &hidden;\n\
    _Thread_local int mine = 3;\n\
    __attribute__((constructor)) static void build(void) { word++; }\n\
    int add(int a) { return a + word + mine + atoi(\"1\"); }\n";

/// Crashes, hangs and assertions of ld.so on mutants outside of code that the validator let pass.
pub fn crashes(plan: Plan) -> usize {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("mutant-{}.so", std::process::id()));
    let source = folder.join("mutants.c");
    fs::write(&source, SOURCE).expect("a source");
    let names = ["word", "add", "nothing"].map(|name| CString::new(name).expect("no zero byte"));
    let seed = env::var("PLUG_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    let (mut crashed, mut stopped, mut passed) = (0, 0, 0);
    for style in ["gnu", "sysv", "both"] {
        let built = Command::new("gcc")
            .args(["-shared", "-fPIC", "-O1", "-s"])
            .arg(format!("-Wl,--hash-style={style}"))
            .arg("-o")
            .args([&path, &source])
            .status();
        assert!(built.expect("gcc").success());
        let sample = Sample::new(style, fs::read(&path).expect("a library"));
        let structures = sample.structures();
        for n in 0..plan.size(4_000, 300) {
            let structure = structures[n % structures.len()];
            let mut random = Random::new(seed ^ n as u64);
            let mutant = sample.mutant(structure, n / structures.len(), &mut random);
            if sample.differs_in_code(&mutant) && mutant.len() == sample.bytes.len() {
                continue;
            }
            fs::write(&path, &mutant).expect("written");
            let opened = Opened::open(&path).expect("readable");
            let Ok(image) = Image::prepare(&opened, &RewritePolicy::new(next_nonce()), None) else {
                stopped += 1;
                continue;
            };
            passed += 1;
            let link = image.staged.link(&image.name, None).expect("a name");
            let end = in_child(|| open_search_close(link.path(), &names));
            if matches!(end, End::Crash | End::Assert | End::Hang) {
                println!(
                    "  {end:?}: mutant {n} in {} of {style}, seed {seed}",
                    STRUCTURES[structure]
                );
                crashed += 1;
            }
        }
    }
    let _gone = fs::remove_file(&path);
    println!(
        "\nmutants: {stopped} stopped, {passed} passed, of these {crashed} brought ld.so down"
    );
    crashed
}
