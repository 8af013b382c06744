//! What an unpacker can no longer do.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    net::{TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, ExitCode},
};

use image::Limits;
use libtest_mimic::Trial;
use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        resource::Resource,
        stat::{Mode, SFlag, makedev, mknod},
    },
    unistd::Pid,
};
use sys::{
    beneath,
    process::{SingleThreaded, fork},
};

use crate::{PROBE, trial};

/// Something that an attack would like to do, and whether it could.
type Attempt = (&'static str, fn(&Path) -> io::Result<()>);

const ATTEMPTS: [Attempt; 14] = [
    ("read a file outside", |_| File::open("/etc/hostname").map(drop)),
    ("list a directory outside", |_| fs::read_dir("/").map(drop)),
    ("write outside", |_| fs::write("/tmp/usnea-unpacker-was-here", "x")),
    ("read its own memory", |_| File::open("/proc/self/mem").map(drop)),
    ("listen on TCP", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    ("make a UDP socket", |_| UdpSocket::bind("127.0.0.1:0").map(drop)),
    ("make a Unix socket", |_| UnixStream::pair().map(drop)),
    ("run a program", |_| Command::new("/bin/true").status().map(drop)),
    ("leave its namespaces", |_| Ok(unshare(CloneFlags::CLONE_NEWUSER)?)),
    ("signal its parent", |_| Ok(nix::sys::signal::kill(Pid::parent(), None)?)),
    ("make a device", |target| {
        Ok(mknod(&target.join("device"), SFlag::S_IFBLK, Mode::S_IRWXU, makedev(7, 0))?)
    }),
    ("mount", |target| {
        let none: Option<&str> = None;
        Ok(nix::mount::mount(none, target, Some("tmpfs"), nix::mount::MsFlags::empty(), none)?)
    }),
    ("change the root", |target| Ok(nix::unistd::chroot(target)?)),
    ("raise a limit", |_| Ok(nix::sys::resource::setrlimit(Resource::RLIMIT_CORE, 1, 1)?)),
];

pub(crate) fn trials() -> Vec<Trial> {
    let outside = trial("nothing_outside_can_be_reached", nothing_outside_can_be_reached);
    vec![
        // Only Landlock knows which files are outside.
        outside.with_ignored_flag(!unpacker::has_landlock()),
        trial("no_process_can_be_made", no_process_can_be_made),
        trial("memory_is_bounded", memory_is_bounded),
        trial("a_file_is_no_larger_than_the_limit", a_file_is_no_larger_than_the_limit),
    ]
}

/// Confines this process to the directory `arguments[0]`, and does what `arguments[1]` says.
pub(crate) fn probe(arguments: &[OsString]) -> ExitCode {
    let [target, what] = arguments else { return ExitCode::FAILURE };
    let directory: OwnedFd = File::open(target).expect("open").into();
    let alone = SingleThreaded::prove().expect("one thread");
    let proof = SingleThreaded::prove().expect("one thread");
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    unpacker::confine(alone, &directory, &limits).expect("confined");
    let mut out = io::stdout();
    match what.to_str() {
        Some("attempts") => {
            for (name, attempt) in ATTEMPTS {
                let outcome = attempt(Path::new(target)).map_err(|error| error.kind());
                writeln!(out, "{name}: {outcome:?}").expect("print");
            }
        }
        Some("memory") => {
            let mut memory = Vec::<u8>::new();
            writeln!(out, "{:?}", memory.try_reserve_exact(1 << 30).is_err()).expect("print");
        }
        Some("fork") => {
            let forked = fork(&proof, CloneFlags::empty(), None);
            writeln!(out, "{:?}", forked.map(drop)).expect("print");
        }
        Some("file") => {
            let name = "large".as_ref();
            let made = beneath::create_file(&directory, name, Mode::S_IRWXU).expect("made");
            let written = File::from(made).write_all(&vec![0; 2 << 20]);
            writeln!(out, "{:?}", written.map_err(|error| error.kind())).expect("print");
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn run_probe(what: &str) -> (tempfile::TempDir, std::process::Output) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.arg(PROBE).arg(directory.path()).arg(what);
    (directory, command.output().expect("run"))
}

fn printed(what: &str) -> String {
    let (_directory, output) = run_probe(what);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}: {text}", output.status);
    text
}

fn nothing_outside_can_be_reached() {
    let text = printed("attempts");
    assert_eq!(text.lines().count(), ATTEMPTS.len());
    for line in text.lines() {
        assert!(line.ends_with("Err(PermissionDenied)"), "{line}");
    }
    assert!(!Path::new("/tmp/usnea-unpacker-was-here").exists());
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
    let size = fs::metadata(directory.path().join("large")).expect("there").len();
    assert!(size <= 1 << 20, "{size}");
}
