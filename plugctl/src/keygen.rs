//! `plugctl keygen`: a key pair for signatures.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use minisign::KeyPair;

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::render::Render;
use crate::secret;

/// Writes a new key pair; existing files are left alone.
pub(crate) fn run(args: &args::Keygen, render: &Render) -> Outcome {
    let failed = |error| secret::failure(&args.secret, &error);
    let pair = if args.password.no_password {
        KeyPair::generate_unencrypted_keypair()
    } else {
        KeyPair::generate_encrypted_keypair(secret::password(&args.password)?)
    };
    let pair = pair.map_err(failed)?;
    let secret_text = pair.sk.to_box(Some("plugctl secret key")).map_err(failed)?;
    let public_text = pair.pk.to_box().map_err(failed)?;
    write(&args.secret, 0o600, &secret_text.to_bytes())?;
    write(&args.public, 0o644, &public_text.to_bytes())?;
    let shown = |path: &Path| path.display().to_string();
    render.lines(&[
        format!("public key: {}", shown(&args.public)),
        format!("secret key: {}", shown(&args.secret)),
    ]);
    Ok(0)
}

fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Failure> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(mode);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| Failure::file(path, &error))
}
