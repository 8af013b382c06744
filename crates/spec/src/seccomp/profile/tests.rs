use model::CapabilityRequest;

use super::*;

fn parse(json: &str) -> Result<LinuxSeccomp, InvalidField> {
    let capabilities = CapabilityRequest::default().effective();
    parse_profile("f", json, &Conditions { capabilities: &capabilities, kernel: (6, 1) })
}

/// A profile with one rule made of these keys.
fn rule(keys: &str) -> Result<Vec<LinuxSyscall>, InvalidField> {
    let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{{keys}}}]}}"#);
    parse(&json).map(|filter| filter.syscalls().clone().expect("rules"))
}

fn kept(condition: &str) -> bool {
    let rules = rule(&format!(r#""names": ["a"], "action": "SCMP_ACT_ALLOW", {condition}"#));
    !rules.expect("a rule").is_empty()
}

#[test]
fn the_forms_that_profiles_have() {
    let filter = parse(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "comment": "", "args": null},
                {"name": "chmod", "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "errno": "EACCES"},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 255, "valueTwo": 17, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
    );
    let filter = filter.expect("a profile");
    assert_eq!(filter.default_errno_ret(), Some(38));
    assert_eq!(filter.architectures().as_deref(), Some([Arch::ScmpArchX86_64].as_slice()));
    assert_eq!(
        filter.flags().as_deref(),
        Some([LinuxSeccompFilterFlag::SeccompFilterFlagLog].as_slice())
    );
    let rules = filter.syscalls().as_ref().expect("rules");
    assert_eq!(rules[0].names().as_slice(), ["read", "write"]);
    assert_eq!((rules[1].names()[0].as_str(), rules[1].errno_ret()), ("chmod", Some(13)));
    let arg = rules[2].args().as_ref().expect("arguments")[0];
    assert_eq!((arg.index(), arg.value(), arg.value_two()), (0, 255, Some(17)));
}

#[test]
fn a_default_action_alone_is_a_profile() {
    let filter = parse(r#"{"defaultAction": "SCMP_ACT_LOG"}"#).expect("a profile");
    assert_eq!(filter.default_action(), LinuxSeccompAction::ScmpActLog);
    assert_eq!(filter.architectures(), &None);
}

#[test]
fn empty_and_broken_profiles_are_refused_r26() {
    for bad in [
        "",
        " \n",
        "null",
        "[]",
        "{}",
        "SCMP_ACT_ERRNO",
        r#"{"defaultAction": ""}"#,
        r#"{"defaultAction": "SCMP_ACT_ERRNO""#,
        r#"{"defaultAction": "SCMP_ACT_ERRNO"} trailing"#,
        r#"{"defaultAction": "SCMP_ACT_NOPE"}"#,
        r#"{"defaultAction": "scmp_act_errno"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultAction": "SCMP_ACT_ERRNO"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NOPE"]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#,
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}"#,
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": -1}"#,
    ] {
        parse(bad).expect_err(bad);
    }
    let deep = "[".repeat(100_000);
    parse(&format!(r#"{{"defaultAction": {deep}"#)).expect_err("depth bomb");
}

#[test]
fn broken_rules_are_refused() {
    for bad in [
        r#""action": "SCMP_ACT_ALLOW""#,
        r#""names": [], "action": "SCMP_ACT_ALLOW""#,
        r#""names": ["a"]"#,
        r#""names": ["a"], "name": "b", "action": "SCMP_ACT_ALLOW""#,
        r#""names": [""], "action": "SCMP_ACT_ALLOW""#,
        r#""names": ["a b"], "action": "SCMP_ACT_ALLOW""#,
        r#""names": ["a"], "action": "SCMP_ACT_DENY""#,
        r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "errnoRet": 5"#,
        r#""names": ["a"], "action": "SCMP_ACT_ERRNO", "errno": "ENOPE""#,
        r#""names": ["a"], "action": "SCMP_ACT_ERRNO", "errno": "EPERM", "errnoRet": 2"#,
        r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "arg": []"#,
        r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#,
        r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_NOPE"}]"#,
        r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]"#,
        r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_NOPE"]}"#,
        r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}"#,
        r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "excludes": {"users": []}"#,
    ] {
        rule(bad).expect_err(bad);
    }
}

#[test]
fn listeners_are_refused() {
    parse(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).expect_err("default");
    rule(r#""names": ["mount"], "action": "SCMP_ACT_NOTIFY""#).expect_err("rule");
    // Also where the rule would be dropped.
    rule(r#""names": ["a"], "action": "SCMP_ACT_NOTIFY", "includes": {"caps": ["CAP_BPF"]}"#)
        .expect_err("dropped rule");
    parse(r#"{"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/run/x.sock"}"#)
        .expect_err("listener");
}

#[test]
fn conditions_of_rules() {
    assert!(kept(r#""includes": {}"#));
    assert!(kept(r#""includes": {"caps": ["CAP_CHOWN"]}"#));
    assert!(!kept(r#""includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}"#));
    assert!(!kept(r#""excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}"#));
    assert!(kept(r#""excludes": {"caps": ["CAP_SYS_ADMIN"]}"#));
    assert!(kept(r#""includes": {"minKernel": "6.1"}, "excludes": {"minKernel": "6.2"}"#));
    assert!(!kept(r#""includes": {"minKernel": "6.2"}"#));
    let (_, own) = native().expect("tests run on a supported machine");
    assert!(kept(&format!(r#""includes": {{"arches": ["s390x", "{own}"]}}"#)));
    assert!(!kept(r#""includes": {"arches": ["s390x"]}"#));
    assert!(!kept(&format!(r#""excludes": {{"arches": ["{own}"]}}"#)));
}

#[test]
fn the_architecture_map_is_reduced_to_this_machine() {
    let architectures = |map: &str| {
        let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", {map}}}"#);
        parse(&json).map(|filter| filter.architectures().clone())
    };
    let (own, _) = native().expect("tests run on a supported machine");
    let name = own.to_string();
    let map = format!(
        r#""archMap": [{{"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]}},
                       {{"architecture": "{name}", "subArchitectures": ["SCMP_ARCH_X86"]}}]"#
    );
    assert_eq!(architectures(&map), Ok(Some(vec![own, Arch::ScmpArchX86])));
    assert_eq!(architectures(r#""archMap": [{"architecture": "SCMP_ARCH_S390X"}]"#), Ok(None));
    architectures(&format!(r#"{map}, "architectures": ["{name}"]"#)).expect_err("both");
}

#[test]
fn a_profile_is_shown_shortened() {
    let error = parse(&"x".repeat(1 << 20)).expect_err("no JSON");
    assert!(error.to_string().len() < 400, "{error}");
}
