//! Screen: how a rollout goes. At a terminal one picture that lives, elsewhere a line for each event. Both are read from
//! the catalog, so that they are the same on whichever machine the rollout runs.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::time::Duration;

use console::truncate_str;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::{MissedTickBehavior, interval};

use super::super::{Failure, Output};
use crate::catalog::{RolloutRow, RolloutState, StepRow, StepState};
use crate::fleet::Fleet;
use crate::rollout::{View, failure_of};
use crate::telemetry::printable;

/// How often the catalog is asked.
const LOOK: Duration = Duration::from_millis(500);
/// How often an unfinished wave is told of where nobody sees the picture, in looks.
const TOLD_EVERY: u32 = 20;
/// Most steps in the picture.
const MOST_STEPS: usize = 8;

/// What somebody who waits sees.
pub(super) struct Screen {
    output: Output,
    picture: Option<Picture>,
    /// Places of steps whose failure was told.
    told: HashSet<(i32, i32)>,
    wave: Option<i32>,
    reason: Option<String>,
    looks: u32,
}

struct Picture {
    all: MultiProgress,
    bar: ProgressBar,
    lines: Vec<ProgressBar>,
}

impl Picture {
    fn new() -> Self {
        let all = MultiProgress::new();
        let bar = all.add(ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
            bar.set_style(style);
        }
        Self { all, bar, lines: Vec::new() }
    }

    fn show(&mut self, view: &View, running: &[String]) {
        let (closed, all) = view.progress();
        self.bar.set_length(all as u64);
        self.bar.set_position(closed as u64);
        let left = view.left.map(|left| {
            format!(", about {} left", humantime::format_duration(Duration::from_secs(left.as_secs())))
        });
        self.bar.set_message(format!("{}{}", name_of_wave(view), left.unwrap_or_default()));
        let width = usize::from(console::Term::stderr().size().1);
        for (at, text) in running.iter().take(MOST_STEPS).enumerate() {
            if self.lines.len() <= at {
                let line = self.all.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("  {msg}") {
                    line.set_style(style);
                }
                self.lines.push(line);
            }
            self.lines[at].set_message(truncate_str(text, width.saturating_sub(3), "…").into_owned());
        }
        while self.lines.len() > running.len().min(MOST_STEPS) {
            if let Some(line) = self.lines.pop() {
                line.finish_and_clear();
                self.all.remove(&line);
            }
        }
    }

    fn clear(&self) {
        // What can't be drawn is no reason to fail.
        let _ = self.all.clear();
    }
}

impl Screen {
    pub(super) fn new(output: Output) -> Self {
        let live = !output.json && std::io::stderr().is_terminal();
        Self {
            output,
            picture: live.then(Picture::new),
            told: HashSet::new(),
            wave: None,
            reason: None,
            looks: 0,
        }
    }

    /// Shows how a rollout goes, until dropped. A catalog that can't be asked shows nothing new.
    pub(super) async fn follow(&mut self, fleet: &Fleet, id: i64) -> Infallible {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let _ = self.look(fleet, id).await;
        }
    }

    /// The same until nothing happens any more without an operator. Gives the rollout as it is then.
    pub(super) async fn until_over(&mut self, fleet: &Fleet, id: i64) -> Result<RolloutRow, Failure> {
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            let row = self.look(fleet, id).await?;
            if !matches!(row.state, RolloutState::Planned | RolloutState::Running) {
                self.clear();
                return Ok(row);
            }
        }
    }

    /// Tells what happened since the last look, and takes the picture away.
    pub(super) async fn last_look(&mut self, fleet: &Fleet, id: i64) -> Result<(), Failure> {
        self.look(fleet, id).await?;
        self.clear();
        Ok(())
    }

    fn clear(&self) {
        if let Some(picture) = &self.picture {
            picture.clear();
        }
    }

    async fn look(&mut self, fleet: &Fleet, id: i64) -> Result<RolloutRow, Failure> {
        let Some(row) = fleet.catalog.rollout(id).await? else {
            return Err(Failure(format!("rollout {id} is gone from the catalog")));
        };
        let view = View::look(&fleet.catalog, row).await?;
        self.tell(&view);
        let running: Vec<_> = view
            .steps
            .iter()
            .filter(|step| step.state == StepState::Running)
            .map(|step| running(step, &view))
            .collect();
        if let Some(picture) = &mut self.picture {
            picture.show(&view, &running);
        }
        Ok(view.rollout)
    }

    /// A line for each thing that is new.
    fn tell(&mut self, view: &View) {
        let (closed, all) = view.progress();
        if self.wave != Some(view.rollout.wave) && !view.waves.is_empty() {
            self.wave = Some(view.rollout.wave);
            self.line(&format!("{}: begun, {closed} of {all} tenants are done", name_of_wave(view)));
        }
        for step in view.steps.iter().filter(|step| step.state.is_failure()) {
            if self.told.insert((step.place, step.attempts)) {
                self.line(&format!("{} {}: {}", step.slug, step.state.as_str(), failure_of(step)));
            }
        }
        if self.reason != view.rollout.reason {
            self.reason.clone_from(&view.rollout.reason);
            // The last words of the command say why it ended.
            let is_open = !matches!(view.rollout.state, RolloutState::Halted | RolloutState::Aborted);
            if let Some(reason) = view.rollout.reason.as_ref().filter(|_| is_open) {
                self.line(reason);
            }
        }
        self.looks += 1;
        if self.picture.is_none() && self.looks.is_multiple_of(TOLD_EVERY) {
            self.line(&format!("{}: {closed} of {all} tenants are done", name_of_wave(view)));
        }
    }

    fn line(&self, text: &str) {
        match &self.picture {
            Some(picture) => {
                // What can't be drawn is no reason to fail.
                let _ = picture.all.println(printable::one_line(text));
            }
            None => self.output.note(text),
        }
    }
}

fn name_of_wave(view: &View) -> String {
    let at = usize::try_from(view.rollout.wave).unwrap_or(0);
    let name = view.waves.get(at).map_or("", |wave| wave.name.as_str());
    format!("wave {} of {} `{name}`", at + 1, view.waves.len())
}

/// What runs now, where, and for how long.
fn running(step: &StepRow, view: &View) -> String {
    let seconds = step.begun_at.map_or(0, |begun| (view.rollout.now - begun).whole_seconds());
    let activity = step.activity.as_deref().unwrap_or("");
    let text = format!("{} {seconds} s {activity}", step.slug);
    printable::one_line(&text).into_owned()
}
