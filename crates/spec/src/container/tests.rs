use model::{CapabilityRequest, ContainerPath};

use super::*;
use crate::{
    fixture::{Case, strings},
    seccomp,
};

fn linux_of(case: &Case) -> Linux {
    case.spec().linux().clone().expect("linux")
}

fn process_of(case: &Case) -> Process {
    case.spec().process().clone().expect("process")
}

fn json(case: &Case) -> serde_json::Value {
    serde_json::to_value(case.spec()).expect("JSON")
}

fn capability_sets(case: &Case) -> [usize; 5] {
    let sets = process_of(case).capabilities().clone().expect("capabilities");
    [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()]
        .map(|set| set.as_ref().map_or(usize::MAX, Capabilities::len))
}

#[test]
fn the_whole_of_a_plain_container() {
    let mut spec = json(&Case::new());
    let mounts = spec.as_object_mut().and_then(|map| map.remove("mounts")).expect("mounts");
    assert_eq!(mounts.as_array().map(Vec::len), Some(10));
    let capabilities = spec["process"].as_object_mut().and_then(|map| map.remove("capabilities"));
    assert_eq!(capabilities.expect("capabilities")["bounding"].as_array().map(Vec::len), Some(14));
    let expected = serde_json::json!({
        "ociVersion": "1.2.0",
        "root": {"path": "/run/rootfs", "readonly": false},
        "process": {
            "terminal": false,
            "user": {"uid": 1000, "gid": 1001, "additionalGids": [1001, 50]},
            "args": ["/entry"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME=web-0",
                "HOME=/home/app",
            ],
            "cwd": "/",
        },
        "linux": {
            "cgroupsPath": format!("/none/{}", "07".repeat(32)),
            "namespaces": [
                {"type": "mount"},
                {"type": "cgroup"},
                {"type": "pid", "path": "/proc/self/fd/3"},
            ],
            "rootfsPropagation": "private",
            "maskedPaths": [],
            "readonlyPaths": [],
        },
    });
    assert_eq!(spec, expected);
}

#[test]
fn a_specification_reads_back() {
    let spec = Case::new().spec();
    let text = serde_json::to_string(&spec).expect("JSON");
    assert_eq!(serde_json::from_str::<Spec>(&text).expect("reads back"), spec);
}

#[test]
fn namespaces_by_pid_mode() {
    let pid = |mode| {
        let mut case = Case::new();
        case.config.security.pid = mode;
        let namespaces = linux_of(&case).namespaces().clone().expect("namespaces");
        let pid = namespaces.into_iter().find(|n| n.typ() == LinuxNamespaceType::Pid);
        pid.map(|namespace| namespace.path().clone())
    };
    let joined = Some(Some(PathBuf::from("/proc/self/fd/3")));
    assert_eq!(pid(ContainerPid::Container), Some(None));
    assert_eq!(pid(ContainerPid::Pod), joined);
    assert_eq!(pid(ContainerPid::Target("x".to_owned())), joined);
    assert_eq!(pid(ContainerPid::Node), None);
}

#[test]
fn the_cgroup_namespace_is_made_where_it_can_be() {
    let mut case = Case::new();
    case.host.cgroup_namespace = false;
    let namespaces = linux_of(&case).namespaces().clone().expect("namespaces");
    assert!(namespaces.iter().all(|namespace| namespace.typ() != LinuxNamespaceType::Cgroup));
}

#[test]
fn no_new_privileges_is_true_or_absent_v4() {
    let mut case = Case::new();
    assert_eq!(process_of(&case).no_new_privileges(), None);
    case.config.security.no_new_privs = true;
    assert_eq!(process_of(&case).no_new_privileges(), Some(true));
}

#[test]
fn inheritable_and_ambient_sets_are_empty_r14() {
    assert_eq!(capability_sets(&Case::new()), [14, 14, 14, 0, 0]);
    let mut case = Case::new();
    let all = strings(&["ALL"]);
    case.config.security.capabilities =
        CapabilityRequest::parse(&all, &[], &[]).expect("known names");
    assert_eq!(capability_sets(&case), [41, 41, 41, 0, 0]);
    case.config.security.capabilities =
        CapabilityRequest::parse(&[], &all, &[]).expect("known names");
    assert_eq!(capability_sets(&case), [0; 5]);
}

#[test]
fn ambient_capabilities_are_in_all_five_sets() {
    let mut case = Case::new();
    let (all, ambient) = (strings(&["ALL"]), strings(&["NET_BIND_SERVICE"]));
    case.config.security.capabilities =
        CapabilityRequest::parse(&[], &all, &ambient).expect("known names");
    assert_eq!(capability_sets(&case), [1; 5]);
}

#[test]
fn privileged_is_all_capabilities_no_masks_no_filter() {
    let mut case = Case::new();
    let proc = ContainerPath::parse_any("masked_paths", "/proc/kcore").expect("absolute");
    case.config.security.masked_paths = vec![proc.clone()];
    case.config.security.readonly_paths = vec![proc];
    case.seccomp = Some(seccomp::runtime_default(&BTreeSet::new()));
    case.config.security.privileged = true;
    assert_eq!(capability_sets(&case), [41, 41, 41, 0, 0]);
    let linux = linux_of(&case);
    assert_eq!(linux.masked_paths().as_deref(), Some([].as_slice()));
    assert_eq!(linux.readonly_paths().as_deref(), Some([].as_slice()));
    assert_eq!(linux.seccomp(), &None);
}

#[test]
fn masked_and_readonly_paths_are_exactly_the_requests() {
    let mut case = Case::new();
    let path = |text| ContainerPath::parse_any("masked_paths", text).expect("absolute");
    case.config.security.masked_paths = vec![path("/sys/devices/virtual/powercap"), path("/a")];
    case.config.security.readonly_paths = vec![path("/proc/sys")];
    let linux = linux_of(&case);
    let masked = strings(&["/sys/devices/virtual/powercap", "/a"]);
    assert_eq!(linux.masked_paths(), &Some(masked));
    assert_eq!(linux.readonly_paths(), &Some(strings(&["/proc/sys"])));
}

#[test]
fn a_filter_gets_in_as_it_is() {
    let mut case = Case::new();
    case.seccomp = Some(seccomp::runtime_default(&BTreeSet::new()));
    assert_eq!(linux_of(&case).seccomp(), &case.seccomp);
}

#[test]
fn annotations_and_labels_change_nothing_r23_c77() {
    let plain = Case::new().spec();
    let mut case = Case::new();
    for key in [
        "org.systemd.property.ExecStart",
        "io.kubernetes.cri-o.UnifiedCgroup.c",
        "run.oci.handler",
        "run.oci.keep_original_groups",
        "io.kubernetes.cri-o.userns-mode",
    ] {
        for map in [
            &mut case.config.annotations,
            &mut case.config.labels,
            &mut case.sandbox.annotations,
            &mut case.sandbox.labels,
        ] {
            map.insert(key.to_owned(), "evil".to_owned());
        }
    }
    assert_eq!(case.spec(), plain);
    assert_eq!(plain.annotations(), &None);
    assert_eq!(plain.hooks(), &None);
}

#[test]
fn sysctls_and_devices_are_left_to_others_r22_r27() {
    let linux = linux_of(&Case::new());
    assert_eq!((linux.sysctl(), linux.devices(), linux.resources()), (&None, &None, &None));
}

#[test]
fn the_score_is_clamped_to_what_can_be_written_c44() {
    let mut case = Case::new();
    assert_eq!(process_of(&case).oom_score_adj(), None);
    case.config.resources.oom_score_adj = -997;
    assert_eq!(process_of(&case).oom_score_adj(), Some(0));
    case.host.lowest_oom_score_adj = 200;
    assert_eq!(process_of(&case).oom_score_adj(), Some(200));
    case.config.resources.oom_score_adj = 1000;
    assert_eq!(process_of(&case).oom_score_adj(), Some(1000));
    case.host.lowest_oom_score_adj = -998;
    case.config.resources.oom_score_adj = -997;
    assert_eq!(process_of(&case).oom_score_adj(), Some(-997));
}

#[test]
fn groups_are_left_alone_where_only_one_is_mapped() {
    let mut case = Case::new();
    case.user.gid = 0;
    case.user.additional_gids = vec![0];
    case.host.mapped_gids = 1;
    assert_eq!(process_of(&case).user().additional_gids(), &None);
    case.host.mapped_gids = 2;
    assert_eq!(process_of(&case).user().additional_gids(), &Some(vec![0]));
}

#[test]
fn a_read_only_root() {
    let mut case = Case::new();
    case.config.security.readonly_rootfs = true;
    let root = case.spec().root().clone().expect("root");
    assert_eq!(root.readonly(), Some(true));
}

#[test]
fn what_cannot_be_executed_is_no_container() {
    let mut case = Case::new();
    case.image.entrypoint.clear();
    case.try_spec().expect_err("no command");
    case.config.command = vec!["x".repeat(100_000); 70];
    case.try_spec().expect_err("7 MB of arguments");
}

#[test]
fn hostile_images_are_refused_r7_r13_r24() {
    let refused = |change: fn(&mut Case)| {
        let mut case = Case::new();
        change(&mut case);
        case.try_spec().expect_err("refused");
    };
    refused(|case| case.image.working_dir = "/proc/self/fd/9".to_owned());
    refused(|case| case.image.working_dir = "../../etc".to_owned());
    refused(|case| case.image.working_dir = "/a\0".to_owned());
    refused(|case| case.image.env = strings(&["*"]));
    refused(|case| case.image.entrypoint = strings(&["/bin/\0sh"]));
}
