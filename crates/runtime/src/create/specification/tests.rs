use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::*;

fn good() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {
            "cwd": "/", "args": ["/bin/true"], "env": ["HOME=/root"],
            "user": {"uid": 0, "gid": 0},
        },
        "mounts": [{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    })
}

fn spec(change: impl FnOnce(&mut Value)) -> Spec {
    let mut value = good();
    change(&mut value);
    serde_json::from_value(value).expect("spec")
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    check(&spec(change)).expect_err("must be refused").to_string()
}

#[test]
fn a_plain_specification_is_accepted() {
    check(&spec(|_| {})).expect("accepted");
    check(&spec(|v| v["process"]["noNewPrivileges"] = json!(true))).expect("accepted");
}

#[test]
fn what_libcontainer_does_wrongly_is_refused() {
    assert!(refusal(|v| v["process"]["env"] = json!(["A=1"])).contains("HOME"));
    assert!(refusal(|v| v["process"]["env"] = json!(["HOME="])).contains("HOME"));
    assert!(refusal(|v| v["process"]["args"] = json!([])).contains("process.args"));
    assert!(refusal(|v| v["process"]["noNewPrivileges"] = json!(false)).contains("leave it out"));
    assert!(refusal(|v| v["process"]["terminal"] = json!(true)).contains("terminal"));
    assert!(refusal(|v| v["mounts"] = json!([])).contains("/dev"));
    assert!(refusal(|v| v["mounts"][0]["type"] = json!("bind")).contains("/dev"));
    assert!(refusal(|v| v["linux"]["namespaces"] = json!([{"type": "pid"}])).contains("mount"));
    assert!(refusal(|v| v["linux"]["namespaces"][1] = json!({"type": "user"})).contains("user"));
    assert!(refusal(|v| v["linux"]["resources"] = json!({})).contains("resources"));
}

#[test]
fn fitting_sets_the_root_and_lowers_limits() {
    let fitted = spec(|v| {
        v["process"]["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "soft": u64::MAX, "hard": u64::MAX}]);
        v["process"]["oomScoreAdj"] = json!(-1000);
    });
    let fitted = fit(fitted, Path::new("/somewhere/rootfs")).expect("fit");
    assert_eq!(fitted.root().as_ref().expect("root").path(), Path::new("/somewhere/rootfs"));
    let process = fitted.process().as_ref().expect("process");
    let limit = process.rlimits().as_ref().expect("rlimits")[0];
    assert_eq!(limits::clamp(&limit).expect("clamp"), (limit.soft(), limit.hard()));
    assert!(limit.hard() < u64::MAX);
    let score = process.oom_score_adj().expect("score");
    assert_eq!(limits::clamp_oom_score_adj(score), score);
}

#[test]
fn masks_are_swapped_for_libcontainer() {
    let fitted = spec(|v| {
        v["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"},
                {"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"}]});
    });
    let fitted = fit(fitted, Path::new("/")).expect("fit");
    let syscalls = seccomp(&fitted).expect("seccomp").syscalls().as_ref().expect("syscalls");
    let args = syscalls[0].args().as_ref().expect("args");
    assert_eq!((args[0].value(), args[0].value_two()), (0, Some(0x7e02_0000)));
    assert_eq!((args[1].value(), args[1].value_two()), (7, None));
    assert!(syscalls[1].args().is_none());
}
