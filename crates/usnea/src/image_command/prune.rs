//! `usnea image prune`

use std::{collections::HashSet, error::Error, io};

use image::{Digest, Image};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::{Session, exit_code, print, show};
use crate::{
    Outcome,
    cli::{OutputFormat, PruneArguments},
};

/// What has been removed, or would be.
#[derive(Debug, PartialEq, Eq)]
struct Pruned {
    images: Vec<Image>,
    layers: u64,
    /// Allocated bytes; of a dry run the most that it can be, because images share layers.
    bytes: u64,
}

pub(super) fn run(session: &Session<'_>, arguments: &PruneArguments) -> Outcome {
    let images = session.store.list().into_iter().map(|image| session.with_pin(image)).collect();
    let users = engine::images_in_use(&session.config.data_dir)?;
    let is_used = |image: &Image| users.contains_key(&image.id.to_string());
    let (unneeded, kept) = divide(images, is_used, arguments.all);
    let pruned = if arguments.dry_run {
        let in_use = engine::layers_in_use(&session.config.data_dir)?;
        estimate(unneeded, &kept, &in_use)
    } else {
        remove(session, unneeded)?
    };
    print_pruned(arguments, &pruned)?;
    Ok(exit_code(true))
}

/// The images that nobody needs, and the others.
fn divide(
    images: Vec<Image>,
    is_used: impl Fn(&Image) -> bool,
    all: bool,
) -> (Vec<Image>, Vec<Image>) {
    let has_name = |image: &Image| !image.repo_tags.is_empty() || !image.repo_digests.is_empty();
    let unneeded = |image: &Image| !image.pinned && !is_used(image) && (all || !has_name(image));
    images.into_iter().partition(unneeded)
}

fn estimate(images: Vec<Image>, kept: &[Image], in_use: &HashSet<Digest>) -> Pruned {
    let layers_of = |images: &[Image]| -> HashSet<Digest> {
        images.iter().flat_map(|image| image.diff_ids.clone()).collect()
    };
    let layers = &(&layers_of(&images) - &layers_of(kept)) - in_use;
    let bytes = images.iter().fold(0_u64, |sum, image| sum.saturating_add(image.size_bytes));
    Pruned { layers: u64::try_from(layers.len()).unwrap_or(u64::MAX), bytes, images }
}

fn remove(session: &Session<'_>, images: Vec<Image>) -> Result<Pruned, Box<dyn Error>> {
    let in_use = || engine::layers_in_use(&session.config.data_dir);
    let before = session.store.collect_garbage(&in_use()?)?;
    // Each removal collects what it can without saying how much, so nothing is left to them.
    let mut held = in_use()?;
    held.extend(images.iter().flat_map(|image| image.diff_ids.iter().copied()));
    for image in &images {
        session.store.remove(&image.id.to_string(), &held)?;
    }
    let after = session.store.collect_garbage(&in_use()?)?;
    Ok(Pruned {
        images,
        layers: before.layers.saturating_add(after.layers),
        bytes: before.bytes.saturating_add(after.bytes),
    })
}

fn print_pruned(arguments: &PruneArguments, pruned: &Pruned) -> io::Result<()> {
    match arguments.output {
        OutputFormat::Text => {
            pruned.images.iter().map(show::line).try_for_each(print)?;
            print(sentence(arguments.dry_run, pruned))
        }
        OutputFormat::Json => print(json!({
            "dryRun": arguments.dry_run,
            "images": pruned.images.iter().map(show::summary).collect::<Vec<Value>>(),
            "layers": pruned.layers,
            "bytes": pruned.bytes,
        })),
    }
}

fn sentence(dry_run: bool, pruned: &Pruned) -> String {
    let (verb, freed) =
        if dry_run { ("would remove", "would free up to") } else { ("removed", "freed") };
    let images = counted(u64::try_from(pruned.images.len()).unwrap_or(u64::MAX), "image");
    let layers = counted(pruned.layers, "layer");
    format!("{verb} {images} and {layers}, {freed} {}", HumanBytes(pruned.bytes))
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_command::show::tests::image;

    fn with(layers: &[&str], image: Image) -> Image {
        let diff_ids = layers.iter().map(|layer| Digest::of(layer.as_bytes())).collect();
        Image { diff_ids, ..image }
    }

    #[test]
    fn without_all_only_images_without_any_name_go() {
        let images = vec![image(&["a:1"], &[]), image(&[], &["a@x"]), image(&[], &[])];
        let (unneeded, kept) = divide(images.clone(), |_| false, false);
        assert_eq!((unneeded, kept), (images[2..].to_vec(), images[..2].to_vec()));
        let (unneeded, kept) = divide(images.clone(), |_| false, true);
        assert_eq!((unneeded, kept), (images, vec![]));
    }

    #[test]
    fn used_and_pinned_images_stay() {
        let pinned = Image { pinned: true, ..image(&[], &[]) };
        let used = image(&["used:1"], &[]);
        let images = vec![pinned, used.clone(), image(&["a:1"], &[])];
        let (unneeded, kept) = divide(images.clone(), |image| *image == used, true);
        assert_eq!((unneeded, kept), (images[2..].to_vec(), images[..2].to_vec()));
    }

    #[test]
    fn layers_that_others_need_are_not_counted() {
        let go = vec![with(&["1", "2", "3"], image(&[], &[])), with(&["3", "4"], image(&[], &[]))];
        let kept = [with(&["1"], image(&["a:1"], &[]))];
        let in_use = HashSet::from([Digest::of(b"2")]);
        let pruned = estimate(go.clone(), &kept, &in_use);
        assert_eq!(pruned, Pruned { images: go, layers: 2, bytes: 6 << 20 });
    }

    #[test]
    fn the_summary_counts_in_english() {
        let pruned = Pruned { images: vec![image(&[], &[])], layers: 0, bytes: 2048 };
        assert_eq!(sentence(false, &pruned), "removed 1 image and 0 layers, freed 2.00 KiB");
        let expected = "would remove 1 image and 0 layers, would free up to 2.00 KiB";
        assert_eq!(sentence(true, &pruned), expected);
    }
}
