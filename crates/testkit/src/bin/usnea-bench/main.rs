//! Measures the built daemon at its socket, as `docs/performance.md` describes; `scripts/bench` builds and runs it.
//!
//! Reports and judges nothing by its exit code: a figure over its target is a line in the table.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a step that fails leaves nothing to measure")]
#![expect(clippy::large_futures, reason = "requests are large, and there is one at a time")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "for who runs it")]

mod figures;
mod images;
mod oci;
mod pods;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::{Value, json};
use testkit::{Instance, Options, image::ImageBuilder};

use crate::{
    figures::{Figure, table},
    pods::Bench,
};

/// The image that all containers run.
const IMAGE: &str = "usnea.bench/busybox:1";
const USAGE: &str = "usage: usnea-bench [images] [--rounds N] [--json FILE]";

/// How often everything is done.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    /// Not counted: caches fill and memory settles.
    warm_up: usize,
    counted: usize,
}

impl Rounds {
    fn parse(count: &str) -> Option<Self> {
        let counted = count.parse().ok().filter(|count| *count > 0)?;
        Some(Self { warm_up: WARM_UP, counted })
    }

    fn all(self) -> usize {
        self.warm_up + self.counted
    }
}

/// Not counted rounds.
const WARM_UP: usize = 5;

/// What is measured.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Pods,
    Images,
}

/// The command line.
#[derive(Debug)]
enum Arguments {
    Measure {
        subject: Subject,
        rounds: Rounds,
        json: Option<PathBuf>,
    },
    /// How this program starts itself inside the node.
    Inside {
        runtime: PathBuf,
        directory: PathBuf,
        rounds: Rounds,
    },
}

impl Arguments {
    fn parse(words: &[&str]) -> Option<Self> {
        if let [oci::INSIDE, runtime, directory, count] = *words {
            let rounds = Rounds::parse(count)?;
            return Some(Self::Inside {
                runtime: runtime.into(),
                directory: directory.into(),
                rounds,
            });
        }
        let (subject, words) = match words {
            ["images", rest @ ..] => (Subject::Images, rest),
            all => (Subject::Pods, all),
        };
        let counted = match subject {
            Subject::Pods => 100,
            Subject::Images => 5,
        };
        let mut rounds = Rounds { warm_up: WARM_UP, counted };
        let mut json = None;
        for pair in words.chunks(2) {
            match *pair {
                ["--rounds", count] => rounds = Rounds::parse(count)?,
                ["--json", file] => json = Some(file.into()),
                _ => return None,
            }
        }
        Some(Self::Measure { subject, rounds, json })
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match Arguments::parse(&words) {
        Some(Arguments::Measure { subject, rounds, json }) => {
            measure(subject, rounds, json.as_deref())
        }
        Some(Arguments::Inside { runtime, directory, rounds }) => {
            println!("{}", oci::inside(&runtime, &directory, rounds));
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn measure(subject: Subject, rounds: Rounds, file: Option<&Path>) -> ExitCode {
    let instance = match Instance::start(Options::default()) {
        Ok(instance) => instance,
        Err(skip) => {
            eprintln!("usnea-bench: {}", skip.0);
            return ExitCode::FAILURE;
        }
    };
    let (figures, others, remarks) = match subject {
        Subject::Pods => {
            import_image(&instance);
            let figures = measure_pods(&instance, rounds);
            let (others, remarks) = oci::compare(&instance, rounds);
            (figures, others, remarks)
        }
        Subject::Images => {
            let images::Images { usnea, others, remarks } = images::measure(&instance, rounds);
            (usnea, others, remarks)
        }
    };
    println!("{}", table("Usnea, at the socket", &figures));
    if !instance.account().is_dedicated() {
        println!("Only root may see the memory of shims and daemon.\n");
    }
    println!("{}", table("other runtimes, by their commands", &others));
    for remark in remarks {
        println!("{remark}");
    }
    if let Some(file) = file {
        let [usnea, others] = [figures, others]
            .map(|figures| figures.iter().map(Figure::to_json).collect::<Vec<Value>>());
        let text = json!({ "usnea": usnea, "others": others }).to_string();
        fs::write(file, text + "\n").expect("write the JSON file");
    }
    ExitCode::SUCCESS
}

fn import_image(instance: &Instance) {
    let file = instance.volume("images").join("busybox.tar");
    ImageBuilder::busybox().write_oci_archive(&file, IMAGE);
    let file = file.to_str().expect("the path is UTF-8");
    drop(instance.usnea_ok(&["image", "import", file, "--name", IMAGE]));
}

fn measure_pods(instance: &Instance, rounds: Rounds) -> Vec<Figure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("start a runtime");
    runtime.block_on(async { Bench::new(instance, rounds).await.figures().await })
}
