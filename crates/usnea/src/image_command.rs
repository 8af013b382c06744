//! `usnea image …`: works on the image store inside the node, with or without a running daemon.

mod credentials;
mod export;
mod import;
mod progress;
mod prune;
mod pull;
mod remove;
mod show;

use std::{
    error::Error,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use globset::GlobSet;
use image::{Image, Ownership, Store, UnpackOptions};
use node::{HolderCommand, Ids};
use sys::process::SingleThreaded;

use crate::{
    Outcome,
    cli::{ImageCommand, OutputFormat},
    config::{Config, unpacker},
    node_config,
};

pub(crate) fn run(config: &Config, holder: &HolderCommand, command: &ImageCommand) -> Outcome {
    let session = Session::open(config, holder)?;
    match command {
        ImageCommand::Pull(arguments) => pull::run(&session, arguments),
        ImageCommand::Import(arguments) => import::run(&session, arguments),
        ImageCommand::Export(arguments) => export::run(&session, arguments),
        ImageCommand::List(arguments) => show::list(&session, arguments),
        ImageCommand::Inspect { references } => show::inspect(&session, references),
        ImageCommand::Remove(arguments) => remove::run(&session, arguments),
        ImageCommand::Prune(arguments) => prune::run(&session, arguments),
    }
}

/// The image store and what the configuration says about images.
struct Session<'a> {
    config: &'a Config,
    store: Arc<Store>,
    /// Names of images that are pinned.
    pinned: GlobSet,
}

impl<'a> Session<'a> {
    /// The files of layers belong to ids that only the node has, so the store is opened inside.
    fn open(config: &'a Config, holder: &HolderCommand) -> Result<Self, Box<dyn Error>> {
        let pinned = config.pinned_images()?;
        let node = node::find_or_start(&node_config(config), holder)?;
        let entered = node.enter(SingleThreaded::prove()?)?;
        let ownership = match entered.facts.ids {
            Ids::Mapped { .. } => Ownership::Preserve,
            Ids::SingleId { .. } => Ownership::Squash,
        };
        let unpack = UnpackOptions { ownership, limits: config.images.limits.limits() };
        let store = Store::open(&config.data_dir, unpack, Arc::new(unpacker()?))?;
        Ok(Self { config, store: Arc::new(store), pinned })
    }

    /// The image as the configuration wants it shown.
    fn with_pin(&self, image: Image) -> Image {
        let pinned = engine::is_pinned(&image, &self.pinned);
        Image { pinned, ..image }
    }
}

/// Writes a line to standard output, which may be closed.
fn print(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Prints what a command has done with an image.
fn print_result(format: OutputFormat, image: &Image, json: &serde_json::Value) -> io::Result<()> {
    match format {
        OutputFormat::Text => print(show::line(image)),
        OutputFormat::Json => print(json),
    }
}

/// Writes a line about what goes on to standard error. If nobody listens, so be it.
fn say(line: impl Display) {
    writeln!(io::stderr(), "{line}").ok();
}

fn say_not_found(reference: &str) {
    say(format_args!(
        "usnea: image {reference:?} not found; `usnea image list` shows what there is"
    ));
}

/// The exit code of a command that did what it could.
fn exit_code(all_done: bool) -> ExitCode {
    if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
