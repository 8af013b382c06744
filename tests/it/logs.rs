//! CRI logs: records, partial lines, completeness, rotation.

use std::{fs, path::Path};

use it::{LogLine, Scenario, parse_log};
use tonic::Code;

it::tests!("logs":
    both_streams_are_logged,
    an_unfinished_line_is_partial,
    a_long_line_is_cut_into_16_kib_pieces,
    bytes_are_written_unchanged,
    all_is_written_when_the_container_has_exited,
    directories_of_the_log_path_are_made,
    the_log_stays_when_the_container_is_removed,
    a_rotated_log_is_continued_in_a_new_file,
    a_log_is_reopened_only_while_its_container_runs,
    a_log_that_cannot_be_reopened_is_continued,
    a_second_container_appends,
);

async fn log_of(t: &Scenario, pod: &str, script: &str) -> Vec<LogLine> {
    let id = t.launch(pod, t.busybox("a").script(script)).await;
    let status = t.exited(&id).await;
    t.log(&status)
}

fn texts<'a>(lines: &'a [LogLine], stream: &str) -> Vec<(String, bool)> {
    let of_stream = lines.iter().filter(move |line: &&'a LogLine| line.stream == stream);
    of_stream.map(|line| (line.text(), line.full)).collect()
}

fn full(text: &str) -> (String, bool) {
    (text.to_owned(), true)
}

async fn both_streams_are_logged(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let lines = log_of(t, &pod, "echo one; echo two >&2; echo; echo three").await;
    assert_eq!(texts(&lines, "stdout"), [full("one"), full(""), full("three")]);
    assert_eq!(texts(&lines, "stderr"), [full("two")]);
    assert!(lines.iter().map(|line| &line.time).is_sorted(), "{lines:?}");
}

async fn an_unfinished_line_is_partial(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let lines = log_of(t, &pod, "echo one; printf rest").await;
    assert_eq!(texts(&lines, "stdout"), [full("one"), ("rest".to_owned(), false)]);
}

async fn a_long_line_is_cut_into_16_kib_pieces(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let lines = log_of(t, &pod, "head -c 1048576 /dev/zero | tr '\\0' x; echo").await;
    assert_eq!(lines.len(), 64);
    let (last, pieces) = lines.split_last().expect("64 of them");
    assert!(pieces.iter().all(|line| !line.full));
    assert!(last.full);
    assert!(lines.iter().all(|line| line.text.len() == 16 * 1024));
}

async fn bytes_are_written_unchanged(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let lines = log_of(t, &pod, r"printf 'a\r\n\377\376 \tb\001\n'").await;
    let texts: Vec<&[u8]> = lines.iter().map(|line| line.text.as_slice()).collect();
    assert_eq!(texts, [b"a\r".as_slice(), b"\xff\xfe \tb\x01"]);
}

async fn all_is_written_when_the_container_has_exited(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let lines = log_of(t, &pod, "seq 30000").await;
    let expected = (1..=30_000).map(|number: u32| number.to_string());
    assert!(lines.iter().map(LogLine::text).eq(expected), "{} lines", lines.len());
}

async fn directories_of_the_log_path_are_made(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let spec = t.busybox("a").script("echo x").with(|c| c.log_path = "main/deep/0.log".to_owned());
    let id = t.launch(&pod, spec).await;
    let status = t.exited(&id).await;
    assert!(status.log_path.ends_with("/main/deep/0.log"), "{}", status.log_path);
    assert_eq!(t.printed(&status), "x");
}

async fn the_log_stays_when_the_container_is_removed(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.busybox("a").script("echo x")).await;
    let status = t.exited(&id).await;
    t.remove_pod(&pod).await;
    assert_eq!(t.printed(&status), "x");
}

async fn reopen(t: &Scenario, id: &str) -> Result<(), tonic::Status> {
    let request = cri_api::v1::ReopenContainerLogRequest { container_id: id.to_owned() };
    t.cri.runtime.clone().reopen_container_log(request).await.map(drop)
}

/// Writes the numbers from 1 on.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";

async fn lines_at_least(t: &Scenario, path: &Path, count: usize) {
    let enough = async |_: &Scenario| (parse_log(path).len() >= count).then_some(());
    t.eventually("lines are logged", enough).await;
}

async fn a_rotated_log_is_continued_in_a_new_file(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.busybox("a").script(COUNT)).await;
    let path = t.status(&id).await.log_path;
    let (path, old) = (Path::new(&path), format!("{path}.old"));
    lines_at_least(t, path, 5).await;
    fs::rename(path, &old).expect("rename");
    reopen(t, &id).await.expect("ReopenContainerLog");
    assert!(path.exists(), "the new file is there when the call returns");
    lines_at_least(t, path, 5).await;
    t.stop(&id, 0).await;
    let mut lines = parse_log(Path::new(&old));
    lines.extend(parse_log(path));
    let numbers = (1..).map(|number: u32| number.to_string());
    assert!(lines.iter().map(LogLine::text).eq(numbers.take(lines.len())), "{lines:?}");
}

async fn a_log_is_reopened_only_while_its_container_runs(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.busybox("a").script("echo x")).await;
    let path = t.exited(&id).await.log_path;
    fs::remove_file(&path).expect("remove");
    let status = reopen(t, &id).await.expect_err("exited");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(!Path::new(&path).exists());
    let status = reopen(t, &"0".repeat(64)).await.expect_err("unknown");
    assert_eq!(status.code(), Code::NotFound);
}

async fn a_log_that_cannot_be_reopened_is_continued(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.busybox("a").script(COUNT)).await;
    let path = t.status(&id).await.log_path;
    let (path, old) = (Path::new(&path), format!("{path}.old"));
    lines_at_least(t, path, 3).await;
    fs::rename(path, &old).expect("rename");
    let outside = t.volume("outside").join("file");
    std::os::unix::fs::symlink(&outside, path).expect("symlink");
    reopen(t, &id).await.expect_err("a link could lead anywhere");
    let before = parse_log(Path::new(&old)).len();
    lines_at_least(t, Path::new(&old), before + 3).await;
    assert!(!outside.exists());
}

async fn a_second_container_appends(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let spec = |name, text| {
        t.busybox(name).script(text).with(|config| config.log_path = "shared.log".to_owned())
    };
    let first = t.launch(&pod, spec("a", "echo one")).await;
    t.exited(&first).await;
    assert_eq!(t.output(&pod, spec("b", "echo two")).await, "one\ntwo");
}
