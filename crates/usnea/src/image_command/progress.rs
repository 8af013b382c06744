//! What is shown of a pull while it runs: a bar for each layer on a terminal, plain lines elsewhere.

use std::{
    collections::HashMap,
    env,
    io::{self, IsTerminal},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use image::Digest;
use indicatif::{
    HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle,
};
use pull::{Layer, Observer};

use super::say;

/// Digits of a layer's digest that are shown.
const SHORT_DIGEST: usize = 12;
const BAR: &str = "{prefix} {msg:11} [{wide_bar}] {binary_bytes:>10} of {binary_total_bytes:>10} {binary_bytes_per_sec:>13}";
/// A layer that was here already has come from nowhere at no rate.
const PRESENT_BAR: &str = "{prefix} {msg:11} {binary_total_bytes:>10}";

const WAITING: &str = "waiting";
const DOWNLOADING: &str = "downloading";
const UNPACKING: &str = "unpacking";
const UNPACKED: &str = "unpacked";
const PRESENT: &str = "present";

/// Remembers an image's layers and shows what happens to them.
pub(super) struct Progress {
    layers: Mutex<Vec<Layer>>,
    display: Display,
}

/// How it is shown, on standard error.
enum Display {
    Nothing,
    Lines(Mutex<HashMap<Digest, Instant>>),
    Bars { screen: MultiProgress, bars: Mutex<HashMap<Digest, ProgressBar>> },
}

impl Progress {
    /// Shows nothing.
    pub(super) fn quiet() -> Self {
        Self { layers: Mutex::default(), display: Display::Nothing }
    }

    /// Shows bars if standard error is a terminal, else lines.
    pub(super) fn shown() -> Self {
        let can_move = env::var_os("TERM").is_none_or(|terminal| terminal != "dumb");
        let display = if io::stderr().is_terminal() && can_move {
            let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            Display::Bars { screen, bars: Mutex::default() }
        } else {
            Display::Lines(Mutex::default())
        };
        Self { layers: Mutex::default(), display }
    }

    /// Draws no more; what is on the screen stays there.
    pub(super) fn end(&self) {
        if let Display::Bars { screen, bars } = &self.display {
            lock(bars).values().for_each(ProgressBar::abandon);
            screen.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// The image's layers, base layer first; empty as long as they are unknown.
    pub(super) fn known_layers(&self) -> Vec<Layer> {
        lock(&self.layers).clone()
    }
}

impl Observer for Progress {
    fn layers(&self, layers: &[Layer]) {
        layers.clone_into(&mut lock(&self.layers));
        match &self.display {
            Display::Nothing => {}
            Display::Lines(_) => {
                for layer in layers.iter().filter(|layer| layer.present) {
                    say(line(&layer.digest, PRESENT));
                }
            }
            Display::Bars { screen, bars } => {
                let mut bars = lock(bars);
                for layer in layers {
                    // An image may have a layer twice, and layers that were removed meanwhile come again.
                    let bar = bars.entry(layer.diff_id).or_insert_with(|| screen.add(bar(layer)));
                    bar.set_message(if layer.present { PRESENT } else { WAITING });
                }
            }
        }
    }

    fn received(&self, diff_id: &Digest, bytes: u64) {
        match &self.display {
            Display::Nothing => {}
            Display::Lines(started) => {
                let mut started = lock(started);
                if !started.contains_key(diff_id) {
                    started.insert(*diff_id, Instant::now());
                    if let Some(layer) = self.layer(diff_id) {
                        let what = format!("{DOWNLOADING} {}", HumanBytes(layer.bytes));
                        say(line(&layer.digest, &what));
                    }
                }
            }
            Display::Bars { bars, .. } => {
                if let Some(bar) = lock(bars).get(diff_id) {
                    bar.inc(bytes);
                    let all = bar.length().is_some_and(|length| bar.position() >= length);
                    bar.set_message(if all { UNPACKING } else { DOWNLOADING });
                }
            }
        }
    }

    fn finished(&self, diff_id: &Digest) {
        match &self.display {
            Display::Nothing => {}
            Display::Lines(started) => {
                let started = lock(started).remove(diff_id).unwrap_or_else(Instant::now);
                if let Some(layer) = self.layer(diff_id) {
                    let seconds = started.elapsed().as_secs_f64();
                    say(line(&layer.digest, &format!("{UNPACKED} after {seconds:.1} s")));
                }
            }
            Display::Bars { bars, .. } => {
                if let Some(bar) = lock(bars).get(diff_id) {
                    bar.abandon_with_message(UNPACKED);
                }
            }
        }
    }
}

impl Progress {
    fn layer(&self, diff_id: &Digest) -> Option<Layer> {
        lock(&self.layers).iter().find(|layer| layer.diff_id == *diff_id).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn short(digest: &Digest) -> String {
    digest.hex().chars().take(SHORT_DIGEST).collect()
}

fn line(digest: &Digest, what: &str) -> String {
    format!("layer {}: {what}", short(digest))
}

fn bar(layer: &Layer) -> ProgressBar {
    let position = if layer.present { layer.bytes } else { 0 };
    // What is on the screen when a pull ends stays there.
    ProgressBar::with_draw_target(Some(layer.bytes), ProgressDrawTarget::hidden())
        .with_style(style(if layer.present { PRESENT_BAR } else { BAR }))
        .with_prefix(short(&layer.digest))
        .with_finish(ProgressFinish::Abandon)
        .with_position(position)
}

fn style(template: &str) -> ProgressStyle {
    // A test shows that the templates are good.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, present: bool) -> Layer {
        let digest = |text: String| Digest::of(text.as_bytes());
        let diff_id = digest(format!("{name} unpacked"));
        Layer { diff_id, digest: digest(name.to_owned()), bytes: 100, present }
    }

    /// Bars on a screen that nobody sees.
    fn bars() -> Progress {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let display = Display::Bars { screen, bars: Mutex::default() };
        Progress { layers: Mutex::default(), display }
    }

    fn state(progress: &Progress, layer: &Layer) -> (String, u64) {
        let Display::Bars { bars, .. } = &progress.display else { panic!("no bars") };
        let bar = lock(bars).get(&layer.diff_id).expect("a bar").clone();
        (bar.message(), bar.position())
    }

    #[test]
    fn the_templates_are_good() {
        for template in [BAR, PRESENT_BAR] {
            ProgressStyle::with_template(template).expect(template);
        }
    }

    #[test]
    fn a_bar_follows_its_layer() {
        let (new, known) = (layer("new", false), layer("known", true));
        let progress = bars();
        progress.layers(&[known.clone(), new.clone(), known.clone()]);
        assert_eq!(state(&progress, &known), (PRESENT.to_owned(), 100));
        assert_eq!(state(&progress, &new), (WAITING.to_owned(), 0));
        progress.received(&new.diff_id, 60);
        assert_eq!(state(&progress, &new), (DOWNLOADING.to_owned(), 60));
        progress.received(&new.diff_id, 40);
        assert_eq!(state(&progress, &new), (UNPACKING.to_owned(), 100));
        progress.finished(&new.diff_id);
        assert_eq!(state(&progress, &new), (UNPACKED.to_owned(), 100));
        assert_eq!(progress.known_layers(), [known.clone(), new, known]);
    }

    #[test]
    fn a_line_begins_with_the_digest_of_the_blob() {
        let layer = layer("a", false);
        let expected = format!("layer {}: present", &layer.digest.hex()[..12]);
        assert_eq!(line(&layer.digest, PRESENT), expected);
    }
}
