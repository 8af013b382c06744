//! Read from files.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    sys::statvfs::{FsFlags, statvfs},
    unistd::{AccessFlags, access, getegid, geteuid},
};

use super::Check;
use crate::{
    cgroup,
    config::NodeConfig,
    error::{NodeError, chain},
    idmap::{self, Subject},
    origin::{Origin, login_name},
    subordinate::{ToolFailure, Tools},
};

pub(super) fn user() -> Check {
    let name = "user";
    match Origin::detect() {
        Ok(Origin::User) => Check::ok(name, format!("ordinary user, uid {}", geteuid())),
        Ok(Origin::NamespaceRoot { .. }) => {
            Check::ok(name, "root of a user namespace, which is adopted")
        }
        Err(NodeError::RealRoot) => Check::missing(name, "root", NodeError::RealRoot.to_string()),
        Err(error) => Check::missing(name, chain(&error), "mount /proc"),
    }
}

pub(super) fn subordinate_ids() -> Vec<Check> {
    let name = login_name(geteuid());
    let files = [
        ("subordinate uids", "/etc/subuid", geteuid().as_raw()),
        ("subordinate gids", "/etc/subgid", getegid().as_raw()),
    ];
    let mut checks: Vec<Check> = files
        .into_iter()
        .map(|(title, file, own_id)| {
            let subject = Subject { name: name.as_deref(), uid: geteuid().as_raw(), own_id };
            let text = fs::read_to_string(file).unwrap_or_default();
            ids_in(title, Path::new(file), &text, &subject)
        })
        .collect();
    checks.push(match Tools::find() {
        Ok(tools) => Check::ok("newuidmap, newgidmap", tools.newuidmap.display().to_string()),
        Err(failure @ ToolFailure::Missing { .. }) => Check::warning(
            "newuidmap, newgidmap",
            failure.to_string(),
            "install the package uidmap (shadow-utils); without it pods have one id only",
        ),
        Err(failure) => Check::missing(
            "newuidmap, newgidmap",
            failure.to_string(),
            "reinstall the package uidmap (shadow-utils)",
        ),
    });
    checks
}

/// What images expect to find: the ids 0 to 65535.
const ENOUGH_IDS: u64 = 65_536;

fn ids_in(title: &str, file: &Path, text: &str, subject: &Subject<'_>) -> Check {
    let option = if file.ends_with("subgid") { "--add-subgids" } else { "--add-subuids" };
    let user = subject.name.map_or_else(|| subject.uid.to_string(), str::to_owned);
    let remedy =
        format!("as root: usermod {option} FIRST-LAST {user}, with 65536 ids that nobody else has");
    match idmap::grant(text, file, subject) {
        Err(error) => Check::missing(title, error.to_string(), "as root: correct that line"),
        Ok(grant) => match (grant.map.map_or(0, |map| map.len() - 1), grant.warnings.first()) {
            (0, _) => Check::warning(title, "none: pods have one id only", remedy),
            (count, _) if count < ENOUGH_IDS => {
                Check::warning(title, format!("{count}, fewer than {ENOUGH_IDS}"), remedy)
            }
            (count, None) => Check::ok(title, count.to_string()),
            (_, Some(warning)) => Check::warning(title, warning, "as root: correct that line"),
        },
    }
}

pub(super) fn runtime_directory(config: &NodeConfig) -> Check {
    let name = "runtime directory";
    let path = &config.runtime_dir;
    let found = path.display().to_string();
    let longest = config.runtime_dir.join("pods").join("0123456789abcdef").join("shim.sock");
    if longest.as_os_str().len() > 107 {
        return Check::missing(
            name,
            format!("{found} is too long for sockets"),
            "set XDG_RUNTIME_DIR to a short path",
        );
    }
    match usable(path) {
        Err(reason) => Check::missing(
            name,
            reason,
            "log in through PAM or `machinectl shell`, which set XDG_RUNTIME_DIR, or set it to a private directory",
        ),
        Ok(()) if std::env::var_os("XDG_RUNTIME_DIR").is_none() => Check::warning(
            name,
            format!("{found}; XDG_RUNTIME_DIR is not set"),
            "set XDG_RUNTIME_DIR, usually /run/user/UID, so that all clients look in the same place",
        ),
        Ok(()) => Check::ok(name, found),
    }
}

pub(super) fn data_directory(config: &NodeConfig) -> Check {
    let name = "data directory";
    if let Err(reason) = usable(&config.data_dir) {
        return Check::missing(name, reason, "choose a data directory that this user can write");
    }
    let place = existing(&config.data_dir);
    let Ok(statistics) = statvfs(&place) else {
        return Check::missing(name, format!("{} cannot be examined", place.display()), "mount it");
    };
    let free_bytes =
        u128::from(statistics.blocks_available()) * u128::from(statistics.fragment_size());
    let found = format!("{}, {} MiB free", config.data_dir.display(), free_bytes >> 20);
    let flags = statistics.flags();
    if flags.contains(FsFlags::ST_NOEXEC) {
        Check::missing(
            name,
            format!("{found}, noexec"),
            "programs of images could not run: use a file system without noexec",
        )
    } else if flags.contains(FsFlags::ST_NOSUID) {
        Check::warning(
            name,
            format!("{found}, nosuid"),
            "setuid programs of images (sudo, ping) do not work: use a file system without nosuid",
        )
    } else if free_bytes >> 30 == 0 {
        Check::warning(name, found, "free some space: images need a GiB soon")
    } else {
        Check::ok(name, found)
    }
}

/// The directory itself, or the one it would be made in.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn usable(path: &Path) -> Result<(), String> {
    let place = existing(path);
    let owner = fs::metadata(&place).map_err(|error| error.to_string())?.uid();
    if place == path && owner != geteuid().as_raw() {
        return Err(format!("{} belongs to uid {owner}", place.display()));
    }
    access(&place, AccessFlags::W_OK).map_err(|errno| format!("{}: {errno}", place.display()))
}

pub(super) fn seccomp() -> Check {
    let name = "seccomp";
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let actions = actions.trim();
    if actions.split(' ').any(|action| action == "errno") {
        Check::ok(name, actions)
    } else {
        Check::missing(name, "not available", "use a kernel with CONFIG_SECCOMP_FILTER")
    }
}

/// How an administrator gives users all controllers.
const DELEGATE: &str = "as root, in /etc/systemd/system/user@.service.d/usnea.conf: [Service] Delegate=cpu cpuset io memory \
                        pids; then systemctl daemon-reload, and log in again";

pub(super) fn cgroups() -> Vec<Check> {
    let name = "cgroup v2";
    let (first, have) = match cgroup::find() {
        Ok(delegation) => {
            let found = format!("delegated: {}", delegation.path.display());
            (Check::ok(name, found), cgroup::offered(&delegation.root))
        }
        Err(missing) => {
            let remedy =
                "give Usnea a cgroup of its own, as said; until then pods run without limits";
            (Check::warning(name, chain(&missing), remedy), Vec::new())
        }
    };
    let controllers = cgroup::CONTROLLERS.iter().map(|controller| {
        let name = format!("cgroup {controller}");
        if have.iter().any(|offered| offered == controller) {
            Check::ok(name, "delegated")
        } else {
            Check::warning(name, "not delegated: such limits are refused", DELEGATE)
        }
    });
    [first].into_iter().chain(controllers).collect()
}

pub(super) fn linger() -> Check {
    let name = "linger";
    if !Path::new("/run/systemd/system").exists() {
        return Check::ok(name, "not applicable: no systemd");
    }
    let user = login_name(geteuid()).unwrap_or_else(|| geteuid().to_string());
    if Path::new("/var/lib/systemd/linger").join(&user).exists() {
        Check::ok(name, "enabled")
    } else {
        let remedy = format!("loginctl enable-linger {user}");
        Check::warning(name, "disabled: pods end when you log out", remedy)
    }
}

/// A sysctl with the least value that is comfortable, and what happens below it.
const LIMITS: [(&str, u64, &str); 7] = [
    ("user.max_mnt_namespaces", 2000, "each pod and container takes one"),
    ("user.max_net_namespaces", 1000, "each pod takes one"),
    ("user.max_ipc_namespaces", 1000, "each pod takes one"),
    ("user.max_pid_namespaces", 1000, "each container takes one"),
    ("user.max_cgroup_namespaces", 1000, "each container takes one"),
    ("fs.inotify.max_user_instances", 512, "kubelet and programs in pods share them"),
    ("kernel.keys.maxkeys", 1000, "containers may take one each"),
];

pub(super) fn sysctls() -> Vec<Check> {
    let mut checks: Vec<Check> = LIMITS
        .into_iter()
        .filter_map(|(key, least, reason)| limit(key, &sysctl(key)?, least, reason))
        .collect();
    checks.extend(sysctl("net.ipv4.ip_unprivileged_port_start").map(|value| low_ports(&value)));
    checks.extend(
        sysctl("net.ipv4.ping_group_range").map(|value| ping_groups(&value, getegid().as_raw())),
    );
    checks
}

fn sysctl(key: &str) -> Option<String> {
    let path = Path::new("/proc/sys").join(key.replace('.', "/"));
    Some(fs::read_to_string(path).ok()?.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn limit(key: &str, value: &str, least: u64, reason: &str) -> Option<Check> {
    let number: u64 = value.parse().ok()?;
    Some(if number >= least {
        Check::ok(key, value)
    } else {
        let remedy = format!("as root: sysctl -w {key}={least}");
        Check::warning(key, format!("{value}: {reason}"), remedy)
    })
}

fn low_ports(value: &str) -> Check {
    let key = "net.ipv4.ip_unprivileged_port_start";
    match value.parse::<u32>() {
        Ok(start) if start <= 80 => Check::ok(key, value),
        _ => Check::warning(
            key,
            format!("{value}: hostPorts below it cannot be published"),
            format!("only where pods need such ports, as root: sysctl -w {key}=80"),
        ),
    }
}

fn ping_groups(value: &str, gid: u32) -> Check {
    let key = "net.ipv4.ping_group_range";
    let mut ends = value.split(' ').filter_map(|end| end.parse::<u32>().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) if (first..=last).contains(&gid) => Check::ok(key, value),
        _ => Check::warning(
            key,
            format!("{value}: ping out of pods does not work"),
            format!("as root: sysctl -w {key}=\"0 2147483647\""),
        ),
    }
}

pub(super) fn uplink() -> Check {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |program: &str| {
        std::env::split_paths(&path)
            .map(|directory| directory.join(program))
            .find(|path| access(path, AccessFlags::X_OK).is_ok())
    };
    let found = find("pasta").or_else(|| find("slirp4netns"));
    match found {
        Some(path) => Check::ok("uplink", path.display().to_string()),
        None => Check::warning(
            "uplink",
            "neither pasta nor slirp4netns: pods cannot reach other machines",
            "install the package passt",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    #[test]
    fn too_few_ids_are_a_warning_and_bad_ones_an_error() {
        let subject = Subject { name: Some("kube"), uid: 1000, own_id: 1000 };
        let state = |text: &str| ids_in("ids", Path::new("/etc/subuid"), text, &subject).state;
        assert_eq!(state("kube:100000:65536\n"), State::Ok);
        assert_eq!(state("kube:100000:65535\n"), State::Warning);
        assert_eq!(state("kube:100000:65536\nother:100000:1\n"), State::Warning);
        assert_eq!(state(""), State::Warning);
        assert_eq!(state("kube:0:65536\n"), State::Missing);
    }

    #[test]
    fn sysctl_values_are_judged() {
        let state = |value| limit("a.b", value, 10, "why").map(|check| check.state);
        assert_eq!(state("10"), Some(State::Ok));
        assert_eq!(state("9"), Some(State::Warning));
        assert_eq!(state("max"), None);
        assert_eq!(low_ports("80").state, State::Ok);
        assert_eq!(low_ports("1024").state, State::Warning);
        assert_eq!(ping_groups("1 0", 1000).state, State::Warning);
        assert_eq!(ping_groups("0 1000", 1000).state, State::Ok);
    }
}
