//! `usnea image import`

use std::{
    fs::File,
    io::{self, IsTerminal},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use image::{Image, ImageError, ImportOptions, Store};
use nix::{fcntl::OFlag, sys::stat::Mode};
use thiserror::Error;

use super::{Session, exit_code, print_result, show};
use crate::{Outcome, cli::ImportArguments};

/// The source that means standard input.
const STDIN: &str = "-";
/// What it is called in messages.
const STDIN_NAME: &str = "standard input";

/// Why standard input cannot be imported.
#[derive(Debug, Error)]
enum StdinError {
    /// Nobody types an archive.
    #[error(
        "SOURCE {STDIN:?} is a terminal; name a file or directory, or pipe an archive into this command"
    )]
    Terminal,
    /// It cannot be kept while it is imported.
    #[error("keep {STDIN_NAME} in {}", .0.display())]
    Keep(PathBuf, #[source] io::Error),
    /// What came in is no image, or the store failed.
    #[error("import {STDIN_NAME}")]
    Import(#[source] ImageError),
}

pub(super) fn run(session: &Session<'_>, arguments: &ImportArguments) -> Outcome {
    let reference = arguments.name.as_ref().map(ToString::to_string);
    let options = ImportOptions { reference };
    let images = if arguments.source == Path::new(STDIN) {
        import_stdin(&session.store, &session.config.data_dir, &options)?
    } else {
        session.store.import(&arguments.source, &options)?
    };
    for image in images {
        let image = session.with_pin(image);
        print_result(arguments.output, &image, &show::summary(&image))?;
    }
    Ok(exit_code(true))
}

fn import_stdin(
    store: &Store,
    scratch: &Path,
    options: &ImportOptions,
) -> Result<Vec<Image>, StdinError> {
    if io::stdin().is_terminal() {
        return Err(StdinError::Terminal);
    }
    let kept = keep(scratch).map_err(|error| StdinError::Keep(scratch.to_owned(), error))?;
    // An archive is read at random, by path.
    let path = PathBuf::from(format!("/proc/self/fd/{}", kept.as_raw_fd()));
    store.import(&path, options).map_err(|error| {
        StdinError::Import(match error {
            ImageError::UnknownFormat { .. } => {
                ImageError::UnknownFormat { path: STDIN_NAME.into() }
            }
            error => error,
        })
    })
}

/// Copies standard input into a file without a name, which goes with its descriptor.
fn keep(directory: &Path) -> io::Result<File> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .mode((Mode::S_IRUSR | Mode::S_IWUSR).bits())
        .open(directory)?;
    io::copy(&mut io::stdin().lock(), &mut file)?;
    Ok(file)
}
