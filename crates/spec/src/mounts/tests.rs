use model::MountOptions;

use super::*;
use crate::fixture::{Case, mount as request};

fn all(case: &Case) -> Vec<Mount> {
    case.spec().mounts().clone().expect("mounts")
}

/// `type source options` of the mount at `target`.
fn at(case: &Case, target: &str) -> Option<String> {
    let mounts = all(case);
    let mount = mounts.iter().find(|mount| mount.destination() == Path::new(target))?;
    let (typ, source) = (mount.typ().as_deref()?, mount.source().as_deref()?.display());
    Some(format!("{typ} {source} {}", mount.options().as_ref()?.join(",")))
}

fn line(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn with(mounts: Vec<model::Mount>) -> Case {
    let mut case = Case::new();
    case.config.mounts = mounts;
    case
}

#[test]
fn a_containers_own_mounts() {
    let case = Case::new();
    assert_eq!(at(&case, "/proc"), line("proc proc nosuid,noexec,nodev"));
    assert_eq!(at(&case, "/dev"), line("tmpfs tmpfs nosuid,strictatime,mode=755,size=65536k"));
    let pts = "devpts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5";
    assert_eq!(at(&case, "/dev/pts"), line(pts));
    assert_eq!(at(&case, "/dev/mqueue"), line("mqueue mqueue nosuid,noexec,nodev"));
    let shm = "bind /run/pod/shm rbind,rprivate,nosuid,nodev,noexec";
    assert_eq!(at(&case, "/dev/shm"), line(shm));
    assert_eq!(at(&case, "/sys"), line("sysfs sysfs nosuid,noexec,nodev,ro"));
    assert_eq!(at(&case, "/sys/fs/cgroup"), line("cgroup cgroup nosuid,noexec,nodev,ro"));
    assert_eq!(at(&case, "/etc/hostname"), line("bind /run/pod/hostname rbind,rprivate"));
    assert_eq!(at(&case, "/etc/hosts"), line("bind /run/pod/hosts rbind,rprivate"));
    assert_eq!(at(&case, "/etc/resolv.conf"), line("bind /run/pod/resolv.conf rbind,rprivate"));
    assert_eq!(all(&case).len(), 10);
}

#[test]
fn a_group_that_is_not_mapped_is_left_out_of_devpts() {
    let mut case = Case::new();
    case.host.mapped_gids = 5;
    let pts = "devpts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620";
    assert_eq!(at(&case, "/dev/pts"), line(pts));
}

#[test]
fn file_systems_of_namespaces_that_the_node_does_not_own_are_bound() {
    let mut case = Case::new();
    case.config.security.pid = ContainerPid::Node;
    case.sandbox.namespaces.network = NetworkMode::Node;
    case.sandbox.namespaces.ipc = NamespaceMode::Node;
    assert_eq!(at(&case, "/sys"), line("sysfs sysfs nosuid,noexec,nodev,ro"), "node's own network");
    case.host.network_is_hosts = true;
    assert_eq!(at(&case, "/proc"), line("bind /proc rbind,nosuid,noexec,nodev"));
    assert_eq!(at(&case, "/sys"), line("bind /sys rbind,nosuid,noexec,nodev,rro"));
    assert_eq!(at(&case, "/dev/mqueue"), line("bind /dev/mqueue rbind,nosuid,noexec,nodev"));
    case.host.has_mqueue = false;
    assert_eq!(at(&case, "/dev/mqueue"), None);
    case.sandbox.namespaces.network = NetworkMode::Pod;
    assert_eq!(at(&case, "/sys"), line("sysfs sysfs nosuid,noexec,nodev,ro"), "pod's own network");
}

#[test]
fn without_cgroup_namespace_there_is_no_cgroup_mount_r27() {
    let mut case = Case::new();
    case.host.cgroup_namespace = false;
    assert_eq!(at(&case, "/sys/fs/cgroup"), None);
}

#[test]
fn privileged_containers_write_to_sys_and_cgroup() {
    let mut case = Case::new();
    case.config.security.privileged = true;
    assert_eq!(at(&case, "/sys"), line("sysfs sysfs nosuid,noexec,nodev"));
    assert_eq!(at(&case, "/sys/fs/cgroup"), line("cgroup cgroup nosuid,noexec,nodev"));
}

#[test]
fn pod_files_are_as_writable_as_the_root() {
    let mut case = Case::new();
    case.config.security.readonly_rootfs = true;
    assert_eq!(at(&case, "/etc/hosts"), line("bind /run/pod/hosts rbind,rprivate,ro"));
    assert_eq!(at(&case, "/dev/shm").map(|line| line.contains("ro,")), Some(false));
}

#[test]
fn a_request_replaces_what_would_be_mounted_at_its_path() {
    let case = with(vec![request("/etc/hosts"), request("/dev/shm"), request("/sys")]);
    for target in ["/etc/hosts", "/dev/shm", "/sys"] {
        assert_eq!(at(&case, target), line("bind /srv/data rbind,rprivate"));
    }
    assert_eq!(all(&case).len(), 10);
}

#[test]
fn the_order_is_by_depth_and_else_as_requested() {
    let targets = ["/a/b/c", "/z", "/dev/termination-log", "/a", "/a/b", "/sys"];
    let case = with(targets.map(request).to_vec());
    let mounts = all(&case);
    let order: Vec<_> = mounts.iter().map(|m| m.destination().to_str().expect("UTF-8")).collect();
    let expected = [
        "/proc",
        "/dev",
        "/z",
        "/a",
        "/sys",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/dev/termination-log",
        "/a/b",
        "/sys/fs/cgroup",
        "/a/b/c",
    ];
    assert_eq!(order, expected);
}

#[test]
fn no_target_twice() {
    let mut twice = request("/data/../data/");
    twice.container_path_as_given = "/data/../data/".to_owned();
    let error = with(vec![request("/data"), twice]).try_spec().expect_err("duplicate");
    assert!(error.to_string().contains("mounts.container_path: \"/data/../data/\""), "{error}");
    for case in [Case::new(), with(vec![request("/etc/hosts"), request("/dev/pts")])] {
        let mounts = all(&case);
        let targets: BTreeSet<_> = mounts.iter().map(Mount::destination).collect();
        assert_eq!(targets.len(), mounts.len());
    }
}

#[test]
fn the_whole_of_dev_cannot_be_replaced() {
    with(vec![request("/dev")]).try_spec().expect_err("devices would be made on the node");
}

#[test]
fn images_are_bound_from_where_they_are_attached() {
    let image = |target: &str| {
        let source = MountSource::Image { image: Case::new().config.image, sub_path: None };
        model::Mount { source, readonly: true, ..request(target) }
    };
    let case = with(vec![request("/data"), image("/image")]);
    assert_eq!(at(&case, "/image"), line("bind /run/images/1 rbind,rprivate,ro,nodev"));
    let error = with(vec![image("/dev")]).try_spec().expect_err("not even an image");
    assert!(error.to_string().starts_with("ImageVolumeMountFailed: "), "{error}");
}

#[test]
fn options_of_a_request() {
    let options = |change: fn(&mut model::Mount)| {
        let mut mount = request("/data");
        change(&mut mount);
        at(&with(vec![mount]), "/data").expect("mounted")
    };
    assert_eq!(options(|_| {}), "bind /srv/data rbind,rprivate");
    assert_eq!(options(|m| m.readonly = true), "bind /srv/data rbind,rprivate,ro");
    assert_eq!(
        options(|m| (m.readonly, m.recursive_read_only) = (true, true)),
        "bind /srv/data rbind,rprivate,ro,rro"
    );
    assert_eq!(
        options(|m| m.options = MountOptions { no_exec: true, no_dev: true, no_suid: true }),
        "bind /srv/data rbind,rprivate,nosuid,nodev,noexec"
    );
    let propagation = |propagation| {
        let mount = model::Mount { propagation, ..request("/data") };
        let case = with(vec![mount, request("/other")]);
        let root = case.spec().linux().as_ref().and_then(|l| l.rootfs_propagation().clone());
        (at(&case, "/data").expect("mounted"), root.expect("said"))
    };
    let expected =
        |option: &str, root: &str| (format!("bind /srv/data rbind,{option}"), root.to_owned());
    assert_eq!(propagation(MountPropagation::Private), expected("rprivate", "private"));
    assert_eq!(propagation(MountPropagation::HostToContainer), expected("rslave", "slave"));
    assert_eq!(propagation(MountPropagation::Bidirectional), expected("rshared", "shared"));
}

#[test]
fn no_bind_changes_access_times() {
    let case = with(vec![request("/data")]);
    for mount in all(&case) {
        let bound = mount.typ().as_deref() == Some("bind");
        let options = mount.options().clone().unwrap_or_default();
        assert!(!bound || options.iter().all(|option| !option.contains("atime")), "{mount:?}");
    }
}
