//! What an unpacker can no longer do.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, ErrorKind, Write},
    net::{TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, ExitCode},
};

use image::Limits;
use libtest_mimic::Trial;
use nix::{
    fcntl::AT_FDCWD,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::kill,
        stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mknodat},
    },
    unistd::{Gid, Pid, Uid, chroot, fchownat, setuid},
};
use sys::{
    beneath::{self, BeneathError},
    memfd,
    mount::FsContext,
    pidfd,
    process::{SingleThreaded, fork},
};

use crate::{PROBE, trial};

/// Directories that were opened before; both have a `file` and a `sub`.
struct Scene {
    target: OwnedFd,
    outside: OwnedFd,
}

/// Something that an attack would like to do, and whether it could.
type Attempt = (&'static str, fn(&Scene) -> io::Result<()>);

/// What a path does not lead to in another root directory.
const BY_PATH: [Attempt; 6] = [
    ("read", |_| File::open("/etc/hostname").map(drop)),
    ("look at", |_| fs::metadata("/etc/hostname").map(drop)),
    ("leave upwards", |_| File::open("../../../etc/hostname").map(drop)),
    ("change the mode", |_| {
        Ok(fchmodat(AT_FDCWD, "/etc", Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?)
    }),
    ("change the owner", |_| {
        let (root, flags) = (Some(Uid::from_raw(0)), nix::fcntl::AtFlags::empty());
        Ok(fchownat(AT_FDCWD, "/etc", root, Some(Gid::from_raw(0)), flags)?)
    }),
    ("read its own memory", |_| File::open("/proc/self/mem").map(drop)),
];

/// What Landlock keeps even those descriptors from that an unpacker does not have.
const BY_DESCRIPTOR: [Attempt; 9] = [
    ("list", |scene| below(beneath::read_dir(&scene.outside))),
    ("enter", |scene| below(beneath::open_dir(&scene.outside, name("sub")))),
    ("write", |scene| below(beneath::create_file(&scene.outside, name("new"), Mode::S_IRWXU))),
    ("make", |scene| below(beneath::mkdir(&scene.outside, name("new"), Mode::S_IRWXU))),
    ("delete", |scene| below(beneath::unlink(&scene.outside, name("file")))),
    ("take", |scene| {
        below(beneath::link(&scene.outside, name("file"), &scene.target, name("new")))
    }),
    ("give", |scene| {
        below(beneath::link(&scene.target, name("file"), &scene.outside, name("new")))
    }),
    ("move", |scene| {
        below(beneath::rename(&scene.target, name("file"), &scene.outside, name("new")))
    }),
    ("read", |scene| {
        let flags = nix::fcntl::OFlag::O_RDONLY;
        let beneath = beneath::Resolve::Beneath;
        below(beneath::open(&scene.outside, Path::new("file"), beneath, flags, Mode::empty()))
    }),
];

/// What the filter of system calls refuses.
const BY_CALL: [Attempt; 19] = [
    ("listen on TCP", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    ("make a UDP socket", |_| UdpSocket::bind("127.0.0.1:0").map(drop)),
    ("make a Unix socket", |_| UnixStream::pair().map(drop)),
    ("run a program", |_| Command::new("/bin/true").status().map(drop)),
    ("make a namespace", |_| Ok(unshare(CloneFlags::CLONE_NEWUSER)?)),
    ("join a namespace", |scene| Ok(nix::sched::setns(&scene.target, CloneFlags::CLONE_NEWNS)?)),
    ("signal its parent", |_| Ok(kill(Pid::parent(), None)?)),
    ("hold its parent", |_| Ok(pidfd::open(Pid::parent()).map(drop)?)),
    ("make a program in memory", |_| memfd::sealed_copy(c"x", io::empty()).map(drop)),
    ("begin a file system", |_| Ok(FsContext::open(c"tmpfs").map(drop)?)),
    ("mount", |_| {
        let none: Option<&str> = None;
        Ok(mount(none, ".", Some("tmpfs"), MsFlags::empty(), none)?)
    }),
    ("change the root", |_| Ok(chroot(".")?)),
    ("make a block device", |scene| device(scene, SFlag::S_IFBLK, 7)),
    ("make a character device", |scene| device(scene, SFlag::S_IFCHR, 1)),
    ("make a socket", |scene| device(scene, SFlag::S_IFSOCK, 0)),
    ("raise a limit", |_| Ok(setrlimit(Resource::RLIMIT_CORE, 1, 1)?)),
    ("be traced", |_| Ok(prctl::set_dumpable(true)?)),
    ("be somebody else", |_| Ok(setuid(Uid::from_raw(1))?)),
    ("make a pipe", |_| io::pipe().map(drop)),
];

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn below<T>(result: Result<T, BeneathError>) -> io::Result<()> {
    Ok(result.map(drop).map_err(|error| error.source)?)
}

fn device(scene: &Scene, kind: SFlag, major: u64) -> io::Result<()> {
    Ok(mknodat(&scene.target, "device", kind, Mode::S_IRWXU, makedev(major, 0))?)
}

pub(crate) fn trials() -> Vec<Trial> {
    let outside = trial("no_file_outside_can_be_touched", no_file_outside_can_be_touched);
    let paths = trial("no_path_leads_outside", no_path_leads_outside);
    let root = nix::unistd::geteuid().is_root();
    vec![
        outside.with_ignored_flag(!unpacker::has_landlock()),
        // Otherwise only Landlock keeps paths from what is outside.
        paths.with_ignored_flag(!root || beneath::chmod_needs_proc()),
        trial("no_other_call_is_allowed", no_other_call_is_allowed),
        trial("no_process_can_be_made", no_process_can_be_made),
        trial("memory_is_bounded", memory_is_bounded),
        trial("a_file_is_no_larger_than_the_limit", a_file_is_no_larger_than_the_limit),
        trial("only_what_unpacking_needs_is_kept", only_what_unpacking_needs_is_kept),
    ]
}

/// Confines this process to `target` in the directory `arguments[0]`, and does what `arguments[1]`
/// says.
pub(crate) fn probe(arguments: &[OsString]) -> ExitCode {
    let [directory, what] = arguments else { return ExitCode::FAILURE };
    let open = |name| OwnedFd::from(File::open(Path::new(directory).join(name)).expect("open"));
    let scene = Scene { target: open("target"), outside: open("outside") };
    let mut status = File::open("/proc/thread-self/status").expect("open");
    let proof = SingleThreaded::prove().expect("one thread");
    let alone = SingleThreaded::prove().expect("one thread");
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    unpacker::confine(alone, &scene.target, &limits).expect("confined");
    match what.to_str() {
        Some("paths") => try_all(&scene, &BY_PATH),
        Some("descriptors") => try_all(&scene, &BY_DESCRIPTOR),
        Some("calls") => try_all(&scene, &BY_CALL),
        Some("status") => say(io::read_to_string(&mut status).expect("readable")),
        Some("memory") => say(Vec::<u8>::new().try_reserve_exact(1 << 30).is_err()),
        Some("fork") => {
            let forked = fork(&proof, CloneFlags::empty(), None);
            say(format_args!("{:?}", forked.map(drop)));
        }
        Some("file") => {
            let made = beneath::create_file(&scene.target, name("large"), Mode::S_IRWXU);
            let written = File::from(made.expect("made")).write_all(&vec![0; 2 << 20]);
            say(format_args!("{:?}", written.map_err(|error| error.kind())));
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn try_all(scene: &Scene, attempts: &[Attempt]) {
    for (name, attempt) in attempts {
        say(format_args!("{name}: {:?}", attempt(scene).map_err(|error| error.kind())));
    }
}

fn say(text: impl std::fmt::Display) {
    writeln!(io::stdout(), "{text}").expect("print");
}

fn run_probe(what: &str) -> (tempfile::TempDir, std::process::Output) {
    let directory = tempfile::tempdir().expect("temporary directory");
    for side in ["target", "outside"] {
        fs::create_dir_all(directory.path().join(side).join("sub")).expect("made");
        fs::write(directory.path().join(side).join("file"), side).expect("written");
    }
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.arg(PROBE).arg(directory.path()).arg(what);
    (directory, command.output().expect("run"))
}

fn printed(what: &str) -> String {
    let (directory, output) = run_probe(what);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}: {text}", output.status);
    let mut outside: Vec<_> = fs::read_dir(directory.path().join("outside"))
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    outside.sort();
    assert_eq!(outside, ["file", "sub"]);
    text
}

/// Every attempt was made, and each ended with one of `kinds`.
fn all_failed(text: &str, attempts: &[Attempt], kinds: &[ErrorKind]) {
    assert_eq!(text.lines().count(), attempts.len());
    for line in text.lines() {
        let failed = kinds.iter().any(|kind| line.ends_with(&format!("Err({kind:?})")));
        assert!(failed, "{line}");
    }
}

fn no_path_leads_outside() {
    all_failed(&printed("paths"), &BY_PATH, &[ErrorKind::NotFound]);
}

fn no_file_outside_can_be_touched() {
    // The latter is Landlock's answer where only the two directories together are the problem.
    let kinds = [ErrorKind::PermissionDenied, ErrorKind::CrossesDevices];
    all_failed(&printed("descriptors"), &BY_DESCRIPTOR, &kinds);
}

fn no_other_call_is_allowed() {
    all_failed(&printed("calls"), &BY_CALL, &[ErrorKind::PermissionDenied]);
}

fn no_process_can_be_made() {
    assert_eq!(printed("fork"), "Err(EPERM)\n");
}

fn memory_is_bounded() {
    assert_eq!(printed("memory"), "true\n");
}

fn a_file_is_no_larger_than_the_limit() {
    let (directory, output) = run_probe("file");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    // The kernel sends SIGXFSZ, which ends the process.
    assert!(!output.status.success() || text.contains("FileTooLarge"), "{text}");
    let size = fs::metadata(directory.path().join("target/large")).expect("there").len();
    assert!(size <= 1 << 20, "{size}");
}

fn only_what_unpacking_needs_is_kept() {
    /// `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_FSETID` and `CAP_SETFCAP`.
    const NEEDED: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 31;
    let status = printed("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim_start_matches(':').trim().to_owned()
    };
    let set = |name: &str| u64::from_str_radix(&field(name), 16).expect("hexadecimal");
    assert_eq!((set("CapInh"), set("CapAmb")), (0, 0));
    let sets = ["CapPrm", "CapEff"].map(set);
    assert!(sets.iter().all(|set| set & !NEEDED == 0), "{sets:x?}");
    if nix::unistd::geteuid().is_root() {
        assert_eq!(set("CapBnd") & !NEEDED, 0);
        assert_eq!(sets, [NEEDED; 2]);
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
}
