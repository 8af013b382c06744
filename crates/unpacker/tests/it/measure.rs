//! What a process per layer costs: `cargo test --release -p unpacker --test it -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use image::{InProcess, Unpack};
use libtest_mimic::Trial;
use tar::EntryType;

use crate::{
    layers::{Body, Layer, gzip, options, unpack, unpacker},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("cost_of_a_process_per_layer", cost).with_ignored_flag(true)]
}

fn cost() {
    let empty = Layer::new().build();
    report("empty layer", &empty, 200);
    let noise = |seed: u64| -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Compresses to about a half, as programs do.
            state & 0x0f0f_0f0f_0f0f_0f0f
        };
        (0..125_000).flat_map(|_| next().to_le_bytes()).collect()
    };
    let mut layer = Layer::new();
    for index in 0..200 {
        let (path, content) = (format!("d{}/f{index}", index % 20), noise(index * 31 + 7));
        layer = layer.add(&path, EntryType::Regular, 0o644, (0, 0), Body::Content(&content));
    }
    let layer = layer.build();
    report("200 MB, plain", &layer, 5);
    report("200 MB, gzip", &gzip(&layer), 3);
    report("200 MB, zstd", &zstd::encode_all(&*layer, 3).expect("to memory"), 5);
}

fn report(name: &str, blob: &[u8], rounds: usize) {
    let (here, there) = (median(&InProcess, blob, rounds), median(&unpacker(), blob, rounds));
    let bytes = blob.len();
    println!("{name} ({bytes} bytes): in process {here:.2?}, in a process of its own {there:.2?}");
}

fn median(how: &dyn Unpack, blob: &[u8], rounds: usize) -> Duration {
    let once = || {
        let directory = tempfile::tempdir().expect("temporary directory");
        let begun = Instant::now();
        unpack(how, blob, directory.path(), &options(|_| ())).expect("unpacked");
        begun.elapsed()
    };
    let mut times: Vec<Duration> = (0..rounds).map(|_| once()).collect();
    times.sort();
    times[rounds / 2]
}
