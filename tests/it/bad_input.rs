//! Bad requests: each gets a status code, none leaves anything behind, and the daemon goes on answering.

use std::time::Duration;

use cri_api::v1::{
    CdiDevice, ContainerConfig, ContainerStatusRequest, CreateContainerRequest, Device,
    HugepageLimit, IdMapping, Mount, NamespaceMode, PodSandboxConfig, PodSandboxStatusRequest,
    PortMapping, Protocol, RemoveContainerRequest, RemovePodSandboxRequest,
    ReopenContainerLogRequest, RunPodSandboxRequest, StartContainerRequest, StopContainerRequest,
    StopPodSandboxRequest, UserNamespace, VersionRequest,
};
use it::Scenario;
use testkit::{ContainerSpec, PodSpec, pod};
use tonic::{Code, Status};

it::tests!("bad_input":
    ids_that_are_none,
    empty_requests,
    pod_names,
    pod_fields,
    pod_user_namespaces,
    container_names,
    container_paths,
    container_fields,
    container_resources,
    container_namespaces,
    too_many_arguments,
    huge_messages,
    hundreds_of_requests_for_one_name,
    annotations_steer_nothing,
);

const INVALID: Code = Code::InvalidArgument;
const REFUSED: Code = Code::FailedPrecondition;
/// The kubelet calls a runtime down that is silent for longer than that.
const SILENCE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(50);

async fn still_answers(t: &Scenario) {
    let mut cri = t.cri.clone();
    let answer = cri.runtime.version(VersionRequest::default());
    tokio::time::timeout(SILENCE, answer).await.expect("in time").expect("Version");
}

type PodCase = (&'static str, Box<dyn Fn(PodSpec) -> PodSpec>, Code);
type ContainerCase = (&'static str, Box<dyn Fn(ContainerSpec) -> ContainerSpec>, Code);

fn pod_case(
    what: &'static str,
    code: Code,
    change: impl Fn(&mut PodSandboxConfig) + 'static,
) -> PodCase {
    (what, Box::new(move |spec: PodSpec| spec.with(|config| change(config))), code)
}

fn case(
    what: &'static str,
    code: Code,
    change: impl Fn(&mut ContainerConfig) + 'static,
) -> ContainerCase {
    (what, Box::new(move |spec: ContainerSpec| spec.with(|config| change(config))), code)
}

async fn pods_are_refused(t: &mut Scenario, cases: Vec<PodCase>) {
    for (what, change, code) in cases {
        let status = t.try_run(change(pod("pod"))).await.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {status:?}");
        assert_short(what, &status);
    }
    assert_eq!(t.pods().await, []);
    still_answers(t).await;
    let good = t.run(pod("pod")).await;
    t.remove_pod(&good).await;
}

async fn containers_are_refused(t: &mut Scenario, cases: Vec<ContainerCase>) {
    let pod = t.run_pod().await;
    for (what, change, code) in cases {
        let status = t.try_create(&pod, change(t.sleeper("a"))).await.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {status:?}");
        assert_short(what, &status);
    }
    assert_eq!(t.containers(&pod).await, []);
    still_answers(t).await;
    t.launch(&pod, t.sleeper("a")).await;
}

/// Messages become events; a request must not be able to fill them.
fn assert_short(what: &str, status: &Status) {
    assert!(status.message().len() <= 2048, "{what}: {} bytes", status.message().len());
    assert_ne!(status.message(), "", "{what}");
}

async fn ids_that_are_none(t: &mut Scenario) {
    let long = "a".repeat(10_000);
    for id in ["", ".", "..", "../../etc/passwd", "/", "a/b", "a\0b", "a\nb", "ä", &long] {
        let id = || id.to_owned();
        let runtime = &mut t.cri.runtime;
        let verbose = false;
        let (timeout, cmd) = (1, vec!["true".to_owned()]);
        let start = StartContainerRequest { container_id: id() };
        let stop = StopContainerRequest { container_id: id(), timeout };
        let remove = RemoveContainerRequest { container_id: id() };
        let status = ContainerStatusRequest { container_id: id(), verbose };
        let reopen = ReopenContainerLogRequest { container_id: id() };
        let exec = cri_api::v1::ExecSyncRequest { container_id: id(), cmd, timeout };
        let stop_pod = StopPodSandboxRequest { pod_sandbox_id: id() };
        let remove_pod = RemovePodSandboxRequest { pod_sandbox_id: id() };
        let pod_status = PodSandboxStatusRequest { pod_sandbox_id: id(), verbose };
        let answers = [
            runtime.start_container(start).await.err(),
            runtime.stop_container(stop).await.err(),
            runtime.remove_container(remove).await.err(),
            runtime.container_status(status).await.err(),
            runtime.reopen_container_log(reopen).await.err(),
            runtime.exec_sync(exec).await.err(),
            runtime.stop_pod_sandbox(stop_pod).await.err(),
            runtime.remove_pod_sandbox(remove_pod).await.err(),
            runtime.pod_sandbox_status(pod_status).await.err(),
            t.try_create(&id(), t.sleeper("a")).await.err(),
        ];
        for (index, answer) in answers.into_iter().enumerate() {
            let status = answer.unwrap_or_else(|| panic!("call {index} took {:?}", id()));
            assert_eq!(status.code(), INVALID, "call {index}, {:.20?}: {status:?}", id());
            assert_short("id", &status);
        }
    }
    still_answers(t).await;
}

async fn empty_requests(t: &mut Scenario) {
    let runtime = &mut t.cri.runtime;
    let run = runtime.run_pod_sandbox(RunPodSandboxRequest::default()).await;
    assert_eq!(run.expect_err("empty").code(), INVALID);
    let create = runtime.create_container(CreateContainerRequest::default()).await;
    assert_eq!(create.expect_err("empty").code(), INVALID);
    let pod = t.run_pod().await;
    let request = CreateContainerRequest { pod_sandbox_id: pod, ..Default::default() };
    let create = t.cri.runtime.create_container(request).await;
    assert_eq!(create.expect_err("without config").code(), INVALID);
    let handler = RunPodSandboxRequest {
        config: Some(t.placed(testkit::pod("handler"))),
        runtime_handler: "runc".to_owned(),
    };
    let run = t.cri.runtime.run_pod_sandbox(handler).await;
    assert_eq!(run.expect_err("unknown handler").code(), INVALID);
}

async fn pod_names(t: &mut Scenario) {
    let mut cases = vec![pod_case("no metadata", INVALID, |config| config.metadata = None)];
    for bad in ["", ".", "..", "a/b", "a\0", "a\nb"] {
        cases.push(pod_case("name", INVALID, move |c| {
            bad.clone_into(&mut c.metadata.get_or_insert_default().name);
        }));
        cases.push(pod_case("uid", INVALID, move |c| {
            bad.clone_into(&mut c.metadata.get_or_insert_default().uid);
        }));
    }
    cases.push(pod_case("long name", INVALID, |c| {
        c.metadata.get_or_insert_default().name = "a".repeat(10_000);
    }));
    pods_are_refused(t, cases).await;
    for bad in ["", "..", "a/b", "a\0", "a\nb"] {
        let mut config = t.placed(pod("pod"));
        bad.clone_into(&mut config.metadata.get_or_insert_default().namespace);
        let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let answer = t.cri.runtime.run_pod_sandbox(request).await;
        assert_eq!(answer.expect_err("namespace").code(), INVALID, "{bad:?}");
    }
}

fn port(host_port: i32, container_port: i32) -> PortMapping {
    PortMapping { host_port, container_port, ..PortMapping::default() }
}

async fn pod_fields(t: &mut Scenario) {
    let linux = |config: &mut PodSandboxConfig| config.linux.get_or_insert_default().clone();
    let parent = move |config: &mut PodSandboxConfig, path: &str| {
        let mut changed = linux(config);
        path.clone_into(&mut changed.cgroup_parent);
        config.linux = Some(changed);
    };
    let dns = |servers: &[&str], searches: &[&str]| {
        let strings = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect();
        let (servers, searches) = (strings(servers), strings(searches));
        Some(cri_api::v1::DnsConfig { servers, searches, options: Vec::new() })
    };
    let cases = vec![
        pod_case("long hostname", INVALID, |c| c.hostname = "a".repeat(65)),
        pod_case("hostname with dots only", INVALID, |c| c.hostname = "..".to_owned()),
        pod_case("hostname of two lines", INVALID, |c| c.hostname = "a\nb".to_owned()),
        pod_case("relative logs", INVALID, |c| c.log_directory = "logs".to_owned()),
        pod_case("NUL in logs", INVALID, |c| c.log_directory = "/tmp/a\0".to_owned()),
        pod_case("cgroup parent leaves", INVALID, move |c| parent(c, "/a/../../b")),
        pod_case("cgroup parent is a slice", INVALID, move |c| parent(c, "user.slice")),
        pod_case("DNS server is no address", INVALID, move |c| c.dns_config = dns(&["dns"], &[])),
        pod_case("DNS search has two lines", INVALID, move |c| {
            c.dns_config = dns(&[], &["a\nnameserver 1.1.1.1"]);
        }),
        pod_case("negative host port", INVALID, |c| c.port_mappings = vec![port(-1, 80)]),
        pod_case("big host port", INVALID, |c| c.port_mappings = vec![port(65_536, 80)]),
        pod_case("big container port", INVALID, |c| c.port_mappings = vec![port(8080, 70_000)]),
        pod_case("twice the same port", INVALID, |c| {
            c.port_mappings = vec![port(8080, 80), port(8080, 81)];
        }),
        pod_case("bad host address", INVALID, |c| {
            let host_ip = "everywhere".to_owned();
            c.port_mappings = vec![PortMapping { host_ip, ..port(8080, 80) }];
        }),
        pod_case("SCTP on the host", INVALID, |c| {
            c.port_mappings =
                vec![PortMapping { protocol: Protocol::Sctp.into(), ..port(1234, 80) }];
        }),
        pod_case("unknown protocol", INVALID, |c| {
            c.port_mappings = vec![PortMapping { protocol: 99, ..port(1234, 80) }];
        }),
    ];
    pods_are_refused(t, cases).await;
    let modes = [
        pod("pod").network(NamespaceMode::Container),
        pod("pod").network(NamespaceMode::Target),
        pod("pod").namespaces(|options| options.ipc = NamespaceMode::Container.into()),
        pod("pod").pid(NamespaceMode::Target),
        pod("pod").namespaces(|options| options.pid = 77),
    ];
    for spec in modes {
        let what = format!("{:?}", spec.config.linux);
        let status = t.try_run(spec).await.expect_err(&what);
        assert_eq!(status.code(), INVALID, "{what}: {status:?}");
    }
    assert_eq!(t.pods().await, []);
}

async fn pod_user_namespaces(t: &mut Scenario) {
    let mapping = |host_id, container_id, length| IdMapping { host_id, container_id, length };
    let good = mapping(1000, 0, 100);
    let cases = [
        vec![],
        vec![good, mapping(2000, 100, 100)],
        vec![mapping(1000, 0, 0)],
        vec![mapping(1000, 1, 100)],
        vec![mapping(u32::MAX, 0, 100)],
        vec![mapping(0, 0, 100)],
    ];
    for uids in cases {
        let what = format!("{uids:?}");
        let spec = pod("pod").namespaces(|options| {
            let gids = uids.clone();
            let mode = NamespaceMode::Pod.into();
            options.userns_options = Some(UserNamespace { mode, uids, gids });
        });
        let status = t.try_run(spec).await.expect_err(&what);
        assert!(matches!(status.code(), INVALID | REFUSED), "{what}: {status:?}");
    }
    for mode in [NamespaceMode::Container, NamespaceMode::Target] {
        let spec = pod("pod").namespaces(|options| {
            let mode = mode.into();
            options.userns_options =
                Some(UserNamespace { mode, uids: vec![good], gids: vec![good] });
        });
        assert_eq!(t.try_run(spec).await.expect_err("mode").code(), INVALID, "{mode:?}");
    }
    assert_eq!(t.pods().await, []);
}

async fn container_names(t: &mut Scenario) {
    let mut cases = vec![case("no metadata", INVALID, |config| config.metadata = None)];
    for bad in ["", ".", "..", "a/b", "a\0", "a\nb"] {
        cases.push(case("name", INVALID, move |c| {
            bad.clone_into(&mut c.metadata.get_or_insert_default().name);
        }));
    }
    cases.push(case("no image", INVALID, |config| config.image = None));
    containers_are_refused(t, cases).await;
}

fn mount(host_path: &str, container_path: &str) -> Mount {
    let (host_path, container_path) = (host_path.to_owned(), container_path.to_owned());
    Mount { host_path, container_path, ..Mount::default() }
}

async fn container_paths(t: &mut Scenario) {
    let mut cases = Vec::new();
    for bad in ["../x", "/var/log/x", "a/../../x", "a\0", "a\nb", "."] {
        cases.push(case("log path", INVALID, move |c| c.log_path = bad.to_owned()));
    }
    for bad in ["", "relative", "/", "/..", "/proc", "/proc/sys", "/x/../proc/self", "/a\0"] {
        cases.push(case("container path", INVALID, move |c| c.mounts = vec![mount("/etc", bad)]));
    }
    for bad in ["", "relative", "a\0"] {
        cases.push(case("host path", INVALID, move |c| c.mounts = vec![mount(bad, "/x")]));
    }
    cases.push(case("twice the same target", INVALID, |c| {
        c.mounts = vec![mount("/etc", "/x"), mount("/usr", "/x/")];
    }));
    cases.push(case("unknown propagation", INVALID, |c| {
        c.mounts = vec![Mount { propagation: 9, ..mount("/etc", "/x") }];
    }));
    cases.push(case("relative working directory", INVALID, |c| c.working_dir = "tmp".to_owned()));
    cases.push(case("NUL in the working directory", INVALID, |c| c.working_dir = "/\0".to_owned()));
    for descriptor in ["/proc/self/fd/3", "/proc/self/fd/9", "/proc/1/fd/5"] {
        cases.push(case("working directory is a descriptor", INVALID, move |c| {
            c.working_dir = descriptor.to_owned();
        }));
    }
    containers_are_refused(t, cases).await;
}

fn env(key: &str, value: &[u8]) -> Vec<cri_api::v1::KeyValue> {
    vec![cri_api::v1::KeyValue { key: key.to_owned(), value: value.to_vec() }]
}

async fn container_fields(t: &mut Scenario) {
    let device = || Device {
        container_path: "/dev/x".to_owned(),
        host_path: "/dev/null".to_owned(),
        permissions: "rwm".to_owned(),
    };
    let cases = vec![
        case("empty program", INVALID, |c| c.command = vec![String::new()]),
        case("NUL in argv", INVALID, |c| c.command = vec!["a\0b".to_owned()]),
        case("NUL in args", INVALID, |c| c.args = vec!["a\0b".to_owned()]),
        case("empty key", INVALID, |c| c.envs = env("", b"x")),
        case("key with =", INVALID, |c| c.envs = env("A=B", b"x")),
        case("NUL in a key", INVALID, |c| c.envs = env("A\0", b"x")),
        case("NUL in a value", INVALID, |c| c.envs = env("A", b"a\0b")),
        case("HOME of two lines", INVALID, |c| c.envs = env("HOME", b"/\nroot::0:0::/:/bin/sh")),
        case("unknown signal", INVALID, |c| c.stop_signal = 4711),
        case("host device", REFUSED, move |c| c.devices = vec![device()]),
        case("CDI device", REFUSED, |c| {
            c.cdi_devices = vec![CdiDevice { name: "vendor.com/x=y".to_owned() }];
        }),
        case("another runtime handler", INVALID, |c| {
            c.image.get_or_insert_default().runtime_handler = "other".to_owned();
        }),
    ];
    containers_are_refused(t, cases).await;
}

async fn container_resources(t: &mut Scenario) {
    fn limit(
        what: &'static str,
        code: Code,
        change: impl Fn(&mut cri_api::v1::LinuxContainerResources) + 'static,
    ) -> ContainerCase {
        case(what, code, move |config| {
            change(config.linux.get_or_insert_default().resources.get_or_insert_default());
        })
    }
    let unified = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let cases = vec![
        limit("quota", INVALID, |r| r.cpu_quota = -2),
        limit("small quota", INVALID, |r| r.cpu_quota = 1),
        limit("period", INVALID, |r| (r.cpu_period, r.cpu_quota) = (10, 5000)),
        limit("shares", INVALID, |r| r.cpu_shares = i64::MIN),
        limit("memory", INVALID, |r| r.memory_limit_in_bytes = -2),
        limit("swap below memory", INVALID, |r| {
            (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (1 << 30, 1 << 20);
        }),
        limit("high oom_score_adj", INVALID, |r| r.oom_score_adj = 1001),
        limit("low oom_score_adj", INVALID, |r| r.oom_score_adj = -1001),
        limit("cpuset", INVALID, |r| r.cpuset_cpus = "0-".to_owned()),
        limit("cpuset words", INVALID, |r| r.cpuset_cpus = "all\n".to_owned()),
        limit("page size", INVALID, |r| {
            r.hugepage_limits = vec![HugepageLimit { page_size: "../x".to_owned(), limit: 1 }];
        }),
        limit("unified path", INVALID, move |r| r.unified = unified("../memory.max", "1")),
        limit("unified core file", INVALID, move |r| r.unified = unified("cgroup.procs", "1")),
        limit("unified lines", INVALID, move |r| r.unified = unified("memory.high", "1\n2")),
    ];
    containers_are_refused(t, cases).await;
}

async fn container_namespaces(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let sleeper = t.sleeper("a");
    let target = |id: &str| {
        let id = id.to_owned();
        sleeper.clone().namespaces(move |options| {
            options.pid = NamespaceMode::Target.into();
            options.target_id = id;
        })
    };
    for (id, codes) in [
        ("", [INVALID, REFUSED]),
        ("../x", [INVALID, INVALID]),
        ("00000000deadbeef", [REFUSED, Code::NotFound]),
    ] {
        let status = t.try_create(&pod, target(id)).await.expect_err(id);
        assert!(codes.contains(&status.code()), "{id:?}: {status:?}");
    }
    let other = t.run(testkit::pod("other")).await;
    let elsewhere = t.launch(&other, t.sleeper("a")).await;
    let status = t.try_create(&pod, target(&elsewhere)).await.expect_err("another pod's");
    assert!(matches!(status.code(), INVALID | REFUSED | Code::NotFound), "{status:?}");
    assert_eq!(t.containers(&pod).await, []);
}

/// What `execve` would refuse is refused when the container is made or when it is started, never later.
async fn too_many_arguments(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let spec = t.sleeper("a").with(|config| config.args = vec!["x".repeat(100_000); 100]);
    match t.try_create(&pod, spec).await {
        Err(status) => assert!(matches!(status.code(), INVALID | REFUSED), "{status:?}"),
        Ok(id) => {
            let status = t.try_start(&id).await.expect_err("E2BIG");
            assert_eq!(status.code(), REFUSED, "{status:?}");
            t.remove(&id).await;
        }
    }
    still_answers(t).await;
    assert_eq!(t.containers(&pod).await, []);
}

async fn huge_messages(t: &mut Scenario) {
    let spec = pod("pod").label("big", &"x".repeat(17 << 20));
    let status = t.try_run(spec).await.expect_err("17 MiB");
    assert!(
        matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange),
        "{:?}",
        status.code()
    );
    t.reconnect().await;
    still_answers(t).await;
    assert_eq!(t.pods().await, []);
}

async fn hundreds_of_requests_for_one_name(t: &mut Scenario) {
    let config = t.placed(pod("pod"));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let mut cri = t.cri.clone();
        calls.spawn(async move { cri.runtime.run_pod_sandbox(request).await });
    }
    let answers = tokio::time::timeout(LIMIT, calls.join_all()).await.expect("in time");
    let mut ids: Vec<String> = Vec::new();
    for answer in answers {
        ids.push(answer.expect("the same pod for all").into_inner().pod_sandbox_id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(t.pods().await.len(), 1);
}

/// Keys that other runtimes obey.
async fn annotations_steer_nothing(t: &mut Scenario) {
    let keys = [
        ("io.kubernetes.cri-o.UnifiedCgroup.a", "memory.max=1"),
        ("io.kubernetes.cri-o.userns-mode", "auto"),
        ("org.systemd.property.TimeoutStopUSec", "1"),
        ("run.oci.keep_original_groups", "1"),
        ("run.oci.seccomp.receiver", "/x"),
        ("io.container.manager", "x"),
    ];
    let annotations = || keys.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let plain = t.run_pod().await;
    let spec = testkit::pod("annotated").with(|config| config.annotations = annotations());
    let annotated = t.run(spec).await;
    let look = "grep -E '^(Cap|Seccomp|NoNewPrivs|Groups)' /proc/self/status; ulimit -a; id; \
                cut -d ' ' -f 5- /proc/self/mountinfo | grep -v overlay | sed 's/[0-9a-f]\\{64\\}/ID/g'";
    let usual = t.output(&plain, t.busybox("a").script(look)).await;
    let spec = t.busybox("a").script(look).with(|config| config.annotations = annotations());
    assert_eq!(t.output(&annotated, spec).await, usual);
}
