//! What a container may not do: capabilities, seccomp, privileges, read-only and masked paths.

use cri_api::v1::{ContainerState, security_profile::ProfileType};
use it::Scenario;
use serde_json::json;
use testkit::{ContainerSpec, pod};
use tonic::Code;

it::tests!("isolation":
    capabilities_begin_with_the_usual_ones,
    capabilities_are_added_and_dropped,
    a_user_has_no_capabilities,
    unknown_capabilities_are_refused,
    commands_have_the_containers_capabilities,
    no_profile_is_unconfined,
    the_default_profile_filters,
    a_profile_of_the_node,
    a_profile_that_cannot_be_used_is_refused,
    commands_have_the_containers_profile,
    no_new_privileges,
    privileged_needs_a_privileged_pod,
    privileged_is_unconfined_within_the_node,
    a_read_only_root,
    the_image_is_never_written,
    masked_paths,
    read_only_paths,
    proc_and_sys_are_those_of_the_pod,
    devices_are_the_usual_ones,
    the_root_of_a_container_is_not_the_nodes,
);

async fn status_line(t: &Scenario, pod: &str, spec: ContainerSpec, field: &str) -> String {
    let grep = format!("grep ^{field}: /proc/self/status | cut -f 2");
    t.output(pod, spec.script(&grep)).await
}

/// The 14 that containers usually have; `capabilities(7)` numbers them.
const USUAL: u64 = bits(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31]);
const NET_ADMIN: u64 = bits(&[12]);
const CHOWN: u64 = bits(&[0]);
const NET_BIND_SERVICE: u64 = bits(&[10]);

const fn bits(numbers: &[u64]) -> u64 {
    let (mut set, mut index) = (0, 0);
    while index < numbers.len() {
        set |= 1 << numbers[index];
        index += 1;
    }
    set
}

fn parse(hexadecimal: &str) -> u64 {
    u64::from_str_radix(hexadecimal, 16).expect(hexadecimal)
}

async fn capabilities_begin_with_the_usual_ones(t: &mut Scenario) {
    let pod = t.run_pod().await;
    for (field, expected) in
        [("CapEff", USUAL), ("CapPrm", USUAL), ("CapBnd", USUAL), ("CapInh", 0), ("CapAmb", 0)]
    {
        let spec = t.busybox(&field.to_lowercase());
        assert_eq!(parse(&status_line(t, &pod, spec, field).await), expected, "{field}");
    }
}

async fn capabilities_are_added_and_dropped(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let cases: [(&[&str], &[&str], u64); 6] = [
        (&["NET_ADMIN"], &[], USUAL | NET_ADMIN),
        (&["cap_net_admin"], &[], USUAL | NET_ADMIN),
        (&[], &["CHOWN"], USUAL & !CHOWN),
        (&[], &["ALL"], 0),
        (&["NET_BIND_SERVICE"], &["ALL"], NET_BIND_SERVICE),
        (&["CHOWN"], &["CHOWN"], USUAL & !CHOWN),
    ];
    for (index, (add, drop, expected)) in cases.into_iter().enumerate() {
        let spec = t.busybox(&format!("c{index}")).capabilities(add, drop);
        let effective = parse(&status_line(t, &pod, spec, "CapEff").await);
        assert_eq!(effective, expected, "add {add:?}, drop {drop:?}");
    }
    let all = t.busybox("all").capabilities(&["ALL"], &["NET_ADMIN"]);
    let effective = parse(&status_line(t, &pod, all, "CapEff").await);
    assert_eq!(effective & (NET_ADMIN | USUAL), USUAL);
    assert!(effective.count_ones() > 35, "{effective:x}");
}

async fn a_user_has_no_capabilities(t: &mut Scenario) {
    let pod = t.run_pod().await;
    assert_eq!(parse(&status_line(t, &pod, t.busybox("a").user(1000), "CapEff").await), 0);
}

async fn unknown_capabilities_are_refused(t: &mut Scenario) {
    let pod = t.run_pod().await;
    for bad in ["NO_SUCH", "", "NET_ADMIN\n", "CAP_CAP_CHOWN"] {
        t.refused(&pod, t.sleeper("a").capabilities(&[bad], &[]), Code::InvalidArgument).await;
        t.refused(&pod, t.sleeper("a").capabilities(&[], &[bad]), Code::InvalidArgument).await;
    }
    assert_eq!(t.containers(&pod).await, []);
}

async fn commands_have_the_containers_capabilities(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a").capabilities(&[], &["ALL"])).await;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let line = t.exec(&id, &format!("grep ^{set}: /proc/self/status | cut -f 2")).await;
        assert_eq!(parse(&line), 0, "{set}");
    }
}

async fn no_profile_is_unconfined(t: &mut Scenario) {
    let pod = t.run_pod().await;
    assert_eq!(status_line(t, &pod, t.busybox("nil"), "Seccomp").await, "0");
    let unconfined = t.busybox("unconfined").seccomp(ProfileType::Unconfined, "");
    assert_eq!(status_line(t, &pod, unconfined, "Seccomp").await, "0");
}

async fn the_default_profile_filters(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let spec = |name| t.busybox(name).seccomp(ProfileType::RuntimeDefault, "");
    assert_eq!(status_line(t, &pod, spec("mode"), "Seccomp").await, "2");
    // A user namespace of one's own is the door to most of the kernel.
    let nested =
        "unshare -U true 2>/dev/null && echo made || echo refused; echo usual > /tmp/x; cat /tmp/x";
    assert_eq!(t.output(&pod, spec("unshare").script(nested)).await, "refused\nusual");
    assert_eq!(t.output(&pod, t.busybox("open").script(nested)).await, "made\nusual");
}

/// Lets everything through but `mkdir`.
fn without_mkdir() -> Vec<u8> {
    let rule = json!({
        "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
    });
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }).to_string().into_bytes()
}

async fn a_profile_of_the_node(t: &mut Scenario) {
    let profile = t.volume("seccomp").join("profile.json");
    t.instance().write(&profile, &without_mkdir());
    let pod = t.run_pod().await;
    let spec = t.busybox("a").seccomp(ProfileType::Localhost, profile.to_str().expect("UTF-8"));
    let script = "mkdir /x 2>&1; echo $?; ls / > /dev/null; echo $?";
    let shown = t.output(&pod, spec.script(script)).await;
    assert!(shown.ends_with("Operation not permitted\n1\n0"), "{shown}");
}

/// Fails closed: what cannot be loaded is never unconfined.
async fn a_profile_that_cannot_be_used_is_refused(t: &mut Scenario) {
    let directory = t.volume("seccomp");
    let unknown_action = br#"{"defaultAction":"SCMP_ACT_NONSENSE"}"#;
    let unknown_call = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir"],"action":"SCMP_ACT_NONSENSE"}]}"#;
    let truncated = &without_mkdir()[..40];
    let contents: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("text", b"no profile"),
        ("truncated", truncated),
        ("action", unknown_action),
        ("call", unknown_call),
    ];
    let pod = t.run_pod().await;
    let mut paths = vec![String::new(), "relative.json".to_owned(), "/no/such/file".to_owned()];
    paths.push(directory.to_str().expect("UTF-8").to_owned());
    for (name, content) in contents {
        let path = directory.join(name);
        t.instance().write(&path, content);
        paths.push(path.to_str().expect("UTF-8").to_owned());
    }
    for path in paths {
        let status =
            t.try_create(&pod, t.sleeper("a").seccomp(ProfileType::Localhost, &path)).await;
        let code = status.expect_err(&path).code();
        assert!(
            matches!(code, Code::InvalidArgument | Code::FailedPrecondition),
            "{path}: {code:?}"
        );
    }
    assert_eq!(t.containers(&pod).await, []);
}

async fn commands_have_the_containers_profile(t: &mut Scenario) {
    let profile = t.volume("seccomp").join("profile.json");
    t.instance().write(&profile, &without_mkdir());
    let pod = t.run_pod().await;
    let path = profile.to_str().expect("UTF-8");
    let id = t.launch(&pod, t.sleeper("a").seccomp(ProfileType::Localhost, path)).await;
    let script =
        "grep ^Seccomp: /proc/self/status | cut -f 2; mkdir /x 2>/dev/null || echo refused";
    assert_eq!(t.exec(&id, script).await, "2\nrefused");
}

async fn no_new_privileges(t: &mut Scenario) {
    let pod = t.run_pod().await;
    for (name, asked, expected) in [("yes", true, "1"), ("no", false, "0")] {
        let spec = t.sleeper(name).security(|security| security.no_new_privs = asked);
        let id = t.launch(&pod, spec).await;
        for process in ["1", "self"] {
            let script = format!("grep ^NoNewPrivs: /proc/{process}/status | cut -f 2");
            assert_eq!(t.exec(&id, &script).await, expected, "{name}: {process}");
        }
    }
}

fn privileged(spec: ContainerSpec) -> ContainerSpec {
    spec.security(|security| security.privileged = true)
}

async fn privileged_needs_a_privileged_pod(t: &mut Scenario) {
    let pod = t.run_pod().await;
    t.refused(&pod, privileged(t.sleeper("a")), Code::InvalidArgument).await;
}

async fn privileged_is_unconfined_within_the_node(t: &mut Scenario) {
    let pod = t.run(pod("pod").security(|security| security.privileged = true)).await;
    let spec = privileged(t.sleeper("a")).seccomp(ProfileType::RuntimeDefault, "");
    let id = t.launch(&pod, spec).await;
    let effective = t.exec(&id, "grep ^CapEff: /proc/self/status | cut -f 2").await;
    assert!(parse(&effective).count_ones() > 35, "{effective}");
    assert_eq!(t.exec(&id, "grep ^Seccomp: /proc/1/status | cut -f 2").await, "0");
    t.exec(&id, "mount -t tmpfs none /tmp && umount /tmp").await;
    let uid_map = t.exec(&id, "cat /proc/self/uid_map").await;
    let root = uid_map.split_whitespace().nth(1).expect("a mapping");
    assert_ne!(root, "0", "never more than the user has");
}

async fn a_read_only_root(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let volume = t.volume("v");
    let spec = t.sleeper("a").mount(&volume, "/v").security(|s| s.readonly_rootfs = true);
    let id = t.launch(&pod, spec).await;
    let script = "for f in /x /etc/x /tmp/x /v/x /dev/shm/x; do \
                  if (: > $f) 2>/dev/null; then echo $f; fi; done";
    assert_eq!(t.exec(&id, script).await, "/v/x\n/dev/shm/x");
}

async fn the_image_is_never_written(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let change = "rm /bin/ls; echo hacked > /etc/passwd; echo x > /x";
    t.output(&pod, t.busybox("first").script(change)).await;
    let look = "ls -d /bin/ls; head -n 1 /etc/passwd; cat /x 2>/dev/null || true";
    let seen = t.output(&pod, t.busybox("second").script(look)).await;
    assert_eq!(seen, "/bin/ls\nroot:x:0:0:root:/root:/bin/sh");
}

async fn masked_paths(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let masked = ["/etc/passwd", "/home", "/no/such/path"];
    let spec = t.sleeper("a").security(|security| {
        security.masked_paths = masked.map(str::to_owned).to_vec();
    });
    let id = t.launch(&pod, spec).await;
    assert_eq!(t.exec(&id, "cat /etc/passwd; ls /home").await, "");
    assert_eq!(
        t.exec(&id, "stat -L -c '%F %t:%T' /etc/passwd").await,
        "character special file 1:3"
    );
}

async fn read_only_paths(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let spec = t.sleeper("a").security(|security| {
        security.readonly_paths = vec!["/etc".to_owned(), "/no/such/path".to_owned()];
    });
    let id = t.launch(&pod, spec).await;
    let script = "(: > /etc/x) 2>/dev/null && echo written; : > /x && echo elsewhere";
    assert_eq!(t.exec(&id, script).await, "elsewhere");
}

async fn proc_and_sys_are_those_of_the_pod(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    assert_eq!(t.exec(&id, "ls /sys/class/net").await, "lo");
    assert_eq!(t.exec(&id, "(: > /sys/kernel/x) 2>/dev/null || echo refused").await, "refused");
    assert_eq!(t.exec(&id, "stat -f -c %T /proc /sys | sort").await, "proc\nsysfs");
}

async fn devices_are_the_usual_ones(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let usual = "cd /dev && stat -L -c '%n %t:%T' full null random tty urandom zero";
    let expected = "full 1:7\nnull 1:3\nrandom 1:8\ntty 5:0\nurandom 1:9\nzero 1:5";
    assert_eq!(t.exec(&id, usual).await, expected);
    assert_eq!(t.exec(&id, "mknod /x b 8 0 2>/dev/null || echo refused").await, "refused");
    assert_eq!(t.exec(&id, "head -c 4 /dev/zero | wc -c; echo x > /dev/null").await, "4");
}

async fn the_root_of_a_container_is_not_the_nodes(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let up = "cd /../../../..; pwd; ls -a / | tr '\\n' ' '";
    let seen = t.exec(&id, up).await;
    assert!(seen.starts_with("/\n"), "{seen}");
    assert!(!seen.contains("usnea") && !seen.contains("boot"), "{seen}");
    let mounts = t.exec(&id, "cat /proc/self/mountinfo").await;
    let run = t.instance().runtime_directory();
    assert!(!mounts.contains(&format!(" {} ", run.display())), "{mounts}");
    assert_eq!(t.status(&id).await.state(), ContainerState::ContainerRunning);
}
