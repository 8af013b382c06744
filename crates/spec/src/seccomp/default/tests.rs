use model::CapabilityRequest;

use super::*;

fn filter(add: &[&str]) -> LinuxSeccomp {
    let add: Vec<String> = add.iter().map(|&name| name.to_owned()).collect();
    let request = CapabilityRequest::parse(&add, &[], &[]).expect("known names");
    runtime_default(&request.effective())
}

/// What becomes of a call with this first argument: 0 when it is let through, else the errno. Rules are tried in order,
/// as if each were the only one for its argument; they do not overlap.
fn errno(filter: &LinuxSeccomp, name: &str, argument: u64) -> u32 {
    use LinuxSeccompOperator as O;
    let holds = |arg: &LinuxSeccompArg| match arg.op() {
        O::ScmpCmpEq => argument == arg.value(),
        O::ScmpCmpLt => argument < arg.value(),
        O::ScmpCmpGe => argument >= arg.value(),
        O::ScmpCmpGt => argument > arg.value(),
        other => panic!("{other:?} is not used"),
    };
    let rules = filter.syscalls().as_ref().expect("rules");
    let hit = rules.iter().find(|rule| {
        rule.names().iter().any(|known| known == name) && rule.args().iter().flatten().all(holds)
    });
    match hit.map(|rule| (rule.action(), rule.errno_ret())) {
        Some((LinuxSeccompAction::ScmpActAllow, _)) => 0,
        Some((_, errno)) => errno.expect("an errno"),
        None => filter.default_errno_ret().expect("an errno"),
    }
}

#[test]
fn a_call_that_is_not_known_looks_absent() {
    let filter = filter(&[]);
    assert_eq!(filter.default_action(), LinuxSeccompAction::ScmpActErrno);
    for name in
        ["clone3", "io_uring_setup", "userfaultfd", "keyctl", "add_key", "request_key", "new"]
    {
        assert_eq!(errno(&filter, name, 0), ENOSYS, "{name}");
    }
}

#[test]
fn ways_to_more_kernel_are_refused_r40() {
    let filter = filter(&[]);
    for name in
        ["bpf", "unshare", "setns", "mount", "perf_event_open", "open_by_handle_at", "init_module"]
    {
        assert_eq!(errno(&filter, name, 0), EPERM, "{name}");
    }
    for nested in [0x1000_0000, 0x1002_0011, 0x7e02_0000, 0x0200_0000, 1 << 32] {
        assert_eq!(errno(&filter, "clone", nested), EPERM, "{nested:#x}");
    }
    for family in [38, 40, 0, 3, 15, 21, 30, 44, u64::MAX] {
        assert_ne!(errno(&filter, "socket", family), 0, "{family}");
    }
    assert_eq!(errno(&filter, "socket", 38), EAFNOSUPPORT, "AF_ALG");
    assert_eq!(errno(&filter, "socketcall", 1), EPERM);
    assert_ne!(errno(&filter, "personality", 0x40_0000), 0);
}

#[test]
fn what_ordinary_programs_do_is_allowed() {
    let filter = filter(&[]);
    // vfork of glibc, threads of glibc and musl, fork.
    for flags in [0x4111, 0x3d_0f00, 0x7d_0f00, 0x120_0011] {
        assert_eq!(errno(&filter, "clone", flags), 0, "{flags:#x}");
    }
    for family in FAMILIES {
        assert_eq!(errno(&filter, "socket", family), 0, "{family}");
    }
    for name in [
        "execve",
        "futex",
        "epoll_pwait2",
        "ptrace",
        "io_submit",
        "rseq",
        "landlock_restrict_self",
        "chroot",
        "statx",
        "openat2",
        "mknod",
        "seccomp",
        "prctl",
        "setgroups",
        "membarrier",
    ] {
        assert_eq!(errno(&filter, name, 0), 0, "{name}");
    }
    assert_eq!(errno(&filter, "personality", 0xffff_ffff), 0);
}

#[test]
fn what_the_runtime_does_after_loading_is_allowed() {
    // Between filter and execve: identity, capabilities, the wait for StartContainer.
    let filter = runtime_default(&BTreeSet::new());
    for name in [
        "accept4",
        "capset",
        "capget",
        "chdir",
        "close",
        "close_range",
        "execve",
        "exit_group",
        "getcwd",
        "prctl",
        "read",
        "recvmsg",
        "sendmsg",
        "setgroups",
        "setresgid",
        "setresuid",
        "write",
        "munmap",
        "mmap",
        "rt_sigprocmask",
        "unlink",
        "unlinkat",
        "access",
        "faccessat2",
    ] {
        assert_eq!(errno(&filter, name, 0), 0, "{name}");
    }
}

#[test]
fn capabilities_open_their_calls() {
    let admin = filter(&["SYS_ADMIN"]);
    for name in ["mount", "unshare", "setns", "clone3", "syslog", "perf_event_open", "sethostname"]
    {
        assert_eq!(errno(&admin, name, 0), 0, "{name}");
    }
    assert_eq!(errno(&admin, "clone", 0x1000_0000), 0);
    assert_eq!(errno(&filter(&["SYSLOG"]), "syslog", 0), 0);
    assert_eq!(errno(&filter(&["NET_ADMIN"]), "socket", AF_KEY), 0);
    assert_eq!(errno(&filter(&["SYS_PTRACE"]), "pidfd_getfd", 0), 0);
    assert_eq!(errno(&runtime_default(&BTreeSet::new()), "chroot", 0), EPERM);
    // Nothing opens these.
    let all = filter(&["ALL"]);
    for name in ["bpf", "kexec_load", "init_module", "settimeofday", "io_uring_setup", "socketcall"]
    {
        assert_ne!(errno(&all, name, 0), 0, "{name}");
    }
    assert_ne!(errno(&all, "socket", 38), 0);
}

#[test]
fn socketcall_comes_before_the_rules_that_would_let_it_in() {
    let rules = filter(&[]).syscalls().clone().expect("rules");
    assert_eq!(rules[0].names().as_slice(), ["socketcall"]);
    assert_ne!(rules[0].errno_ret(), Some(ENOSYS), "a rule like the default is dropped");
}

#[test]
fn every_call_is_decided_once() {
    let filter = filter(&[]);
    let mut seen = BTreeSet::new();
    for rule in filter.syscalls().iter().flatten().filter(|rule| rule.args().is_none()) {
        for name in rule.names() {
            assert!(seen.insert(name.clone()), "{name}");
        }
    }
    for conditional in ["socket", "socketpair", "clone", "personality"] {
        assert!(!seen.contains(conditional), "{conditional}");
    }
    assert!(seen.len() > 300, "{}", seen.len());
}
