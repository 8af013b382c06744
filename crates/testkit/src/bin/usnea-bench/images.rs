//! Pulling a large image from Debian's docker-registry on loopback, beside podman, and listing many images.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cri_api::v1::{ImageSpec, ListImagesRequest, PullImageRequest, RemoveImageRequest};
use testkit::{
    Cri, Instance, connect,
    docker_registry::{Access, DockerRegistry},
    image::{ImageBuilder, Layer},
};

use crate::{Rounds, figures::Figure};

const LAYERS: usize = 12;
const LAYER_BYTES: usize = 42_000_000;
const FILES_IN_DIRECTORY: usize = 40;
/// Sizes of files vary around this one, as in `/usr/lib`.
const FILE_BYTES: usize = 12_000;
const NAME: &str = "large:1";
/// How many images a full node has.
const IMAGES: usize = 200;
const SAMPLING_PAUSE: Duration = Duration::from_millis(20);

/// What pulling costs here, and with another tool.
#[derive(Debug)]
pub(crate) struct Images {
    pub(crate) usnea: Vec<Figure>,
    pub(crate) others: Vec<Figure>,
    pub(crate) remarks: Vec<String>,
}

/// Measures everything about images.
pub(crate) fn measure(instance: &Instance, rounds: Rounds) -> Images {
    let registry = match DockerRegistry::start(Access::default()) {
        Ok(registry) => registry,
        Err(skip) => {
            let remarks = vec![format!("images are not measured: {}", skip.0)];
            return Images { usnea: Vec::new(), others: Vec::new(), remarks };
        }
    };
    registry.push(&large_image(), NAME);
    let reference = registry.reference(NAME);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let bench = runtime.expect("start a runtime").block_on(async {
        let cri = connect(&instance.socket()).await.expect("connect to the daemon");
        Bench { instance, cri, reference: reference.clone() }.figures(rounds).await
    });
    let (others, remarks) = podman(instance, &reference, rounds);
    Images { usnea: bench, others, remarks }
}

/// 500 MB in 12 layers of many small files, two thirds of which a compressor makes small.
fn large_image() -> ImageBuilder {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    (0..LAYERS).fold(ImageBuilder::empty(), |image, layer| image.layer(noise.layer(layer)))
}

/// Repeatable pseudo-random numbers (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).expect("fits");
        usize::try_from(self.next() % limit).expect("fits")
    }

    fn layer(&mut self, number: usize) -> Layer {
        let (mut layer, mut bytes, mut file) = (Layer::default(), 0, 0);
        while bytes < LAYER_BYTES {
            let directory = file / FILES_IN_DIRECTORY;
            let size = FILE_BYTES / 8 + self.below(FILE_BYTES / 4) * (1 + self.below(8));
            let content = self.content(size);
            layer = layer.file(&format!("usr/lib/l{number}/d{directory}/f{file}"), 0o644, &content);
            bytes += size;
            file += 1;
        }
        layer
    }

    fn content(&mut self, size: usize) -> Vec<u8> {
        let mut content = Vec::with_capacity(size + 8);
        while content.len() < size / 3 {
            content.extend(self.next().to_le_bytes());
        }
        while content.len() < size {
            let word = self.below(512);
            content.extend(format!("symbol_{word} ").into_bytes());
        }
        content.truncate(size);
        content
    }
}

struct Bench<'a> {
    instance: &'a Instance,
    cri: Cri,
    reference: String,
}

impl Bench<'_> {
    async fn figures(&self, rounds: Rounds) -> Vec<Figure> {
        let growth = self.memory_growth().await;
        let again = self.pull_again().await;
        let mut pulls = Vec::new();
        for _ in 0..rounds.counted {
            self.remove().await;
            settle();
            pulls.push(self.pull().await);
        }
        let peak = self.disk_peak().await;
        self.remove().await;
        vec![
            Figure::times("PullImage, 500 MB in 12 layers", &pulls),
            Figure::times("PullImage of what is here", &again),
            Figure::kilobytes("growth of the daemon while pulling", &[growth]).target(30_000.0),
            Figure::percent("peak of the disk, of the unpacked size", peak).target(105.0),
            Figure::times(&format!("ListImages, {IMAGES} images"), &self.list().await).target(2.0),
        ]
    }

    fn spec(&self) -> Option<ImageSpec> {
        Some(ImageSpec { image: self.reference.clone(), ..ImageSpec::default() })
    }

    async fn pull(&self) -> Duration {
        let request = PullImageRequest { image: self.spec(), ..PullImageRequest::default() };
        let started = Instant::now();
        self.cri.images.clone().pull_image(request).await.expect("PullImage");
        started.elapsed()
    }

    async fn pull_again(&self) -> Vec<Duration> {
        let mut times = Vec::new();
        for _ in 0..20 {
            times.push(self.pull().await);
        }
        times
    }

    async fn remove(&self) {
        let request = RemoveImageRequest { image: self.spec() };
        self.cri.images.clone().remove_image(request).await.expect("RemoveImage");
    }

    /// How far the first pull lets the daemon grow beyond what it has, in kB.
    async fn memory_growth(&self) -> u64 {
        let daemon = self.instance.daemon();
        let kilobytes = |field: &str| {
            let text = daemon.status_field(field).expect("the daemon runs");
            text.trim_end_matches(" kB").parse::<u64>().expect("a number")
        };
        let before = kilobytes("VmRSS");
        self.pull().await;
        kilobytes("VmHWM") - before
    }

    /// What the data directory has at most while an image is pulled, in percent of what it has in the end.
    async fn disk_peak(&self) -> f64 {
        self.remove().await;
        let directory = self.instance.data_directory();
        let before = allocated(&directory);
        let done = Arc::new(AtomicBool::new(false));
        let sampler = {
            let (done, directory) = (Arc::clone(&done), directory.clone());
            thread::spawn(move || {
                let mut peak = 0;
                while !done.load(Ordering::Relaxed) {
                    peak = peak.max(allocated(&directory));
                    thread::sleep(SAMPLING_PAUSE);
                }
                peak
            })
        };
        self.pull().await;
        done.store(true, Ordering::Relaxed);
        let peak = sampler.join().expect("the sampler ends");
        let after = allocated(&directory);
        let share = |bytes: u64| f64::from(u32::try_from((bytes - before) / 1024).expect("fits"));
        share(peak.max(after)) / share(after) * 100.0
    }

    async fn list(&self) -> Vec<Duration> {
        let file = self.instance.volume("images").join("small.tar");
        for number in 0..IMAGES {
            let layer = Layer::default().file("number", 0o644, number.to_string().as_bytes());
            let name = format!("usnea.bench/small:{number}");
            ImageBuilder::empty().layer(layer).write_oci_archive(&file, &name);
            let path = file.to_str().expect("the path is UTF-8");
            drop(self.instance.usnea_ok(&["image", "import", path, "--name", &name]));
        }
        let mut times = Vec::new();
        for _ in 0..100 {
            let started = Instant::now();
            let listed = self.cri.images.clone().list_images(ListImagesRequest::default()).await;
            times.push(started.elapsed());
            assert!(listed.expect("ListImages").into_inner().images.len() >= IMAGES);
        }
        times
    }
}

/// Writes back what earlier rounds have left, so that it is not on this one's account.
fn settle() {
    Command::new("sync").status().expect("run sync");
}

/// What the files below `directory` occupy, in bytes. What vanishes meanwhile is not counted.
fn allocated(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut directories: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    bytes
}

/// The same pull by podman, as the same user, with its overlay driver.
fn podman(instance: &Instance, reference: &str, rounds: Rounds) -> (Vec<Figure>, Vec<String>) {
    let directory = instance.volume("podman");
    let directory = directory.to_str().expect("the path is UTF-8");
    let (root, run) = (format!("{directory}/root"), format!("{directory}/run"));
    let run_podman = |arguments: &[&str]| {
        let places = ["--storage-driver=overlay", "--root", &root, "--runroot", &run];
        let all: Vec<&str> = places.iter().chain(arguments).copied().collect();
        instance.command_of(Path::new("podman"), &all).output()
    };
    if let Err(error) = run_podman(&["--version"]) {
        return (Vec::new(), vec![format!("podman is not measured: {error}")]);
    }
    let mut times = Vec::new();
    let mut remarks = Vec::new();
    for _ in 0..rounds.counted {
        settle();
        let started = Instant::now();
        let output = run_podman(&["pull", "--quiet", "--tls-verify=false", reference]);
        let elapsed = started.elapsed();
        match output {
            Ok(output) if output.status.success() => times.push(elapsed),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                remarks.push(format!("podman pull: {said}"));
                break;
            }
            Err(error) => remarks.push(format!("podman pull: {error}")),
        }
        run_podman(&["rmi", "--all", "--force"]).ok();
    }
    // Its files belong to subordinate ids.
    run_podman(&["unshare", "rm", "-rf", &root, &run]).ok();
    // Ends the process that keeps its namespaces.
    run_podman(&["system", "migrate"]).ok();
    let figure = |times: Vec<Duration>| Figure::times("podman pull of the same image", &times);
    ((!times.is_empty()).then(|| figure(times)).into_iter().collect(), remarks)
}
