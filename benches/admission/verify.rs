//! What it takes to verify a signature and to validate a plugin, beside a plain load of it.

use std::fs;
use std::hint::black_box;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Instant;

use benches::measure::{Plan, Series};
use minisign::KeyPair;
use plug_loader::authority::{Claims, Enforcement, Keys, SignaturePolicy};
use plug_loader::image::Inspection;
use plug_loader::{Deadline, Loader, Params, Source, Trust, Unloaded};

use crate::sample::compile;

/// Compiles a plugin of about 1.5 MB into `dir`: code, tables of pointers to relocate, and names.
pub fn plugin_of_1m5(dir: &Path) -> Result<PathBuf, String> {
    // Some 300 bytes of code, 32 of pointers and 110 of symbols and hash each.
    const FUNCTIONS: usize = 3_500;
    let mut source = String::from(
        "#include \"plugin_api.h\"
        static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
        static void stop(void) {}
        PLUG_PLUGIN(\"one-and-a-half\", \"1.0.0\", \"for a benchmark\", \"MIT\", init, stop);\n",
    );
    for n in 0..FUNCTIONS {
        // Code that a compiler need not think about.
        source.push_str(&format!(
            "PLUG_VISIBLE_ uint64_t transform_block_{n}(uint64_t a, uint64_t b);
            uint64_t transform_block_{n}(uint64_t a, uint64_t b) {{
                __asm__ volatile(\".skip 280, 0x90\");
                return a * {n}u ^ b;
            }}\n"
        ));
    }
    source.push_str("static uint64_t (*const table[])(uint64_t, uint64_t) = {\n");
    for n in 0..FUNCTIONS {
        source.push_str(&format!("transform_block_{n},\n"));
    }
    source.push_str(
        "};
        PLUG_EXPORT(uint64_t, transform, (uint64_t n, uint64_t a)) {
            return table[n % (sizeof table / sizeof table[0])](n, a);
        }\n",
    );
    compile(dir, "1m5", &source, &["-O1"])
}

/// Verifying and validating the file at `path`, in turns with plain loads of it; in microseconds.
/// `validate` is what a load does to the bytes before it believes them.
pub fn series(
    plan: Plan,
    loader: &Loader,
    trust: &Trust,
    path: &Path,
    validate: impl Fn(&[u8]),
) -> Result<[Series; 2], String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let bytes = fs::read(path).map_err(|error| text(&error))?;
    let (policy, signature) = signed(path, &bytes)?;
    let mut admitted = Series::new("verify and validate");
    let mut loaded = Series::new("plain load");
    for _ in 0..plan.rounds() * 4 {
        let began = Instant::now();
        let signed = policy
            .verify(black_box(&bytes), Some(signature.as_bytes()))
            .map_err(|error| text(&error))?;
        validate(black_box(&bytes));
        admitted.rounds.push(micros(began));
        if signed.is_none() {
            return Err("not signed".to_owned());
        }
        let began = Instant::now();
        let plugin = loader
            .load(trust, Source::path(path), &Params::new())
            .map_err(|error| text(&error))?;
        loaded.rounds.push(micros(began));
        let soon = Deadline::after(std::time::Duration::from_secs(10));
        match loader.unload_exactly(&plugin, soon) {
            Ok(Unloaded::Gone(_)) => {}
            other => return Err(format!("{other:?}")),
        }
    }
    Ok([admitted, loaded])
}

fn signed(path: &Path, bytes: &[u8]) -> Result<(SignaturePolicy, String), String> {
    let seen = Inspection::of_file(path).map_err(|error| error.to_string())?;
    let (version, api) = (seen.info.version(), seen.info.api());
    let claims = Claims::new(
        &seen.name,
        version.unwrap_or_default(),
        api.unwrap_or_default(),
        seen.facts.build_id.as_deref().unwrap_or_default(),
    );
    let comment = claims.map_err(|error| error.to_string())?.to_string();
    let pair = KeyPair::generate_unencrypted_keypair().map_err(|error| error.to_string())?;
    let signature = minisign::sign(None, &pair.sk, Cursor::new(bytes), Some(&comment), None);
    let signature = signature.map_err(|error| error.to_string())?.into_string();
    let key = pair.pk.to_box().map_err(|error| error.to_string())?;
    let keys = Keys::from_text(&key.into_string()).map_err(|error| error.to_string())?;
    Ok((SignaturePolicy::new(Enforcement::Enforce, keys), signature))
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}
