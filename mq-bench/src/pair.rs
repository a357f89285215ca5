//! Two ways of doing the same work, run turn by turn.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use mq::Result;

use crate::cli::{Extent, Way};
use crate::cpu;
use crate::stats;

/// What a run cost, set-up apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) time: Duration,
    pub(crate) cpu: Option<Duration>,
}

/// One way of doing the work: handles that many messages when called.
pub(crate) type Run<'a> = Box<dyn FnMut(u64) -> BoxFuture<'a, Result<Cost>> + 'a>;

/// The work done two ways.
pub(crate) struct Pair<'a> {
    /// Budget and what is compared.
    pub(crate) name: &'static str,
    /// The names of both ways.
    pub(crate) ways: (&'static str, &'static str),
    /// The raw client; set-up is not counted.
    pub(crate) raw: Run<'a>,
    /// `mq`; likewise.
    pub(crate) ours: Run<'a>,
    /// The ratio asked for: ours against raw.
    pub(crate) budget: Option<f64>,
}

/// One run of one way.
#[derive(Debug, Clone, Copy)]
struct Sample {
    rate: f64,
    cpu_us: Option<f64>,
}

/// What a pair showed.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Outcome {
    name: &'static str,
    ways: (&'static str, &'static str),
    pairs: usize,
    messages: u64,
    raw_per_second: f64,
    ours_per_second: f64,
    raw_cpu_us: Option<f64>,
    ours_cpu_us: Option<f64>,
    ratio: f64,
    ratio_lower_95: f64,
    budget: Option<f64>,
    kept: Option<bool>,
}

impl Pair<'_> {
    /// Runs both ways as often as asked for after one warm-up each, the first of a pair alternating.
    pub(crate) async fn measure(mut self, extent: Extent, messages: u64) -> Result<Outcome> {
        let pairs = extent.pairs;
        let (mut raw, mut ours) = (Vec::new(), Vec::new());
        for turn in 0..=pairs {
            // The first pair warms up.
            let count = if turn == 0 { messages / 4 } else { messages };
            let first = if turn % 2 == 0 { Way::Raw } else { Way::Ours };
            for way in [first, first.other()] {
                let (run, samples) = match way {
                    Way::Raw => (&mut self.raw, &mut raw),
                    Way::Ours => (&mut self.ours, &mut ours),
                };
                if extent.only.is_none_or(|only| only == way) {
                    let sample = sample(run, count).await?;
                    samples.extend((turn > 0).then_some(sample));
                }
            }
        }
        let ratios: Vec<f64> = raw.iter().zip(&ours).map(|(raw, ours)| ours.rate / raw.rate).collect();
        let rate = |samples: &[Sample]| stats::median(&samples.iter().map(|s| s.rate).collect::<Vec<_>>());
        let cpu = |samples: &[Sample]| {
            let all: Option<Vec<f64>> = samples.iter().map(|s| s.cpu_us).collect();
            all.map(|all| stats::median(&all))
        };
        let ratio = stats::median(&ratios);
        Ok(Outcome {
            name: self.name,
            ways: self.ways,
            pairs,
            messages,
            raw_per_second: rate(&raw),
            ours_per_second: rate(&ours),
            raw_cpu_us: cpu(&raw),
            ours_cpu_us: cpu(&ours),
            ratio,
            ratio_lower_95: stats::lower_bound(&ratios),
            budget: self.budget,
            kept: self.budget.filter(|_| extent.only.is_none()).map(|budget| ratio >= budget),
        })
    }
}

async fn sample(run: &mut Run<'_>, messages: u64) -> Result<Sample> {
    let messages = messages.max(1);
    let cost = run(messages).await?;
    Ok(Sample {
        rate: messages as f64 / cost.time.as_secs_f64().max(1e-9),
        cpu_us: cost.cpu.map(|used| used.as_secs_f64() * 1e6 / messages as f64),
    })
}

/// Counts time and the processor time of the whole process from its start on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    started: Instant,
    cpu: Option<Duration>,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), cpu: cpu::used() }
    }

    pub(crate) fn read(self) -> Cost {
        let time = self.started.elapsed();
        let cpu = self.cpu.zip(cpu::used()).map(|(before, after)| after.saturating_sub(before));
        Cost { time, cpu }
    }
}

/// What `work` costs.
pub(crate) async fn cost<T>(work: impl Future<Output = Result<T>>) -> Result<Cost> {
    let meter = Meter::start();
    work.await?;
    Ok(meter.read())
}

impl Outcome {
    /// An outcome of latencies in seconds: the rates are their inverse, so that more is better here too.
    pub(crate) fn of_latencies(name: &'static str, messages: u64, raw: &[f64], ours: &[f64], budget: f64) -> Self {
        let ratios: Vec<f64> = raw.iter().zip(ours).map(|(raw, ours)| raw / ours).collect();
        let ratio = stats::median(&ratios);
        Self {
            name,
            ways: ("raw client", "mq producer"),
            pairs: raw.len(),
            messages,
            raw_per_second: 1.0 / stats::median(raw),
            ours_per_second: 1.0 / stats::median(ours),
            raw_cpu_us: None,
            ours_cpu_us: None,
            ratio,
            ratio_lower_95: stats::lower_bound(&ratios),
            budget: Some(budget),
            kept: Some(ratio >= budget),
        }
    }

    /// The outcome for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} ({} pairs of {} messages)\n", self.name, self.pairs, self.messages);
        for (way, rate, cpu) in
            [(self.ways.0, self.raw_per_second, self.raw_cpu_us), (self.ways.1, self.ours_per_second, self.ours_cpu_us)]
        {
            let cpu = cpu.map_or(String::new(), |cpu| format!("   {cpu:6.2} µs CPU/message"));
            let _ = writeln!(text, "  {way:<24} {rate:>10.0} /s{cpu}");
        }
        let _ = write!(text, "  ratio {:.3}, lower 95 % {:.3}", self.ratio, self.ratio_lower_95);
        if let (Some(budget), Some(kept)) = (self.budget, self.kept) {
            let _ = write!(text, "   budget {budget:.2}: {}", if kept { "kept" } else { "MISSED" });
        }
        text
    }

    /// False when a budget is missed.
    pub(crate) fn kept(&self) -> bool {
        self.kept != Some(false)
    }
}
