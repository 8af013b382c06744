//! Measures the built daemon at its socket, as `docs/performance.md` describes; `scripts/bench` builds and runs it.
//!
//! Reports and judges nothing by its exit code: a figure over its target is a line in the table.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a step that fails leaves nothing to measure")]
#![expect(clippy::large_futures, reason = "requests are large, and there is one at a time")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "for who runs it")]

mod figures;
mod pods;

use std::{fs, path::PathBuf, process::ExitCode};

use serde_json::{Value, json};
use testkit::{Instance, Options, image::ImageBuilder};

use crate::{
    figures::{Figure, table},
    pods::Bench,
};

/// The image that all containers run.
const IMAGE: &str = "usnea.bench/busybox:1";
const USAGE: &str = "usage: usnea-bench [--rounds N] [--json FILE]";

/// How often everything is done.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    /// Not counted: caches fill and memory settles.
    warm_up: usize,
    counted: usize,
}

impl Rounds {
    fn all(self) -> usize {
        self.warm_up + self.counted
    }
}

/// The command line.
#[derive(Debug)]
struct Arguments {
    rounds: Rounds,
    json: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut arguments = Self { rounds: Rounds { warm_up: 5, counted: 100 }, json: None };
        while let Some(option) = words.next() {
            let value = words.next()?;
            match option.as_str() {
                "--rounds" => {
                    arguments.rounds.counted = value.parse().ok().filter(|count| *count > 0)?;
                }
                "--json" => arguments.json = Some(PathBuf::from(value)),
                _ => return None,
            }
        }
        Some(arguments)
    }
}

fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let instance = match Instance::start(Options::default()) {
        Ok(instance) => instance,
        Err(skip) => {
            eprintln!("usnea-bench: {}", skip.0);
            return ExitCode::FAILURE;
        }
    };
    import_image(&instance);
    let figures = measure(&instance, arguments.rounds);
    println!("{}", table("Usnea", &figures));
    if let Some(file) = arguments.json {
        let figures: Vec<Value> = figures.iter().map(Figure::to_json).collect();
        let text = json!({ "usnea": figures }).to_string();
        fs::write(&file, text + "\n").expect("write the JSON file");
    }
    ExitCode::SUCCESS
}

fn import_image(instance: &Instance) {
    let file = instance.volume("images").join("busybox.tar");
    ImageBuilder::busybox().write_oci_archive(&file, IMAGE);
    let file = file.to_str().expect("the path is UTF-8");
    drop(instance.usnea_ok(&["image", "import", file, "--name", IMAGE]));
}

fn measure(instance: &Instance, rounds: Rounds) -> Vec<Figure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("start a runtime");
    runtime.block_on(async { Bench::new(instance, rounds).await.figures().await })
}
