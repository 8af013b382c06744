//! [`Image`] and [`FsUsage`] → their CRI messages.

use std::{collections::HashMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use cri_api::v1 as cri;
use engine::{Credentials, FsUsage, Image, LayerUsage};
use model::{InvalidField, UnixNanos, parse_unix_id};

use super::{check_handler, required};
use crate::info::json;

/// Docker's registry, as references name it.
const HUB: &str = "docker.io";
/// Its other names.
const HUB_NAMES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// Reads which image a request means. `annotations` are hints, and those that the kubelet sends are the pod's.
///
/// # Errors
/// When it names none, or another runtime's.
pub(crate) fn reference(spec: Option<cri::ImageSpec>) -> Result<String, InvalidField> {
    let spec = required("image", spec)?;
    if spec.image.is_empty() {
        return Err(InvalidField::new("image.image", "", "is required"));
    }
    check_handler("image.runtime_handler", &spec.runtime_handler)?;
    Ok(spec.image)
}

/// Reads how to log in at the registry of `reference`; nothing in it means no credentials.
///
/// CRI `AuthConfig`: user and password, the same encoded in `auth`, or a token; the first that is there counts.
///
/// # Errors
/// For values that no HTTP header carries, and for credentials that are meant for another registry.
pub(crate) fn credentials(
    auth: Option<cri::AuthConfig>,
    reference: &str,
) -> Result<Option<Credentials>, InvalidField> {
    let Some(auth) = auth else { return Ok(None) };
    check_server(&auth.server_address, reference)?;
    // All others are encoded on their way: the key file of a Google service account, for instance, has many lines.
    if auth.registry_token.contains(char::is_control) {
        let reason = "must not contain line breaks or other control characters";
        return Err(hidden("auth.registry_token", reason));
    }
    if auth.username.contains([':', '\n', '\r', '\0']) {
        let reason = "must not contain a colon or a line break";
        return Err(InvalidField::new("auth.username", &auth.username, reason));
    }
    let credentials = if !auth.username.is_empty() || !auth.password.is_empty() {
        Credentials::Basic { username: auth.username, password: auth.password }
    } else if !auth.auth.is_empty() {
        user_and_password(&auth.auth)?
    } else if !auth.identity_token.is_empty() {
        Credentials::IdentityToken(auth.identity_token)
    } else if !auth.registry_token.is_empty() {
        Credentials::RegistryToken(auth.registry_token)
    } else {
        return Ok(None);
    };
    Ok(Some(credentials))
}

/// A refusal that does not repeat a secret.
fn hidden(field: &str, reason: &str) -> InvalidField {
    InvalidField::new(field, "<hidden>", reason)
}

/// Decodes `base64(user:password)`, as Docker's configuration has it.
fn user_and_password(encoded: &str) -> Result<Credentials, InvalidField> {
    let malformed = || hidden("auth.auth", "must be user:password in base64");
    let decoded = BASE64.decode(encoded.trim_end_matches('=')).map_err(|_secret| malformed())?;
    let decoded = String::from_utf8(decoded).map_err(|_secret| malformed())?;
    let (username, password) = decoded.split_once(':').ok_or_else(malformed)?;
    // Docker pads with NUL.
    let password = password.trim_end_matches('\0');
    Ok(Credentials::Basic { username: username.to_owned(), password: password.to_owned() })
}

/// Credentials must not be sent to a registry that they are not for.
fn check_server(address: &str, reference: &str) -> Result<(), InvalidField> {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let host = if HUB_NAMES.contains(&host) { HUB } else { host };
    match engine::registry_of(reference) {
        Some(domain) if !host.is_empty() && host != domain => Err(InvalidField::new(
            "auth.server_address",
            address,
            format!("is not the registry of the image, which is {domain}"),
        )),
        _ => Ok(()),
    }
}

/// Shows an image, in lists and statuses alike.
pub(crate) fn to_cri(image: &Image) -> cri::Image {
    let (uid, username) = user(&image.config.user);
    let annotations = super::unsorted(&image.annotations);
    let spec = cri::ImageSpec { image: image.id.to_string(), annotations, ..Default::default() };
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size_bytes,
        uid,
        username,
        spec: Some(spec),
        pinned: image.pinned,
    }
}

/// Shows what only people ask for, as JSON by topic.
pub(crate) fn info(image: &Image) -> HashMap<String, String> {
    let diff_ids = image.diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    HashMap::from([
        ("created".to_owned(), json(&image.created)),
        ("diffIds".to_owned(), json(&diff_ids)),
        ("entrypoint".to_owned(), json(&image.config.entrypoint)),
        ("cmd".to_owned(), json(&image.config.cmd)),
        ("workingDir".to_owned(), json(&image.config.working_dir)),
        ("labels".to_owned(), json(&image.config.labels)),
    ])
}

/// Takes the user out of an image's `User`, which may have a group. The kubelet refuses a name where a pod must not
/// run as root, so only a number that is one for the kernel too counts as such.
fn user(text: &str) -> (Option<cri::Int64Value>, String) {
    let user = text.split(':').next().unwrap_or_default();
    let number = user.parse::<i64>().ok().filter(|uid| parse_unix_id("User", *uid).is_ok());
    match number {
        Some(value) => (Some(cri::Int64Value { value }), String::new()),
        None => (None, user.to_owned()),
    }
}

/// Shows the one filesystem twice: what images occupy of it, and what containers have written.
pub(crate) fn fs_info(
    images: &FsUsage,
    containers: &LayerUsage,
    now: UnixNanos,
) -> cri::ImageFsInfoResponse {
    let filesystem = |mountpoint: &Path, bytes: u64, inodes: u64| cri::FilesystemUsage {
        timestamp: now.0,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: mountpoint.display().to_string() }),
        used_bytes: Some(cri::UInt64Value { value: bytes }),
        inodes_used: Some(cri::UInt64Value { value: inodes }),
    };
    let FsUsage { bytes, inodes, mountpoint } = images;
    cri::ImageFsInfoResponse {
        image_filesystems: vec![filesystem(mountpoint, *bytes, *inodes)],
        container_filesystems: vec![filesystem(mountpoint, containers.bytes, containers.inodes)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn an_image_is_shown_with_one_id() {
        let image = fixtures::image(1, &["docker.io/library/busybox:1.36"]);
        let shown = to_cri(&image);
        assert_eq!(shown.id, format!("sha256:{}", "01".repeat(32)));
        assert_eq!(shown.spec.expect("given").image, shown.id);
        assert_eq!(shown.repo_tags, ["docker.io/library/busybox:1.36"]);
        assert_eq!((shown.size, shown.pinned), (4096, false));
    }

    /// R15
    #[test]
    fn a_user_is_a_number_or_a_name() {
        let uid = |value| (Some(cri::Int64Value { value }), String::new());
        assert_eq!(user("1000:1000"), uid(1000));
        assert_eq!(user("0"), uid(0));
        assert_eq!(user("web:web"), (None, "web".to_owned()));
        assert_eq!(user(""), (None, String::new()));
        assert_eq!(user("4294967296"), (None, "4294967296".to_owned()));
        assert_eq!(user("-1"), (None, "-1".to_owned()));
    }

    #[test]
    fn a_request_names_an_image_of_this_runtime() {
        reference(None).expect_err("nothing");
        reference(Some(cri::ImageSpec::default())).expect_err("no name");
        let spec = |runtime_handler: &str| cri::ImageSpec {
            image: "busybox".to_owned(),
            runtime_handler: runtime_handler.to_owned(),
            ..Default::default()
        };
        reference(Some(spec("kata"))).expect_err("another runtime");
        assert_eq!(reference(Some(spec("usnea"))).as_deref(), Ok("busybox"));
    }

    /// C2
    #[test]
    fn an_empty_store_has_a_size() {
        let usage = FsUsage { bytes: 0, inodes: 0, mountpoint: "/data".into() };
        let containers = LayerUsage {
            at: UnixNanos(8),
            bytes: 5,
            inodes: 6,
            mountpoint: usage.mountpoint.clone(),
        };
        let shown = fs_info(&usage, &containers, UnixNanos(9));
        for (list, bytes) in [(shown.image_filesystems, 0), (shown.container_filesystems, 5)] {
            let [filesystem] = &list[..] else { panic!("{list:?}") };
            assert_eq!(filesystem.used_bytes, Some(cri::UInt64Value { value: bytes }));
            assert_eq!(filesystem.fs_id.as_ref().expect("one").mountpoint, "/data");
            assert_eq!(filesystem.timestamp, 9);
        }
    }

    #[test]
    fn info_is_json() {
        let info = info(&fixtures::image(1, &[]));
        for (topic, text) in &info {
            serde_json::from_str::<serde_json::Value>(text).expect(topic);
        }
    }
}
