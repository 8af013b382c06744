use std::{
    io::{BufRead, BufReader},
    os::unix::net::UnixListener,
    process::{Child, Command, Stdio},
};

use super::*;

/// A process that says "ready" and lives until it is killed.
struct Sleeper(Child);

impl Sleeper {
    fn start(program: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .args(["sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .expect(program);
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        assert_eq!(line, "ready\n", "{program} {args:?}");
        Self(child)
    }

    fn process(&self) -> Process {
        Process { pid: i32::try_from(self.0.id()).expect("pids fit") }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().expect("kill the sleeper");
        self.0.wait().expect("reap the sleeper");
    }
}

/// An instance without a daemon: a user and mount namespace, and two directories that play the file trees and the
/// cgroup tree.
struct Fake {
    holder: Sleeper,
    scope: Scope,
    _directory: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        for name in ["run/usnea/pods", "data/usnea/pods", "data/usnea/layers", "cgroup/shims"] {
            fs::create_dir_all(directory.path().join(name)).expect("make directories");
        }
        let holder = Sleeper::start("unshare", &["--user", "--map-root-user", "--mount"]);
        let process = holder.process();
        let scope = Scope {
            directory: directory.path().to_owned(),
            cgroup: Some(directory.path().join("cgroup")),
            user_namespace: process.namespace("user"),
            mount_views: vec![process],
            residents: vec![process],
        };
        Self { holder, scope, _directory: directory }
    }

    fn nsenter(&self, args: &[&str]) -> Vec<String> {
        let pid = self.holder.0.id().to_string();
        let enter = ["--preserve-credentials", "--user", "--mount", "--target", &pid];
        enter.iter().chain(args).map(|&arg| arg.to_owned()).collect()
    }

    fn run(&self, args: &[&str]) {
        let status = Command::new("nsenter").args(self.nsenter(args)).status().expect("nsenter");
        assert!(status.success(), "{args:?}: {status}");
    }

    fn sleeper(&self, args: &[&str]) -> Sleeper {
        let args = self.nsenter(args);
        Sleeper::start("nsenter", &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn kinds(&self, audit: &Audit) -> Vec<Kind> {
        let mut kinds: Vec<Kind> =
            audit.now(&self.scope).into_iter().map(|leak| leak.kind).collect();
        kinds.dedup();
        kinds
    }
}

#[test]
fn one_leak_of_each_kind_is_reported_and_forgotten_when_gone() {
    let fake = Fake::new();
    let audit = Audit::before(&fake.scope);
    assert_eq!(audit.now(&fake.scope), []);
    let at = |name: &str| fake.scope.directory.join(name);

    let process = fake.sleeper(&[]);
    assert_eq!(fake.kinds(&audit), [Kind::Process]);
    assert!(audit.now(&fake.scope)[0].owner.contains("sleep 1000"));
    drop(process);

    let namespace = fake.sleeper(&["unshare", "--net"]);
    assert_eq!(fake.kinds(&audit), [Kind::Process, Kind::Namespace]);
    drop(namespace);

    fake.run(&["mount", "-t", "tmpfs", "none", "/mnt"]);
    assert_eq!(fake.kinds(&audit), [Kind::Mount]);
    fake.run(&["umount", "/mnt"]);

    fs::create_dir_all(at("cgroup/usnea/pod/container")).expect("make a cgroup");
    assert_eq!(audit.now(&fake.scope).len(), 2, "the pod and the container, not their parent");
    assert_eq!(fake.kinds(&audit), [Kind::Cgroup]);
    fs::remove_dir_all(at("cgroup/usnea")).expect("remove a cgroup");

    let socket = at("run/usnea/pods/shim.sock");
    drop(UnixListener::bind(&socket).expect("bind"));
    assert_eq!(fake.kinds(&audit), [Kind::Socket]);
    fs::remove_file(&socket).expect("remove the socket");

    fs::write(at("data/usnea/pods/record"), "x").expect("write");
    assert_eq!(fake.kinds(&audit), [Kind::File]);
    fs::remove_file(at("data/usnea/pods/record")).expect("remove");

    fs::write(at("data/usnea/layers/x"), "stores may grow").expect("write");
    assert_eq!(audit.now(&fake.scope), []);
}
