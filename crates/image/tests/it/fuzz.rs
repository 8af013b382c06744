//! The bodies of the fuzz targets with inputs made here: always the same ones, for as long as a
//! test may take.

use std::fs;
use std::time::{Duration, Instant};

#[path = "../../fuzz/src/bodies.rs"]
mod bodies;

const INPUTS: u32 = 20_000;
const TIME: Duration = Duration::from_secs(3);
const MAX_INPUT_BYTES: usize = 64 << 10;
/// A zstd window has 128 MiB, and other tests run at the same time.
const MAX_MEMORY_KIB: u64 = 1 << 20;

/// Makes inputs of seeds.
struct Mutator {
    seeds: Vec<Vec<u8>>,
    state: u64,
}

impl Mutator {
    fn new(target: &str) -> Self {
        let (_, seeds) = bodies::seeds().into_iter().find(|(name, _)| *name == target).unwrap();
        Self { seeds, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// A number below `limit`, or 0.
    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let limit = u64::try_from(limit.max(1)).unwrap();
        usize::try_from(self.state % limit).unwrap()
    }

    fn seed(&mut self) -> Vec<u8> {
        let number = self.below(self.seeds.len());
        self.seeds[number].clone()
    }

    fn next(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(MAX_INPUT_BYTES);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        const VALUES: &[u8] = b"\0\x01\x7f\x80\xff \n./:@-+0789aAxLgK\"{}[],";
        let at = self.below(input.len());
        let length = self.below(64).min(input.len() - at);
        match self.below(9) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..at + length)),
            2 => {
                let again = input[at..at + length].to_vec();
                input.splice(at..at, again);
            }
            3 => {
                let other = self.seed();
                let from = self.below(other.len());
                input.splice(at.., other[from..].iter().copied());
            }
            4 => {
                let value = VALUES[self.below(VALUES.len())];
                input.splice(at..at, vec![value; length]);
            }
            5 | 6 if !input.is_empty() => input[at] = VALUES[self.below(VALUES.len())],
            7 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            _ if !input.is_empty() => {
                let to = self.below(input.len());
                input.swap(at, to);
            }
            _ => input.push(0),
        }
    }
}

/// Runs a body until there were enough inputs or it took long enough.
fn run(target: &str, mut body: impl FnMut(&[u8]) -> bool) {
    let mut mutator = Mutator::new(target);
    for seed in mutator.seeds.clone() {
        body(&seed);
    }
    let started = Instant::now();
    let (mut inputs, mut accepted) = (0, 0);
    while inputs < INPUTS && started.elapsed() < TIME {
        inputs += 1;
        accepted += u32::from(body(&mutator.next()));
    }
    println!("{target}: {inputs} inputs, {accepted} accepted, {:?}", started.elapsed());
    assert!(accepted > 0 && accepted < inputs, "{accepted} of {inputs}");
    assert!(peak_memory_kib() < MAX_MEMORY_KIB, "{} KiB", peak_memory_kib());
}

fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn fuzz_references() {
    run("reference", bodies::reference);
}

#[test]
fn fuzz_documents() {
    run("document", bodies::document);
}

#[test]
fn fuzz_tar_headers() {
    let arena = bodies::Arena::new();
    run("headers", |data| bodies::headers(&arena, data));
}

#[test]
fn fuzz_names_and_whiteouts() {
    let arena = bodies::Arena::new();
    run("names", |data| bodies::names(&arena, data));
}

#[test]
fn fuzz_layer_streams() {
    let arena = bodies::Arena::new();
    run("layer", |data| bodies::layer(&arena, data));
}
