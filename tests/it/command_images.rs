//! `usnea image` beside a running daemon: what it prints, what it refuses, and what stays.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Output, Stdio},
};

use cri_api::v1::{ImageSpec, Mount};
use it::{BUSYBOX, Scenario};
use serde_json::{Value, json};
use testkit::{
    Options, Skip,
    image::{ImageBuilder, Layer},
};

use crate::command::import;

it::tests!("command_images":
    list_shows_a_row_for_each_name,
    list_takes_a_filter,
    inspect_shows_one_object_or_an_array,
    remove_takes_several_and_goes_on,
    removing_what_is_in_use_says_so,
    import_reads_an_archive_from_standard_input,
    import_refuses_what_is_no_archive_on_standard_input,
    export_writes_what_import_reads,
    export_refuses_what_it_cannot_write,
    bad_arguments_are_refused_with_a_way_out,
    bad_credentials_are_refused_and_not_shown,
    prune_removes_images_without_a_name,
    prune_all_spares_what_is_used_or_pinned,
);

fn small(content: &str) -> ImageBuilder {
    ImageBuilder::empty()
        .layer(Layer::default().file("content", 0o644, content.as_bytes()))
        .with("Cmd", json!(["/content"]))
}

/// A name of this test's own.
fn reference(t: &Scenario, name: &str) -> String {
    format!("usnea.test/{}-{name}:1", t.name().replace('.', "-"))
}

fn usnea(t: &Scenario, args: &[&str]) -> String {
    t.instance().usnea_ok(&[&["image"], args].concat())
}

fn try_usnea(t: &Scenario, args: &[&str]) -> Output {
    t.instance().usnea(&[&["image"], args].concat())
}

fn json_of(t: &Scenario, args: &[&str]) -> Value {
    serde_json::from_str(&usnea(t, args)).expect("JSON")
}

fn ids(images: &Value) -> Vec<&str> {
    images.as_array().expect("an array").iter().filter_map(|image| image["id"].as_str()).collect()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// It fails with `code`, says all of `words`, and nothing of a panic.
fn fails(output: &Output, code: i32, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "{word} not in {said}");
    }
}

async fn list_shows_a_row_for_each_name(t: &mut Scenario) {
    let image = small("list");
    let (one, two) = (import(t, "one", &image), import(t, "two", &image));
    let table = usnea(t, &["list"]);
    let header: Vec<&str> = table.lines().next().unwrap_or("").split_whitespace().collect();
    assert_eq!(header, ["NAME", "ID", "SIZE", "PINNED"]);
    let id = json_of(t, &["inspect", &one])["id"].as_str().expect("an id").to_owned();
    for name in [&one, &two] {
        let row = table.lines().find(|row| row.starts_with(name.as_str())).expect(name);
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[1], &id["sha256:".len()..][..12], "{row}");
        assert_eq!(cells[3], "B", "a number with its unit: {row}");
    }
    assert!(!table.contains("@sha256:"), "{table}");
    let with_digests = usnea(t, &["list", "--digests", "--output", "table"]);
    let repository = one.rsplit_once(':').expect("a tag").0;
    assert!(with_digests.contains(&format!("{repository}@sha256:")), "{with_digests}");
    let listed = json_of(t, &["list", "--output", "json"]);
    let listed = listed.as_array().expect("an array").iter().find(|image| image["id"] == *id);
    let listed = listed.expect("it is there");
    assert_eq!(listed["repoTags"], json!([one, two]));
    assert_eq!(listed["pinned"], json!(false));
    assert!(listed["size"].as_u64().expect("bytes") >= 4, "{listed}");
    drop(usnea(t, &["remove", &one]));
}

async fn list_takes_a_filter(t: &mut Scenario) {
    let (one, two) = (import(t, "a", &small("one")), import(t, "b", &small("two")));
    let listed = |filter: &str| json_of(t, &["list", filter, "--output", "json"]);
    let only = listed(&one);
    let [id] = ids(&only)[..] else { panic!("exactly one: {only}") };
    assert_eq!(listed(&id["sha256:".len()..][..12]), only);
    assert_eq!(listed(one.rsplit_once(':').expect("a tag").0), only);
    assert_eq!(listed("usnea.test/none:1"), json!([]));
    fails(&try_usnea(t, &["list", "no reference"]), 1, &["\"no reference\""]);
    drop(usnea(t, &["remove", &one, &two]));
}

async fn inspect_shows_one_object_or_an_array(t: &mut Scenario) {
    let one = import(t, "one", &small("first").with("User", json!("7")));
    let two = import(t, "two", &small("second").with("Labels", json!({ "a": "b" })));
    let shown = json_of(t, &["inspect", &one]);
    assert_eq!((&shown["repoTags"], &shown["config"]["user"]), (&json!([one]), &json!("7")));
    assert_eq!(shown["layers"].as_array().expect("layers").len(), 1);
    assert_eq!(shown["containers"], json!([]));
    let both = json_of(t, &["inspect", &two, &one]);
    assert_eq!((&both[0]["repoTags"], &both[1]), (&json!([two]), &shown));
    assert_eq!(both[0]["config"]["labels"], json!({ "a": "b" }));
    let output = try_usnea(t, &["inspect", &two, "usnea.test/none:1"]);
    fails(&output, 1, &["\"usnea.test/none:1\" not found", "usnea image list"]);
    let found: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(found, json!([both[0]]), "what is there is shown all the same");
    let output = try_usnea(t, &["inspect", "usnea.test/none:1"]);
    fails(&output, 1, &["not found"]);
    assert_eq!(stdout(&output), "");
    drop(usnea(t, &["remove", &one, &two]));
}

async fn remove_takes_several_and_goes_on(t: &mut Scenario) {
    let image = small("several");
    let (one, two) = (import(t, "one", &image), import(t, "two", &image));
    let other = import(t, "other", &small("other"));
    // Two names of one image, one that is not there, one that cannot be, and another image.
    let arguments = ["remove", &one, &two, "usnea.test/none:1", "A B", &other, "--output", "json"];
    let output = try_usnea(t, &arguments);
    fails(&output, 1, &["\"usnea.test/none:1\" not found", "\"A B\""]);
    let removed = stdout(&output);
    let removed: Vec<Value> =
        removed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert_eq!(removed[0]["repoTags"], json!([one, two]));
    assert_eq!(removed[1]["repoTags"], json!([other]));
    for name in [&one, &two, &other] {
        fails(&try_usnea(t, &["inspect", name]), 1, &["not found"]);
    }
}

async fn removing_what_is_in_use_says_so(t: &mut Scenario) {
    let layer = Layer::default().file("etc/used", 0o644, b"used");
    let image = import(t, "used", &ImageBuilder::busybox().layer(layer));
    let pod = t.run_pod().await;
    let id = t.launch(&pod, testkit::container("a", &image).command(&["sleep", "1000"])).await;
    assert_eq!(json_of(t, &["inspect", &image])["containers"], json!([id]));
    let output = try_usnea(t, &["remove", &image]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains(&id[..12]), "{}", stderr(&output));
    assert_eq!(t.exec(&id, "cat /etc/used").await, "used");
}

/// Runs `usnea image import -` with a file as standard input.
fn import_stdin(t: &Scenario, archive: &PathBuf, args: &[&str]) -> Output {
    let arguments = [&["image", "import", "-"], args].concat();
    let input = File::open(archive).expect("open the archive");
    t.instance().command(&arguments).stdin(input).output().expect("run usnea")
}

async fn import_reads_an_archive_from_standard_input(t: &mut Scenario) {
    let name = reference(t, "stdin");
    let archive = t.volume("archive").join("image.tar");
    let id = small("stdin").write_oci_archive(&archive, &name);
    let output = import_stdin(t, &archive, &["--name", &name]);
    assert_eq!(stdout(&output), format!("{id} {name}\n"), "{}", stderr(&output));
    // A pipe, too, although archives are read at random.
    drop(usnea(t, &["remove", &name]));
    let mut command = t.instance().command(&["image", "import", "-", "--output", "json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start");
    let mut pipe = child.stdin.take().expect("a pipe");
    std::io::copy(&mut File::open(&archive).expect("open"), &mut pipe).expect("write");
    drop(pipe);
    let output = child.wait_with_output().expect("wait");
    let imported: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!((&imported["id"], &imported["repoTags"]), (&json!(id), &json!([name])));
    drop(usnea(t, &["remove", &name]));
}

async fn import_refuses_what_is_no_archive_on_standard_input(t: &mut Scenario) {
    let directory = t.volume("bad");
    for (name, content) in [("empty", &b""[..]), ("text", b"no archive at all")] {
        let file = directory.join(name);
        t.instance().write(&file, content);
        fails(&import_stdin(t, &file, &[]), 1, &["standard input"]);
    }
    let terminal = nix::pty::openpty(None, None).expect("open a terminal");
    let mut command = t.instance().command(&["image", "import", "-"]);
    let output = command.stdin(terminal.slave).output().expect("run usnea");
    fails(&output, 1, &["\"-\" is a terminal", "pipe"]);
}

async fn export_writes_what_import_reads(t: &mut Scenario) {
    let image = small("export");
    let (one, two) = (import(t, "one", &image), import(t, "two", &image));
    let id = json_of(t, &["inspect", &one])["id"].as_str().expect("an id").to_owned();
    let file = t.volume("exported").join("image.tar");
    let path = file.to_str().expect("UTF-8");
    drop(usnea(t, &["export", &one, "--file", path]));
    let piped = t.instance().usnea(&["image", "export", &id, "--file", "-"]);
    assert!(piped.status.success(), "{}", stderr(&piped));
    drop(usnea(t, &["remove", &one]));
    assert_eq!(usnea(t, &["import", path]), format!("{id} {one}\n"), "the tag that was asked for");
    drop(usnea(t, &["remove", &one]));
    t.instance().write(&file, &piped.stdout);
    assert_eq!(usnea(t, &["import", path]), format!("{id} {one} {two}\n"), "all tags of the id");
    drop(usnea(t, &["remove", &id]));
}

async fn export_refuses_what_it_cannot_write(t: &mut Scenario) {
    let (one, two) = (import(t, "one", &small("first")), import(t, "two", &small("second")));
    let directory = t.volume("exported");
    let file = directory.join("image.tar");
    let path = file.to_str().expect("UTF-8");
    let export = |args: &[&str]| try_usnea(t, &[&["export"], args].concat());
    fails(&export(&[&one, &two, "-f", path]), 1, &["different images", "file of its own"]);
    fails(&export(&["usnea.test/none:1", "-f", path]), 1, &["\"usnea.test/none:1\" not found"]);
    fails(&export(&[&one, "-f", "/no/such/file.tar"]), 1, &["--file /no/such/file.tar", "No such"]);
    fails(&export(&[&one]), 2, &["--file"]);
    let terminal = nix::pty::openpty(None, None).expect("open a terminal");
    let mut command = t.instance().command(&["image", "export", &one, "-f", "-"]);
    let output = command.stdout(terminal.slave).stderr(Stdio::piped()).spawn().expect("run");
    fails(&output.wait_with_output().expect("wait"), 1, &["\"-\" is a terminal", "pipe"]);
    assert_eq!(fs::read_dir(&directory).expect("readable").count(), 0, "nothing is left");
    drop(usnea(t, &["remove", &one, &two]));
}

async fn bad_arguments_are_refused_with_a_way_out(t: &mut Scenario) {
    let cases: [(&[&str], &[&str]); 9] = [
        (&["pull"], &["REFERENCE"]),
        (&["pull", "Upper/Case"], &["'Upper/Case'", "upper-case", "NAME:TAG"]),
        (&["pull", "a:b:c"], &["'a:b:c'", "NAME:TAG"]),
        (&["pull", "busybox@sha256:12"], &["'busybox@sha256:12'", "64 lower-case hex digits"]),
        (&["pull", "busybox", "--quiet", "--output", "json"], &["--quiet", "--output"]),
        (&["list", "--output", "xml"], &["'xml'", "text", "json"]),
        (&["import", "x.tar", "--name", ""], &["--name", "empty"]),
        (&["remove"], &["REFERENCE"]),
        (&["prune", "everything"], &["'everything'"]),
    ];
    for (arguments, words) in cases {
        fails(&try_usnea(t, arguments), 2, words);
    }
    fails(&try_usnea(t, &["import", "/no/such.tar"]), 1, &["/no/such.tar", "No such file"]);
}

async fn bad_credentials_are_refused_and_not_shown(t: &mut Scenario) {
    let cases: [(&[&str], &[&str]); 3] = [
        (&["--creds", ":secret", "localhost:1/x"], &["--creds", "USER:PASSWORD"]),
        (&["--creds", "me:", "localhost:1/x"], &["--creds", "password is empty"]),
        // Standard input is empty.
        (&["--creds", "me", "localhost:1/x"], &["--creds", "password is empty"]),
    ];
    for (arguments, words) in cases {
        fails(&try_usnea(t, &[&["pull"], arguments].concat()), 1, words);
    }
    let several = ["image", "pull", "localhost:1/x", "localhost:2/x"];
    for (option, variable, origin) in
        [(Some("me:secret"), None, "--creds"), (None, Some("me:secret"), "USNEA_CREDS")]
    {
        let mut command = t.instance().command(&several);
        command.args(option.map(|text| format!("--creds={text}")));
        command.envs(variable.map(|text| ("USNEA_CREDS", text)));
        let output = command.output().expect("run usnea");
        fails(&output, 1, &[origin, "localhost:1, localhost:2"]);
        assert!(!stderr(&output).contains("secret"), "{}", stderr(&output));
    }
}

/// An image that has lost its only name to another one. Returns its id.
fn import_nameless(t: &Scenario) -> String {
    let name = reference(t, "lost");
    let file = t.volume("archives").join("image.tar");
    let id = small("nameless").write_docker_archive(&file, &name);
    for image in ["nameless", "successor"] {
        small(image).write_docker_archive(&file, &name);
        drop(usnea(t, &["import", file.to_str().expect("UTF-8")]));
    }
    id
}

fn layers(t: &Scenario) -> usize {
    let directory = t.instance().data_directory().join("layers");
    fs::read_dir(directory).expect("list the layers").count()
}

async fn prune_removes_images_without_a_name(t: &mut Scenario) -> Result<(), Skip> {
    t.own_daemon(Options::default()).await?;
    let id = import_nameless(t);
    let all = json_of(t, &["list", "--output", "json"]);
    assert!(usnea(t, &["list"]).contains("<none>"));
    let before = layers(t);
    let planned = json_of(t, &["prune", "--dry-run", "--output", "json"]);
    assert_eq!((ids(&planned["images"]), &planned["layers"]), (vec![&*id], &json!(1)));
    assert_eq!(json_of(t, &["list", "--output", "json"]), all, "a dry run removes nothing");
    let pruned = usnea(t, &["prune"]);
    assert!(pruned.contains(&id), "{pruned}");
    assert!(pruned.contains("removed 1 image and 1 layer, freed "), "{pruned}");
    assert_eq!(layers(t), before - 1);
    let pruned = usnea(t, &["prune"]);
    assert_eq!(pruned, "removed 0 images and 0 layers, freed 0 B\n");
    assert_eq!(ids(&json_of(t, &["list", "--output", "json"])).len(), ids(&all).len() - 1);
    Ok(())
}

async fn prune_all_spares_what_is_used_or_pinned(t: &mut Scenario) -> Result<(), Skip> {
    let config = "[images]\npinned = [\"*-pinned:*\"]\n".to_owned();
    t.own_daemon(Options { config, ..Options::default() }).await?;
    let pinned = import(t, "pinned", &small("pinned"));
    let unused = import(t, "unused", &small("unused"));
    let mounted = import(t, "mounted", &small("mounted"));
    let pod = t.run_pod().await;
    let mount = Mount {
        container_path: "/mounted".to_owned(),
        image: Some(ImageSpec { image: mounted.clone(), ..ImageSpec::default() }),
        readonly: true,
        ..Mount::default()
    };
    let spec = t.sleeper("a").with(|config| config.mounts.push(mount));
    let id = t.launch(&pod, spec).await;
    assert_eq!(json_of(t, &["inspect", &mounted])["containers"], json!([id]));
    let row = usnea(t, &["list", &pinned]);
    assert!(row.trim_end().ends_with("yes"), "{row}");
    assert_eq!(json_of(t, &["inspect", &pinned])["pinned"], json!(true));
    let pruned = json_of(t, &["prune", "--all", "--output", "json"]);
    assert_eq!(pruned["images"][0]["repoTags"], json!([unused]));
    assert_eq!((&pruned["layers"], &pruned["dryRun"]), (&json!(1), &json!(false)));
    assert!(pruned["bytes"].as_u64().expect("bytes") > 0, "{pruned}");
    let mut left: Vec<String> = Vec::new();
    for image in json_of(t, &["list", "--output", "json"]).as_array().expect("an array") {
        left.extend(image["repoTags"][0].as_str().map(str::to_owned));
    }
    left.sort();
    let mut expected = [BUSYBOX.to_owned(), pinned, mounted];
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(t.exec(&id, "cat /mounted/content").await, "mounted");
    Ok(())
}
