//! Report: a table of ratios for people, and `target/bench/latest.json` for programs.

use std::path::Path;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::Done;

/// One measured thing.
pub(crate) struct Scenario {
    name: &'static str,
    unit: &'static str,
    value: f64,
    baseline: f64,
    /// The least or the most the ratio may be.
    goal: Option<(Bound, f64)>,
    details: Vec<(String, Value)>,
}

#[derive(Clone, Copy)]
enum Bound {
    Least,
    Most,
}

impl Scenario {
    pub(crate) fn new(name: &'static str, unit: &'static str, value: f64, baseline: f64) -> Self {
        Self { name, unit, value, baseline, goal: None, details: Vec::new() }
    }

    pub(crate) fn at_least(mut self, ratio: f64) -> Self {
        self.goal = Some((Bound::Least, ratio));
        self
    }

    pub(crate) fn at_most(mut self, ratio: f64) -> Self {
        self.goal = Some((Bound::Most, ratio));
        self
    }

    pub(crate) fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.push((name.to_owned(), value.into()));
        self
    }

    fn ratio(&self) -> f64 {
        self.value / self.baseline
    }

    fn goal(&self) -> (String, &'static str) {
        let Some((bound, goal)) = self.goal else { return (String::new(), "") };
        let (sign, met) = match bound {
            Bound::Least => (">=", self.ratio() >= goal),
            Bound::Most => ("<=", self.ratio() <= goal),
        };
        (format!("{sign} {goal}"), if met { "ok" } else { "MISSED" })
    }
}

/// All of a run.
#[derive(Default)]
pub(crate) struct Report(Vec<Scenario>);

impl Report {
    pub(crate) fn add(&mut self, scenario: Scenario) {
        eprintln!("  {}: {}", scenario.name, short(scenario.ratio()));
        self.0.push(scenario);
    }

    pub(crate) fn extend(&mut self, scenarios: Vec<Scenario>) {
        scenarios.into_iter().for_each(|scenario| self.add(scenario));
    }

    /// Prints and keeps it. A missed goal is shown, not hidden, and is no failure of the bench.
    pub(crate) fn finish(self) -> Done {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["SCENARIO", "VALUE", "BASELINE", "UNIT", "RATIO", "GOAL", "", "DETAILS"]);
        for scenario in &self.0 {
            let (goal, met) = scenario.goal();
            let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
            let details = scenario.details.iter().map(|(name, value)| match value.as_f64() {
                Some(number) => format!("{name} {}", short(number)),
                None => format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
            });
            table.add_row([
                Cell::new(scenario.name),
                right(short(scenario.value)),
                right(short(scenario.baseline)),
                Cell::new(scenario.unit),
                right(format!("{:.2}", scenario.ratio())),
                Cell::new(goal),
                Cell::new(met),
                Cell::new(details.collect::<Vec<_>>().join(", ")),
            ]);
        }
        let machine = machine();
        println!("{machine}\n{table}");
        let scenarios: Vec<_> = self
            .0
            .iter()
            .map(|s| {
                let details: serde_json::Map<_, _> = s.details.iter().cloned().collect();
                json!({ "name": s.name, "value": s.value, "baseline": s.baseline, "ratio": s.ratio(),
                        "unit": s.unit, "goal": s.goal().0, "details": details })
            })
            .collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&folder)?;
        let text = serde_json::to_string_pretty(&json!({ "machine": machine, "scenarios": scenarios }))?;
        std::fs::write(folder.join("latest.json"), text + "\n")?;
        Ok(())
    }
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores, {}, {}", model.unwrap_or("unknown processor"), std::env::consts::OS)
}

fn short(number: f64) -> String {
    match number.abs() {
        n if n >= 1000.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        n if n >= 0.1 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    }
}
