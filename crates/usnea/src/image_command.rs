//! `usnea image …`: works on the image store inside the node, with or without a running daemon.

use std::{error::Error, process::ExitCode, sync::Arc};

use image::{Image, ImportOptions, InProcess, Limits, Ownership, Store, UnpackOptions};
use node::{HolderCommand, Ids};
use sys::process::SingleThreaded;

use crate::{Outcome, cli::ImageCommand, config::Config, node_config};

pub(crate) fn run(config: &Config, holder: &HolderCommand, command: &ImageCommand) -> Outcome {
    let store = open(config, holder)?;
    match command {
        ImageCommand::Import { source, name } => {
            let images = store.import(source, &ImportOptions { reference: name.clone() })?;
            for image in images {
                println!("{} {}", image.id, image.repo_tags.join(" "));
            }
        }
        ImageCommand::List { json: true } => {
            let images: Vec<_> = store.list().iter().map(summary).collect();
            println!("{}", serde_json::to_string_pretty(&images)?);
        }
        ImageCommand::List { json: false } => store.list().iter().for_each(print_line),
        ImageCommand::Inspect { reference } => match store.find(reference)? {
            Some(image) => println!("{}", serde_json::to_string_pretty(&details(&image))?),
            None => return Ok(not_found(reference)),
        },
        ImageCommand::Remove { reference } => {
            let in_use = engine::layers_in_use(&config.data_dir)?;
            match store.remove(reference, &in_use)? {
                Some(image) => println!("{}", image.id),
                None => return Ok(not_found(reference)),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The files of layers belong to ids that only the node has, so the store is opened inside.
fn open(config: &Config, holder: &HolderCommand) -> Result<Store, Box<dyn Error>> {
    let node = node::find_or_start(&node_config(config), holder)?;
    let entered = node.enter(SingleThreaded::prove()?)?;
    let ownership = match entered.facts.ids {
        Ids::Mapped { .. } => Ownership::Preserve,
        Ids::SingleId { .. } => Ownership::Squash,
    };
    let unpack = UnpackOptions { ownership, limits: Limits::default() };
    Ok(Store::open(&config.data_dir, unpack, Arc::new(InProcess))?)
}

fn not_found(reference: &str) -> ExitCode {
    eprintln!("usnea: image {reference:?} not found; `usnea image list` shows what there is");
    ExitCode::FAILURE
}

fn print_line(image: &Image) {
    let names = match (&image.repo_tags[..], &image.repo_digests[..]) {
        ([], [digest, ..]) => digest.clone(),
        ([], []) => "<none>".to_owned(),
        (tags, _) => tags.join(" "),
    };
    println!("{}  {:>12}  {names}", &image.id.hex()[..12], image.size_bytes);
}

fn summary(image: &Image) -> serde_json::Value {
    serde_json::json!({
        "id": image.id.to_string(),
        "repoTags": image.repo_tags,
        "repoDigests": image.repo_digests,
        "size": image.size_bytes,
        "pinned": image.pinned,
    })
}

fn details(image: &Image) -> serde_json::Value {
    let config = &image.config;
    let mut details = summary(image);
    details["created"] = image.created.clone().into();
    details["layers"] = image.diff_ids.iter().map(ToString::to_string).collect();
    details["config"] = serde_json::json!({
        "env": config.env,
        "entrypoint": config.entrypoint,
        "cmd": config.cmd,
        "user": config.user,
        "workingDir": config.working_dir,
        "stopSignal": config.stop_signal,
        "volumes": config.volumes,
        "labels": config.labels,
    });
    details
}
