//! Images that containers mount (CRI `Mount.image`).
//!
//! What is found out here only serves a good error: the helper that makes the container looks the path up once more.

use std::path::{Path, PathBuf};

use image::Image;
use model::{ContainerConfig, ImageVolume, MountSource, SubPath};
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
};
use shim_api::v1;

use crate::{EngineError, Inner, error::internal, image_users::merged, sandboxes::text};

/// The kubelet recognises errors about image mounts by this beginning.
const FAILED: &str = "ImageVolumeMountFailed: ";
/// Where images are attached, in the container's directory.
pub(crate) const IMAGE_MOUNTS: &str = "images";

/// The images of a container's mounts: what is recorded of them, and what the shim is told.
#[derive(Debug, Default)]
pub(crate) struct ImageVolumes {
    pub(crate) volumes: Vec<ImageVolume>,
    pub(crate) mounts: Vec<v1::ImageMount>,
}

impl Inner {
    /// Finds the images that `config` mounts, and the paths in them. `directory` is where they will be attached.
    pub(crate) fn image_volumes(
        &self,
        config: &ContainerConfig,
        directory: &Path,
    ) -> Result<ImageVolumes, EngineError> {
        let mut found = ImageVolumes::default();
        for (index, mount) in config.mounts.iter().enumerate() {
            let MountSource::Image { image: reference, sub_path } = &mount.source else { continue };
            let field = format!("config.mounts[{index}]");
            let image = self.mounted_image(&field, reference)?;
            if let Some(sub_path) = sub_path {
                check_sub_path(&field, &image, &self.images.layer_paths(&image), sub_path)?;
            }
            found.mounts.push(v1::ImageMount {
                lower: self.lower(&image),
                sub_path: sub_path.as_ref().map(ToString::to_string).unwrap_or_default(),
                mount_point: text(&spec::image_mount_point(directory, index)),
            });
            found.volumes.push(ImageVolume {
                mount: index,
                id: image.id.to_string(),
                diff_ids: image.diff_ids.iter().map(ToString::to_string).collect(),
            });
        }
        Ok(found)
    }

    fn mounted_image(&self, field: &str, reference: &str) -> Result<Image, EngineError> {
        let found = self.find_image(reference).map_err(|error| match error {
            EngineError::Invalid(invalid) => invalid.recognised_by(FAILED).into(),
            other => other,
        })?;
        found.ok_or_else(|| EngineError::Precondition {
            what: format!("{FAILED}{field}.image: image {reference:?} not found; pull it first"),
        })
    }
}

fn check_sub_path(
    field: &str,
    image: &Image,
    layers: &[PathBuf],
    sub_path: &SubPath,
) -> Result<(), EngineError> {
    let refuse = |reason: &str| EngineError::Precondition {
        what: format!("{FAILED}{field}.image_sub_path: {sub_path} in image {}: {reason}", image.id),
    };
    let root = merged(layers).map_err(|error| internal("mount the image", error))?;
    let root = root.ok_or_else(|| refuse("the image is empty"))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&root, sub_path.as_path(), how) {
        Ok(_) => Ok(()),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Err(refuse("there is no such path")),
        Err(Errno::EXDEV | Errno::ELOOP) => {
            Err(refuse("a symbolic link in it leads out of the image"))
        }
        Err(errno) => Err(refuse(errno.desc())),
    }
}
