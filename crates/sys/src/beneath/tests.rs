#![expect(clippy::print_stdout, reason = "a skipped test says why")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as std_symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// A directory `inside` to work in and a directory `outside` that must never change.
struct Fixture {
    root: PathBuf,
}

impl Fixture {
    fn new(test: &str) -> Self {
        let root = std::env::temp_dir().join(format!("beneath-{test}-{}", std::process::id()));
        fs::remove_dir_all(&root).ok();
        fs::create_dir_all(root.join("inside")).unwrap();
        fs::create_dir_all(root.join("outside")).unwrap();
        fs::write(root.join("outside/secret"), "secret").unwrap();
        Self { root }
    }

    fn inside(&self) -> PathBuf {
        self.root.join("inside")
    }

    fn fd(&self) -> OwnedFd {
        File::open(self.inside()).unwrap().into()
    }

    fn assert_outside_intact(&self) {
        let outside = self.root.join("outside");
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).ok();
    }
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn try_open(fd: &OwnedFd, path: &str, resolve: Resolve) -> Result<OwnedFd, Errno> {
    open(fd, Path::new(path), resolve, OFlag::O_RDONLY, Mode::empty()).map_err(|error| error.source)
}

#[test]
fn open_refuses_to_leave_the_directory() {
    let fixture = Fixture::new("open");
    std_symlink("../outside", fixture.inside().join("relative")).unwrap();
    std_symlink(fixture.root.join("outside"), fixture.inside().join("absolute")).unwrap();
    let fd = fixture.fd();
    for path in ["../outside/secret", "/etc/passwd", "relative/secret", "absolute/secret"] {
        assert_eq!(try_open(&fd, path, Resolve::Beneath).unwrap_err(), Errno::EXDEV, "{path}");
    }
    for path in ["relative/secret", "absolute/secret"] {
        assert_eq!(try_open(&fd, path, Resolve::NoSymlinks).unwrap_err(), Errno::ELOOP, "{path}");
    }
}

#[test]
fn open_in_root_stops_at_the_root() {
    let fixture = Fixture::new("root");
    fs::create_dir(fixture.inside().join("etc")).unwrap();
    fs::write(fixture.inside().join("etc/passwd"), "ours").unwrap();
    std_symlink("/etc/passwd", fixture.inside().join("link")).unwrap();
    let fd = fixture.fd();
    for path in ["/etc/passwd", "../../../etc/passwd", "link"] {
        let file = File::from(try_open(&fd, path, Resolve::InRoot).unwrap());
        assert_eq!(file.metadata().unwrap().len(), 4, "{path}");
    }
}

#[test]
fn open_follows_no_magic_link() {
    let proc: OwnedFd = File::open("/proc/self").unwrap().into();
    for resolve in [Resolve::NoSymlinks, Resolve::Beneath, Resolve::InRoot] {
        assert_eq!(try_open(&proc, "root/etc", resolve).unwrap_err(), Errno::ELOOP);
        assert_eq!(try_open(&proc, "cwd", resolve).unwrap_err(), Errno::ELOOP);
    }
}

#[test]
fn names_of_several_components_are_refused() {
    let fixture = Fixture::new("names");
    let fd = fixture.fd();
    for bad in ["", ".", "..", "../outside", "a/b", "/etc", "a\0b"] {
        let bad = name(bad);
        let mode = Mode::S_IRWXU;
        let results = [
            mkdir(&fd, bad, mode),
            mkfifo(&fd, bad, mode),
            make_whiteout(&fd, bad),
            symlink(name("x"), &fd, bad),
            link(&fd, name("x"), &fd, bad),
            link(&fd, bad, &fd, name("x")),
            rename(&fd, bad, &fd, name("x")),
            unlink(&fd, bad),
            chmod(&fd, bad, mode),
            remove_tree(&fd, bad),
            create_file(&fd, bad, mode).map(drop),
            lstat(&fd, bad).map(drop),
            open_dir(&fd, bad).map(drop),
        ];
        for result in results {
            let error = result.unwrap_err();
            // Linking looks at the old name first.
            assert!(matches!(error.source, Errno::EINVAL | Errno::ENOENT), "{bad:?}: {error:?}");
        }
    }
    fixture.assert_outside_intact();
    assert_eq!(read_dir(&fd).unwrap(), []);
}

#[test]
fn a_symbolic_link_is_changed_itself() {
    let fixture = Fixture::new("itself");
    std_symlink("../outside/secret", fixture.inside().join("link")).unwrap();
    let fd = fixture.fd();
    let before = fs::metadata(fixture.root.join("outside/secret")).unwrap();

    assert_eq!(
        chmod(&fd, name("link"), Mode::empty()).unwrap_err().source,
        Errno::EOPNOTSUPP,
        "a link has no permissions"
    );
    assert_eq!(chmod_by_proc(fd.as_fd(), name("link"), Mode::empty()), Err(Errno::EOPNOTSUPP));
    set_times(&fd, name("link"), TimeSpec::new(7, 0), TimeSpec::new(7, 0)).unwrap();
    assert_eq!(
        create_file(&fd, name("link"), Mode::S_IRWXU).unwrap_err().source,
        Errno::EEXIST,
        "a link is not written through"
    );
    link(&fd, name("link"), &fd, name("second")).unwrap();

    let link = fs::symlink_metadata(fixture.inside().join("second")).unwrap();
    assert!(link.file_type().is_symlink());
    assert_eq!(link.mtime(), 7);
    let after = fs::metadata(fixture.root.join("outside/secret")).unwrap();
    assert_eq!((before.mode(), before.mtime()), (after.mode(), after.mtime()));
    remove_tree(&fd, name("link")).unwrap();
    fixture.assert_outside_intact();
}

#[test]
fn chmod_works_with_and_without_its_system_call() {
    let fixture = Fixture::new("chmod");
    fs::write(fixture.inside().join("file"), "").unwrap();
    let fd = fixture.fd();
    let mode = |path: &str| {
        fs::metadata(fixture.inside().join(path)).unwrap().permissions().mode() & 0o7777
    };
    chmod(&fd, name("file"), Mode::from_bits_truncate(0o4711)).unwrap();
    assert_eq!(mode("file"), 0o4711);
    chmod_by_proc(fd.as_fd(), name("file"), Mode::from_bits_truncate(0o640)).unwrap();
    assert_eq!(mode("file"), 0o640);
}

#[test]
fn attributes_are_set_and_read() {
    let fixture = Fixture::new("xattr");
    fs::write(fixture.inside().join("file"), "").unwrap();
    let fd = fixture.fd();
    let attribute = name("user.overlay.opaque");
    match set_xattr(&fd, attribute, b"y") {
        Err(Errno::EOPNOTSUPP) => {
            println!("skipped: the temporary directory takes no user attributes");
            return;
        }
        result => result.unwrap(),
    }
    assert_eq!(get_xattr(&fd, attribute).unwrap().as_deref(), Some(&b"y"[..]));
    set_xattr_at(&fd, name("file"), name("user.other"), b"z").unwrap();
    let file = File::open(fixture.inside().join("file")).unwrap();
    assert_eq!(get_xattr(&file, name("user.other")).unwrap().as_deref(), Some(&b"z"[..]));
    assert_eq!(get_xattr(&file, attribute).unwrap(), None);
}

#[test]
fn a_user_namespace_makes_whiteouts_and_no_other_device() {
    let fixture = Fixture::new("whiteout");
    let directory = fixture.inside();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    let mknod = |device: &str| {
        std::process::Command::new("unshare")
            .args(["-Ur", "mknod"])
            .arg(directory.join(device.replace(':', "-")))
            .arg("c")
            .args(device.split(':'))
            .output()
    };
    match mknod("0:0") {
        Ok(output) if output.status.success() => {}
        other => {
            println!("skipped: no whiteout in a user namespace here: {other:?}");
            return;
        }
    }
    let fd = fixture.fd();
    assert!(is_whiteout(&lstat(&fd, name("0-0")).unwrap()));
    assert!(!mknod("1:3").unwrap().status.success(), "other devices stay forbidden");
    make_whiteout(&fd, name("ours")).unwrap();
    assert!(is_whiteout(&lstat(&fd, name("ours")).unwrap()));
}

#[test]
fn usage_counts_hard_links_once_and_follows_no_link() {
    let fixture = Fixture::new("usage");
    fs::create_dir_all(fixture.inside().join("a/b")).unwrap();
    fs::write(fixture.inside().join("a/b/file"), vec![1_u8; 10_000]).unwrap();
    fs::hard_link(fixture.inside().join("a/b/file"), fixture.inside().join("second")).unwrap();
    std_symlink("../outside", fixture.inside().join("link")).unwrap();
    let usage = usage(fixture.fd()).unwrap();
    assert_eq!(usage.inodes, 4, "a, a/b, file, link");
    assert!(usage.bytes >= 10_000 && usage.bytes < 40_000, "{usage:?}");
}

#[test]
fn remove_tree_takes_any_depth() {
    let fixture = Fixture::new("deep");
    let fd = fixture.fd();
    mkdir(&fd, name("tree"), Mode::S_IRWXU).unwrap();
    let mut at = open_dir(&fd, name("tree")).unwrap();
    for _ in 0..3_000 {
        mkdir(&at, name("d"), Mode::S_IRWXU).unwrap();
        create_file(&at, name(".removing-1"), Mode::S_IRWXU).unwrap();
        at = open_dir(&at, name("d")).unwrap();
    }
    remove_tree(&fd, name("tree")).unwrap();
    assert_eq!(read_dir(&fd).unwrap(), []);
    remove_tree(&fd, name("tree")).unwrap();
}

#[test]
fn remove_tree_empties_read_only_directories() {
    let fixture = Fixture::new("readonly");
    let nested = fixture.inside().join("tree/a/b");
    fs::create_dir_all(&nested).unwrap();
    fs::write(nested.join("file"), "").unwrap();
    for path in [nested.as_path(), &fixture.inside().join("tree/a"), &fixture.inside().join("tree")]
    {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    remove_tree(fixture.fd(), name("tree")).unwrap();
    assert_eq!(read_dir(fixture.fd()).unwrap(), []);
}

#[test]
fn remove_tree_follows_no_link() {
    let fixture = Fixture::new("links");
    fs::create_dir(fixture.inside().join("tree")).unwrap();
    std_symlink("../../outside", fixture.inside().join("tree/link")).unwrap();
    fs::hard_link(fixture.root.join("outside/secret"), fixture.inside().join("tree/h")).unwrap();
    remove_tree(fixture.fd(), name("tree")).unwrap();
    fixture.assert_outside_intact();
    assert!(!fixture.inside().join("tree").exists());
}

/// One thread exchanges a directory with a link to `outside` all the time while trees are removed.
#[test]
fn remove_tree_is_not_led_outside_by_a_swapped_link() {
    let fixture = Fixture::new("swap");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let fd = fixture.fd();
            while !stop.load(Ordering::Relaxed) {
                let Ok(tree) = open_dir(&fd, name("tree")) else { continue };
                symlink(name("../../outside"), &tree, name("link")).ok();
                fcntl::renameat2(
                    &tree,
                    name("link"),
                    &tree,
                    name("full"),
                    fcntl::RenameFlags::RENAME_EXCHANGE,
                )
                .ok();
            }
        });
        let fd = fixture.fd();
        for _ in 0..300 {
            fs::create_dir_all(fixture.inside().join("new/full/deeper")).unwrap();
            fs::write(fixture.inside().join("new/full/deeper/file"), "").unwrap();
            rename(&fd, name("new"), &fd, name("tree")).unwrap();
            std::thread::yield_now();
            // The swapping thread may put a link into a directory that was just emptied.
            remove_tree(&fd, name("tree")).unwrap();
            fixture.assert_outside_intact();
        }
        stop.store(true, Ordering::Relaxed);
    });
}
