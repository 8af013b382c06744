//! Unpackers as they are in a node: root of a user namespace with 65,536 ids.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    io::Write,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use caps::{CapSet, Capability};
use image::{InProcess, Ownership, UnpackOptions};
use libtest_mimic::Trial;
use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        resource::{UsageWho, getrusage},
    },
    unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid},
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use sys::beneath::SYS_FCHMODAT2;
use unpacker::ErrorKind;

use crate::{
    NODE, OLD, WEAK,
    layers::{Place, gzip, kind, layer, options, program, tree, unpack, unpacker},
    trial,
};

/// The ids of the node, as the machine sees them: nobody's.
const FIRST_ID: u32 = 1_000_000_000;

type Check = (&'static str, fn(&Path));

/// What is checked in a node of its own, with a directory that belongs to the node's root.
const CHECKS: [Check; 6] = [
    ("a_layer_keeps_its_owners", a_layer_keeps_its_owners),
    ("each_capability_is_needed", each_capability_is_needed),
    ("older_kernels_do_as_well", older_kernels_do_as_well),
    ("a_full_disk_is_no_fault_of_the_layer", a_full_disk_is_no_fault_of_the_layer),
    ("r34_broken_layers_leave_nothing", r34_broken_layers_leave_nothing),
    ("bombs_take_little_memory", bombs_take_little_memory),
];

pub(crate) fn trials() -> Vec<Trial> {
    let root = is_real_root();
    if !root {
        println!("ignored, because only the machine's root maps any ids: checks in nodes");
    }
    let node = |(name, _)| trial(name, move || in_node(name)).with_ignored_flag(!root);
    CHECKS.into_iter().map(node).collect()
}

/// Whether this is root where all ids are.
fn is_real_root() -> bool {
    let ids = fs::read_to_string("/proc/self/uid_map").expect("readable");
    geteuid().is_root() && ids.split_whitespace().eq(["0", "0", "4294967295"])
}

fn in_node(check: &str) {
    let directory = tempfile::tempdir().expect("temporary directory");
    chown(directory.path(), Some(FIRST_ID), Some(FIRST_ID)).expect("given to the node");
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).arg(NODE).arg(check).arg(directory.path()).output();
    let output = output.expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Enters a node and does the check `arguments[0]` in the directory `arguments[1]`.
pub(crate) fn check(arguments: &[OsString]) -> ExitCode {
    let [name, directory] = arguments else { return ExitCode::FAILURE };
    let Some((_, check)) = CHECKS.iter().find(|(known, _)| name == known) else {
        return ExitCode::FAILURE;
    };
    enter();
    check(Path::new(directory));
    ExitCode::SUCCESS
}

fn enter() {
    // Only a process outside can map more than one id.
    let pid = std::process::id();
    let script = format!(
        "read go; for map in uid gid; do echo 0 {FIRST_ID} 65536 >/proc/{pid}/${{map}}_map; done"
    );
    let outside = Command::new("/bin/sh").args(["-ec", &script]).stdin(Stdio::piped()).spawn();
    let mut outside = outside.expect("run a shell");
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).expect("unshare");
    outside.stdin.as_mut().expect("piped").write_all(b"\n").expect("write");
    assert!(outside.wait().expect("wait").success(), "ids could not be mapped");
    setgroups(&[]).expect("setgroups");
    setgid(Gid::from_raw(0)).expect("setgid");
    setuid(Uid::from_raw(0)).expect("setuid");
}

/// Gives up the capability `arguments[0]`, then unpacks.
pub(crate) fn unpack_without(arguments: &[OsString]) -> ExitCode {
    let Some((capability, rest)) = arguments.split_first() else { return ExitCode::FAILURE };
    let capability = capability.to_str().and_then(|name| Capability::from_str(name).ok());
    let capability = capability.expect("a capability");
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::drop(None, set, capability).expect("dropped");
    }
    unpacker::child(rest)
}

/// Hides what came with the version `arguments[0]` of Linux, then unpacks.
pub(crate) fn unpack_before(arguments: &[OsString]) -> ExitCode {
    let Some((version, rest)) = arguments.split_first() else { return ExitCode::FAILURE };
    let mut hidden = vec![(SYS_FCHMODAT2, Vec::new())];
    if version == "5.13" {
        hidden.push((libc::SYS_landlock_create_ruleset, Vec::new()));
    }
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().expect("a known architecture");
    let filter =
        SeccompFilter::new(hidden.into_iter().collect(), SeccompAction::Allow, missing, arch);
    let program = BpfProgram::try_from(filter.expect("a filter")).expect("a program");
    prctl::set_no_new_privs().expect("no_new_privs");
    seccompiler::apply_filter(&program).expect("hidden");
    unpacker::child(rest)
}

fn subdirectory(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    fs::create_dir(&path).expect("made");
    path
}

fn preserving() -> UnpackOptions {
    UnpackOptions { ownership: Ownership::Preserve, ..options(|_| ()) }
}

fn a_layer_keeps_its_owners(directory: &Path) {
    let (here, there) = (subdirectory(directory, "here"), subdirectory(directory, "there"));
    let expected = unpack(&InProcess, &layer(), &here, &preserving()).expect("unpacked");
    let summary = unpack(&unpacker(), &layer(), &there, &preserving()).expect("unpacked");
    assert_eq!(summary, expected);
    assert_eq!(tree(&there), tree(&here));
    let tree = tree(&there);
    for expected in [
        "d 42751 (1000, 2000) ",
        "d/file 106755 (1000, 2000) 2 1700000000 300000 bytes []",
        "d/gone 20000 (0, 0) 1 ",
        "d/link 120777 (5, 6) 1 1700000000 \"../etc/passwd\"",
        "e/hard 106755 (1000, 2000) 2 ",
        "fifo 10640 (65535, 65535) 1 1700000000 fifo true",
        "read-only/inside 100400 (1000, 2000) 1 ",
        "again 100644 (0, 0) 1 1700000000 6 bytes",
    ] {
        assert!(tree.iter().any(|line| line.starts_with(expected)), "{expected}: {tree:#?}");
    }
    for (name, attribute) in [
        ("noted ", "user.note=[104, 101, 108, 108, 111]"),
        ("opaque ", "user.overlay.opaque=[121]"),
        ("server ", "security.capability=[1, 0, 0, 2, 0, 4, 0, 0,"),
    ] {
        let line = tree.iter().find(|line| line.starts_with(name)).expect(name);
        assert!(line.contains(attribute), "{line}");
    }
}

fn each_capability_is_needed(directory: &Path) {
    let complete = subdirectory(directory, "complete");
    unpack(&unpacker(), &layer(), &complete, &preserving()).expect("unpacked");
    let expected: BTreeSet<String> = tree(&complete).into_iter().collect();
    for name in ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP"] {
        let without = subdirectory(directory, name);
        let result = unpack(&program(&[WEAK, name]), &layer(), &without, &preserving());
        let same = tree(&without).into_iter().collect::<BTreeSet<_>>() == expected;
        assert!(result.is_err() || !same, "{name} is not needed");
    }
}

fn older_kernels_do_as_well(directory: &Path) {
    let here = subdirectory(directory, "here");
    unpack(&unpacker(), &layer(), &here, &preserving()).expect("unpacked");
    for version in ["6.6", "5.13"] {
        let before = subdirectory(directory, version);
        unpack(&program(&[OLD, version]), &layer(), &before, &preserving()).expect(version);
        assert_eq!(tree(&before), tree(&here), "{version}");
    }
}

fn a_full_disk_is_no_fault_of_the_layer(directory: &Path) {
    for (name, limit) in [("bytes", "size=64k"), ("inodes", "nr_inodes=4")] {
        let target = subdirectory(directory, name);
        let none: Option<&str> = None;
        mount(none, &target, Some("tmpfs"), MsFlags::empty(), Some(limit)).expect("mount");
        let error = unpack(&unpacker(), &layer(), &target, &preserving()).expect_err("full");
        let (kind, text) = kind(error);
        assert_eq!(kind, ErrorKind::NoSpace, "{text}");
        assert!(text.contains("No space left on device"), "{text}");
    }
}

fn r34_broken_layers_leave_nothing(directory: &Path) {
    const LEAST: usize = 300;
    const MOST: usize = 10_000;
    let (program, options, blob) = (unpacker(), preserving(), gzip(&layer()));
    let open = || fs::read_dir("/proc/self/fd").expect("readable").count();
    let (before, begun) = (open(), Instant::now());
    let mut rounds = 0;
    while rounds < LEAST || (rounds < MOST && begun.elapsed() < Duration::from_secs(3)) {
        let target = subdirectory(directory, "target");
        // Nothing at all would be a layer.
        let cut = &blob[..rounds * 7919 % (blob.len() - 1) + 1];
        unpack(&program, cut, &target, &options).expect_err("truncated");
        // One that is left while it works.
        if rounds % 10 == 0 {
            drop(program.start(Place::new(&target).destination(), &options).expect("started"));
        }
        fs::remove_dir_all(&target).expect("removed");
        rounds += 1;
    }
    assert_eq!(open(), before, "descriptors after {rounds} layers");
    let children = format!("/proc/self/task/{}/children", std::process::id());
    assert_eq!(fs::read_to_string(children).expect("readable"), "", "zombies");
}

fn bombs_take_little_memory(directory: &Path) {
    let bomb = gzip(&vec![0; 50_000_000]);
    let limited = options(|limits| (limits.ratio, limits.ratio_free_bytes) = (10, 1000));
    unpack(&unpacker(), &bomb, directory, &limited).expect_err("a bomb");
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.window_log(31).expect("2 GiB");
    encoder.write_all(&layer()).expect("to memory");
    let blob = encoder.finish().expect("to memory");
    unpack(&unpacker(), &blob, directory, &preserving()).expect_err("2 GiB window");
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).expect("usage").max_rss();
    assert!(peak < 64 << 10, "an unpacker had {peak} KiB");
}
