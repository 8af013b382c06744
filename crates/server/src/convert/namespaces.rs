//! CRI `NamespaceOption` ⇄ the namespaces of a sandbox and of a container.

use cri_api::v1 as cri;
use model::{
    ContainerPid, IdQuery, InvalidField, NamespaceMode, NetworkMode, SandboxNamespaces, SandboxPid,
};

use super::known;

/// Where the message stands, in sandboxes and containers alike.
const FIELD: &str = "linux.security_context.namespace_options";

/// Reads a sandbox's namespaces. A missing message is all zeros, and zero is POD.
pub(super) fn of_sandbox(
    options: Option<&cri::NamespaceOption>,
) -> Result<SandboxNamespaces, InvalidField> {
    use cri::NamespaceMode as Mode;
    let options = options.cloned().unwrap_or_default();
    check_user_namespace(options.userns_options.as_ref())?;
    let network = match mode("network", options.network)? {
        Mode::Pod => NetworkMode::Pod,
        Mode::Node => NetworkMode::Node,
        other @ (Mode::Container | Mode::Target) => return Err(no_pod_or_node("network", other)),
    };
    let ipc = match mode("ipc", options.ipc)? {
        Mode::Pod => NamespaceMode::Pod,
        Mode::Node => NamespaceMode::Node,
        other @ (Mode::Container | Mode::Target) => return Err(no_pod_or_node("ipc", other)),
    };
    let pid = match mode("pid", options.pid)? {
        Mode::Pod => SandboxPid::Pod,
        Mode::Container => SandboxPid::Container,
        Mode::Node => SandboxPid::Node,
        Mode::Target => {
            let reason = "is for containers; a sandbox takes POD, CONTAINER or NODE";
            return Err(InvalidField::new(format!("{FIELD}.pid"), "TARGET", reason));
        }
    };
    refuse_target(&options.target_id)?;
    let names_user_namespace = options.userns_options.is_some();
    Ok(SandboxNamespaces { network, ipc, pid, names_user_namespace })
}

/// Reads whose PID namespace a container uses. Its network and IPC namespaces are the sandbox's, whatever the message
/// says: containers of one pod share them.
pub(super) fn of_container(
    options: Option<&cri::NamespaceOption>,
) -> Result<ContainerPid, InvalidField> {
    use cri::NamespaceMode as Mode;
    let options = options.cloned().unwrap_or_default();
    check_user_namespace(options.userns_options.as_ref())?;
    let pid = match mode("pid", options.pid)? {
        Mode::Pod => ContainerPid::Pod,
        Mode::Container => ContainerPid::Container,
        Mode::Node => ContainerPid::Node,
        Mode::Target => {
            let query = IdQuery::parse(&format!("{FIELD}.target_id"), &options.target_id)?;
            return Ok(ContainerPid::Target(query.as_str().to_owned()));
        }
    };
    refuse_target(&options.target_id)?;
    Ok(pid)
}

/// Shows a sandbox's namespaces; the kubelet makes a sandbox anew when its network mode is not what it asked for.
pub(super) fn to_cri(namespaces: SandboxNamespaces) -> cri::NamespaceOption {
    use cri::NamespaceMode as Mode;
    let network = match namespaces.network {
        NetworkMode::Pod => Mode::Pod,
        NetworkMode::Node => Mode::Node,
    };
    let ipc = match namespaces.ipc {
        NamespaceMode::Pod => Mode::Pod,
        NamespaceMode::Node => Mode::Node,
    };
    let pid = match namespaces.pid {
        SandboxPid::Pod => Mode::Pod,
        SandboxPid::Container => Mode::Container,
        SandboxPid::Node => Mode::Node,
    };
    let node = cri::UserNamespace { mode: Mode::Node.into(), ..Default::default() };
    cri::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        target_id: String::new(),
        userns_options: namespaces.names_user_namespace.then_some(node),
    }
}

/// Absent and NODE are the node's own user namespace.
fn check_user_namespace(options: Option<&cri::UserNamespace>) -> Result<(), InvalidField> {
    use cri::NamespaceMode as Mode;
    let Some(options) = options else { return Ok(()) };
    let field = format!("{FIELD}.userns_options");
    let mode = known::<Mode>(&format!("{field}.mode"), options.mode)?;
    let refuse =
        |reason: &str| Err(InvalidField::new(format!("{field}.mode"), mode.as_str_name(), reason));
    match mode {
        Mode::Node if options.uids.is_empty() && options.gids.is_empty() => Ok(()),
        Mode::Node => refuse("takes no id mappings"),
        Mode::Pod => refuse("pods with their own user namespace are not supported yet; use NODE"),
        Mode::Container | Mode::Target => refuse("a user namespace is POD's or NODE's"),
    }
}

fn refuse_target(target_id: &str) -> Result<(), InvalidField> {
    if target_id.is_empty() {
        return Ok(());
    }
    let reason = "is given, though only a container whose pid is TARGET has one";
    Err(InvalidField::new(format!("{FIELD}.target_id"), target_id, reason))
}

fn mode(field: &str, number: i32) -> Result<cri::NamespaceMode, InvalidField> {
    known(&format!("{FIELD}.{field}"), number)
}

fn no_pod_or_node(field: &str, mode: cri::NamespaceMode) -> InvalidField {
    let reason = "is decided for the whole sandbox; use POD or NODE";
    InvalidField::new(format!("{FIELD}.{field}"), mode.as_str_name(), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::NamespaceMode as Mode;

    fn options(network: Mode, pid: Mode, ipc: Mode) -> cri::NamespaceOption {
        let (network, pid, ipc) = (network.into(), pid.into(), ipc.into());
        cri::NamespaceOption { network, pid, ipc, ..Default::default() }
    }

    fn userns(mode: Mode) -> cri::NamespaceOption {
        let userns = cri::UserNamespace { mode: mode.into(), ..Default::default() };
        cri::NamespaceOption { userns_options: Some(userns), ..Default::default() }
    }

    /// C10
    #[test]
    fn nothing_said_is_pod_throughout() {
        let namespaces = of_sandbox(None).expect("usual");
        assert_eq!(namespaces.pid, SandboxPid::Pod);
        assert_eq!(namespaces.network, NetworkMode::Pod);
        assert_eq!(of_container(None), Ok(ContainerPid::Pod));
    }

    /// C9
    #[test]
    fn every_accepted_combination_is_shown_as_it_was_asked() {
        for network in [Mode::Pod, Mode::Node] {
            for ipc in [Mode::Pod, Mode::Node] {
                for pid in [Mode::Pod, Mode::Container, Mode::Node] {
                    let mut asked = options(network, pid, ipc);
                    assert_eq!(to_cri(of_sandbox(Some(&asked)).expect("usual")), asked);
                    asked.userns_options = userns(Mode::Node).userns_options;
                    assert_eq!(to_cri(of_sandbox(Some(&asked)).expect("usual")), asked);
                }
            }
        }
    }

    #[test]
    fn a_sandbox_takes_no_other_mode() {
        for bad in [
            options(Mode::Container, Mode::Pod, Mode::Pod),
            options(Mode::Target, Mode::Pod, Mode::Pod),
            options(Mode::Pod, Mode::Target, Mode::Pod),
            options(Mode::Pod, Mode::Pod, Mode::Container),
            options(Mode::Pod, Mode::Pod, Mode::Target),
            cri::NamespaceOption { network: 7, ..Default::default() },
            cri::NamespaceOption { target_id: "abcd".to_owned(), ..Default::default() },
        ] {
            of_sandbox(Some(&bad)).expect_err("no such sandbox");
        }
    }

    #[test]
    fn a_target_is_named_by_a_harmless_id() {
        let target = |id: &str| {
            let options = options(Mode::Pod, Mode::Target, Mode::Pod);
            of_container(Some(&cri::NamespaceOption { target_id: id.to_owned(), ..options }))
        };
        assert_eq!(target("abcd"), Ok(ContainerPid::Target("abcd".to_owned())));
        target("").expect_err("missing");
        target("../../proc").expect_err("a path");
    }

    /// C73
    #[test]
    fn only_the_nodes_user_namespace_is_accepted() {
        of_sandbox(Some(&userns(Mode::Node))).expect("the node's");
        for bad in [Mode::Pod, Mode::Container, Mode::Target] {
            of_sandbox(Some(&userns(bad))).expect_err("not the node's");
            of_container(Some(&userns(bad))).expect_err("not the node's");
        }
        let error = of_sandbox(Some(&userns(Mode::Pod))).expect_err("POD");
        assert_eq!(
            error.to_string(),
            "linux.security_context.namespace_options.userns_options.mode: \"POD\": pods with \
             their own user namespace are not supported yet; use NODE"
        );
    }
}
