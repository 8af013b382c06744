//! CRI `Mount` ⇄ [`Mount`].

use std::collections::HashSet;

use cri_api::v1 as cri;
use model::{
    ContainerPath, ContainerRecord, HostPath, IMAGE_MOUNT_FAILED, ImageRequest, InvalidField,
    Mount, MountOptions, MountPropagation, MountSource, SubPath,
};

use super::{container, known};

/// Clients recognise errors about recursive read-only mounts by this beginning.
const RRO_UNSUPPORTED: &str = "RROUnsupported: ";

/// Checks a container's mounts; no two may have the same target.
///
/// # Errors
/// The first field that cannot be accepted.
pub(super) fn from_cri(mounts: &[cri::Mount]) -> Result<Vec<Mount>, InvalidField> {
    let mut targets = HashSet::new();
    let mut parsed = Vec::with_capacity(mounts.len());
    for (index, mount) in mounts.iter().enumerate() {
        let mount = parse(mount, &format!("mounts[{index}]"))?;
        if !targets.insert(mount.container_path.clone()) {
            let field = format!("mounts[{index}].container_path");
            let reason = "is the target of two mounts";
            return Err(InvalidField::new(field, &mount.container_path_as_given, reason)
                .recognised_by(mount.source.keyword()));
        }
        parsed.push(mount);
    }
    Ok(parsed)
}

fn parse(mount: &cri::Mount, field: &str) -> Result<Mount, InvalidField> {
    let image = mount.image.as_ref().filter(|spec| !spec.image.is_empty());
    if image.is_none() && mount.image_sub_path.is_empty() {
        let path = HostPath::parse(&format!("{field}.host_path"), &mount.host_path)?;
        return parse_rest(mount, MountSource::Host(path), field);
    }
    image_source(mount, image, field)
        .and_then(|source| parse_rest(mount, source, field))
        .map_err(|refusal| refusal.recognised_by(IMAGE_MOUNT_FAILED))
}

fn parse_rest(mount: &cri::Mount, source: MountSource, field: &str) -> Result<Mount, InvalidField> {
    let within = |name: &str| format!("{field}.{name}");
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        let reason = "shifts owners for a pod's own user namespace, which this pod does not have";
        return Err(InvalidField::new(within("uidMappings"), "…", reason));
    }
    let propagation = propagation(mount.propagation, &within("propagation"))?;
    check_recursive_read_only(mount, propagation, &within("recursive_read_only"))?;
    if propagation != MountPropagation::Private {
        let reason = "not supported yet, use PROPAGATION_PRIVATE";
        let value = to_cri_propagation(propagation).as_str_name();
        return Err(InvalidField::new(within("propagation"), value, reason));
    }
    let options = MountOptions::parse(&within("mount_options"), &mount.mount_options)?;
    Ok(Mount {
        container_path: ContainerPath::parse(&within("container_path"), &mount.container_path)?,
        container_path_as_given: mount.container_path.clone(),
        source,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation,
        options,
        selinux_relabel: mount.selinux_relabel,
    })
}

fn image_source(
    mount: &cri::Mount,
    image: Option<&cri::ImageSpec>,
    field: &str,
) -> Result<MountSource, InvalidField> {
    let within = |name: &str| format!("{field}.{name}");
    let refuse =
        |name: &str, value: &str, reason: &str| Err(InvalidField::new(within(name), value, reason));
    let sub_path = &mount.image_sub_path;
    let Some(image) = image else {
        return refuse("image_sub_path", sub_path, "has no image");
    };
    if !mount.host_path.is_empty() {
        return refuse("host_path", &mount.host_path, "is given beside an image; give one");
    }
    if !mount.readonly {
        return refuse("readonly", "false", "images are mounted read-only");
    }
    let propagation = propagation(mount.propagation, &within("propagation"))?;
    if propagation != MountPropagation::Private {
        let reason = "nothing is mounted in an image; use PROPAGATION_PRIVATE";
        return refuse("propagation", to_cri_propagation(propagation).as_str_name(), reason);
    }
    let sub_path = match sub_path.as_str() {
        "" => None,
        text => Some(SubPath::parse(&within("image_sub_path"), text)?),
    };
    let image = container::image(Some(image.clone())).map_err(|refusal| refusal.within(field))?;
    Ok(MountSource::Image { image, sub_path })
}

fn propagation(number: i32, field: &str) -> Result<MountPropagation, InvalidField> {
    Ok(match known(field, number)? {
        cri::MountPropagation::PropagationPrivate => MountPropagation::Private,
        cri::MountPropagation::PropagationHostToContainer => MountPropagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => MountPropagation::Bidirectional,
    })
}

fn check_recursive_read_only(
    mount: &cri::Mount,
    propagation: MountPropagation,
    field: &str,
) -> Result<(), InvalidField> {
    let refuse =
        |reason: &str| Err(InvalidField::new(field, "true", reason).recognised_by(RRO_UNSUPPORTED));
    match (mount.recursive_read_only, mount.readonly, propagation) {
        (true, false, _) => refuse("needs readonly"),
        (true, true, MountPropagation::HostToContainer | MountPropagation::Bidirectional) => {
            refuse("needs PROPAGATION_PRIVATE")
        }
        (false, _, _) | (true, true, MountPropagation::Private) => Ok(()),
    }
}

/// Shows a container's mounts.
pub(super) fn all_to_cri(record: &ContainerRecord) -> Vec<cri::Mount> {
    let shown = record.config.mounts.iter().enumerate().map(|(index, mount)| {
        let volume = record.image_volumes.iter().find(|volume| volume.mount == index);
        to_cri(mount, volume.map(|volume| volume.id.as_str()))
    });
    shown.collect()
}

/// Shows a mount as it was asked for: the kubelet finds its own by these strings, and images in use by their id.
fn to_cri(mount: &Mount, image_id: Option<&str>) -> cri::Mount {
    let (host_path, image, image_sub_path) = match &mount.source {
        MountSource::Host(path) => (path.to_string(), None, String::new()),
        MountSource::Image { image, sub_path } => {
            let ImageRequest { image, user_specified_image } = image.clone();
            let image_ref = image_id.unwrap_or_default().to_owned();
            let spec =
                cri::ImageSpec { image, user_specified_image, image_ref, ..Default::default() };
            let sub_path = sub_path.as_ref().map(ToString::to_string);
            (String::new(), Some(spec), sub_path.unwrap_or_default())
        }
    };
    cri::Mount {
        container_path: mount.container_path_as_given.clone(),
        host_path,
        image,
        image_sub_path,
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: to_cri_propagation(mount.propagation).into(),
        recursive_read_only: mount.recursive_read_only,
        mount_options: options_to_cri(mount.options),
        ..Default::default()
    }
}

fn to_cri_propagation(propagation: MountPropagation) -> cri::MountPropagation {
    match propagation {
        MountPropagation::Private => cri::MountPropagation::PropagationPrivate,
        MountPropagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    }
}

fn options_to_cri(options: MountOptions) -> Vec<String> {
    let MountOptions { no_exec, no_dev, no_suid } = options;
    let named = [(no_exec, "noexec"), (no_dev, "nodev"), (no_suid, "nosuid")];
    named.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::MountPropagation::{PropagationBidirectional, PropagationHostToContainer};

    fn bind() -> cri::Mount {
        cri::Mount {
            container_path: "/data".to_owned(),
            host_path: "/srv/data".to_owned(),
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut cri::Mount)) -> String {
        let mut mount = bind();
        change(&mut mount);
        from_cri(&[mount]).expect_err("refused").to_string()
    }

    /// C25
    #[test]
    fn a_mount_is_shown_as_it_was_asked() {
        let mount = cri::Mount {
            container_path: "/data//x/".to_owned(),
            host_path: "/srv/../srv/data".to_owned(),
            readonly: true,
            recursive_read_only: true,
            selinux_relabel: true,
            mount_options: vec!["noexec".to_owned(), "nosuid".to_owned()],
            ..Default::default()
        };
        let parsed = from_cri(std::slice::from_ref(&mount)).expect("usual");
        assert_eq!(parsed.iter().map(|mount| to_cri(mount, None)).collect::<Vec<_>>(), [mount]);
    }

    #[test]
    fn targets_are_absolute_unique_and_outside_of_proc() {
        for bad in ["", "data", "/", "/proc", "/proc/sys", "/x/../proc", "/a\0"] {
            let message = refused(|mount| mount.container_path = bad.to_owned());
            assert!(message.starts_with("mounts[0].container_path: "), "{message}");
        }
        let twin = cri::Mount { container_path: "/x/../data/".to_owned(), ..bind() };
        let error = from_cri(&[bind(), twin]).expect_err("same target");
        assert_eq!(error.field, "mounts[1].container_path");
    }

    #[test]
    fn sources_are_absolute() {
        for bad in ["", "srv", "./x", "/a\0b"] {
            let message = refused(|mount| mount.host_path = bad.to_owned());
            assert!(message.starts_with("mounts[0].host_path: "), "{message}");
        }
    }

    #[test]
    fn only_private_propagation() {
        for bad in [PropagationHostToContainer, PropagationBidirectional] {
            let message = refused(|mount| mount.propagation = bad.into());
            assert!(message.ends_with("not supported yet, use PROPAGATION_PRIVATE"), "{message}");
        }
        assert!(refused(|mount| mount.propagation = 3).contains("no value of this enumeration"));
    }

    /// C30
    #[test]
    fn recursive_read_only_needs_readonly_and_private() {
        let writable = refused(|mount| mount.recursive_read_only = true);
        let shared = refused(|mount| {
            (mount.readonly, mount.recursive_read_only) = (true, true);
            mount.propagation = PropagationHostToContainer.into();
        });
        for message in [writable, shared] {
            assert!(message.starts_with("RROUnsupported: "), "{message}");
        }
    }

    /// C29
    #[test]
    fn image_mounts_are_refused_with_the_name_the_kubelet_knows() {
        let image = || Some(cri::ImageSpec { image: "busybox".to_owned(), ..Default::default() });
        let refused_image = |change: fn(&mut cri::Mount)| {
            refused(|mount| {
                (mount.image, mount.readonly, mount.host_path) = (image(), true, String::new());
                change(mount);
            })
        };
        let climbing = refused_image(|mount| mount.image_sub_path = "a/../..".to_owned());
        let absolute = refused_image(|mount| mount.image_sub_path = "/etc".to_owned());
        let shared = refused_image(|mount| mount.propagation = PropagationBidirectional.into());
        let both = refused(|mount| (mount.image, mount.readonly) = (image(), true));
        let writable = refused(|mount| (mount.image, mount.host_path) = (image(), String::new()));
        let stray = refused(|mount| mount.image_sub_path = "etc".to_owned());
        // What would be refused of any mount too.
        let option = refused_image(|mount| mount.mount_options = vec!["suid".to_owned()]);
        let target = refused_image(|mount| mount.container_path = "/".to_owned());
        for message in [&climbing, &absolute, &shared, &both, &writable, &stray, &option, &target] {
            assert!(message.starts_with("ImageVolumeMountFailed: mounts[0]."), "{message}");
        }
        // An empty message names no image.
        let empty = cri::Mount { image: Some(cri::ImageSpec::default()), ..bind() };
        from_cri(&[empty]).expect("a bind mount");
    }

    /// C28
    #[test]
    fn an_image_mount_is_shown_with_its_id() {
        let spec = cri::ImageSpec {
            image: "sha256:0".to_owned(),
            user_specified_image: "busybox".to_owned(),
            ..Default::default()
        };
        let mut mount = cri::Mount {
            container_path: "/data".to_owned(),
            image: Some(spec.clone()),
            image_sub_path: "./etc//".to_owned(),
            readonly: true,
            recursive_read_only: true,
            ..Default::default()
        };
        let parsed = from_cri(std::slice::from_ref(&mount)).expect("an image mount");
        mount.image = Some(cri::ImageSpec { image_ref: "sha256:0".to_owned(), ..spec });
        assert_eq!(to_cri(&parsed[0], Some("sha256:0")), mount);
    }

    #[test]
    fn other_options_and_mappings_are_refused() {
        let option = refused(|mount| mount.mount_options = vec!["suid".to_owned()]);
        assert!(option.starts_with("mounts[0].mount_options: "), "{option}");
        let mapping = cri::IdMapping { host_id: 1, container_id: 0, length: 1 };
        refused(|mount| mount.uid_mappings = vec![mapping]);
        refused(|mount| mount.gid_mappings = vec![mapping]);
    }
}
