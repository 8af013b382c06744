//! CRI `LinuxContainerSecurityContext` → [`ContainerSecurity`].

use cri_api::v1 as cri;
use engine::EngineError;
use model::{
    CapabilityRequest, ContainerPath, ContainerSecurity, GroupPolicy, InvalidField, RunAs,
    check_name, parse_unix_id,
};

use super::{HostTraits, check_selinux, known, namespaces, seccomp};

const FIELD: &str = "linux.security_context";

/// Checks who and what a container may be.
///
/// # Errors
/// [`EngineError::Invalid`] for the first field that cannot be accepted, [`EngineError::Precondition`] for what
/// this host lacks.
pub(super) fn from_cri(
    context: cri::LinuxContainerSecurityContext,
    host: HostTraits,
) -> Result<ContainerSecurity, EngineError> {
    check_selinux(context.selinux_options.as_ref(), host)?;
    check_apparmor(&context)?;
    let run_as = run_as(context.run_as_user, context.run_as_username)?;
    Ok(ContainerSecurity {
        capabilities: capabilities(context.capabilities.unwrap_or_default())?,
        privileged: context.privileged,
        pid: namespaces::of_container(context.namespace_options.as_ref())?,
        run_as_group: run_as_group(context.run_as_group, run_as.as_ref())?,
        run_as,
        supplemental_groups: groups(&context.supplemental_groups)?,
        group_policy: group_policy(context.supplemental_groups_policy)?,
        readonly_rootfs: context.readonly_rootfs,
        no_new_privs: context.no_new_privs,
        masked_paths: paths("masked_paths", &context.masked_paths)?,
        readonly_paths: paths("readonly_paths", &context.readonly_paths)?,
        #[expect(deprecated, reason = "old clients send nothing else")]
        seccomp: seccomp::seccomp(context.seccomp.as_ref(), &context.seccomp_profile_path)?,
    })
}

fn check_apparmor(context: &cri::LinuxContainerSecurityContext) -> Result<(), EngineError> {
    #[expect(deprecated, reason = "old clients send nothing else")]
    let name = &context.apparmor_profile;
    seccomp::check_apparmor(context.apparmor.as_ref(), name)
}

fn capabilities(capabilities: cri::Capability) -> Result<CapabilityRequest, InvalidField> {
    let cri::Capability { add_capabilities, drop_capabilities, add_ambient_capabilities } =
        capabilities;
    CapabilityRequest::parse(&add_capabilities, &drop_capabilities, &add_ambient_capabilities)
        .map_err(|error| error.within(FIELD))
}

fn run_as(user: Option<cri::Int64Value>, username: String) -> Result<Option<RunAs>, InvalidField> {
    let field = format!("{FIELD}.run_as_username");
    match (user, username.is_empty()) {
        (None, true) => Ok(None),
        (Some(user), true) => {
            parse_unix_id(&format!("{FIELD}.run_as_user"), user.value).map(RunAs::Uid).map(Some)
        }
        (None, false) => {
            check_name(&field, &username)?;
            Ok(Some(RunAs::Name(username)))
        }
        (Some(_), false) => {
            Err(InvalidField::new(field, username, "is given beside run_as_user; give one"))
        }
    }
}

fn run_as_group(
    group: Option<cri::Int64Value>,
    run_as: Option<&RunAs>,
) -> Result<Option<u32>, InvalidField> {
    let field = format!("{FIELD}.run_as_group");
    match group {
        None => Ok(None),
        Some(group) if run_as.is_none() => {
            let reason = "needs run_as_user or run_as_username";
            Err(InvalidField::new(field, group.value.to_string(), reason))
        }
        Some(group) => parse_unix_id(&field, group.value).map(Some),
    }
}

fn groups(groups: &[i64]) -> Result<Vec<u32>, InvalidField> {
    let field = format!("{FIELD}.supplemental_groups");
    groups.iter().map(|gid| parse_unix_id(&field, *gid)).collect()
}

fn group_policy(number: i32) -> Result<GroupPolicy, InvalidField> {
    Ok(match known(&format!("{FIELD}.supplemental_groups_policy"), number)? {
        cri::SupplementalGroupsPolicy::Merge => GroupPolicy::Merge,
        cri::SupplementalGroupsPolicy::Strict => GroupPolicy::Strict,
    })
}

fn paths(field: &str, paths: &[String]) -> Result<Vec<ContainerPath>, InvalidField> {
    let field = format!("{FIELD}.{field}");
    paths.iter().map(|path| ContainerPath::parse_any(&field, path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{ContainerPid, SeccompProfile};

    const PLAIN: HostTraits = HostTraits { selinux: false };

    fn parsed(
        change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
    ) -> Result<ContainerSecurity, EngineError> {
        let mut context = cri::LinuxContainerSecurityContext::default();
        change(&mut context);
        from_cri(context, PLAIN)
    }

    fn id(value: i64) -> Option<cri::Int64Value> {
        Some(cri::Int64Value { value })
    }

    #[track_caller]
    fn assert_invalid(field: &str, change: impl FnOnce(&mut cri::LinuxContainerSecurityContext)) {
        let error = parsed(change).expect_err("refused");
        let EngineError::Invalid(invalid) = error else { panic!("{error:?}") };
        assert_eq!(invalid.field, format!("linux.security_context.{field}"));
    }

    #[test]
    fn nothing_said() {
        let security = parsed(|_| ()).expect("usual");
        assert_eq!((security.run_as, security.run_as_group), (None, None));
        assert_eq!(security.pid, ContainerPid::Pod);
        assert_eq!(security.seccomp, SeccompProfile::Unconfined);
    }

    #[test]
    fn every_field_is_taken_over() {
        let security = parsed(|context| {
            context.privileged = true;
            context.readonly_rootfs = true;
            context.no_new_privs = true;
            context.run_as_user = id(1000);
            context.run_as_group = id(1001);
            context.supplemental_groups = vec![5, 6];
            context.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
            context.masked_paths = vec!["/proc/kcore".to_owned()];
            context.readonly_paths = vec!["/proc/sys".to_owned()];
            context.capabilities = Some(cri::Capability {
                add_capabilities: vec!["NET_ADMIN".to_owned()],
                drop_capabilities: vec!["ALL".to_owned()],
                add_ambient_capabilities: vec!["CHOWN".to_owned()],
            });
        })
        .expect("usual");
        assert!(security.privileged && security.readonly_rootfs && security.no_new_privs);
        assert_eq!((security.run_as, security.run_as_group), (Some(RunAs::Uid(1000)), Some(1001)));
        assert_eq!(security.supplemental_groups, [5, 6]);
        assert_eq!(security.group_policy, GroupPolicy::Strict);
        assert_eq!(security.masked_paths[0].to_string(), "/proc/kcore");
        assert_eq!(security.readonly_paths[0].to_string(), "/proc/sys");
        assert_eq!(security.capabilities.effective().len(), 2);
        assert_eq!(security.capabilities.ambient().len(), 1);
    }

    #[test]
    fn users_are_one_thing_or_the_other() {
        let named = parsed(|context| context.run_as_username = "web".to_owned()).expect("usual");
        assert_eq!(named.run_as, Some(RunAs::Name("web".to_owned())));
        assert_invalid("run_as_username", |context| {
            (context.run_as_user, context.run_as_username) = (id(1), "web".to_owned());
        });
        assert_invalid("run_as_username", |context| {
            context.run_as_username = "root\nx::0:0".to_owned();
        });
    }

    /// R15
    #[test]
    fn ids_that_would_wrap_around_are_refused() {
        for bad in [-1, 2_147_483_648, 4_294_967_296] {
            assert_invalid("run_as_user", |context| context.run_as_user = id(bad));
            assert_invalid("supplemental_groups", |c| c.supplemental_groups = vec![bad]);
            assert_invalid("run_as_group", |context| {
                (context.run_as_user, context.run_as_group) = (id(0), id(bad));
            });
        }
    }

    /// C12
    #[test]
    fn a_group_needs_a_user() {
        assert_invalid("run_as_group", |context| context.run_as_group = id(1000));
        let named = parsed(|context| {
            (context.run_as_username, context.run_as_group) = ("web".to_owned(), id(7));
        });
        assert_eq!(named.expect("with a name").run_as_group, Some(7));
    }

    #[test]
    fn unknown_names_numbers_and_relative_paths_are_refused() {
        assert_invalid("capabilities.add_capabilities", |context| {
            let add_capabilities = vec!["CAP_NOPE".to_owned()];
            context.capabilities = Some(cri::Capability { add_capabilities, ..Default::default() });
        });
        assert_invalid("supplemental_groups_policy", |c| c.supplemental_groups_policy = 2);
        assert_invalid("masked_paths", |context| context.masked_paths = vec!["proc".to_owned()]);
        assert_invalid("readonly_paths", |context| context.readonly_paths = vec![String::new()]);
    }

    #[test]
    fn selinux_labels_count_only_where_selinux_does() {
        let labelled = || {
            let level = "s0:c1,c2".to_owned();
            let options = Some(cri::SeLinuxOption { level, ..Default::default() });
            cri::LinuxContainerSecurityContext { selinux_options: options, ..Default::default() }
        };
        from_cri(labelled(), PLAIN).expect("ignored");
        let error = from_cri(labelled(), HostTraits { selinux: true }).expect_err("cannot be set");
        assert!(matches!(error, EngineError::Precondition { .. }), "{error:?}");
    }
}
