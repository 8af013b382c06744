//! Figures and the table that shows them.

use std::time::Duration;

use serde_json::{Value, json};

/// What the numbers of a figure count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    Kilobytes,
    Percent,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    name: String,
    unit: Unit,
    /// What the median should not exceed.
    target: Option<f64>,
    /// In ascending order, never empty.
    samples: Vec<f64>,
}

impl Figure {
    /// # Panics
    /// Without samples.
    pub(crate) fn times(name: &str, samples: &[Duration]) -> Self {
        let milliseconds = samples.iter().map(|time| time.as_secs_f64() * 1e3);
        Self::new(name, Unit::Milliseconds, milliseconds.collect())
    }

    /// # Panics
    /// Without samples.
    pub(crate) fn kilobytes(name: &str, samples: &[u64]) -> Self {
        let sizes = samples.iter().map(|&size| f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
        Self::new(name, Unit::Kilobytes, sizes.collect())
    }

    pub(crate) fn percent(name: &str, sample: f64) -> Self {
        Self::new(name, Unit::Percent, vec![sample])
    }

    fn new(name: &str, unit: Unit, mut samples: Vec<f64>) -> Self {
        assert!(!samples.is_empty(), "{name} was not measured");
        samples.sort_by(f64::total_cmp);
        Self { name: name.to_owned(), unit, target: None, samples }
    }

    /// Sets what the median should not exceed.
    pub(crate) fn target(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }

    /// The smallest sample that at least `percent` of all do not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.samples.len() * percent).div_ceil(100).max(1);
        self.samples[rank - 1]
    }

    fn verdict(&self) -> &'static str {
        match self.target {
            None => "",
            Some(target) if self.percentile(50) <= target => "ok",
            Some(_) => "over",
        }
    }

    /// For `--json`.
    pub(crate) fn to_json(&self) -> Value {
        let unit = match self.unit {
            Unit::Milliseconds => "ms",
            Unit::Kilobytes => "kB",
            Unit::Percent => "%",
        };
        json!({
            "name": self.name, "unit": unit, "target": self.target, "samples": self.samples.len(),
            "median": self.percentile(50), "p99": self.percentile(99), "min": self.percentile(0),
        })
    }

    fn cell(&self, value: f64) -> String {
        match self.unit {
            Unit::Milliseconds => format!("{value:.2} ms"),
            Unit::Kilobytes => format!("{value:.0} kB"),
            Unit::Percent => format!("{value:.1} %"),
        }
    }
}

/// The figures as lines of text.
pub(crate) fn table(title: &str, figures: &[Figure]) -> String {
    let mut text = row(&[title, "target", "median", "p99", "min", ""]);
    for figure in figures {
        let target = figure.target.map(|target| figure.cell(target)).unwrap_or_default();
        let [median, p99, min] = [50, 99, 0].map(|percent| figure.cell(figure.percentile(percent)));
        text += &row(&[&figure.name, &target, &median, &p99, &min, figure.verdict()]);
    }
    text
}

fn row([name, target, median, p99, min, verdict]: &[&str; 6]) -> String {
    let line = format!("{name:<52}{target:>12}{median:>12}{p99:>12}{min:>12}  {verdict}");
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<u64> = (1..=200).rev().collect();
        let figure = Figure::kilobytes("x", &samples);
        let found = [0, 50, 99, 100].map(|percent| figure.cell(figure.percentile(percent)));
        assert_eq!(found, ["1 kB", "100 kB", "198 kB", "200 kB"]);
    }

    #[test]
    fn the_median_is_judged() {
        let figure = Figure::times("x", &[1, 2, 900].map(Duration::from_millis));
        assert_eq!(figure.verdict(), "");
        assert_eq!(figure.clone().target(2.0).verdict(), "ok");
        assert_eq!(figure.target(1.9).verdict(), "over");
    }
}
