//! The command line of `usnea image`.

use std::{error::Error, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use image::Reference;

/// What a reference to pull may look like, for whoever wrote something else.
const REFERENCES: &str = "write NAME, NAME:TAG or NAME@sha256:DIGEST, such as busybox, registry.k8s.io/pause:3.10 or \
                          localhost:5000/app:v1";

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Pull images from their registries.
    ///
    /// Progress goes to standard error, ids and names to standard output. Layers that are here already are not
    /// downloaded. Ctrl-C ends the pull; nothing of it stays.
    Pull(PullArguments),
    /// Import the images of an OCI layout or docker-archive.
    Import(ImportArguments),
    /// Write an image into one tar file, which is an OCI layout and a docker-archive.
    Export(ExportArguments),
    /// List images.
    List(ListArguments),
    /// Show images as JSON: one object, or an array for several references.
    Inspect {
        /// Id, first digits of an id, tag or digest.
        #[arg(required = true, value_name = "REFERENCE")]
        references: Vec<String>,
    },
    /// Remove images with all their names.
    ///
    /// Containers that use an image go on; its layers stay until they are removed.
    Remove(RemoveArguments),
    /// Remove layers that nothing needs, and images without any name.
    ///
    /// Images that containers use and pinned images stay.
    Prune(PruneArguments),
}

/// How a result is written to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    #[value(alias = "table")]
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    /// What to pull, such as `busybox:1.36` or `localhost:5000/app@sha256:…`.
    #[arg(required = true, value_name = "REFERENCE", value_parser = reference)]
    pub(crate) references: Vec<Reference>,
    /// Credentials, instead of those in the credentials files.
    ///
    /// Every process of this machine can read a command line, so better give USER alone: the password is asked for on
    /// the terminal, or read from standard input if that is none. The environment variable USNEA_CREDS
    /// takes the place of this option.
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub(crate) creds: Option<String>,
    /// Show no progress, and of the images only their ids.
    #[arg(short, long, conflicts_with = "output")]
    pub(crate) quiet: bool,
    /// Format; JSON is one object a line for each image.
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// A directory or a tar file, which may be compressed; `-` is standard input.
    pub(crate) source: PathBuf,
    /// Name for the image, if the source holds only one.
    #[arg(long, value_name = "REFERENCE", value_parser = reference)]
    pub(crate) name: Option<Reference>,
    /// Format; JSON is one object a line for each image.
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Id, first digits of an id, tag or digest; several only of one image. Tags become names in the file; without any
    /// tag all tags of the image do.
    #[arg(required = true, value_name = "REFERENCE")]
    pub(crate) references: Vec<String>,
    /// The file, which is replaced if it is there; `-` is standard output.
    #[arg(short, long)]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only this image: id, tag or digest; or those of a repository, named without tag.
    pub(crate) filter: Option<String>,
    /// Show names by digest, too.
    #[arg(long)]
    pub(crate) digests: bool,
    /// Format; JSON is one array.
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Id, first digits of an id, tag or digest.
    #[arg(required = true, value_name = "REFERENCE")]
    pub(crate) references: Vec<String>,
    /// Format; JSON is one object a line for each image.
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Also images that have names.
    #[arg(long)]
    pub(crate) all: bool,
    /// Say which images would be removed, and remove nothing. What unfinished pulls have left is not looked at.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Format; JSON is one object.
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
}

/// Parses a reference; the error says what is wrong with it, because clap repeats the text itself.
fn reference(text: &str) -> Result<Reference, String> {
    text.parse::<Reference>().map_err(|error| {
        let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        format!("{reason}; {REFERENCES}")
    })
}
