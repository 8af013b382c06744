//! `usnea image export`

use std::{
    fs::{self, File, Permissions},
    io::{self, BufWriter, IsTerminal, Write},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use image::{Image, ImageError, Reference, Selector};
use thiserror::Error;

use super::{Session, exit_code, print, say_not_found, show};
use crate::{Outcome, cli::ExportArguments};

/// The file that means standard output.
const STDOUT: &str = "-";
const BUFFER_BYTES: usize = 1 << 20;
/// Less what the umask takes.
const MODE: u32 = 0o666;

/// Why an image is not exported.
#[derive(Debug, Error)]
enum ExportError {
    /// Nobody reads an archive.
    #[error("--file {STDOUT:?} is a terminal; name a file, or pipe standard output into a command")]
    Terminal,
    /// A file has one image.
    #[error("{first:?} and {other:?} are different images; export each into a file of its own")]
    SeveralImages { first: String, other: String },
    /// The archive cannot be made.
    #[error("export {reference:?}")]
    Export {
        reference: String,
        #[source]
        source: ImageError,
    },
    /// The file cannot be made, filled or named.
    #[error("--file {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

pub(super) fn run(session: &Session<'_>, arguments: &ExportArguments) -> Outcome {
    let mut found: Vec<(&String, Image)> = Vec::new();
    for reference in &arguments.references {
        match session.store.find(reference)? {
            Some(image) => found.push((reference, image)),
            None => say_not_found(reference),
        }
    }
    let Some((first, image)) = found.first().filter(|_| found.len() == arguments.references.len())
    else {
        return Ok(exit_code(false));
    };
    if let Some((other, _)) = found.iter().find(|(_, other)| other.id != image.id) {
        let (first, other) = ((*first).clone(), (*other).clone());
        return Err(ExportError::SeveralImages { first, other }.into());
    }
    let names = names(image, &arguments.references);
    let write = |out: File| -> Result<(), ExportError> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
        let exported = session.store.export(image, &names, &mut out);
        exported.map_err(|source| {
            let reference = (*first).clone();
            ExportError::Export { reference, source }
        })?;
        out.flush().map_err(|source| failed(&arguments.file, source))
    };
    if arguments.file == Path::new(STDOUT) {
        write(stdout()?)?;
    } else {
        write_file(&arguments.file, write)?;
        print(show::line(image))?;
    }
    Ok(exit_code(true))
}

/// The tags among `references` that the image has, else all that it has.
fn names(image: &Image, references: &[String]) -> Vec<Reference> {
    let is_tag = |name: &Reference| matches!(name.selector(), Selector::Tag(_));
    let given = references.iter().filter_map(|text| text.parse::<Reference>().ok());
    // The first digits of an id look like a name.
    let given: Vec<Reference> =
        given.filter(|name| is_tag(name) && image.repo_tags.contains(&name.to_string())).collect();
    if given.is_empty() {
        image.repo_tags.iter().filter_map(|tag| tag.parse().ok()).collect()
    } else {
        given
    }
}

fn failed(path: &Path, source: io::Error) -> ExportError {
    ExportError::Write { path: path.to_owned(), source }
}

fn stdout() -> Result<File, ExportError> {
    if io::stdout().is_terminal() {
        return Err(ExportError::Terminal);
    }
    let out = io::stdout().as_fd().try_clone_to_owned();
    Ok(out.map_err(|source| failed(Path::new(STDOUT), source))?.into())
}

/// Has a file written beside `path` and then given its name, so that `path` is whole or as it was. What is no file, such
/// as a FIFO, is written to directly.
fn write_file(
    path: &Path,
    write: impl FnOnce(File) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let on_path = |source| failed(path, source);
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return write(File::options().write(true).open(path).map_err(on_path)?);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let temporary = tempfile::Builder::new()
        .prefix(".usnea-export-")
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        .map_err(on_path)?;
    write(temporary.as_file().try_clone().map_err(on_path)?)?;
    temporary.persist(path).map_err(|error| failed(path, error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_command::show::tests::image;

    #[test]
    fn tags_that_are_asked_for_become_names_else_all() {
        let image = image(&["docker.io/library/a:1", "docker.io/library/b:1"], &[]);
        let names = |texts: &[&str]| -> Vec<String> {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            names(&image, &texts).iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(&["a:1"]), ["docker.io/library/a:1"]);
        assert_eq!(names(&["b:1", "a:1"]), ["docker.io/library/b:1", "docker.io/library/a:1"]);
        let id = image.id.to_string();
        for reference in [id.as_str(), &image.id.hex()[..12]] {
            assert_eq!(names(&[reference]), image.repo_tags, "{reference}");
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("image.tar");
        fs::write(&path, "before").expect("write");
        write_file(&path, |_| Err(ExportError::Terminal)).expect_err("fails");
        assert_eq!(fs::read(&path).expect("read"), b"before");
        let write = |mut out: File| out.write_all(b"after").map_err(|error| failed(&path, error));
        write_file(&path, write).expect("succeeds");
        assert_eq!(fs::read(&path).expect("read"), b"after");
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1);
    }
}
