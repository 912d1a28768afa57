//! Charts: the last hour, drawn on the server, for pages that allow no style and no script of their own.

use std::fmt::Write as _;

use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use super::layout::rate;
use crate::catalog::Minute;
use crate::telemetry::TenantTraffic;

/// Minutes that a chart shows.
const MINUTES: usize = super::super::look::MINUTES as usize;
/// The width of a minute, in a chart's own units, and the height of the whole.
const STEP: f64 = 10.0;
const HEIGHT: f64 = 100.0;

/// An hour of traffic, minute by minute, the present one last.
pub(super) struct Hour {
    minutes: Vec<TenantTraffic>,
    /// When the last of them began.
    last: OffsetDateTime,
    /// How much of it is over, seconds.
    over: f64,
}

impl Hour {
    /// The hour that ends now. What has no report had no requests.
    pub(super) fn new(reported: &[Minute], now: OffsetDateTime) -> Self {
        let over = i64::from(now.second()).max(5);
        let last = now.replace_second(0).and_then(|at| at.replace_nanosecond(0)).unwrap_or(now);
        let mut minutes = vec![TenantTraffic::default(); MINUTES];
        for minute in reported {
            let back = usize::try_from((last - minute.at).whole_minutes()).unwrap_or(0);
            if let Some(at) = (MINUTES - 1).checked_sub(back) {
                minutes[at] = minute.traffic;
            }
        }
        Self { minutes, last, over: over as f64 }
    }

    fn seconds(&self, at: usize) -> f64 {
        if at + 1 == self.minutes.len() { self.over } else { 60.0 }
    }

    fn rates(&self) -> Vec<f64> {
        let rates = self.minutes.iter().enumerate();
        rates.map(|(at, minute)| minute.requests() as f64 / self.seconds(at)).collect()
    }

    /// The last minutes together, and how many seconds they are.
    fn late(&self, minutes: usize) -> (TenantTraffic, f64) {
        let (mut sum, mut seconds) = (TenantTraffic::default(), 0.0);
        for at in self.minutes.len().saturating_sub(minutes)..self.minutes.len() {
            sum.errors += self.minutes[at].errors;
            sum.latencies.merge(&self.minutes[at].latencies);
            seconds += self.seconds(at);
        }
        (sum, seconds)
    }

    /// Requests a second of late.
    pub(super) fn rate_now(&self) -> f64 {
        let (sum, seconds) = self.late(2);
        sum.requests() as f64 / seconds
    }

    /// The share of the last five minutes' requests that were answered with 5xx.
    pub(super) fn errors_now(&self) -> f64 {
        let (sum, _) = self.late(5);
        sum.errors as f64 / (sum.requests() as f64).max(1.0)
    }

    /// The time within which 99 of 100 requests of the last five minutes were answered, in milliseconds.
    pub(super) fn p99_now(&self) -> Option<f64> {
        self.late(5).0.latencies.quantile(0.99).map(|time| time.as_secs_f64() * 1000.0)
    }

    /// Whether there was any request.
    pub(super) fn is_quiet(&self) -> bool {
        self.minutes.iter().all(|minute| minute.requests() == 0)
    }

    /// Requests a second, as an area.
    pub(super) fn requests(&self, is_tall: bool) -> Markup {
        let rates = self.rates();
        let top = nice(rates.iter().copied().fold(0.0, f64::max));
        let points: Vec<_> = rates.iter().map(|rate| Some(*rate)).collect();
        let words = |at: usize| format!("{}/s", rate(rates[at]));
        let now = format!("Requests a second in the last hour, now {}", rate(self.rate_now()));
        self.chart(
            is_tall,
            &now,
            &format!("{}/s", rate(top)),
            &words,
            html! {
                path .area d=(line(&points, top, true)) {}
                path .stroke d=(line(&points, top, false)) {}
            },
        )
    }

    /// Answers with 5xx, a bar for each minute.
    pub(super) fn errors(&self, is_tall: bool) -> Markup {
        let most = self.minutes.iter().map(|minute| minute.errors).max().unwrap_or(0) as f64;
        let top = nice(most);
        let mut bars = String::new();
        for (at, minute) in self.minutes.iter().enumerate().filter(|(_, minute)| minute.errors > 0) {
            let height = (minute.errors as f64 / top * HEIGHT).max(2.0);
            let _ = write!(bars, "M{:.0} {HEIGHT}v-{height:.1}h8v{height:.1}z", at as f64 * STEP + 1.0);
        }
        let words =
            |at: usize| format!("{} of {} requests", self.minutes[at].errors, self.minutes[at].requests());
        let now = format!("Errors a minute in the last hour, {most} at most");
        self.chart(is_tall, &now, &format!("{top}/min"), &words, html! { path .bars d=(bars) {} })
    }

    /// The times within which half of the requests and 99 of 100 were answered.
    pub(super) fn latencies(&self, is_tall: bool) -> Markup {
        let of = |share: f64| -> Vec<Option<f64>> {
            let quantiles = self.minutes.iter().map(|minute| minute.latencies.quantile(share));
            quantiles.map(|time| time.map(|time| time.as_secs_f64() * 1000.0)).collect()
        };
        let (half, most) = (of(0.5), of(0.99));
        let top = nice(most.iter().flatten().copied().fold(0.0, f64::max));
        let words = |at: usize| match (half[at], most[at]) {
            (Some(half), Some(most)) => format!("half within {}, 99 % within {}", millis(half), millis(most)),
            _ => "no requests".to_owned(),
        };
        let now = match self.p99_now() {
            Some(p99) => format!("Latency in the last hour, 99 % within {} of late", millis(p99)),
            None => "Latency in the last hour, no requests of late".to_owned(),
        };
        self.chart(
            is_tall,
            &now,
            &millis(top),
            &words,
            html! {
                path .stroke d=(line(&half, top, false)) {}
                path .stroke.second d=(line(&most, top, false)) {}
            },
        )
    }

    fn chart(
        &self,
        is_tall: bool,
        label: &str,
        top: &str,
        words: &dyn Fn(usize) -> String,
        marks: Markup,
    ) -> Markup {
        let time = |at: usize| {
            let at = self.last - Duration::minutes((MINUTES - 1 - at) as i64);
            format!("{:02}:{:02}", at.hour(), at.minute())
        };
        html! {
            figure .chart.tall[is_tall] {
                svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label=(label) {
                    path .grid-line d="M0 0H600M0 50H600M0 100H600" {}
                    (marks)
                    @if is_tall && !self.is_quiet() {
                        @for at in 0..MINUTES {
                            rect .hit x=(at * 10) y="0" width="10" height="100" { title { (time(at)) " UTC: " (words(at)) } }
                        }
                    }
                }
                span .top { (top) }
                @if is_tall { div .axis { span { (time(0)) } span { (time(MINUTES / 2)) } span { (time(MINUTES - 1)) " UTC" } } }
            }
        }
    }
}

/// Milliseconds, with as many digits as matter.
pub(super) fn millis(millis: f64) -> String {
    match millis {
        millis if millis >= 10_000.0 => format!("{:.0} s", millis / 1000.0),
        millis if millis >= 1000.0 => format!("{:.1} s", millis / 1000.0),
        millis if millis >= 10.0 => format!("{millis:.0} ms"),
        millis => format!("{} ms", rate(millis)),
    }
}

/// The next round number: 1, 2 or 5 with zeros.
fn nice(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let unit = 10_f64.powf(most.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|step| step * unit).find(|top| *top >= most * 0.999).unwrap_or(unit * 10.0)
}

/// The path through points, one for each minute, with gaps where there is none; as an area down to the ground.
fn line(points: &[Option<f64>], top: f64, is_area: bool) -> String {
    let mut path = String::new();
    let mut begun: Option<f64> = None;
    let place = |at: usize| at as f64 * STEP + STEP / 2.0;
    let close = |path: &mut String, begun: f64, at: usize| {
        if is_area {
            let _ = write!(path, "L{:.0} {HEIGHT}L{begun:.0} {HEIGHT}Z", place(at));
        } else if begun >= place(at) {
            // One point alone is a dot.
            path.push_str("h0.1");
        }
    };
    for (at, point) in points.iter().enumerate() {
        match (point, begun) {
            (Some(value), _) => {
                let y = HEIGHT - (value / top * HEIGHT).clamp(0.0, HEIGHT);
                let command = if begun.is_some() { 'L' } else { 'M' };
                let _ = write!(path, "{command}{:.0} {y:.1}", place(at));
                begun = begun.or(Some(place(at)));
            }
            (None, Some(from)) => {
                close(&mut path, from, at - 1);
                begun = None;
            }
            (None, None) => {}
        }
    }
    if let Some(from) = begun {
        close(&mut path, from, points.len() - 1);
    }
    path
}

/// Parts of a whole, side by side.
pub(super) fn bar(label: &str, is_slim: bool, parts: &[(&str, f64)]) -> Markup {
    let whole = parts.iter().map(|(_, part)| part).sum::<f64>().max(f64::MIN_POSITIVE);
    // What stands beside it in words is not said again.
    let said = Some(label).filter(|label| !label.is_empty());
    let mut from = 0.0;
    let places: Vec<_> = parts
        .iter()
        .filter(|(_, part)| *part > 0.0)
        .map(|(class, part)| {
            let place = (*class, from, part / whole * 100.0);
            from += place.2;
            place
        })
        .collect();
    html! {
        svg .bar.slim[is_slim] role=[said.map(|_| "img")] aria-label=[said] aria-hidden=[said.is_none().then_some("true")] preserveAspectRatio="none" {
            @for (class, from, width) in places {
                @if !class.is_empty() {
                    rect class=(class) x={ (format!("{from:.2}")) "%" } width={ (format!("{width:.2}")) "%" } height="100%" {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tops_are_round() {
        assert_eq!(
            [0.0, 0.3, 1.0, 1.2, 42.0, 99.0, 100.0].map(nice),
            [1.0, 0.5, 1.0, 2.0, 50.0, 100.0, 100.0]
        );
    }

    #[test]
    fn a_gap_is_no_line() {
        assert_eq!(line(&[Some(1.0), None, Some(0.5), Some(0.0)], 1.0, false), "M5 0.0h0.1M25 50.0L35 100.0");
        assert_eq!(line(&[Some(1.0), Some(1.0), None], 1.0, true), "M5 0.0L15 0.0L15 100L5 100Z");
    }
}
