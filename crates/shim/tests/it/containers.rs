//! The life of a container: created, started, signalled, over, removed.

use std::{
    fs,
    io::Write,
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};
use serde_json::json;
use shim_api::v1::{
    ContainerState, GetState, PidNamespace, ReopenLog, SignalContainer, container_state::State,
    failure::Kind, reply, request::Call,
};

use crate::{
    fixture::{Pod, records},
    harness::{eventually, lives},
};

fn state_of(pod: &mut Pod, id: &str) -> Option<ContainerState> {
    match pod.shim.call(Call::GetState(GetState {}), &[]).unwrap() {
        (reply::Result::State(state), _) => {
            state.containers.into_iter().find(|c| c.container_id == id)
        }
        other => panic!("{other:?}"),
    }
}

fn signal(pod: &mut Pod, id: &str, signal: i32) {
    let call = SignalContainer { container_id: id.to_owned(), signal };
    pod.shim.call(Call::SignalContainer(call), &[]).expect("signalled");
}

/// With and without cgroups.
fn pods() -> impl Iterator<Item = Pod> {
    [Pod::start, Pod::start_without_cgroups].into_iter().filter_map(|start| start())
}

#[test]
fn a_container_lives_and_leaves_its_log_and_record() {
    for mut pod in pods() {
        let script = "echo one; echo two >&2; printf rest; uname -n; exit 3";
        let container = pod.container("c", &script.replace("uname", "busybox uname"));
        let pid = pod.create(&container).expect("created");
        let created = state_of(&mut pod, "c").expect("known");
        assert_eq!(created.pid, pid);
        assert!(matches!(created.state, Some(State::Created(_))), "{created:?}");
        assert_eq!(pod.log("c"), Vec::<String>::new(), "it waits");
        assert_eq!(pod.mounts().len(), 1, "its root");

        let started_at = pod.start_container("c").expect("started");
        let exited = pod.shim.container_exited();
        assert_eq!((exited.exit_code, exited.started_at), (3, started_at));
        assert!(exited.finished_at >= started_at && !exited.oom_killed, "{exited:?}");
        let mut log = pod.log("c");
        log.sort();
        assert_eq!(log, ["stderr F two", "stdout F one", "stdout F restpod-1"]);
        let record = pod.exit_record("c");
        assert_eq!(
            record,
            json!({
                "container_id": "c", "exit_code": 3, "oom_killed": false, "start_error": "",
                "started_at": started_at, "finished_at": exited.finished_at,
            })
        );
        let known = state_of(&mut pod, "c").and_then(|c| c.state);
        assert_eq!(known, Some(State::Exited(exited)));

        pod.remove("c").expect("removed");
        pod.remove("c").expect("removed already");
        assert_eq!(state_of(&mut pod, "c"), None);
        assert_eq!(pod.mounts(), Vec::<String>::new());
        assert_eq!(fs::read_dir(pod.shim.path("run/oci")).unwrap().count(), 0);
        assert!(pod.cgroup_names().iter().all(|name| name == "pause"), "{:?}", pod.cgroup_names());
        assert_eq!(pod.shim.stop(), 0);
    }
}

#[test]
fn an_unfinished_line_is_partial() {
    let Some(mut pod) = Pod::start() else { return };
    pod.run("c", "printf 'whole\\nunfinished'");
    assert_eq!(pod.shim.container_exited().exit_code, 0);
    assert_eq!(pod.log("c"), ["stdout F whole", "stdout P unfinished"]);
}

#[test]
fn starting_twice_and_starting_the_dead_are_refused() {
    let Some(mut pod) = Pod::start() else { return };
    pod.run("c", "sleep 100");
    assert_eq!(pod.start_container("c").expect_err("runs").kind(), Kind::WrongState);
    assert_eq!(pod.remove("c").expect_err("runs").kind(), Kind::WrongState);
    pod.kill("c").expect("killed");
    pod.shim.container_exited();
    assert_eq!(pod.start_container("c").expect_err("is over").kind(), Kind::WrongState);
    pod.kill("c").expect("is killed already");
}

#[test]
fn killing_ends_every_process_of_a_container() {
    let pid_namespaces = [PidNamespace::Container, PidNamespace::Pod, PidNamespace::Node];
    for mut pod in pods() {
        for (id, which) in ["container", "pod", "node"].into_iter().zip(pid_namespaces) {
            let marker = format!("6{id}").len() * 1000 + 7;
            let script = format!("busybox setsid sleep {marker} & sleep {marker} & wait");
            let container = pod.container(id, &script).pid_namespace(which);
            let init = pod.create(&container).expect("created");
            pod.start_container(id).expect("started");
            let sleepers = || {
                let is_sleeper = |pid: &i32| {
                    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    command.starts_with(format!("sleep\0{marker}\0").as_bytes())
                };
                let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
                entries
                    .filter_map(|e| e.file_name().to_str()?.parse().ok())
                    .filter(is_sleeper)
                    .count()
            };
            eventually("it sleeps", || sleepers() == 2);
            pod.kill(id).expect("killed");
            let exited = pod.shim.container_exited();
            assert_eq!((exited.container_id.as_str(), exited.exit_code), (id, 137));
            assert!(!lives(init));
            assert_eq!(sleepers(), 0, "{id}");
        }
        assert!(lives(pod.pause_pid));
        pod.shim.stop();
    }
}

#[test]
fn a_signal_reaches_the_program() {
    let Some(mut pod) = Pod::start() else { return };
    pod.run("c", "trap 'exit 7' TERM; echo ready; while true; do sleep 0.01; done");
    eventually("the trap is set", || !pod.log("c").is_empty());
    signal(&mut pod, "c", 15);
    assert_eq!(pod.shim.container_exited().exit_code, 7);
    let call = SignalContainer { container_id: "c".to_owned(), signal: 15 };
    let failure = pod.shim.call(Call::SignalContainer(call), &[]).expect_err("is over");
    assert_eq!(failure.kind(), Kind::WrongState);
}

#[test]
fn an_end_by_a_real_time_signal_is_seen() {
    let Some(mut pod) = Pod::start() else { return };
    // Not PID 1 of a namespace, which ignores what it does not handle.
    let container = pod.container("c", "exec sleep 60").pid_namespace(PidNamespace::Pod);
    pod.create(&container).expect("created");
    pod.start_container("c").expect("started");
    signal(&mut pod, "c", 37);
    assert_eq!(pod.shim.container_exited().exit_code, 128 + 37);
}

#[test]
fn a_program_that_cannot_be_executed_is_an_exit_with_128() {
    for mut pod in pods() {
        let mut container = pod.container("c", "");
        container.spec["process"]["args"] = json!(["/no/such/program"]);
        pod.create(&container).expect("created");
        let failure = pod.start_container("c").expect_err("no such program");
        assert_eq!(failure.kind(), Kind::CannotRun);
        assert!(failure.message.contains("No such file or directory"), "{failure:?}");
        let exited = pod.shim.container_exited();
        assert_eq!((exited.exit_code, exited.started_at), (128, 0));
        assert!(exited.start_error.contains("/no/such/program"), "{exited:?}");
        assert_eq!(pod.exit_record("c")["start_error"], exited.start_error.as_str());
        pod.remove("c").expect("removed");
        pod.shim.stop();
    }
}

#[test]
fn a_created_container_can_be_killed() {
    let Some(mut pod) = Pod::start() else { return };
    let container = pod.container("c", "echo never");
    pod.create(&container).expect("created");
    pod.kill("c").expect("killed");
    let exited = pod.shim.container_exited();
    assert_eq!((exited.exit_code, exited.started_at, exited.start_error.as_str()), (137, 0, ""));
    assert_eq!(pod.log("c"), Vec::<String>::new());
    pod.remove("c").expect("removed");
}

#[test]
fn a_failed_create_leaves_nothing() {
    for mut pod in pods() {
        let mut missing_source = pod.container("c", "true");
        let mount = json!({"destination": "/data", "type": "bind", "source": "/no/such/source", "options": ["rbind"]});
        missing_source.spec["mounts"].as_array_mut().unwrap().push(mount);
        pod.create(&missing_source).expect_err("no source");

        let mut no_layer = pod.container("c", "true");
        no_layer.request.rootfs.as_mut().unwrap().lower = vec!["missing".to_owned()];
        pod.create(&no_layer).expect_err("no layer");

        let mut bad_log = pod.container("c", "true");
        bad_log.request.log_path = "../0.log".to_owned();
        let refused = pod.create(&bad_log).expect_err("log climbs");
        assert_eq!(refused.kind(), Kind::Refused, "{refused:?}");

        let mut bad_id = pod.container("c", "true");
        bad_id.request.container_id = "../c".to_owned();
        bad_id.request.bundle = pod.text("c/bundle");
        let refused =
            pod.shim.call(Call::CreateContainer(bad_id.request), &[]).expect_err("id climbs");
        assert_eq!(refused.kind(), Kind::Refused);

        assert_eq!(pod.mounts(), Vec::<String>::new());
        assert!(pod.cgroup_names().iter().all(|name| name == "pause"));
        let children = format!("/proc/{0}/task/{0}/children", pod.shim.pid);
        let pause = format!("{} ", pod.pause_pid);
        eventually("no process is left", || fs::read_to_string(&children).unwrap() == pause);
        assert!(
            fs::read_dir(pod.shim.path("run/oci"))
                .map_or(true, |mut entries| entries.next().is_none())
        );

        let container = pod.container("c", "echo fine");
        pod.create(&container).expect("the id is free");
        pod.start_container("c").expect("started");
        assert_eq!(pod.shim.container_exited().exit_code, 0);
        pod.shim.stop();
    }
}

#[test]
fn cgroup_settings_are_in_force_before_the_first_process() {
    let Some(mut pod) = Pod::start().filter(|pod| pod.cgroups.is_some()) else { return };
    let mut container = pod.container("c", "sleep 100");
    let setting = |file: &str, value: &str| shim_api::v1::CgroupSetting {
        file: file.to_owned(),
        value: value.to_owned(),
    };
    container.request.cgroup_settings = vec![setting("cgroup.max.descendants", "5")];
    pod.create(&container).expect("created");
    let cgroups = pod.cgroups.as_ref().unwrap();
    let cgroup = cgroups.root.descend(Path::new("c")).unwrap();
    assert_eq!(cgroup.read("cgroup.max.descendants").unwrap(), "5\n");

    let mut refused = pod.container("d", "true");
    refused.request.cgroup_settings = vec![setting("cgroup.max.descendants", "many")];
    assert_eq!(pod.create(&refused).expect_err("no number").kind(), Kind::Refused);
    let mut elsewhere = pod.container("d", "true");
    elsewhere.request.cgroup_settings = vec![setting("../c/cgroup.max.descendants", "1")];
    assert_eq!(pod.create(&elsewhere).expect_err("another cgroup").kind(), Kind::Refused);
    assert_eq!(pod.cgroup_names(), ["c", "pause"]);
}

#[test]
fn a_pod_shares_its_pid_namespace() {
    let Some(mut pod) = Pod::start() else { return };
    let container =
        pod.container("c", "cat /proc/1/comm; exec sleep 60").pid_namespace(PidNamespace::Pod);
    pod.create(&container).expect("created");
    pod.start_container("c").expect("started");
    eventually("it says who is PID 1", || !pod.log("c").is_empty());
    let comm = fs::read_to_string(format!("/proc/{}/comm", pod.pause_pid)).unwrap();
    assert_eq!(pod.log("c"), [format!("stdout F {}", comm.trim_end())]);

    let mut debugger = pod.container("d", "exec sleep 61").pid_namespace(PidNamespace::Target);
    debugger.request.target_container_id = "c".to_owned();
    let joined = pod.create(&debugger).expect("created");
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    assert_eq!(namespace(joined), namespace(pod.pause_pid));

    debugger.request.container_id = "e".to_owned();
    debugger.request.target_container_id = "nobody".to_owned();
    debugger.request.bundle = pod.text("d/bundle");
    let failure =
        pod.shim.call(Call::CreateContainer(debugger.request), &[]).expect_err("no target");
    assert_eq!(failure.kind(), Kind::NotFound);
    pod.shim.stop();
}

#[test]
fn a_rotated_log_goes_on_in_the_new_file_without_a_torn_line() {
    let Some(mut pod) = Pod::start() else { return };
    pod.run("c", "i=0; while test $i -lt 20000; do echo line $i; i=$((i+1)); done");
    let path = pod.log_path("c");
    let mut all = Vec::new();
    for rotation in 0..20 {
        let rotated = path.with_extension(rotation.to_string());
        fs::rename(&path, &rotated).unwrap();
        let reopened =
            pod.shim.call(Call::ReopenLog(ReopenLog { container_id: "c".to_owned() }), &[]);
        all.push(rotated);
        match reopened {
            Ok(_) => assert!(path.exists()),
            Err(failure) => {
                assert_eq!(failure.kind(), Kind::WrongState, "it may be over: {failure:?}");
                break;
            }
        }
    }
    assert_eq!(pod.shim.container_exited().exit_code, 0);
    all.push(path);
    let read = |path| records(&fs::read_to_string(path).unwrap_or_default());
    let lines: Vec<String> = all.iter().flat_map(read).collect();
    let expected: Vec<String> = (0..20000).map(|i| format!("stdout F line {i}")).collect();
    assert!(lines == expected, "{} lines", lines.len());
}

#[test]
fn a_log_is_reopened_only_while_the_container_runs() {
    let Some(mut pod) = Pod::start() else { return };
    let reopen = |pod: &mut Pod| {
        pod.shim.call(Call::ReopenLog(ReopenLog { container_id: "c".to_owned() }), &[])
    };
    assert_eq!(reopen(&mut pod).expect_err("unknown").kind(), Kind::NotFound);
    let container = pod.container("c", "sleep 100");
    pod.create(&container).expect("created");
    assert_eq!(reopen(&mut pod).expect_err("created").kind(), Kind::WrongState);
    pod.start_container("c").expect("started");
    reopen(&mut pod).expect("runs");
    pod.kill("c").expect("killed");
    pod.shim.container_exited();
    fs::remove_file(pod.log_path("c")).unwrap();
    assert_eq!(reopen(&mut pod).expect_err("is over").kind(), Kind::WrongState);
    assert!(!pod.log_path("c").exists());
}

#[test]
fn a_flood_of_output_holds_up_nobody() {
    let Some(mut pod) = Pod::start() else { return };
    pod.run("flood", "exec yes");
    let begin = Instant::now();
    pod.run("quick", "echo done");
    assert_eq!(pod.shim.container_exited().container_id, "quick");
    assert_eq!(pod.log("quick"), ["stdout F done"]);
    assert!(begin.elapsed().as_secs() < 3, "{:?}", begin.elapsed());
    pod.kill("flood").expect("killed");
    let begin = Instant::now();
    assert_eq!(pod.shim.container_exited().exit_code, 137);
    assert!(begin.elapsed().as_secs() < 3, "{:?}", begin.elapsed());
    assert!(pod.log("flood").iter().all(|record| record == "stdout F y"));
}

#[test]
fn a_stranger_with_the_output_open_delays_the_exit_by_a_second_at_most() {
    let Some(mut pod) = Pod::start() else { return };
    let init = pod.run("c", "echo last words; sleep 100");
    let holder = fs::File::options().write(true).open(format!("/proc/{init}/fd/1")).unwrap();
    eventually("it has spoken", || !pod.log("c").is_empty());
    pod.kill("c").expect("killed");
    let begin = Instant::now();
    pod.shim.container_exited();
    assert!((900..3000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    assert_eq!(pod.log("c"), ["stdout F last words"]);
    assert!(holder.as_fd().try_clone_to_owned().is_ok());
}

#[test]
fn a_shim_that_was_busy_beyond_the_deadline_still_logs_what_was_written() {
    let Some(mut pod) = Pod::start() else { return };
    let init = pod.run("c", "sleep 100");
    let mut streams = [1, 2]
        .map(|fd| fs::File::options().write(true).open(format!("/proc/{init}/fd/{fd}")).unwrap());
    pod.kill("c").expect("killed");
    eventually("it is reaped", || !Path::new(&format!("/proc/{init}")).exists());
    kill(pod.shim.pid, Signal::SIGSTOP).unwrap();
    let lines = "0123456789abcde\n".repeat(4000);
    for stream in &mut streams {
        stream.write_all(lines.as_bytes()).expect("a pipe has room for 64 KiB");
    }
    std::thread::sleep(Duration::from_millis(1100));
    kill(pod.shim.pid, Signal::SIGCONT).unwrap();
    pod.shim.container_exited();
    let log = pod.log("c");
    for stream in ["stdout", "stderr"] {
        let record = format!("{stream} F 0123456789abcde");
        assert_eq!(log.iter().filter(|text| **text == record).count(), 4000, "{stream}");
    }
}

#[test]
fn standard_input_waits_if_asked_for_and_is_empty_else() {
    let Some(mut pod) = Pod::start() else { return };
    pod.run("empty", "cat; echo end");
    assert_eq!(pod.shim.container_exited().exit_code, 0);
    let mut container = pod.container("open", "cat; echo end");
    container.request.stdin = true;
    pod.create(&container).expect("created");
    pod.start_container("open").expect("started");
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(pod.log("open"), Vec::<String>::new());
    pod.kill("open").expect("killed");
    assert_eq!(pod.shim.container_exited().exit_code, 137);
}

#[test]
fn output_without_a_log_is_discarded() {
    let Some(mut pod) = Pod::start() else { return };
    // More than a pipe holds: somebody has to read it.
    let mut container = pod.container("c", "echo unheard && head -c 1000000 /dev/zero");
    container.request.log_path = String::new();
    pod.create(&container).expect("created");
    pod.start_container("c").expect("started");
    assert_eq!(pod.shim.container_exited().exit_code, 0);
    assert_eq!(fs::read_dir(pod.shim.path("logs")).unwrap().count(), 0);
}

#[test]
fn an_ordinary_user_may_open_its_output_by_name() {
    let Some(mut pod) = Pod::start() else { return };
    let mut container = pod.container("c", "echo by name > /dev/stdout");
    container.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    if nix::unistd::Uid::effective().is_root() {
        pod.create(&container).expect("created");
        pod.start_container("c").expect("started");
        assert_eq!(pod.shim.container_exited().exit_code, 0);
        assert_eq!(pod.log("c"), ["stdout F by name"]);
    } else {
        eprintln!("skipped: only one user is mapped");
    }
}

#[test]
fn exits_are_known_to_the_next_daemon() {
    let Some(mut pod) = Pod::start() else { return };
    pod.run("c", "sleep 100; exit 5");
    let begin = Instant::now();
    pod.kill("c").expect("killed");
    pod.shim.reconnect();
    eventually("it is over", || {
        matches!(state_of(&mut pod, "c").unwrap().state, Some(State::Exited(_)))
    });
    assert!(begin.elapsed().as_secs() < 5);
    assert_eq!(pod.exit_record("c")["exit_code"], 137);
}

#[test]
fn stopping_the_pod_leaves_nothing() {
    for mut pod in pods() {
        let inits = [pod.run("a", "sleep 100 & wait"), pod.run("b", "trap '' TERM; sleep 100")];
        assert_eq!(pod.shim.stop(), 0);
        assert!(inits.into_iter().all(|init| !lives(init)));
        assert!(!lives(pod.pause_pid));
        assert_eq!(pod.cgroup_names(), Vec::<String>::new());
        for id in ["a", "b"] {
            assert_eq!(pod.exit_record(id)["exit_code"], 137);
        }
        let ours = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!ours.contains(&pod.text("")));
    }
}
