//! `plugctl verify`: who signed files, and whether for what they are.

use std::path::Path;

use plug_loader::Digest;
use plug_loader::authority::{DenyList, Enforcement, Keys, SignaturePolicy, Signed, detached};
use plug_loader::image::{Facts, Info, Opened, claims, foreign_name};

use crate::args;
use crate::failure::{FAILED, Failure, Outcome};
use crate::render::Render;

/// Verifies all files; the code is the first failure's.
pub(crate) fn run(args: &args::Verify, render: &Render) -> Outcome {
    let keys = match (&args.public, &args.keys) {
        (Some(file), _) => Keys::from_file(file),
        (None, Some(dir)) => Keys::from_dir(dir),
        (None, None) => Ok(Keys::default()),
    };
    let keys = keys.map_err(|error| Failure::loader(&error))?;
    let mut policy = SignaturePolicy::new(Enforcement::Enforce, keys);
    if let Some(file) = &args.deny {
        let list = DenyList::from_file(file).map_err(|error| Failure::loader(&error))?;
        policy = policy.deny(list);
    }
    let mut code = 0;
    let mut lines = Vec::new();
    for file in &args.files {
        match verify(file, &policy) {
            Ok(Signed { key, claims, .. }) => {
                lines.push(format!("{}: signed by key {key}: {claims}", file.display()));
            }
            Err(failure) => {
                render.failure(&failure);
                code = if code == 0 { failure.code } else { code };
            }
        }
    }
    render.lines(&lines);
    Ok(code)
}

/// As a load under this policy would.
fn verify(path: &Path, policy: &SignaturePolicy) -> Result<Signed, Failure> {
    let image = |error| Failure::image(path, &error);
    let refused = |error| Failure::file_refused(path, &error);
    let staged = Opened::open(path)
        .and_then(|opened| opened.stage(&foreign_name(path)))
        .map_err(image)?;
    let bytes = staged.bytes();
    policy.denied.check(&Digest::of(bytes)).map_err(refused)?;
    let detached = detached(path).map_err(refused)?;
    let signed = policy.verify(bytes, detached.as_deref()).map_err(refused)?;
    let unsigned = || Failure::new(FAILED, "unsigned", "not signed");
    let signed = signed.ok_or_else(unsigned)?;
    let facts = Facts::read(bytes).map_err(|damage| image(damage.into()))?;
    let info = Info::read(&facts, bytes).map_err(|malformed| image(malformed.into()))?;
    signed
        .compare(&claims(&facts, &info, path))
        .map_err(refused)?;
    Ok(signed)
}
