//! What an unpacker makes, says and leaves.

use std::{fs, io::Write, path::Path, time::Duration};

use image::{InProcess, Limits};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use unpacker::ErrorKind;

use crate::{
    UNPACK,
    layers::{Place, gzip, kind, layer, options, tree, unpack, unpacker},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_layer_is_unpacked_as_in_process", a_layer_is_unpacked_as_in_process),
        trial("a_faulty_layer_is_told_from_a_failure", a_faulty_layer_is_told_from_a_failure),
        trial("limits_hold_in_the_unpacker", limits_hold_in_the_unpacker),
        trial("the_largest_window_fits", the_largest_window_fits),
        trial("one_that_is_killed_is_an_error", one_that_is_killed_is_an_error),
        trial("one_that_is_dropped_ends", one_that_is_dropped_ends),
        trial("writing_to_one_that_has_ended_fails", writing_to_one_that_has_ended_fails),
        trial("nonsense_for_options_is_refused", nonsense_for_options_is_refused),
    ]
}

fn a_layer_is_unpacked_as_in_process() {
    for blob in [layer(), gzip(&layer()), zstd::encode_all(&*layer(), 3).expect("to memory")] {
        let (here, there) = (directory(), directory());
        let expected = unpack(&InProcess, &blob, here.path(), &options(|_| ()));
        let summary = unpack(&unpacker(), &blob, there.path(), &options(|_| ()));
        assert_eq!(summary.expect("unpacked"), expected.expect("unpacked"));
        assert_eq!(tree(there.path()), tree(here.path()));
        assert!(tree(there.path()).len() >= 9);
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("temporary directory")
}

fn a_faulty_layer_is_told_from_a_failure() {
    let layer = layer();
    for (blob, said) in [
        (gzip(&layer)[..1000].to_vec(), "read layer"),
        (vec![b'x'; 10_000], "malformed layer archive"),
    ] {
        let result = unpack(&unpacker(), &blob, directory().path(), &options(|_| ()));
        let (kind, text) = kind(result.expect_err("faulty"));
        assert_eq!(kind, ErrorKind::Faulty, "{text}");
        assert!(text.contains(said), "{text}");
    }
    let result = unpack(&unpacker(), &layer, Path::new("/proc/self"), &options(|_| ()));
    let (kind, text) = kind(result.expect_err("nobody writes to procfs"));
    assert_eq!(kind, ErrorKind::Internal, "{text}");
}

fn limits_hold_in_the_unpacker() {
    let bomb = gzip(&vec![0; 50_000_000]);
    let changes: [fn(&mut Limits); 3] = [
        |limits| limits.bytes = 1_000_000,
        |limits| (limits.ratio, limits.ratio_free_bytes) = (10, 1000),
        |limits| limits.duration = Duration::ZERO,
    ];
    for change in changes {
        let result = unpack(&unpacker(), &bomb, directory().path(), &options(change));
        let (kind, text) = kind(result.expect_err("a limit"));
        assert!(kind == ErrorKind::Faulty, "{text}");
    }
    let result = unpack(&unpacker(), &with_window(31), directory().path(), &options(|_| ()));
    assert_eq!(kind(result.expect_err("2 GiB window")).0, ErrorKind::Faulty);
}

fn the_largest_window_fits() {
    let result = unpack(&unpacker(), &with_window(27), directory().path(), &options(|_| ()));
    result.expect("unpacked");
}

/// A layer whose decompression takes 2^`log` bytes of memory.
fn with_window(log: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.window_log(log).expect("a window");
    encoder.write_all(&layer()).expect("to memory");
    encoder.finish().expect("to memory")
}

fn one_that_is_killed_is_an_error() {
    let directory = directory();
    let place = Place::new(directory.path());
    let unpacking = unpacker().start(place.destination(), &options(|_| ())).expect("started");
    kill(unpacking.pid(), Signal::SIGKILL).expect("kill");
    let error = unpacking.wait().expect_err("killed");
    assert!(error.to_string().contains("SIGKILL"), "{error}");
}

fn one_that_is_dropped_ends() {
    let directory = directory();
    let place = Place::new(directory.path());
    let unpacking = unpacker().start(place.destination(), &options(|_| ())).expect("started");
    let pid = unpacking.pid();
    drop(unpacking);
    // Reaped, so that nobody has the number.
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

fn writing_to_one_that_has_ended_fails() {
    let directory = directory();
    let place = Place::new(directory.path());
    let mut unpacking = unpacker().start(place.destination(), &options(|_| ())).expect("started");
    let mut input = fs::File::from(unpacking.take_input().expect("the first time"));
    assert!(unpacking.take_input().is_none());
    let broken = (0..1000).find_map(|_| input.write_all(&[b'x'; 100_000]).err());
    assert_eq!(broken.expect("it ended").kind(), std::io::ErrorKind::BrokenPipe);
    let error = unpacking.wait().expect_err("no layer");
    assert_eq!(error.kind(), ErrorKind::Faulty, "{error}");
}

fn nonsense_for_options_is_refused() {
    for arguments in [vec![], vec!["{}"], vec!["nonsense"], vec!["{}", "{}"]] {
        let program = std::env::current_exe().expect("this program");
        let output = std::process::Command::new(program).arg(UNPACK).args(&arguments).output();
        let answer = String::from_utf8(output.expect("run").stdout).expect("UTF-8");
        assert!(answer.starts_with(r#"{"failed""#), "{arguments:?}: {answer}");
    }
}
