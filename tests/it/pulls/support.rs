//! What tests of pulls have in common.

use std::{collections::BTreeSet, fs};

use cri_api::v1::{
    AuthConfig, Image, ImageFilter, ImageFsInfoRequest, ImageSpec, ImageStatusRequest,
    ListImagesRequest, PullImageRequest, RemoveImageRequest,
    image_service_client::ImageServiceClient,
};
use it::Scenario;
use serde_json::json;
use testkit::{
    Skip,
    docker_registry::{Access, DockerRegistry},
    image::{ImageBuilder, Layer},
};
use tonic::{Status, transport::Channel};

pub(crate) const MIB: usize = 1 << 20;

/// A registry for everybody, by http.
pub(crate) fn registry() -> Result<DockerRegistry, Skip> {
    DockerRegistry::start(Access::default())
}

pub(crate) fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() })
}

/// The request of a kubelet without credentials.
pub(crate) fn request(image: &str) -> PullImageRequest {
    PullImageRequest { image: spec(image), ..PullImageRequest::default() }
}

/// Sends `PullImage`; needs no scenario, so that it can be spawned.
pub(crate) async fn send(
    mut images: ImageServiceClient<Channel>,
    request: PullImageRequest,
) -> Result<String, Status> {
    Ok(images.pull_image(request).await?.into_inner().image_ref)
}

pub(crate) async fn try_pull(t: &Scenario, image: &str) -> Result<String, Status> {
    send(t.cri.images.clone(), request(image)).await
}

/// Pulls an image, which must succeed, and returns its id.
pub(crate) async fn pull(t: &Scenario, image: &str) -> String {
    try_pull(t, image).await.unwrap_or_else(|status| panic!("PullImage {image}: {status:?}"))
}

pub(crate) async fn pull_as(t: &Scenario, image: &str, auth: AuthConfig) -> Result<String, Status> {
    let request = PullImageRequest { auth: Some(auth), ..request(image) };
    send(t.cri.images.clone(), request).await
}

/// Pulls in a task of its own, while the test goes on.
pub(crate) fn pull_meanwhile(
    t: &Scenario,
    image: &str,
) -> tokio::task::JoinHandle<Result<String, Status>> {
    tokio::spawn(send(t.cri.images.clone(), request(image)))
}

pub(crate) async fn status(t: &Scenario, image: &str) -> Option<Image> {
    let request = ImageStatusRequest { image: spec(image), verbose: false };
    let response = t.cri.images.clone().image_status(request).await;
    response.expect("ImageStatus").into_inner().image
}

/// The status of an image that must be there.
pub(crate) async fn present(t: &Scenario, image: &str) -> Image {
    status(t, image).await.unwrap_or_else(|| panic!("{image} is not there"))
}

/// Images that a filter selects; an empty one: all.
pub(crate) async fn list(t: &Scenario, filter: &str) -> Vec<Image> {
    let request = ListImagesRequest { filter: Some(ImageFilter { image: spec(filter) }) };
    t.cri.images.clone().list_images(request).await.expect("ListImages").into_inner().images
}

pub(crate) async fn remove(t: &Scenario, image: &str) {
    let request = RemoveImageRequest { image: spec(image) };
    t.cri.images.clone().remove_image(request).await.expect("RemoveImage");
}

/// What `ImageFsInfo` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

pub(crate) async fn usage(t: &Scenario) -> Usage {
    let response = t.cri.images.clone().image_fs_info(ImageFsInfoRequest {}).await;
    let response = response.expect("ImageFsInfo").into_inner();
    let [usage] = &response.image_filesystems[..] else { panic!("exactly one: {response:?}") };
    Usage {
        bytes: usage.used_bytes.expect("the kubelet needs it").value,
        inodes: usage.inodes_used.expect("as well").value,
    }
}

/// The entries of the store's directories, temporary ones included.
pub(crate) fn store(t: &Scenario) -> BTreeSet<String> {
    let data = t.instance().data_directory();
    let mut names = BTreeSet::new();
    for directory in ["images", "layers", "blobs"] {
        for entry in fs::read_dir(data.join(directory)).into_iter().flatten().flatten() {
            names.insert(format!("{directory}/{}", entry.file_name().to_string_lossy()));
        }
    }
    names
}

/// Removes what failed pulls have left for their next attempt; the daemon does so now and then.
pub(crate) fn prune(t: &Scenario) {
    drop(t.instance().usnea_ok(&["image", "prune"]));
}

/// What is unfinished in the store.
pub(crate) fn unfinished(t: &Scenario) -> Vec<String> {
    store(t).into_iter().filter(|name| name.contains(".tmp-")).collect()
}

/// Processes that unpack a layer for this daemon.
pub(crate) fn unpackers(t: &Scenario) -> Vec<String> {
    let processes = t.instance().scope().processes().into_iter();
    let lines = processes.map(|process| process.command_line());
    lines.filter(|line| line.contains("unpack-layer")).collect()
}

/// Waits until nothing of a pull that has ended is left: no unpacker, no half layer.
pub(crate) async fn settled(t: &Scenario) {
    let is_quiet =
        async |t: &Scenario| (unpackers(t).is_empty() && unfinished(t).is_empty()).then_some(());
    t.eventually("pulls leave no unpacker and no half layer", is_quiet).await;
}

/// Bytes that cannot be compressed, the same for the same `seed`.
pub(crate) fn noise(seed: &str, bytes: usize) -> Vec<u8> {
    // xorshift64*
    let mut state = seed.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        noise.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// A layer with one file that no other test and no other `name` has.
pub(crate) fn layer(t: &Scenario, name: &str) -> Layer {
    let content = format!("{name} of {}", t.name());
    Layer::default().directory("own", 0o755).file(&format!("own/{name}"), 0o644, content.as_bytes())
}

/// A layer of `bytes` that no other test and no other `name` has.
pub(crate) fn large_layer(t: &Scenario, name: &str, bytes: usize) -> Layer {
    let content = noise(&format!("{name} of {}", t.name()), bytes);
    Layer::default().file(name, 0o644, &content)
}

/// A small image that no other test and no other `name` has.
pub(crate) fn small(t: &Scenario, name: &str) -> ImageBuilder {
    ImageBuilder::empty().layer(layer(t, name)).with("Cmd", json!(["/own"]))
}

/// An image with a shell that no other test and no other `name` has.
pub(crate) fn runnable(t: &Scenario, name: &str) -> ImageBuilder {
    ImageBuilder::busybox().layer(layer(t, name))
}
