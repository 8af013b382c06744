//! Programs that are run in a running container.

use std::{
    fs::{self, File},
    io::Read,
    os::fd::{AsFd, OwnedFd},
};

use shim_api::v1::{
    Exec, ExecStarted, Failure, KillExec, PidNamespace, failure::Kind, reply, request::Call,
    to_daemon,
};

use crate::{
    fixture::Pod,
    harness::{eventually, lives},
};

/// The read ends of an exec's output.
struct Output {
    stdout: File,
    stderr: File,
}

impl Output {
    fn read(mut self) -> (String, String) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        (stdout, stderr)
    }
}

fn exec(
    pod: &mut Pod,
    exec_id: &str,
    container_id: &str,
    argv: &[&str],
) -> Result<(i32, Output), Failure> {
    let call = Exec {
        exec_id: exec_id.to_owned(),
        container_id: container_id.to_owned(),
        argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
    };
    let stdin = File::open("/dev/null").unwrap();
    let (stdout, stdout_end) = pipe();
    let (stderr, stderr_end) = pipe();
    let fds = [stdin.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()];
    match pod.shim.call(Call::Exec(call), &fds)? {
        (reply::Result::ExecStarted(ExecStarted { pid }), _) => {
            Ok((pid, Output { stdout, stderr }))
        }
        other => panic!("{other:?}"),
    }
}

/// Close-on-exec, because tests start shims at the same time.
fn pipe() -> (File, OwnedFd) {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    (File::from(read), write)
}

fn kill_exec(pod: &mut Pod, exec_id: &str) {
    pod.shim.call(Call::KillExec(KillExec { exec_id: exec_id.to_owned() }), &[]).expect("killed");
}

/// A pod with the running container `c`, with and without cgroups.
fn pods() -> impl Iterator<Item = Pod> {
    [Pod::start, Pod::start_without_cgroups].into_iter().filter_map(|start| start()).map(
        |mut pod| {
            let init = pod.run("c", "exec sleep 1000");
            let comm = format!("/proc/{init}/comm");
            eventually("it sleeps", || fs::read_to_string(&comm).unwrap() == "sleep\n");
            pod
        },
    )
}

/// Names of the cgroups below that of container `c`.
fn exec_cgroups(pod: &Pod) -> usize {
    let root = &pod.cgroups.as_ref().unwrap().root;
    root.descend("c".as_ref()).unwrap().child_names().unwrap().len()
}

#[test]
fn a_program_runs_in_its_container() {
    for mut pod in pods() {
        let script = "echo $GREETING $(busybox uname -n); cat /proc/1/comm; echo oops >&2; exit 9";
        let (pid, output) = exec(&mut pod, "e1", "c", &["sh", "-c", script]).expect("started");
        assert!(pid > 0);
        assert_eq!(output.read(), ("hello pod-1\nsleep\n".to_owned(), "oops\n".to_owned()));
        let exited = pod.shim.exec_exited();
        assert_eq!((exited.exec_id.as_str(), exited.exit_code), ("e1", 9));
        assert_eq!(pod.log("c"), Vec::<String>::new(), "an exec's output is not the container's");
        if pod.cgroups.is_some() {
            eventually("its cgroup is gone", || exec_cgroups(&pod) == 0);
        }
        exec(&mut pod, "e1", "c", &["echo"]).expect("the id is free again");
        pod.shim.stop();
    }
}

#[test]
fn a_program_that_cannot_be_executed_is_an_exit() {
    for mut pod in pods() {
        let cases = [("/no/such/program", 127, "No such file"), ("/tmp", 126, "ermission denied")];
        for (number, (program, code, text)) in cases.into_iter().enumerate() {
            let exec_id = format!("e{number}");
            let (pid, output) =
                exec(&mut pod, &exec_id, "c", &[program]).expect("an exit, not a failure");
            assert_eq!(pid, 0);
            let (_, stderr) = output.read();
            assert!(stderr.contains(text), "{stderr:?}");
            let exited = pod.shim.exec_exited();
            assert_eq!((exited.exec_id, exited.exit_code), (exec_id, code));
        }
        pod.shim.stop();
    }
}

#[test]
fn only_running_containers_take_programs() {
    let Some(mut pod) = Pod::start() else { return };
    assert_eq!(
        exec(&mut pod, "e", "c", &["echo"]).map(drop).expect_err("unknown").kind(),
        Kind::NotFound
    );
    let container = pod.container("c", "sleep 1000");
    pod.create(&container).expect("created");
    assert_eq!(
        exec(&mut pod, "e", "c", &["echo"]).map(drop).expect_err("created").kind(),
        Kind::WrongState
    );
    pod.start_container("c").expect("started");
    let (_, _output) = exec(&mut pod, "e", "c", &["sleep", "1000"]).expect("runs");
    assert_eq!(
        exec(&mut pod, "e", "c", &["echo"]).map(drop).expect_err("twice").kind(),
        Kind::WrongState
    );
    assert_eq!(
        exec(&mut pod, "../e", "c", &["echo"]).map(drop).expect_err("climbs").kind(),
        Kind::Refused
    );
    kill_exec(&mut pod, "e");
    pod.shim.exec_exited();
    pod.kill("c").expect("killed");
    pod.shim.container_exited();
    assert_eq!(
        exec(&mut pod, "e", "c", &["echo"]).map(drop).expect_err("over").kind(),
        Kind::WrongState
    );
}

#[test]
fn killing_ends_what_the_program_has_started() {
    for mut pod in pods() {
        let (pid, output) = exec(&mut pod, "e", "c", &["sh", "-c", "sleep 500 & sleep 501 & wait"])
            .expect("started");
        let children = format!("/proc/{pid}/task/{pid}/children");
        let sleepers = || fs::read_to_string(&children).unwrap_or_default();
        eventually("two children", || sleepers().split_whitespace().count() == 2);
        let sleepers: Vec<i32> =
            sleepers().split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        kill_exec(&mut pod, "e");
        assert_eq!(pod.shim.exec_exited().exit_code, 137);
        assert_eq!(output.read(), (String::new(), String::new()), "everybody has closed it");
        eventually("they are gone", || !sleepers.iter().any(|pid| lives(*pid)));
        kill_exec(&mut pod, "e");
        pod.shim.stop();
    }
}

#[test]
fn what_a_program_leaves_behind_lives_on() {
    for mut pod in pods() {
        let script = "sleep 500 >/dev/null 2>&1 & echo $!";
        let (_, output) = exec(&mut pod, "e", "c", &["sh", "-c", script]).expect("started");
        assert_eq!(pod.shim.exec_exited().exit_code, 0);
        let sleeper = output.read().0;
        let status = format!("/proc/{}/status", sleeper.trim());
        let look = |pod: &mut Pod| {
            let (_, output) = exec(pod, "look", "c", &["cat", &status]).expect("started");
            assert_eq!(pod.shim.exec_exited().exit_code, 0);
            output.read().0
        };
        eventually("it sleeps", || look(&mut pod).contains("State:\tS"));
        if pod.cgroups.is_some() {
            eventually("one cgroup is left", || exec_cgroups(&pod) == 1);
            kill_exec(&mut pod, "e");
            eventually("its cgroup is gone", || exec_cgroups(&pod) == 0);
            // The container's init does not reap.
            eventually("it is a zombie", || look(&mut pod).contains("State:\tZ"));
        }
        pod.shim.stop();
    }
}

#[test]
fn execs_end_before_their_container() {
    for mut pod in pods() {
        let container = pod.container("p", "exec sleep 1000").pid_namespace(PidNamespace::Pod);
        pod.create(&container).expect("created");
        pod.start_container("p").expect("started");
        for id in ["c", "p"] {
            let outputs: Vec<_> = ["1", "2"]
                .map(|n| {
                    exec(&mut pod, &format!("{id}{n}"), id, &["sleep", "1000"]).expect("started").1
                })
                .into_iter()
                .collect();
            pod.kill(id).expect("killed");
            let mut ended = [pod.shim.exec_exited(), pod.shim.exec_exited()]
                .map(|exited| (exited.exec_id, exited.exit_code));
            ended.sort();
            assert_eq!(ended, [(format!("{id}1"), 137), (format!("{id}2"), 137)]);
            assert_eq!(pod.shim.container_exited().container_id, id);
            drop(outputs);
        }
        assert!(pod.cgroup_names().iter().all(|name| name == "pause"));
        pod.shim.stop();
    }
}

#[test]
fn many_programs_leave_no_descriptor_and_no_process() {
    let Some(mut pod) = pods().next() else { return };
    let descriptors =
        |pod: &Pod| fs::read_dir(format!("/proc/{}/fd", pod.shim.pid)).unwrap().count();
    let run = |pod: &mut Pod| {
        let (_, output) = exec(pod, "e", "c", &["echo", "hello"]).expect("started");
        assert_eq!(output.read().0, "hello\n");
        assert_eq!(pod.shim.exec_exited().exit_code, 0);
    };
    // The container's own, before the first program.
    let before = descriptors(&pod);
    for _ in 0..50 {
        run(&mut pod);
    }
    eventually("no descriptor is left", || descriptors(&pod) == before);
    let children = |pod: &Pod| {
        let path = format!("/proc/{0}/task/{0}/children", pod.shim.pid);
        fs::read_to_string(path).unwrap().split_whitespace().count()
    };
    eventually("pause and the container are left", || children(&pod) == 2);
    pod.shim.stop();
    assert!(matches!(pod.shim.notice(), to_daemon::Message::ContainerExited(_)));
}
