//! The specification as a whole: process, namespaces, privileges.

use std::{collections::BTreeSet, path::PathBuf};

use model::{Capability, ContainerPath, ContainerPid, ContainerSecurity};
use oci_spec::runtime::{
    Capabilities, Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, Process, Root,
    Spec, User,
};

use crate::{Inputs, SpecError, command, mounts};

/// Release of the OCI runtime specification that is written.
const OCI_VERSION: &str = "1.2.0";
/// Where the process that calls libcontainer finds the PID namespace that the container joins.
const PID_NAMESPACE: &str = "/proc/self/fd/3";

/// Makes a container's OCI runtime specification.
///
/// Network, IPC and UTS namespace are not mentioned: the process that creates the container is in the pod's already.
/// Nor are limits: the container's cgroup is made and filled beforehand. Annotations of request and image do not get
/// in, because runtimes take orders from some of them.
///
/// # Errors
/// See [`SpecError`].
pub fn generate(inputs: &Inputs<'_>) -> Result<Spec, SpecError> {
    let mut root = Root::default();
    root.set_path(inputs.rootfs.to_owned())
        .set_readonly(Some(inputs.config.security.readonly_rootfs));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts::mounts(inputs)?))
        .set_process(Some(process(inputs)?))
        .set_linux(Some(linux(inputs)))
        .set_hostname(None)
        .set_annotations(None);
    Ok(spec)
}

fn process(inputs: &Inputs<'_>) -> Result<Process, SpecError> {
    let (config, image) = (inputs.config, inputs.image);
    let argv = command::argv(config, image)?;
    let env = command::env(config, image, inputs.user, inputs.hostname)?;
    command::check_size(&argv, &env)?;
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(user(inputs))
        .set_args(Some(argv))
        .set_env(Some(env))
        .set_cwd(command::working_dir(config, image)?)
        .set_capabilities(Some(capabilities(&config.security)?))
        .set_rlimits(None)
        // `false` would have libcontainer load the filter after it has given up the right to.
        .set_no_new_privileges(config.security.no_new_privs.then_some(true))
        .set_oom_score_adj(oom_score_adj(inputs));
    Ok(process)
}

fn user(inputs: &Inputs<'_>) -> User {
    let resolved = inputs.user;
    // Where one group is mapped, setgroups(2) is mostly denied, and there is nothing that it could add.
    let gids = Some(resolved.additional_gids.clone())
        .filter(|gids| inputs.host.mapped_gids > 1 || gids.iter().any(|gid| *gid != resolved.gid));
    let mut user = User::default();
    user.set_uid(resolved.uid).set_gid(resolved.gid).set_additional_gids(gids);
    user
}

/// What is asked for, but not below what the kernel lets us write.
fn oom_score_adj(inputs: &Inputs<'_>) -> Option<i32> {
    let asked = Some(inputs.config.resources.oom_score_adj).filter(|asked| *asked != 0)?;
    i32::try_from(asked.max(inputs.host.lowest_oom_score_adj)).ok()
}

fn capabilities(security: &ContainerSecurity) -> Result<LinuxCapabilities, SpecError> {
    let (effective, ambient) = if security.privileged {
        (Capability::all().collect(), BTreeSet::new())
    } else {
        (security.capabilities.effective(), security.capabilities.ambient())
    };
    let (effective, ambient) = (in_oci_terms(&effective)?, in_oci_terms(&ambient)?);
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(effective.clone()))
        .set_effective(Some(effective.clone()))
        .set_permitted(Some(effective))
        // The kernel takes only inheritable capabilities as ambient ones; any more would come back in a program file
        // that has inheritable capabilities itself.
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    Ok(sets)
}

fn in_oci_terms(set: &BTreeSet<Capability>) -> Result<Capabilities, SpecError> {
    let convert = |capability: &Capability| {
        let name = capability.to_string();
        let known = name.strip_prefix("CAP_").and_then(|short| short.parse().ok());
        known.ok_or(SpecError::Capability { name })
    };
    set.iter().map(convert).collect()
}

fn linux(inputs: &Inputs<'_>) -> Linux {
    let security = &inputs.config.security;
    // Empty lists are a request too: procMount Unmasked.
    let paths = |paths: &[ContainerPath]| match security.privileged {
        true => Vec::new(),
        false => paths.iter().map(ToString::to_string).collect(),
    };
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(inputs)))
        .set_resources(None)
        // A path that cannot be made: the container stays in the cgroup that it is started in.
        .set_cgroups_path(Some(PathBuf::from(format!("/none/{}", inputs.container_id))))
        .set_seccomp(inputs.seccomp.clone().filter(|_| !security.privileged))
        .set_rootfs_propagation(Some(mounts::root_propagation(inputs).to_owned()))
        .set_masked_paths(Some(paths(&security.masked_paths)))
        .set_readonly_paths(Some(paths(&security.readonly_paths)));
    linux
}

fn namespaces(inputs: &Inputs<'_>) -> Vec<LinuxNamespace> {
    let new = |typ| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ);
        namespace
    };
    let mut namespaces = vec![new(LinuxNamespaceType::Mount)];
    if inputs.host.cgroup_namespace {
        namespaces.push(new(LinuxNamespaceType::Cgroup));
    }
    let mut pid = new(LinuxNamespaceType::Pid);
    match inputs.config.security.pid {
        ContainerPid::Container => namespaces.push(pid),
        ContainerPid::Pod | ContainerPid::Target(_) => {
            pid.set_path(Some(PathBuf::from(PID_NAMESPACE)));
            namespaces.push(pid);
        }
        ContainerPid::Node => {}
    }
    namespaces
}

#[cfg(test)]
mod tests;
