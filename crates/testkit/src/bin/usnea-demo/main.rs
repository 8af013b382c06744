//! A pod's life, for people who look on: what `scripts/demo` shows.
//!
//! Everything happens in a temporary directory and, when root looks on, as an ordinary user. Ends with 1 when a step
//! failed or something was left behind.
#![forbid(unsafe_code)]

mod client;
mod config;
mod crictl;
mod grpc;
mod node;
mod screen;

use std::{
    fs,
    path::Path,
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{
    Instance, Options,
    audit::{Audit, Leak, Scope},
    image::{ImageBuilder, busybox_path},
    processes::{self, Process},
};

use crate::{
    client::{Client, Result, short},
    config::{Files, IMAGE, name},
    crictl::Crictl,
    grpc::Grpc,
    node::Node,
    screen::{command, heading, note, output},
};

/// Generous: what is waited for takes a moment.
const TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
const NAMESPACES: &str = "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done";

fn main() -> ExitCode {
    match show() {
        Ok(()) => {
            note("\nAll of it worked, and nothing was left behind.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            note(&format!("\nThe demo failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<()> {
    let instance = Instance::start(Options::default()).map_err(|skip| skip.0)?;
    let node = Node::of(&instance)?;
    introduce(&instance)?;
    import_image(&instance, &node)?;
    let client = choose_client(&instance)?;
    let audit = Audit::before(&node.scope(&instance));
    let mut show = Show::begin(&instance, &*client)?;
    let shown = show.steps();
    if shown.is_err() {
        // Ends what runs; the reason to tell is the step's.
        drop(client.stop_pod(&show.pod));
        drop(client.remove_pod(&show.pod));
    }
    shown?;
    report(&audit, &node.scope(&instance), "while daemon and node run")?;
    show.no_process()?;
    end(&instance, &node, &audit)
}

fn introduce(instance: &Instance) -> Result<()> {
    let account = instance.account();
    if account.is_dedicated() {
        note(&format!(
            "\nPods shall not need root: all of it runs as the ordinary user {} (uid {}), made for this.\n\
             Remove it with `userdel {}` when you are done.",
            account.name, account.uid, account.name
        ));
    }
    heading("1. What this machine offers to an ordinary user");
    command("usnea check");
    let check = instance.usnea(&["check"]);
    output(&String::from_utf8_lossy(&check.stdout));
    if !check.status.success() {
        return Err("this machine lacks what is marked as missing above".into());
    }
    Ok(())
}

fn import_image(instance: &Instance, node: &Node) -> Result<()> {
    heading("2. A daemon, its node, and an image");
    command("usnea serve &");
    output(&format!(
        "daemon: pid {}, as {}\nnode:   pid {}, the namespaces that all pods live in; the daemon has started it",
        instance.daemon().pid,
        instance.account().name,
        node.holder.pid
    ));
    let layout = instance.volume("image");
    ImageBuilder::busybox().write_layout(&layout, IMAGE);
    note(&format!("An image made on the spot, of {} alone:", busybox_path().display()));
    let layout = layout.to_string_lossy();
    command(&format!("usnea image import {layout}"));
    output(&instance.usnea_ok(&["image", "import", &layout]));
    Ok(())
}

fn choose_client(instance: &Instance) -> Result<Box<dyn Client + '_>> {
    if let Some(crictl) = Crictl::find(instance) {
        return Ok(Box::new(crictl));
    }
    Ok(Box::new(Grpc::new(instance.socket())?))
}

/// The pod and its containers.
struct Show<'a> {
    instance: &'a Instance,
    client: &'a dyn Client,
    files: Files<'a>,
    pod: String,
    main: String,
    sidecar: String,
    /// Mains that have ended.
    ended: Vec<String>,
}

impl<'a> Show<'a> {
    fn begin(instance: &'a Instance, client: &'a dyn Client) -> Result<Self> {
        heading("3. A pod with two containers, which share a volume and the network");
        note(&client.describe());
        let (logs, volume) = (instance.log_directory("web"), instance.volume("www"));
        let files = Files { instance, logs, volume };
        let (pod, main, sidecar) = (files.pod(), files.main(0), files.sidecar());
        note(
            "The sidecar writes a page into the volume; main serves it at 127.0.0.1, where the sidecar reads it:",
        );
        for file in [&pod, &main, &sidecar] {
            command(&format!("cat {}", name(file)));
            output(&fs::read_to_string(file)?);
        }
        let pod_id = client.run_pod(&pod)?;
        let [main, sidecar] =
            [client.create(&pod_id, &main, &pod)?, client.create(&pod_id, &sidecar, &pod)?];
        client.start(&main)?;
        client.start(&sidecar)?;
        let show = Self { instance, client, files, pod: pod_id, main, sidecar, ended: Vec::new() };
        output(&client.list_containers()?);
        Ok(show)
    }

    fn steps(&mut self) -> Result<()> {
        self.logs()?;
        self.exec()?;
        self.restart_main()?;
        self.restart_daemon()?;
        self.clean_up()
    }

    /// The shim cannot be looked into by an ordinary user, but its command line names the pod.
    fn no_process(&self) -> Result<()> {
        let line = |process: Process| process.command_line();
        let left = processes::all().into_iter().map(line).find(|line| line.contains(&self.pod));
        left.map_or(Ok(()), |line| Err(format!("a process is left: {line}").into()))
    }

    fn logs(&self) -> Result<()> {
        heading("4. What both have written");
        wait("the sidecar to read a page", || {
            Ok(read(&self.files.logs.join("main_0.log")).contains("response:200"))
        })?;
        for id in [&self.main, &self.sidecar] {
            output(&self.client.logs(id)?);
        }
        Ok(())
    }

    fn exec(&self) -> Result<()> {
        heading("5. A command in the running container");
        let script = "hostname; id; ls /www; ps";
        output(&self.client.exec(&self.main, &["sh", "-c", script])?);
        Ok(())
    }

    fn restart_main(&mut self) -> Result<()> {
        heading("6. Main is killed and restarted; volume and namespaces stay");
        let before = self.namespaces(&self.main)?;
        if self.namespaces(&self.sidecar)? != before {
            return Err("main and sidecar are in different namespaces".into());
        }
        self.kill_main()?;
        let (pod, main) = (self.files.pod(), self.files.main(1));
        let main = self.client.create(&self.pod, &main, &pod)?;
        self.ended.push(std::mem::replace(&mut self.main, main));
        self.client.start(&self.main)?;
        output(&self.client.list_containers()?);
        let starts = self.files.volume.join("starts");
        wait("main to write into the volume", || Ok(read(&starts).contains("attempt 1")))?;
        let starts = self.client.exec(&self.main, &["cat", "/www/starts"])?;
        output(&starts);
        if starts.lines().collect::<Vec<_>>() != ["attempt 0", "attempt 1"] {
            return Err("the volume has lost something".into());
        }
        if self.namespaces(&self.main)? != before {
            return Err("the namespaces have changed".into());
        }
        note("The volume has both starts, and the namespaces are the same.");
        Ok(())
    }

    fn namespaces(&self, id: &str) -> Result<String> {
        let namespaces = self.client.exec(id, &["sh", "-c", NAMESPACES])?;
        output(&namespaces);
        Ok(namespaces)
    }

    fn kill_main(&self) -> Result<()> {
        let pid = self.pid(&self.main)?;
        command(&format!("kill -KILL {pid}"));
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        wait("main to end", || Ok(self.client.status(&self.main)?.state == "CONTAINER_EXITED"))?;
        let code = self.client.status(&self.main)?.exit_code;
        output(&format!("main has exited with {code}: 128 + 9, the signal"));
        if code == 137 { Ok(()) } else { Err("the exit code of a killed container is 137".into()) }
    }

    fn pid(&self, id: &str) -> Result<i32> {
        Ok(self.client.status(id)?.pid.ok_or("a running container has a pid")?)
    }

    fn restart_daemon(&self) -> Result<()> {
        heading("7. The daemon is killed and started again; the pod does not notice");
        let pids = [self.pid(&self.main)?, self.pid(&self.sidecar)?];
        command(&format!("kill -KILL {}", self.instance.daemon().pid));
        self.instance.kill_daemon();
        for pid in pids {
            output(&format!("{pid} runs: {}", alive(pid)?));
        }
        command("usnea serve &");
        self.instance.start_daemon();
        let pods = self.client.list_pods()?;
        output(&pods);
        output(&self.client.list_containers()?);
        if !pods.contains(short(&self.pod)) {
            return Err("the pod is not listed".into());
        }
        if pids != [self.pid(&self.main)?, self.pid(&self.sidecar)?] {
            return Err("the containers are not the same processes".into());
        }
        note("Pod and containers are listed, and are the same processes as before.");
        Ok(())
    }

    fn clean_up(&self) -> Result<()> {
        heading("8. Clean-up, and whether anything was left behind");
        for id in self.ended.iter().chain([&self.main, &self.sidecar]) {
            self.client.stop(id)?;
            self.client.remove(id)?;
        }
        self.client.stop_pod(&self.pod)?;
        self.client.remove_pod(&self.pod)
    }
}

fn alive(pid: i32) -> Result<String> {
    let line = Process { pid }.command_line();
    if line.is_empty() { Err(format!("{pid} has ended").into()) } else { Ok(line) }
}

/// Ends daemon and node, and looks again.
fn end(instance: &Instance, node: &Node, audit: &Audit) -> Result<()> {
    let scope = node.scope(instance);
    command(&format!("kill -TERM {} {}", instance.daemon().pid, node.holder.pid));
    instance.stop();
    node.end()?;
    wait("the node to end", || Ok(!node.runs() && scope.processes().is_empty()))?;
    report(audit, &scope, "after daemon and node have ended")
}

/// Shows what is there that was not there before the pod.
fn report(audit: &Audit, scope: &Scope, when: &str) -> Result<()> {
    let leaks = audit.after(scope);
    note(&format!(
        "Leak audit {when} (processes, mounts, cgroups, namespaces, sockets, files): {} left",
        leaks.len()
    ));
    output(&leaks.iter().map(Leak::to_string).collect::<Vec<_>>().join("\n"));
    if leaks.is_empty() { Ok(()) } else { Err("something was left behind".into()) }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

fn wait(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !done()? {
        if Instant::now() > deadline {
            return Err(format!("waited in vain for {what}").into());
        }
        sleep(POLL);
    }
    Ok(())
}
