//! What comes of unpackers that a layer has taken over: shells that do as such would.

use std::{
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

use image::LayerSummary;
use libtest_mimic::Trial;
use unpacker::{ErrorKind, Unpacker, UnpackerError};

use crate::{
    layers::{Place, options, unpacker},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("one_that_says_nothing_is_an_error", one_that_says_nothing_is_an_error),
        trial("one_that_says_too_much_is_ended", one_that_says_too_much_is_ended),
        trial("one_that_stays_is_ended", one_that_stays_is_ended),
        trial("what_one_says_is_one_line", what_one_says_is_one_line),
        trial("one_that_is_not_fed_ends_in_time", one_that_is_not_fed_ends_in_time),
    ]
}

/// What comes of `script`, and how long that takes.
fn run(script: &str) -> (Result<LayerSummary, UnpackerError>, Duration) {
    let shell = File::open("/bin/sh").expect("open a shell");
    let script = std::ffi::CString::new(script).expect("no NUL");
    let unpacker = Unpacker::new(shell.into(), vec![c"sh".into(), c"-c".into(), script]);
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = Place::new(directory.path());
    let begun = Instant::now();
    let unpacking = unpacker.start(place.destination(), &options(|_| ())).expect("started");
    let pid = unpacking.pid();
    let result = unpacking.wait();
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "not reaped");
    (result, begun.elapsed())
}

fn one_that_says_nothing_is_an_error() {
    for (script, ending) in [
        ("exit 3", "ended with code 3"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("echo nonsense", "ended with code 0"),
    ] {
        let error = run(script).0.expect_err(script);
        assert!(error.to_string().contains(ending), "{script}: {error}");
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
}

fn one_that_says_too_much_is_ended() {
    let (result, time) = run("exec cat /dev/zero");
    let error = result.expect_err("no answer");
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    assert!(time < Duration::from_secs(20), "{time:?}");
}

fn one_that_stays_is_ended() {
    let (result, time) = run(r#"echo '{"faulty":{"message":"so"}}'; exec sleep 60 >/dev/null"#);
    assert_eq!(result.expect_err("what it said").to_string(), "so");
    assert!(time < Duration::from_secs(20), "{time:?}");
}

fn what_one_says_is_one_line() {
    let (result, _) = run(r#"printf %s '{"failed":{"message":"a\nb\u001b[2Jc"}}'"#);
    assert_eq!(result.expect_err("what it said").to_string(), r"a\u{a}b\u{1b}[2Jc");
}

fn one_that_is_not_fed_ends_in_time() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = Place::new(directory.path());
    let options = options(|limits| limits.duration = Duration::ZERO);
    let begun = Instant::now();
    let mut unpacking = unpacker().start(place.destination(), &options).expect("started");
    let input = unpacking.take_input();
    let error = unpacking.wait().expect_err("killed");
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    drop(input);
}
