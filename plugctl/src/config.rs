//! `plugctl config`: what files of directives say, and where.

use plug_loader::Directives;

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::render::Render;

/// Reads the folders and shows what is in effect.
pub(crate) fn run(args: &args::Config, render: &Render) -> Outcome {
    let folders = match args.folders.is_empty() {
        true => Directives::default_folders(),
        false => args.folders.clone(),
    };
    let directives = Directives::read(folders).map_err(|error| Failure::loader(&error))?;
    render.directives(&directives);
    Ok(0)
}
