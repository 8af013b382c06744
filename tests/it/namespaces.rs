//! What the containers of a pod share and what they do not.

use cri_api::v1::{NamespaceMode, UserNamespace};
use it::Scenario;
use testkit::{pod, processes::NAMESPACES};
use tonic::Code;

it::tests!("namespaces":
    containers_of_a_pod_share_network_ipc_and_host_name,
    containers_of_a_pod_share_volumes_and_shared_memory,
    pods_share_nothing,
    a_pod_has_a_loopback_interface,
    containers_reach_each_other_by_loopback,
    pid_container,
    pid_pod,
    pid_pod_when_nothing_is_asked,
    pid_node,
    pid_target,
    network_node,
    ipc_node,
    modes_come_back_in_the_status,
    host_names,
    hosts_file,
    resolv_conf,
    sysctls,
    sysctls_of_the_node_are_refused,
);

async fn links(t: &Scenario, id: &str) -> Vec<String> {
    let kinds = NAMESPACES.join(" ");
    let script = format!("cd /proc/self/ns && for kind in {kinds}; do readlink $kind; done");
    t.exec(id, &script).await.lines().map(str::to_owned).collect()
}

/// Kinds of namespaces that the two containers share.
async fn shared(t: &Scenario, a: &str, b: &str) -> Vec<&'static str> {
    let (a, b) = (links(t, a).await, links(t, b).await);
    let pairs = NAMESPACES.into_iter().zip(a.into_iter().zip(b));
    pairs.filter(|(_, (a, b))| a == b).map(|(kind, _)| kind).collect()
}

async fn containers_of_a_pod_share_network_ipc_and_host_name(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let a = t.launch(&pod, t.sleeper("a")).await;
    let b = t.launch(&pod, t.sleeper("b")).await;
    let shared = shared(t, &a, &b).await;
    for kind in ["ipc", "net", "uts", "user"] {
        assert!(shared.contains(&kind), "{kind}: {shared:?}");
    }
    for kind in ["mnt", "pid"] {
        assert!(!shared.contains(&kind), "{kind}: {shared:?}");
    }
}

async fn containers_of_a_pod_share_volumes_and_shared_memory(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let a = t.launch(&pod, t.sleeper("a").mount(&volume, "/mine")).await;
    let b = t.launch(&pod, t.sleeper("b").mount(&volume, "/yours")).await;
    t.exec(&a, "echo one > /mine/file; echo two > /dev/shm/file; echo three > /tmp/file").await;
    assert_eq!(t.exec(&b, "cat /yours/file /dev/shm/file; ls /tmp").await, "one\ntwo");
    assert_eq!(t.exec(&b, "stat -f -c %T /dev/shm; stat -c %a /dev/shm").await, "tmpfs\n1777");
}

async fn pods_share_nothing(t: &mut Scenario) {
    let (first, second) = (t.run(pod("first")).await, t.run(pod("second")).await);
    let a = t.launch(&first, t.sleeper("a")).await;
    let b = t.launch(&second, t.sleeper("a")).await;
    let shared = shared(t, &a, &b).await;
    for kind in ["ipc", "mnt", "net", "pid", "uts"] {
        assert!(!shared.contains(&kind), "{kind}: {shared:?}");
    }
    t.exec(&a, "echo x > /dev/shm/file").await;
    assert_eq!(t.exec(&b, "ls /dev/shm").await, "");
}

async fn a_pod_has_a_loopback_interface(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let shown = t.output(&pod, t.busybox("a").command(&["ifconfig", "lo"])).await;
    assert!(shown.contains("UP LOOPBACK RUNNING"), "{shown}");
    assert!(shown.contains("127.0.0.1"), "{shown}");
}

async fn containers_reach_each_other_by_loopback(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let serve = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www";
    t.launch(&pod, t.busybox("server").script(serve)).await;
    let client = t.launch(&pod, t.sleeper("client")).await;
    let fetched = t.eventually("the server answers", async |t| {
        let fetch = ["wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html"];
        let executed = t.try_exec(&client, &fetch, 10).await.expect("ExecSync");
        (executed.code == 0).then_some(executed.stdout)
    });
    assert_eq!(fetched.await, "hello");
}

async fn pid_container(t: &mut Scenario) {
    let pod = t.run(pod("pod").pid(NamespaceMode::Container)).await;
    t.launch(&pod, t.sleeper("a")).await;
    let b = t.launch(&pod, t.sleeper("b")).await;
    assert_eq!(t.exec(&b, "cat /proc/1/comm").await, "sleep");
    assert_eq!(t.exec(&b, "grep -l ^sleep /proc/[0-9]*/cmdline").await, "/proc/1/cmdline");
}

async fn pid_pod(t: &mut Scenario) {
    let pod = t.run(pod("pod").pid(NamespaceMode::Pod)).await;
    let a = t.launch(&pod, t.sleeper("a")).await;
    let b = t.launch(&pod, t.sleeper("b")).await;
    assert_ne!(t.exec(&b, "cat /proc/1/comm").await, "sleep", "PID 1 is the pod's own");
    assert_eq!(t.exec(&b, "grep -l ^sleep /proc/[0-9]*/cmdline | wc -l").await, "2");
    assert!(shared(t, &a, &b).await.contains(&"pid"));
    t.stop(&a, 0).await;
    assert_eq!(t.exec(&b, "grep -l ^sleep /proc/[0-9]*/cmdline | wc -l").await, "1");
}

/// Without `namespace_options` every namespace is the pod's, also the PID namespace.
async fn pid_pod_when_nothing_is_asked(t: &mut Scenario) {
    let pod = t.run(pod("pod").with(|config| config.linux = None)).await;
    let a = t.launch(&pod, t.sleeper("a")).await;
    let b = t.launch(&pod, t.sleeper("b")).await;
    assert!(shared(t, &a, &b).await.contains(&"pid"));
}

async fn pid_node(t: &mut Scenario) {
    let pod = t.run(pod("pod").pid(NamespaceMode::Node)).await;
    let spec = t.sleeper("a").namespaces(|options| options.pid = NamespaceMode::Node.into());
    let id = t.launch(&pod, spec).await;
    let seen = t.exec(&id, "readlink /proc/self/ns/pid").await;
    assert_eq!(Some(seen), t.instance().daemon().namespace("pid"));
}

async fn pid_target(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let target = t.launch(&pod, t.sleeper("target")).await;
    let aim = |target: String| {
        t.sleeper("debugger").namespaces(|options| {
            options.pid = NamespaceMode::Target.into();
            options.target_id = target;
        })
    };
    let debugger = t.launch(&pod, aim(target.clone())).await;
    assert!(shared(t, &target, &debugger).await.contains(&"pid"));
    assert_eq!(t.exec(&debugger, "cat /proc/1/comm").await, "sleep");
    t.stop(&target, 0).await;
    t.exited(&debugger).await;
    let late = aim(target).attempt(1);
    t.refused(&pod, late, Code::FailedPrecondition).await;
}

async fn network_node(t: &mut Scenario) {
    let pod = t.run(pod("pod").network(NamespaceMode::Node)).await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let seen = t.exec(&id, "readlink /proc/self/ns/net").await;
    assert_eq!(Some(seen), t.instance().daemon().namespace("net"));
    let network = t.pod_status(&pod).await.network.expect("network");
    assert_eq!(network.ip, "");
}

async fn ipc_node(t: &mut Scenario) {
    let pod =
        t.run(pod("pod").namespaces(|options| options.ipc = NamespaceMode::Node.into())).await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let seen = t.exec(&id, "readlink /proc/self/ns/ipc").await;
    assert_eq!(Some(seen), t.instance().daemon().namespace("ipc"));
}

async fn modes_come_back_in_the_status(t: &mut Scenario) {
    let spec = pod("pod").network(NamespaceMode::Node).namespaces(|options| {
        let mode = NamespaceMode::Node.into();
        options.userns_options = Some(UserNamespace { mode, ..UserNamespace::default() });
    });
    let asked = t.placed(spec.clone()).linux.and_then(|linux| linux.security_context);
    let pod = t.run(spec).await;
    let status = t.pod_status(&pod).await;
    let shown = status.linux.and_then(|linux| linux.namespaces);
    assert_eq!(
        shown.and_then(|namespace| namespace.options),
        asked.and_then(|s| s.namespace_options)
    );
}

async fn host_names(t: &mut Scenario) {
    let pod = t.run(pod("pod").hostname("web-0")).await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    assert_eq!(t.exec(&id, "hostname; cat /etc/hostname").await, "web-0\nweb-0");
    let nameless = t.run(testkit::pod("nameless")).await;
    let id = t.launch(&nameless, t.sleeper("a")).await;
    assert_eq!(t.exec(&id, "hostname").await, nameless[..12]);
}

async fn hosts_file(t: &mut Scenario) {
    let pod = t.run(pod("pod").hostname("web-0")).await;
    let hosts = t.output(&pod, t.busybox("a").command(&["cat", "/etc/hosts"])).await;
    assert!(hosts.contains("127.0.0.1\tlocalhost"), "{hosts}");
    assert!(hosts.contains("web-0"), "{hosts}");
}

async fn resolv_conf(t: &mut Scenario) {
    let spec = pod("pod").dns(&["10.0.0.10"], &["svc.local", "local"], &["ndots:5"]);
    let pod = t.run(spec).await;
    let shown = t.output(&pod, t.busybox("a").command(&["cat", "/etc/resolv.conf"])).await;
    assert_eq!(shown, "nameserver 10.0.0.10\nsearch svc.local local\noptions ndots:5");
}

async fn sysctls(t: &mut Scenario) {
    let spec = pod("pod")
        .sysctl("net.core.somaxconn", "1234")
        .sysctl("kernel.shm_rmid_forced", "1")
        .sysctl("net/ipv4/ip_local_port_range", "20000 30000");
    let pod = t.run(spec).await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let read = "cd /proc/sys; cat net/core/somaxconn kernel/shm_rmid_forced \
                net/ipv4/ip_local_port_range net/ipv4/ip_unprivileged_port_start";
    assert_eq!(t.exec(&id, read).await, "1234\n1\n20000\t30000\n0");
}

async fn sysctls_of_the_node_are_refused(t: &mut Scenario) {
    let node = || pod("pod").network(NamespaceMode::Node);
    for spec in [
        pod("pod").sysctl("kernel.core_pattern", "|x"),
        pod("pod").sysctl("vm.overcommit_memory", "1"),
        pod("pod").sysctl("net.core.somaxconn", "1\nkernel.core_pattern=|x"),
        node().sysctl("net.core.somaxconn", "1"),
    ] {
        let what = format!("{:?}", spec.config.linux);
        let status = t.try_run(spec).await.expect_err(&what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}");
    }
    assert_eq!(t.pods().await, []);
}
