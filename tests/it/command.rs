//! What runs in a container: argv, environment, working directory, as CRI and image say.

use it::Scenario;
use serde_json::json;
use testkit::image::ImageBuilder;
use tonic::Code;

it::tests!("command":
    command_and_args_replace_entrypoint_and_cmd,
    nothing_to_run_is_refused,
    the_environment_is_image_then_config,
    home_is_that_of_the_user,
    the_environment_has_nothing_of_the_daemon,
    the_working_directory,
    standard_input_is_empty_and_nothing_else_is_open,
    signals_are_as_in_a_fresh_process,
    a_program_may_be_for_its_owner_only,
);

/// Imports an image of this test's own and returns its name.
pub(crate) fn import(t: &Scenario, name: &str, image: &ImageBuilder) -> String {
    let reference = format!("usnea.test/{}-{name}:1", t.name().replace('.', "-"));
    let file = t.instance().directory().join(format!("{}-{name}.tar", t.name()));
    image.write_oci_archive(&file, &reference);
    let path = file.to_str().expect("UTF-8");
    drop(t.instance().usnea_ok(&["image", "import", path, "--name", &reference]));
    std::fs::remove_file(&file).expect("remove the archive");
    reference
}

fn echo_image() -> ImageBuilder {
    ImageBuilder::busybox()
        .with("Entrypoint", json!(["echo", "entrypoint"]))
        .with("Cmd", json!(["cmd"]))
}

async fn command_and_args_replace_entrypoint_and_cmd(t: &mut Scenario) {
    let image = import(t, "echo", &echo_image());
    let pod = t.run_pod().await;
    let spec = || testkit::container("a", &image);
    let cases = [
        (spec(), "entrypoint cmd"),
        (spec().args(&["args"]), "entrypoint args"),
        (spec().command(&["echo", "command"]), "command"),
        (spec().command(&["echo", "command"]).args(&["args", "more"]), "command args more"),
    ];
    for (spec, expected) in cases {
        assert_eq!(t.output(&pod, spec).await, expected);
    }
}

async fn nothing_to_run_is_refused(t: &mut Scenario) {
    let image = import(t, "nothing", &ImageBuilder::busybox().with("Cmd", json!([])));
    let pod = t.run_pod().await;
    t.refused(&pod, testkit::container("a", &image), Code::InvalidArgument).await;
    assert_eq!(t.containers(&pod).await, []);
}

async fn the_environment_is_image_then_config(t: &mut Scenario) {
    let env = json!(["PATH=/bin", "FROM=image", "BOTH=image"]);
    let image = import(t, "env", &ImageBuilder::busybox().with("Env", env));
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &image)
        .command(&["env"])
        .env("BOTH", "first")
        .env("BOTH", "config")
        .env("EMPTY", "")
        .env("LINES", "a\nb");
    let shown = t.output(&pod, spec).await;
    for line in ["PATH=/bin", "FROM=image", "BOTH=config", "EMPTY=", "LINES=a", "b"] {
        assert!(shown.lines().any(|shown| shown == line), "{line} not in {shown}");
    }
    assert!(!shown.contains("BOTH=first") && !shown.contains("BOTH=image"), "{shown}");
}

async fn home_is_that_of_the_user(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let home = |spec: testkit::ContainerSpec| spec.script("echo $HOME");
    assert_eq!(t.output(&pod, home(t.busybox("root"))).await, "/root");
    assert_eq!(t.output(&pod, home(t.busybox("app").user(1000))).await, "/home/app");
    assert_eq!(t.output(&pod, home(t.busybox("nobody").user(4242))).await, "/");
    assert_eq!(t.output(&pod, home(t.busybox("set").env("HOME", "/x"))).await, "/x");
}

async fn the_environment_has_nothing_of_the_daemon(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    for shown in [t.exec(&id, "tr '\\0' '\\n' < /proc/1/environ").await, t.exec(&id, "env").await] {
        assert!(!shown.contains("XDG_"), "{shown}");
        assert!(shown.contains("PATH="), "{shown}");
    }
}

async fn the_working_directory(t: &mut Scenario) {
    let image = ImageBuilder::busybox().with("WorkingDir", json!("/etc"));
    let image = import(t, "cwd", &image);
    let pod = t.run_pod().await;
    let spec = || testkit::container("a", &image).command(&["pwd"]);
    assert_eq!(t.output(&pod, spec()).await, "/etc");
    assert_eq!(t.output(&pod, spec().working_dir("/tmp")).await, "/tmp");
    assert_eq!(t.output(&pod, spec().working_dir("/made/on/demand")).await, "/made/on/demand");
    assert_eq!(t.output(&pod, t.busybox("b").command(&["pwd"])).await, "/");
}

async fn standard_input_is_empty_and_nothing_else_is_open(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let look = "echo $(ls /proc/1/fd); readlink /proc/1/fd/0";
    assert_eq!(t.exec(&id, look).await, "0 1 2\n/dev/null");
    let look = ["ls", "/proc/self/fd"];
    let executed = t.try_exec(&id, &look, 0).await.expect("ExecSync");
    assert_eq!(executed.stdout, "0\n1\n2\n3", "3 is the directory that ls reads");
}

/// Rust ignores SIGPIPE in the runtime's own processes; containers must not inherit that.
async fn signals_are_as_in_a_fresh_process(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    let expected = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000";
    assert_eq!(t.exec(&id, "grep -E '^Sig(Blk|Ign)' /proc/1/status").await, expected);
    let direct = t.try_exec(&id, &["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"], 0).await;
    assert_eq!(direct.expect("ExecSync").stdout, expected);
}

async fn a_program_may_be_for_its_owner_only(t: &mut Scenario) {
    let script = b"#!/bin/sh\necho ran\n";
    let layer = testkit::image::Layer::default().file("private", 0o700, script);
    let image = import(t, "private", &ImageBuilder::busybox().layer(layer));
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &image).command(&["/private"]);
    assert_eq!(t.output(&pod, spec).await, "ran");
}
