//! `usnea image pull`: what it prints, whom it tells a password, and what stays when it is broken off.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    process::{Child, Output, Stdio},
};

use it::Scenario;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{
    Options, Skip,
    docker_registry::{Access, DockerRegistry, PASSWORD, USER},
    image::{ImageBuilder, Layer},
    valve::Valve,
};

it::tests!("command_pull":
    lines_say_what_happens_to_each_layer,
    a_pulled_image_runs,
    json_tells_layers_apart_that_were_here,
    one_failure_does_not_keep_others_from_being_pulled,
    failures_come_with_the_way_out,
    a_password_comes_from_every_place_but_not_from_files,
    a_password_is_asked_for_on_a_terminal,
    layers_have_bars_on_a_terminal,
    a_pull_that_is_broken_off_leaves_nothing,
);

/// An image with layers that no other test has.
fn image(t: &Scenario) -> ImageBuilder {
    let content = |layer: &str| format!("{layer} of {}", t.name());
    ImageBuilder::empty()
        .layer(Layer::default().file("first", 0o644, content("first").as_bytes()))
        .layer(Layer::default().file("second", 0o644, content("second").as_bytes()))
}

fn public_registry() -> Result<DockerRegistry, Skip> {
    DockerRegistry::start(Access::default())
}

/// A registry that wants to know a password.
fn private_registry() -> Result<DockerRegistry, Skip> {
    DockerRegistry::start(Access { password: true, tls: false })
}

/// Pushes an image and returns its reference and its id.
fn push(registry: &DockerRegistry, name: &str, image: &ImageBuilder) -> (String, String) {
    (registry.reference(name), registry.push(image, name))
}

fn pull(t: &Scenario, args: &[&str]) -> Output {
    t.instance().usnea(&[&["image", "pull"], args].concat())
}

fn remove(t: &Scenario, reference: &str) {
    drop(t.instance().usnea_ok(&["image", "remove", reference]));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// What a pull printed, which must have succeeded.
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

async fn lines_say_what_happens_to_each_layer(t: &mut Scenario) -> Result<(), Skip> {
    let registry = public_registry()?;
    let (reference, id) = push(&registry, "app:1", &image(t));
    let output = pull(t, &[&reference]);
    assert_eq!(printed(&output), format!("{id} {reference}\n"));
    let said = text(&output.stderr);
    assert!(said.starts_with(&format!("pulling {reference}\n")), "{said}");
    for word in [": downloading ", ": unpacked after "] {
        assert_eq!(said.matches(word).count(), 2, "{word} in {said}");
    }
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    let again = pull(t, &[&reference]);
    assert_eq!(printed(&again), printed(&output));
    assert_eq!(text(&again.stderr).matches(": present\n").count(), 2);
    let quiet = pull(t, &["--quiet", &reference]);
    assert_eq!((printed(&quiet), text(&quiet.stderr)), (format!("{id}\n"), String::new()));
    remove(t, &reference);
    Ok(())
}

async fn a_pulled_image_runs(t: &mut Scenario) -> Result<(), Skip> {
    let registry = public_registry()?;
    let layer = Layer::default().file("etc/pulled", 0o644, b"yes");
    let (reference, _) = push(&registry, "app:1", &ImageBuilder::busybox().layer(layer));
    printed(&pull(t, &[&reference]));
    let pod = t.run_pod().await;
    let spec = testkit::container("a", &reference).command(&["cat", "/etc/pulled"]);
    assert_eq!(t.output(&pod, spec).await, "yes");
    t.remove_pod(&pod).await;
    remove(t, &reference);
    Ok(())
}

async fn json_tells_layers_apart_that_were_here(t: &mut Scenario) -> Result<(), Skip> {
    let registry = public_registry()?;
    let (base, base_id) = push(&registry, "base:1", &image(t));
    let third = Layer::default().file("third", 0o644, b"third");
    let (whole, _) = push(&registry, "whole:1", &image(t).layer(third));
    let output = pull(t, &["--output", "json", &base, &whole]);
    let output = printed(&output);
    let pulled: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [first, second] = &pulled[..] else { panic!("two objects: {pulled:?}") };
    assert_eq!((&first["id"], &first["reference"]), (&json!(base_id), &json!(base)));
    assert_eq!(first["repoTags"], json!([base]));
    assert!(first["seconds"].as_f64().expect("a number") > 0.0, "{first}");
    let present = |pulled: &Value| {
        let layers = pulled["layers"].as_array().expect("layers").clone();
        layers.iter().map(|layer| layer["present"] == json!(true)).collect::<Vec<_>>()
    };
    assert_eq!((present(first), present(second)), (vec![false; 2], vec![true, true, false]));
    assert!(first["layers"][0]["bytes"].as_u64().expect("bytes") > 0, "{first}");
    remove(t, &base);
    remove(t, &whole);
    Ok(())
}

async fn one_failure_does_not_keep_others_from_being_pulled(t: &mut Scenario) -> Result<(), Skip> {
    let registry = public_registry()?;
    let (reference, id) = push(&registry, "app:1", &image(t));
    let missing = format!("{}/missing:1", registry.domain());
    let output = pull(t, &["--quiet", &missing, &reference]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), format!("{id}\n"));
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "one line with the cause last: {said}");
    assert!(said.contains(&missing), "{said}");
    remove(t, &reference);
    Ok(())
}

async fn failures_come_with_the_way_out(t: &mut Scenario) -> Result<(), Skip> {
    let (public, private) = (public_registry()?, private_registry()?);
    let gone = format!("{}/app:1", public.domain());
    let domain = public.domain().to_owned();
    drop(public);
    let secret = format!("{}/app:1", private.domain());
    for (reference, words) in
        [(&gone, ["hint", domain.as_str()]), (&secret, ["hint", "--creds USER"])]
    {
        let output = pull(t, &[reference]);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert_eq!(text(&output.stdout), "");
    }
    Ok(())
}

async fn a_password_comes_from_every_place_but_not_from_files(
    t: &mut Scenario,
) -> Result<(), Skip> {
    let registry = private_registry()?;
    let (reference, id) = push(&registry, "app:1", &image(t));
    let both = format!("{USER}:{PASSWORD}");
    let ways: [(&[&str], Option<&str>, String); 4] = [
        (&["--creds", &both], None, String::new()),
        (&["--creds", USER], None, format!("{PASSWORD}\n")),
        (&[], Some(&both), String::new()),
        (&[], Some(USER), PASSWORD.to_owned()),
    ];
    for (options, variable, input) in ways {
        let mut command = t.instance().command(&["image", "pull", "--quiet", &reference]);
        command.args(options).envs(variable.map(|text| ("USNEA_CREDS", text)));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("write");
        let output = child.wait_with_output().expect("wait");
        assert_eq!(text(&output.stdout), format!("{id}\n"), "{options:?} {variable:?} {input:?}");
        remove(t, &reference);
    }
    let output = pull(t, &["--creds", &format!("{USER}:guess"), &reference]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!text(&output.stderr).contains("guess"), "{}", text(&output.stderr));
    Ok(())
}

/// Runs `usnea image pull` on a terminal of its own, by script(1).
fn on_terminal(t: &Scenario, args: &[&str]) -> Result<Child, Skip> {
    let script = Path::new("/usr/bin/script");
    if !script.exists() {
        return Err(Skip::because("script(1) is not installed"));
    }
    let usnea = t.instance().command(&[]);
    // The program is what others become in the end.
    let program = std::iter::once(usnea.get_program()).chain(usnea.get_args()).last();
    let program = program.and_then(OsStr::to_str).expect("test paths are UTF-8");
    // script(1) takes a shell command; no word of ours has blanks.
    let line = [&[program, "image", "pull"], args].concat().join(" ");
    let mut command = t.instance().command_of(script, &["-qec", &line, "/dev/null"]);
    command.env("TERM", "xterm").env("SHELL", "/bin/sh");
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run script(1)"))
}

async fn a_password_is_asked_for_on_a_terminal(t: &mut Scenario) -> Result<(), Skip> {
    let registry = private_registry()?;
    let (reference, id) = push(&registry, "app:1", &image(t));
    let mut child = on_terminal(t, &["--quiet", "--creds", USER, &reference])?;
    let mut input = child.stdin.take().expect("a pipe");
    let mut output = child.stdout.take().expect("a pipe");
    let mut shown = Vec::new();
    // What is typed before the question is shown, and thrown away.
    while !text(&shown).contains(": ") {
        let mut buffer = [0; 1024];
        let count = output.read(&mut buffer).expect("read");
        assert_ne!(count, 0, "no question: {}", text(&shown));
        shown.extend_from_slice(&buffer[..count]);
    }
    assert!(
        text(&shown).contains(&format!("{USER} for {}", registry.domain())),
        "{}",
        text(&shown)
    );
    writeln!(input, "{PASSWORD}").expect("write");
    output.read_to_end(&mut shown).expect("read");
    let shown = text(&shown);
    assert!(child.wait().expect("wait").success(), "{shown}");
    assert!(shown.contains(&id) && !shown.contains(PASSWORD), "{shown}");
    remove(t, &reference);
    Ok(())
}

async fn layers_have_bars_on_a_terminal(t: &mut Scenario) -> Result<(), Skip> {
    let registry = public_registry()?;
    let (reference, id) = push(&registry, "app:1", &image(t));
    let mut child = on_terminal(t, &[&reference])?;
    // Else script(1) goes on waiting for what is typed.
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("wait");
    let shown = printed(&output);
    assert!(shown.contains("unpacked") && shown.contains("\u{1b}["), "{shown:?}");
    assert!(!shown.contains("unpacked after"), "bars take the place of lines: {shown:?}");
    assert!(shown.trim_end().ends_with(&format!("{id} {reference}")), "{shown:?}");
    remove(t, &reference);
    Ok(())
}

fn entries(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = fs::read_dir(directory)
        .expect("list a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    names
}

/// Bytes that cannot be compressed.
fn noise(length: usize) -> Vec<u8> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let states = std::iter::successors(Some(1), next);
    states.map(|state| state.to_be_bytes()[0]).take(length).collect()
}

async fn a_pull_that_is_broken_off_leaves_nothing(t: &mut Scenario) -> Result<(), Skip> {
    // Other tests put layers into the shared store.
    t.own_daemon(Options::default()).await?;
    let registry = public_registry()?;
    let large = Layer::default().file("large", 0o644, &noise(256 << 10));
    registry.push(&image(t).layer(large), "app:1");
    // Enough for the documents, not for all layers.
    let valve = Valve::before(registry.domain(), 0);
    let reference = valve.reference("app:1");
    let (data, log) = (t.instance().data_directory(), t.volume("log").join("stderr"));
    let layers = entries(&data.join("layers"));
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut command = t.instance().command(&["image", "pull", &reference]);
        let stderr = File::create(&log).expect("create a file");
        let mut child = command.stderr(stderr).spawn().expect("run usnea");
        valve.allow(128 << 10);
        t.eventually("a layer is on its way", async |_| {
            let said = fs::read_to_string(&log).expect("readable");
            (valve.is_shut() && said.contains("downloading")).then_some(())
        })
        .await;
        assert_ne!(entries(&data.join("layers")), layers);
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("pids fit"));
        kill(pid, signal).expect("signal usnea");
        assert_eq!(child.wait().expect("wait").code(), Some(code), "{signal}");
        assert_eq!(entries(&data.join("layers")), layers, "{signal}");
    }
    let output = t.instance().usnea(&["image", "inspect", &reference]);
    assert_eq!(output.status.code(), Some(1), "there is no such image");
    Ok(())
}
