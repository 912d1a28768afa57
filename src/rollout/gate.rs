//! Gate: whether the next wave may begin. Pure.

use time::OffsetDateTime;

use crate::catalog::WaveCounts;
use crate::settings::{Gate, OnFailures, Wave};

/// What an executor is to do about the open wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Move {
    /// Take steps, or wait for those that others took.
    Work,
    /// All are done: note the time.
    EndWave,
    /// Wait until then.
    Bake(OffsetDateTime),
    /// Ask whether the gate opens.
    AskGate,
    /// Open the next wave, or look whether anything is left when this is the last.
    Advance,
    /// Stop, for this reason.
    Halt(String),
}

/// Where the open wave stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standpoint<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// What holds for it.
    pub(super) wave: &'a Wave,
    /// Its steps.
    pub(super) counts: &'a WaveCounts,
    /// When none of them was left to do.
    pub(super) ended: Option<OffsetDateTime>,
    /// Whether an operator passed its gate by hand.
    pub(super) approved: bool,
    /// The time.
    pub(super) now: OffsetDateTime,
}

/// Decides about the open wave. Never leads past a wave with steps to do, with more failures than may be, or before its
/// bake time is over.
pub(super) fn next(at: &Standpoint<'_>) -> Move {
    let may_fail = at.wave.failures.of(at.counts.all());
    if at.counts.failures() > may_fail && at.wave.on_failures == OnFailures::Halt {
        return Move::Halt(format!(
            "{} of {} tenants failed in wave `{}`, where {may_fail} may",
            at.counts.failures(),
            at.counts.all(),
            at.name
        ));
    }
    if at.counts.open() > 0 {
        return Move::Work;
    }
    let Some(ended) = at.ended else { return Move::EndWave };
    let gate = at.wave.gate.as_ref().filter(|_| !at.approved && at.counts.closed() > at.counts.skipped);
    let bake = gate.map_or(at.wave.bake, |gate| at.wave.bake.max(gate.window));
    // A time that can't be told is one that never comes.
    let until = time::Duration::try_from(bake).ok().and_then(|bake| ended.checked_add(bake));
    match until {
        Some(until) if until <= at.now => match gate {
            Some(_) => Move::AskGate,
            None => Move::Advance,
        },
        Some(until) => Move::Bake(until),
        None => Move::Halt(format!("wave `{}` bakes for longer than time can be told", at.name)),
    }
}

/// What routers and a tenant's own database say about it, before the wave and after it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Observation {
    /// The tenant's slug.
    pub(super) slug: String,
    /// Before.
    pub(super) before: Health,
    /// After.
    pub(super) after: Health,
    /// Why the gate's query did not answer `true`; `None` when it did, or when there is none.
    pub(super) query: Option<String>,
}

/// A tenant's requests in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Health {
    /// How many.
    pub(super) requests: u64,
    /// How many of them were answered by a 5xx.
    pub(super) errors: u64,
    /// In how many seconds 99 of 100 were answered.
    pub(super) p99: f64,
}

impl Health {
    fn error_rate(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.errors as f64 / self.requests as f64 }
    }
}

/// Whether the gate opens: `None` when it does, or else why not.
///
/// Each tenant is judged by its own requests alone, and counts as one however many it had. So no tenant's code can make the
/// gate open, and none can hold it by more than its own part of the budget.
pub(super) fn judge(gate: &Gate, tenants: &[Observation]) -> Option<String> {
    let worse: Vec<_> =
        tenants.iter().filter_map(|tenant| Some((&tenant.slug, worse(gate, tenant)?))).collect();
    if worse.len() <= gate.failures.of(tenants.len()) {
        return None;
    }
    let shown: Vec<_> = worse.iter().take(5).map(|(slug, why)| format!("{slug}: {why}")).collect();
    let more = worse.len().saturating_sub(shown.len());
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Some(format!(
        "{} of {} tenants are worse than before: {}{more}",
        worse.len(),
        tenants.len(),
        shown.join("; ")
    ))
}

fn worse(gate: &Gate, tenant: &Observation) -> Option<String> {
    if let Some(why) = &tenant.query {
        return Some(why.clone());
    }
    let (before, after) = (&tenant.before, &tenant.after);
    if after.requests < gate.least_requests {
        return None;
    }
    let rise = after.error_rate() - before.error_rate();
    if gate.error_rate.is_some_and(|most| rise > most) {
        return Some(format!(
            "{:.1} % of its requests failed, {:.1} % before",
            after.error_rate() * 100.0,
            before.error_rate() * 100.0
        ));
    }
    // Without a past there is nothing to be slower than.
    let slower =
        before.requests >= gate.least_requests && gate.p99.is_some_and(|most| after.p99 > before.p99 * most);
    slower.then(|| format!("p99 is {:.0} ms, {:.0} ms before", after.p99 * 1000.0, before.p99 * 1000.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::settings::Failures;

    fn standpoint<'a>(
        wave: &'a Wave,
        counts: &'a WaveCounts,
        ended: Option<i64>,
        now: i64,
    ) -> Standpoint<'a> {
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        Standpoint { name: "w", wave, counts, ended: ended.map(at), approved: false, now: at(now) }
    }

    proptest! {
        #[test]
        fn nothing_leads_past_open_steps_failures_or_the_bake_time(
            pending in 0..3_usize, running in 0..3_usize, done in 0..20_usize, failed in 0..5_usize,
            drifted in 0..3_usize, skipped in 0..3_usize, may in 0..6_usize, bake in 0..100_u64, ended in 0..100_i64,
            has_ended: bool, now in 0..300_i64, window in proptest::option::of(0..100_u64), approved: bool,
        ) {
            let counts = WaveCounts { wave: 0, pending, running, done, drifted, failed, skipped, seconds: 0.0 };
            let gate = window.map(|window| Gate { window: Duration::from_secs(window), ..Gate::default() });
            let wave = Wave { failures: Failures::Count(may), bake: Duration::from_secs(bake), gate, ..Wave::default() };
            let at = Standpoint { approved, ..standpoint(&wave, &counts, has_ended.then_some(ended), now) };
            let decided = next(&at);
            let too_many = failed + drifted > may;
            prop_assert_eq!(too_many, matches!(decided, Move::Halt(_)));
            if !too_many {
                prop_assert_eq!(pending + running > 0, decided == Move::Work);
            }
            if matches!(decided, Move::Advance | Move::AskGate) {
                prop_assert!(has_ended && now >= ended + bake as i64);
                let judged = window.is_some() && !approved && done + failed + drifted > 0;
                prop_assert_eq!(judged, decided == Move::AskGate);
            }
        }

        #[test]
        fn a_tenant_counts_as_one_whatever_it_does(
            errors in 0..1_000_000_u64, p99 in 0.0..1e6_f64, others in 1..50_usize,
        ) {
            let gate = Gate { failures: Failures::Count(1), ..Gate::default() };
            let well = Health { requests: 1000, errors: 0, p99: 0.01 };
            let mut tenants: Vec<_> = (0..others)
                .map(|n| Observation { slug: format!("t{n}"), before: well, after: well, query: None })
                .collect();
            tenants[0].after = Health { requests: 1_000_000, errors, p99 };
            // Alone it can't hold the gate, and it can't open it for another that is worse.
            prop_assert_eq!(judge(&gate, &tenants), None);
            let sick = Health { requests: 1000, errors: 500, p99: 0.01 };
            for n in 1..3 {
                tenants.push(Observation { slug: format!("s{n}"), before: well, after: sick, query: None });
            }
            prop_assert!(judge(&gate, &tenants).is_some());
        }
    }

    #[test]
    fn what_a_tenant_is_judged_by() {
        let gate = Gate::default();
        let health = |requests, errors, p99| Health { requests, errors, p99 };
        let one =
            |before, after| judge(&gate, &[Observation { slug: "a".into(), before, after, query: None }]);
        assert_eq!(one(health(1000, 5, 0.01), health(1000, 12, 0.019)), None);
        assert!(one(health(1000, 5, 0.01), health(1000, 16, 0.01)).unwrap().contains("a: 1.6 %"));
        assert!(one(health(1000, 0, 0.01), health(1000, 0, 0.021)).unwrap().contains("21 ms"));
        // Too few to be judged by, or nothing to be compared with.
        assert_eq!(one(health(1000, 0, 0.01), health(19, 19, 9.0)), None);
        assert_eq!(one(health(0, 0, 0.0), health(100, 0, 9.0)), None);
        assert!(one(health(0, 0, 0.0), health(100, 2, 0.1)).is_some());
        let asked =
            Observation { slug: "a".into(), query: Some("answered false".into()), ..Observation::default() };
        assert!(judge(&gate, &[asked]).unwrap().contains("a: answered false"));
    }

    #[test]
    fn what_was_left_out_is_not_waited_for() {
        let gate = Gate { window: Duration::from_secs(60), ..Gate::default() };
        let wave = Wave { gate: Some(gate), ..Wave::default() };
        let counts = WaveCounts { skipped: 2, ..WaveCounts::default() };
        assert_eq!(next(&standpoint(&wave, &counts, Some(0), 0)), Move::Advance);
        assert_eq!(next(&standpoint(&wave, &counts, None, 0)), Move::EndWave);
    }
}
