//! `usnea image remove`

use std::{
    collections::{BTreeSet, HashSet},
    io,
};

use image::{Digest, Image, Problem};
use model::ContainerId;

use super::{Session, exit_code, print, print_result, say, say_not_found, show};
use crate::{Outcome, chain, cli::RemoveArguments};

/// Removes what it can, and says what it cannot.
pub(super) fn run(session: &Session<'_>, arguments: &RemoveArguments) -> Outcome {
    let data_dir = &session.config.data_dir;
    let users = engine::images_in_use(data_dir)?;
    // Looked up before anything is removed: two references may name one image.
    let known = |text: &String| session.store.find(text).ok().flatten().map(|image| image.id);
    let named: Vec<Option<Digest>> = arguments.references.iter().map(known).collect();
    let problems = session.store.problems();
    let (mut removed, mut all_done) = (HashSet::new(), true);
    for (reference, named) in arguments.references.iter().zip(named) {
        if named.is_some_and(|id| removed.contains(&id)) {
            continue;
        }
        match session.store.remove(reference, &engine::layers_in_use(data_dir)?) {
            Ok(Some(image)) => {
                removed.insert(image.id);
                let containers = users.get(&image.id.to_string());
                report(arguments, &session.with_pin(image), containers)?;
            }
            // All that is known of an image whose record cannot be read.
            Ok(None) if is_broken(&problems, reference) => print(reference)?,
            Ok(None) => {
                say_not_found(reference);
                all_done = false;
            }
            Err(error) => {
                say(format_args!("usnea: remove {reference:?}: {}", chain(&error)));
                all_done = false;
            }
        }
    }
    Ok(exit_code(all_done))
}

fn is_broken(problems: &[Problem], reference: &str) -> bool {
    let is_id = |id: Digest| id.to_string() == reference || id.hex() == reference;
    problems.iter().filter_map(|problem| problem.id).any(is_id)
}

fn report(
    arguments: &RemoveArguments,
    image: &Image,
    containers: Option<&BTreeSet<ContainerId>>,
) -> io::Result<()> {
    let mut json = show::summary(image);
    json["containers"] = containers.into_iter().flatten().map(ContainerId::as_str).collect();
    print_result(arguments.output, image, &json)?;
    if let Some(containers) = containers {
        let ids: Vec<&str> = containers.iter().map(ContainerId::short).collect();
        say(format_args!("usnea: its layers stay until these containers go: {}", ids.join(" ")));
    }
    Ok(())
}
