//! `plugctl sign`: signatures that bind a file to its name, version, ABI and build-id.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process;

use minisign::SecretKey;
use plug_loader::authority::{Claims, detached_path, payload, trailer};
use plug_loader::image::{Facts, Info, Opened, foreign_name};

use crate::args;
use crate::failure::{FAILED, Failure, Outcome};
use crate::render::Render;
use crate::secret;

/// Signs all files; the code is the first failure's.
pub(crate) fn run(args: &args::Sign, render: &Render) -> Outcome {
    let key = secret::read(&args.secret, &args.password)?;
    let mut code = 0;
    let mut lines = Vec::new();
    for file in &args.files {
        match sign(file, &key, args) {
            Ok((written, comment)) => {
                lines.push(format!("{}: {comment}", written.display()));
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

/// Where the signature was written, and its trusted comment.
fn sign(path: &Path, key: &SecretKey, args: &args::Sign) -> Result<(PathBuf, String), Failure> {
    let image = |error| Failure::image(path, &error);
    let refused = |error| Failure::file_refused(path, &error);
    let staged = Opened::open(path)
        .and_then(|opened| opened.stage(&foreign_name(path)))
        .map_err(image)?;
    let bytes = staged.bytes();
    let facts = Facts::read(bytes).map_err(|damage| image(damage.into()))?;
    let info = Info::read(&facts, bytes).map_err(|malformed| image(malformed.into()))?;
    let name = info
        .name()
        .map_or_else(|| foreign_name(path), str::to_owned);
    let claims = Claims::new(
        &name,
        info.version().unwrap_or_default(),
        info.api().unwrap_or_default(),
        facts.build_id.as_deref().unwrap_or_default(),
    )
    .map_err(refused)?;
    let comment = claims.to_string();
    // An appended signature is replaced; a detached one is of all that the file is.
    let signed = if args.append {
        payload(bytes).map_err(refused)?
    } else {
        bytes
    };
    let untrusted = "signature from plugctl";
    let signature = minisign::sign(
        None,
        key,
        Cursor::new(signed),
        Some(&comment),
        Some(untrusted),
    )
    .map_err(|error| {
        let message = format!("{}: {error}", path.display());
        Failure::new(FAILED, "sign", message)
    })?;
    let text = signature.into_string();
    let (target, content) = if args.append {
        (path.to_owned(), [signed, &trailer(&text)].concat())
    } else {
        (detached_path(path), text.into_bytes())
    };
    replace(&target, &content, args.append.then_some(path))?;
    Ok((target, comment))
}

/// Puts a file in its place by rename, so that who reads or maps the old one keeps it.
fn replace(target: &Path, content: &[u8], like: Option<&Path>) -> Result<(), Failure> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let partial = target.with_file_name(format!(".{name}.{}", process::id()));
    let write = || {
        fs::write(&partial, content)?;
        if let Some(original) = like {
            fs::set_permissions(&partial, fs::metadata(original)?.permissions())?;
        }
        fs::rename(&partial, target)
    };
    write().map_err(|error| {
        let _removed = fs::remove_file(&partial);
        Failure::file(target, &error)
    })
}
