//! Images that containers mount (CRI `Mount.image`).
//!
//! What is found out here only serves a good error: the helper that makes the container looks the path up once more.

use std::{
    io,
    path::{Path, PathBuf},
};

use image::Image;
use model::{ContainerConfig, IMAGE_MOUNT_FAILED, ImageVolume, InvalidField, MountSource, SubPath};
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{SFlag, fstat},
};
use shim_api::v1;
use sys::beneath::file_type;

use crate::{EngineError, Inner, error::internal, image_users::merged, sandboxes::text};

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
            let MountSource::Image { image, sub_path } = &mount.source else { continue };
            let field = format!("config.mounts[{index}]");
            let image = self.mounted_image(&field, &image.image)?;
            if let Some(sub_path) = sub_path {
                check_sub_path(
                    &field,
                    &image.id.to_string(),
                    &self.images.layer_paths(&image),
                    sub_path,
                )?;
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
            EngineError::Invalid(invalid) => {
                invalid.within(field).recognised_by(IMAGE_MOUNT_FAILED).into()
            }
            other => internal(format!("{IMAGE_MOUNT_FAILED}{field}.image"), other),
        })?;
        found.ok_or_else(|| EngineError::image_not_found(IMAGE_MOUNT_FAILED, reference))
    }
}

fn check_sub_path(
    field: &str,
    image_id: &str,
    layers: &[PathBuf],
    sub_path: &SubPath,
) -> Result<(), EngineError> {
    let field = format!("{field}.image_sub_path");
    let missing = |reason: &str| EngineError::Precondition {
        what: format!("{IMAGE_MOUNT_FAILED}{field}: {sub_path} in image {image_id}: {reason}"),
    };
    let failed = |error: io::Error| internal(format!("{IMAGE_MOUNT_FAILED}{field}"), error);
    let root = merged(layers).map_err(failed)?.ok_or_else(|| missing("the image is empty"))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = openat2(&root, sub_path.as_path(), how).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => missing("there is no such path"),
        Errno::EXDEV | Errno::ELOOP => {
            let reason = "a symbolic link in it leads out of the image, or nowhere";
            InvalidField::new(&field, sub_path.to_string(), reason)
                .recognised_by(IMAGE_MOUNT_FAILED)
                .into()
        }
        errno => failed(errno.into()),
    })?;
    match file_type(&fstat(&found).map_err(|errno| failed(errno.into()))?) {
        SFlag::S_IFDIR | SFlag::S_IFREG => Ok(()),
        _ => Err(missing("it is neither a directory nor a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// R9
    #[test]
    fn a_sub_path_is_a_directory_or_file_of_the_image() {
        let layer = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| layer.path().join(name);
        fs::create_dir(path("data")).expect("mkdir");
        fs::write(path("data/file"), "").expect("write");
        for (name, target) in
            [("in", "data/../data"), ("absolute", "/data"), ("out", ".."), ("loop", "loop")]
        {
            symlink(target, path(name)).expect("symlink");
        }
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let check = |text: &str| {
            let sub_path = SubPath::parse("image_sub_path", text).expect("relative");
            check_sub_path("mounts[0]", "sha256:0", &[layer.path().to_owned()], &sub_path)
        };
        for good in ["data", "./data//file", "in", "in/file", "."] {
            check(good).expect(good);
        }
        for bad in ["absolute", "absolute/file", "out", "out/x", "loop"] {
            let error = check(bad).expect_err(bad);
            assert!(matches!(error, EngineError::Invalid(_)), "{bad}: {error:?}");
            assert!(
                error.to_string().starts_with("ImageVolumeMountFailed: mounts[0].image_sub_path")
            );
        }
        for bad in ["missing", "data/file/", "data/file/x", "fifo"] {
            let error = check(bad).expect_err(bad);
            assert!(matches!(error, EngineError::Precondition { .. }), "{bad}: {error:?}");
            assert!(
                error.to_string().starts_with("ImageVolumeMountFailed: mounts[0].image_sub_path")
            );
        }
    }
}
