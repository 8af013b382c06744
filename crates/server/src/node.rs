//! Calls about the runtime itself.

use std::net::IpAddr;

use cri_api::v1 as cri;
use engine::{Condition, EngineStatus};
use model::InvalidField;

use crate::{convert::RUNTIME_HANDLERS, service::Cri, status::CallError};

/// The only value that the kubelet accepts; it is not the version of the API.
const KUBELET_API_VERSION: &str = "0.1.0";
/// Longest prefixes that leave addresses for pods.
const LONGEST_PREFIX_V4: u8 = 30;
const LONGEST_PREFIX_V6: u8 = 126;

/// `Version`
pub(crate) fn version() -> cri::VersionResponse {
    cri::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: "usnea".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}

/// `Status`
pub(crate) fn status(cri: &Cri, request: cri::StatusRequest) -> cri::StatusResponse {
    shown(cri.engine.status(), request.verbose)
}

fn shown(status: EngineStatus, verbose: bool) -> cri::StatusResponse {
    let features = cri::RuntimeHandlerFeatures {
        recursive_read_only_mounts: status.recursive_read_only_mounts,
        // Pods of their own user namespace are refused.
        user_namespaces: false,
    };
    let handler =
        |name: &str| cri::RuntimeHandler { name: name.to_owned(), features: Some(features) };
    cri::StatusResponse {
        status: Some(cri::RuntimeStatus {
            conditions: status.conditions.into_iter().map(condition).collect(),
        }),
        info: if verbose { status.info.into_iter().collect() } else { [].into() },
        runtime_handlers: RUNTIME_HANDLERS.map(handler).into(),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: true,
        }),
    }
}

fn condition(condition: Condition) -> cri::RuntimeCondition {
    cri::RuntimeCondition {
        r#type: condition.kind.to_owned(),
        status: condition.holds,
        reason: condition.reason.to_owned(),
        message: condition.message,
    }
}

/// `RuntimeConfig`. Without root there is no systemd to ask for cgroups.
pub(crate) fn runtime_config() -> cri::RuntimeConfigResponse {
    let cgroup_driver = cri::CgroupDriver::Cgroupfs.into();
    cri::RuntimeConfigResponse { linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver }) }
}

/// `UpdateRuntimeConfig`. No range is no change; a range has no use before pods have addresses.
pub(crate) fn update_runtime_config(
    request: cri::UpdateRuntimeConfigRequest,
) -> Result<cri::UpdateRuntimeConfigResponse, CallError> {
    let network = request.runtime_config.and_then(|config| config.network_config);
    let pod_cidr = network.unwrap_or_default().pod_cidr;
    if pod_cidr.is_empty() {
        return Ok(cri::UpdateRuntimeConfigResponse {});
    }
    check_pod_cidr(&pod_cidr)?;
    let hint = " for a pod_cidr: pods have no network but loopback yet";
    Err(CallError::Unimplemented { rpc: "UpdateRuntimeConfig", hint })
}

/// Checks a list of at most one IPv4 and one IPv6 range.
fn check_pod_cidr(list: &str) -> Result<(), InvalidField> {
    let refuse = |value: &str, reason: &str| {
        Err(InvalidField::new("runtime_config.network_config.pod_cidr", value, reason))
    };
    let (mut v4, mut v6) = (0, 0);
    for range in list.split(',') {
        let Some((address, prefix)) = parse_cidr(range) else {
            return refuse(range, "is no range such as 10.85.0.0/16 or fd00::/64");
        };
        let (seen, longest) = match address {
            IpAddr::V4(_) => (&mut v4, LONGEST_PREFIX_V4),
            IpAddr::V6(_) => (&mut v6, LONGEST_PREFIX_V6),
        };
        *seen += 1;
        if *seen > 1 {
            return refuse(list, "has two ranges of one family");
        }
        if prefix > longest {
            return refuse(range, "leaves no address for a pod; use at most /30 or /126");
        }
    }
    Ok(())
}

fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C1
    #[test]
    fn the_kubelet_knows_the_version() {
        let version = version();
        assert_eq!(version.version, "0.1.0");
        assert_eq!((&*version.runtime_name, &*version.runtime_api_version), ("usnea", "v1"));
        assert_eq!(version.runtime_version.split('.').count(), 3, "{}", version.runtime_version);
    }

    /// C4
    #[test]
    fn a_status_has_both_handlers_and_every_condition() {
        let condition =
            |kind, holds| Condition { kind, holds, reason: "", message: "m".to_owned() };
        let conditions = vec![condition("RuntimeReady", true), condition("NetworkReady", false)];
        let info = [("config".to_owned(), "{}".to_owned())].into();
        let status = EngineStatus { conditions, recursive_read_only_mounts: true, info };
        let shown = |verbose| shown(status.clone(), verbose);
        let names: Vec<_> = shown(false).runtime_handlers.into_iter().map(|h| h.name).collect();
        assert_eq!(names, ["", "usnea"]);
        for handler in shown(false).runtime_handlers {
            assert!(handler.features.expect("given").recursive_read_only_mounts);
        }
        let conditions = shown(false).status.expect("given").conditions;
        let held: Vec<_> = conditions.iter().map(|c| (c.r#type.as_str(), c.status)).collect();
        assert_eq!(held, [("RuntimeReady", true), ("NetworkReady", false)]);
        assert_eq!((shown(false).info.len(), shown(true).info.len()), (0, 1));
    }

    /// C5
    #[test]
    fn cgroups_are_driven_by_files() {
        let linux = runtime_config().linux.expect("given");
        assert_eq!(linux.cgroup_driver(), cri::CgroupDriver::Cgroupfs);
    }

    fn update(pod_cidr: &str) -> Result<cri::UpdateRuntimeConfigResponse, tonic::Code> {
        let network_config = Some(cri::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let runtime_config = Some(cri::RuntimeConfig { network_config });
        update_runtime_config(cri::UpdateRuntimeConfigRequest { runtime_config })
            .map_err(|error| crate::status::to_status(&error).code())
    }

    #[test]
    fn no_range_changes_nothing() {
        update("").expect("nothing to do");
        update_runtime_config(cri::UpdateRuntimeConfigRequest::default()).expect("nothing to do");
    }

    #[test]
    fn ranges_are_checked_before_they_are_refused() {
        for good in ["10.85.0.0/16", "fd00::/64", "10.85.0.0/30,fd00::/126", "fd00::/64,10.0.0.0/8"]
        {
            assert_eq!(update(good), Err(tonic::Code::Unimplemented), "{good}");
        }
        for bad in [
            "10.85.0.0",
            "10.85.0.0/31",
            "10.85.0.0/33",
            "10.85.0.0/-1",
            "fd00::/127",
            "10.0.0.0/8,10.1.0.0/16",
            "10.0.0.0/8,",
            "10.0.0.0/8, fd00::/64",
            "pods",
        ] {
            assert_eq!(update(bad), Err(tonic::Code::InvalidArgument), "{bad}");
        }
    }
}
