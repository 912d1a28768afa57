//! `[rollouts.NAME]`: in which waves tenants are brought to a new version, and what stops a rollout.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::word::word;
use crate::policy::quantity::{MAX_TIME, wrong_time};

/// Most databases that are worked on at the same time, each by a connection of the admin's.
pub(super) const MAX_JOBS: usize = 1000;
/// The policy that `manybox migrate` takes when none is named.
pub const DEFAULT_POLICY: &str = "default";

/// A policy: waves in order, and what holds for all of them. The words are those of Atlas's deployment blocks and of Argo
/// Rollouts where these have one.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutPolicy {
    /// In this order; a tenant goes with the first that takes it. Those that none takes go last, in a wave of their own.
    pub waves: Vec<Wave>,
    /// The order of the tenants in a wave.
    #[serde(deserialize_with = "word")]
    pub order_by: OrderBy,
    /// What becomes of a tenant whose migration failed.
    #[serde(deserialize_with = "word")]
    pub on_error: OnError,
    /// Longest time for one tenant, over all its files. What runs then is cancelled, and the tenant has failed.
    #[serde(with = "humantime_serde")]
    pub step_timeout: Duration,
    /// Whether files below a version that was applied are applied too, to tenants that lack them.
    pub allow_out_of_order: bool,
    /// On copies of how many tenants of each edition the files must have passed before, by `manybox migrate rehearse`; of all
    /// that lack them where these are fewer. None when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rehearse: Option<usize>,
}

impl Default for RolloutPolicy {
    /// One wave of all tenants, halted by the eleventh failure.
    fn default() -> Self {
        let all = Wave { name: Some("all".into()), failures: Failures::Count(10), ..Wave::default() };
        Self {
            waves: vec![all],
            order_by: OrderBy::Slug,
            on_error: OnError::Serve,
            step_timeout: Duration::from_secs(3600),
            allow_out_of_order: false,
            rehearse: None,
        }
    }
}

/// The order of the tenants in a wave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderBy {
    /// By name.
    #[default]
    Slug,
    /// The youngest tenant first.
    Newest,
    /// The oldest tenant first.
    Oldest,
}

/// What becomes of a tenant whose migration failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// It serves on, at the version that it reached, and is tried again by the next rollout.
    #[default]
    Serve,
    /// It serves on, and later rollouts leave it out until `manybox migrate retry --tenant` takes it in again.
    Quarantine,
    /// It is suspended.
    Suspend,
}

/// Some of the fleet. What is said is said all together: a wave takes the tenants to which every line applies.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wave {
    /// For people; `wave N` when not given.
    pub name: Option<String>,
    /// Only these, by slug: canaries.
    pub tenants: Vec<String>,
    /// Only those with all of these labels (`manybox tenant set SLUG label.KEY=VALUE`).
    pub labels: BTreeMap<String, String>,
    /// Only of this tier.
    pub tier: Option<String>,
    /// Only on this server.
    pub server: Option<String>,
    /// Only of this edition.
    pub edition: Option<String>,
    /// At most so many of a hundred of the rollout's tenants, rounded up; from 1 to 100.
    pub percent: Option<u8>,
    /// Databases at the same time, for each process that runs the rollout; `migrate.jobs` when not given.
    pub jobs: Option<usize>,
    /// The same for each server.
    pub jobs_per_server: Option<usize>,
    /// How many tenants may fail. One more, and `on_failures` happens.
    pub failures: Failures,
    /// What happens then.
    #[serde(deserialize_with = "word")]
    pub on_failures: OnFailures,
    /// How long to wait, when all are done, before the gate is asked and the next wave begins.
    #[serde(with = "humantime_serde")]
    pub bake: Duration,
    /// What must hold before the next wave begins.
    pub gate: Option<Gate>,
}

/// How many tenants of a wave may fail: `3`, or `"5%"` of it, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Failures {
    /// So many.
    Count(usize),
    /// So many of a hundred, from 0 to 100.
    Percent(u8),
}

impl Default for Failures {
    fn default() -> Self {
        Self::Count(0)
    }
}

impl Failures {
    /// How many of `tenants` may fail.
    pub fn of(self, tenants: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => tenants.saturating_mul(usize::from(percent)) / 100,
        }
    }
}

/// The two forms in which [`Failures`] are written.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Written {
    Count(usize),
    Text(String),
}

impl TryFrom<Written> for Failures {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let text = match written {
            Written::Count(count) => return Ok(Self::Count(count)),
            Written::Text(text) => text,
        };
        let percent = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
        match percent.filter(|percent| *percent <= 100) {
            Some(percent) => Ok(Self::Percent(percent)),
            None => Err(format!("`{text}` is neither a number of tenants nor a share such as \"5%\"")),
        }
    }
}

impl From<Failures> for Written {
    fn from(failures: Failures) -> Self {
        match failures {
            Failures::Count(count) => Self::Count(count),
            Failures::Percent(percent) => Self::Text(format!("{percent}%")),
        }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// What happens when more tenants of a wave failed than may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailures {
    /// No further tenant is begun, until `manybox migrate retry`, `skip` or `abort`.
    #[default]
    Halt,
    /// The rollout goes on.
    Continue,
}

/// What must hold after a wave. Every tenant is judged by itself, against itself before the wave: what one of them does can
/// hold the rollout, but can't make another's look better.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gate {
    /// The time that is looked at before the wave's first migration, and after its last: at least so long is baked.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Most by which a tenant's share of 5xx may rise: 0.01 is one request in a hundred.
    pub error_rate: Option<f64>,
    /// Most times its p99 may be what it was.
    pub p99: Option<f64>,
    /// Tenants with fewer requests in one of the two windows aren't judged by them.
    pub least_requests: u64,
    /// A query that must answer `true`, asked in each tenant's database as its owner.
    pub sql: Option<String>,
    /// How many tenants may be worse than that.
    pub failures: Failures,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            error_rate: Some(0.01),
            p99: Some(2.0),
            least_requests: 20,
            sql: None,
            failures: Failures::Count(0),
        }
    }
}

impl RolloutPolicy {
    /// The first value that can't hold, by its key and what would be right.
    pub(super) fn wrong(&self) -> Option<(String, String)> {
        if self.waves.is_empty() {
            return Some(("waves".into(), "expected at least one wave".into()));
        }
        if let Some(reason) = wrong_time(self.step_timeout, Duration::from_secs(1), MAX_TIME) {
            return Some(("step_timeout".into(), reason));
        }
        if self.rehearse == Some(0) {
            return Some(("rehearse".into(), "expected 1 or more".into()));
        }
        self.waves.iter().enumerate().find_map(|(at, wave)| {
            let (key, reason) = wave.wrong()?;
            Some((format!("waves[{at}].{key}"), reason))
        })
    }
}

impl Wave {
    /// Some of the fleet as a command line says it: `tenant=acme`, `label.region=eu`, `tier=gold`, `server=main`,
    /// `edition=clinic`. Nothing said is all of it.
    ///
    /// # Errors
    /// A sentence, when a key isn't known or has no value.
    pub fn matching(texts: &[String]) -> Result<Self, String> {
        let mut wave = Self::default();
        for text in texts {
            let wrong = || {
                format!(
                    "--match `{text}`: expected tenant=SLUG, label.KEY=VALUE, tier=NAME, server=NAME or edition=NAME"
                )
            };
            let (key, value) =
                text.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or_else(wrong)?;
            let value = value.to_owned();
            match (key, key.strip_prefix("label.")) {
                ("tenant", _) => wave.tenants.push(value),
                ("tier", _) => wave.tier = Some(value),
                ("server", _) => wave.server = Some(value),
                ("edition", _) => wave.edition = Some(value),
                (_, Some(label)) if !label.is_empty() => drop(wave.labels.insert(label.to_owned(), value)),
                _ => return Err(wrong()),
            }
        }
        Ok(wave)
    }

    fn wrong(&self) -> Option<(&'static str, String)> {
        if self.percent.is_some_and(|p| p == 0 || p > 100) {
            return Some(("percent", "expected 1 to 100".into()));
        }
        let jobs = [("jobs", self.jobs), ("jobs_per_server", self.jobs_per_server)];
        if let Some((key, jobs)) =
            jobs.into_iter().find(|(_, n)| n.is_some_and(|n| !(1..=MAX_JOBS).contains(&n)))
        {
            let expected = if jobs == Some(0) { "1 or more".into() } else { format!("{MAX_JOBS} at most") };
            return Some((key, format!("expected {expected}")));
        }
        if let Some(reason) = wrong_time(self.bake, Duration::ZERO, MAX_TIME) {
            return Some(("bake", reason));
        }
        let gate = self.gate.as_ref()?;
        if let Some(reason) = wrong_time(gate.window, Duration::ZERO, MAX_TIME) {
            return Some(("gate.window", reason));
        }
        let positive = |number: Option<f64>| number.is_none_or(|number| number.is_finite() && number >= 0.0);
        let numbers = [("gate.error_rate", gate.error_rate), ("gate.p99", gate.p99)];
        let wrong = numbers.into_iter().find(|(_, number)| !positive(*number));
        wrong.map(|(key, _)| (key, "expected 0 or more".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_number_or_a_share() {
        #[derive(Deserialize)]
        struct Held {
            failures: Failures,
        }
        let read = |text: &str| toml::from_str::<Held>(text).map(|held| held.failures);
        assert_eq!(read("failures = 3").unwrap().of(10), 3);
        assert_eq!(read("failures = \"5%\"").unwrap().of(199), 9);
        for wrong in ["failures = \"5\"", "failures = \"101%\"", "failures = -1", "failures = \"-1%\""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_command_line_says_some_of_the_fleet() {
        let texts = ["tenant=a", "tenant=b", "label.region=eu", "tier=gold"].map(str::to_owned);
        let wave = Wave::matching(&texts).unwrap();
        assert_eq!(wave.tenants, ["a", "b"]);
        assert_eq!(wave.labels.get("region").map(String::as_str), Some("eu"));
        assert_eq!(wave.tier.as_deref(), Some("gold"));
        assert_eq!(Wave::matching(&[]).unwrap(), Wave::default());
        for wrong in ["tenant", "tenant=", "label.=x", "colour=red"] {
            assert!(Wave::matching(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_and_jobs_have_bounds() {
        for (text, key, expected) in [
            ("step_timeout = '90000y'", "step_timeout", "24 days at most"),
            ("[[waves]]\nbake = '90000y'", "waves[0].bake", "24 days at most"),
            ("[[waves]]\njobs = 100000", "waves[0].jobs", "1000 at most"),
            ("[[waves]]\njobs_per_server = 0", "waves[0].jobs_per_server", "1 or more"),
            ("[[waves]]\ngate.window = '90000y'", "waves[0].gate.window", "24 days at most"),
            ("[[waves]]\ngate.p99 = -1.0", "waves[0].gate.p99", "0 or more"),
        ] {
            let (at, reason) = toml::from_str::<RolloutPolicy>(text).unwrap().wrong().unwrap();
            assert!(at == key && reason.contains(expected), "{text}: {at}: {reason}");
        }
        assert_eq!(RolloutPolicy::default().wrong(), None);
    }

    #[test]
    fn a_policy_survives_the_catalog() {
        let gate = Gate { sql: Some("SELECT true".into()), ..Gate::default() };
        let wave =
            Wave { percent: Some(10), failures: Failures::Percent(5), gate: Some(gate), ..Wave::default() };
        let policy =
            RolloutPolicy { waves: vec![wave], on_error: OnError::Quarantine, ..RolloutPolicy::default() };
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<RolloutPolicy>(&json).unwrap(), policy);
    }
}
