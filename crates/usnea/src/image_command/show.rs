//! `usnea image list` and `inspect`, and how images are written.

use std::{collections::BTreeSet, fmt::Write};

use image::Image;
use indicatif::HumanBytes;
use model::ContainerId;
use serde_json::{Value, json};

use super::{Session, exit_code, print, say, say_not_found};
use crate::{
    Outcome, chain,
    cli::{ListArguments, OutputFormat},
};

/// As many digits of an id as people compare.
const SHORT_ID: usize = 12;
const NO_NAME: &str = "<none>";

pub(super) fn list(session: &Session<'_>, arguments: &ListArguments) -> Outcome {
    let images = match &arguments.filter {
        Some(filter) => session.store.select(filter)?,
        None => session.store.list(),
    };
    let images: Vec<Image> = images.into_iter().map(|image| session.with_pin(image)).collect();
    for problem in session.store.problems() {
        let way_out = problem.id.map_or_else(String::new, |id| {
            format!("; if no newer usnea needs it, `usnea image remove {id}` removes it")
        });
        let (path, error) = (problem.path.display(), chain(&*problem.error));
        say(format_args!("usnea: {path} is left out: {error}{way_out}"));
    }
    match arguments.output {
        OutputFormat::Text => print(table(&rows(&images, arguments.digests)).trim_end())?,
        OutputFormat::Json => {
            let images: Vec<Value> = images.iter().map(summary).collect();
            print(serde_json::to_string_pretty(&images)?)?;
        }
    }
    Ok(exit_code(true))
}

pub(super) fn inspect(session: &Session<'_>, references: &[String]) -> Outcome {
    let users = engine::images_in_use(&session.config.data_dir)?;
    let mut found = Vec::new();
    for reference in references {
        match session.store.find(reference)? {
            Some(image) => {
                let users = users.get(&image.id.to_string());
                found.push(details(&session.with_pin(image), users));
            }
            None => say_not_found(reference),
        }
    }
    match (&found[..], references) {
        ([], [_]) => {}
        ([only], [_]) => print(serde_json::to_string_pretty(only)?)?,
        _ => print(serde_json::to_string_pretty(&found)?)?,
    }
    Ok(exit_code(found.len() == references.len()))
}

/// An image in one line: its id and its names.
pub(super) fn line(image: &Image) -> String {
    format!("{} {}", image.id, names(image, false).join(" "))
}

/// What every command says about an image in JSON.
pub(super) fn summary(image: &Image) -> Value {
    json!({
        "id": image.id.to_string(),
        "repoTags": image.repo_tags,
        "repoDigests": image.repo_digests,
        "size": image.size_bytes,
        "pinned": image.pinned,
    })
}

fn details(image: &Image, users: Option<&BTreeSet<ContainerId>>) -> Value {
    let config = &image.config;
    let mut details = summary(image);
    details["created"] = image.created.clone().into();
    details["layers"] = image.diff_ids.iter().map(ToString::to_string).collect();
    details["containers"] = users.into_iter().flatten().map(ContainerId::as_str).collect();
    details["annotations"] = json!(image.annotations);
    details["config"] = json!({
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

/// The names to show: tags, and those by digest if wanted or if there are no others.
fn names(image: &Image, digests: bool) -> Vec<&str> {
    let mut names: Vec<&str> = image.repo_tags.iter().map(String::as_str).collect();
    if digests || names.is_empty() {
        names.extend(image.repo_digests.iter().map(String::as_str));
    }
    if names.is_empty() { vec![NO_NAME] } else { names }
}

/// One row for each name.
fn rows(images: &[Image], digests: bool) -> Vec<[String; 4]> {
    let mut rows = vec![["NAME", "ID", "SIZE", "PINNED"].map(str::to_owned)];
    for image in images {
        let id: String = image.id.hex().chars().take(SHORT_ID).collect();
        let size = HumanBytes(image.size_bytes).to_string();
        let pinned = if image.pinned { "yes" } else { "" };
        rows.extend(
            names(image, digests)
                .into_iter()
                .map(|name| [name.to_owned(), id.clone(), size.clone(), pinned.to_owned()]),
        );
    }
    rows
}

/// Columns as wide as their widest cell.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
            // Writing to a string cannot fail.
            write!(line, "{cell:width$}  ").ok();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use image::{Digest, ImageConfig};

    use super::*;

    /// An image with these names and a size of 3 MiB.
    pub(in super::super) fn image(tags: &[&str], digests: &[&str]) -> Image {
        let text = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Image {
            id: Digest::of(b"configuration"),
            repo_tags: text(tags),
            repo_digests: text(digests),
            size_bytes: 3 << 20,
            config: ImageConfig::default(),
            created: None,
            annotations: BTreeMap::new(),
            diff_ids: vec![Digest::of(b"layer")],
            pinned: false,
        }
    }

    #[test]
    fn names_by_digest_are_shown_on_demand_and_for_want_of_tags() {
        assert_eq!(names(&image(&["a:1", "b:1"], &["a@x"]), false), ["a:1", "b:1"]);
        assert_eq!(names(&image(&["a:1"], &["a@x"]), true), ["a:1", "a@x"]);
        assert_eq!(names(&image(&[], &["a@x"]), false), ["a@x"]);
        assert_eq!(names(&image(&[], &[]), true), [NO_NAME]);
    }

    #[test]
    fn a_table_has_a_row_for_each_name_and_aligned_columns() {
        let pinned = Image { pinned: true, ..image(&["example.com/app:1", "b:1"], &[]) };
        let id = &pinned.id.hex()[..SHORT_ID];
        let expected = format!(
            "NAME               ID            SIZE      PINNED\n\
             example.com/app:1  {id}  3.00 MiB  yes\n\
             b:1                {id}  3.00 MiB  yes\n\
             <none>             {id}  3.00 MiB\n"
        );
        assert_eq!(table(&rows(&[pinned, image(&[], &[])], false)), expected);
    }

    #[test]
    fn details_name_the_containers_that_use_the_image() {
        let id: ContainerId = ContainerId::from_random([0xaa; 32]);
        let used = details(&image(&["a:1"], &[]), Some(&BTreeSet::from([id.clone()])));
        assert_eq!(used["containers"], json!([id.as_str()]));
        assert_eq!(details(&image(&[], &[]), None)["containers"], json!([]));
    }
}
