//! Executor: takes a rollout's steps, as many at a time as its wave says, and moves the rollout on when a wave is done.
//!
//! Any number of processes may execute one rollout. What is to be done stands in the catalog; a step belongs to whoever
//! took it for as long as that session lives. A kill loses nothing: the step is taken over, and the database's own
//! history says how far it came.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Fuse, FusedFuture as _, join};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::gate::{self, Move, Standpoint};
use super::health::{self, Answer};
use super::outage::Outages;
use super::plan::{FleetState, Plan, PlannedWave, RolloutRequest, plan};
use super::step::{Worked, work};
use crate::catalog::{Claim, Filter, NewStep, RolloutRow, RolloutState, Room, Seat, StepState, WaveCounts};
use crate::fleet::{Fleet, FleetError, moment};
use crate::migrate::{Activity, Edition, Options};
use crate::settings::OnError;
use crate::tenant::Verb;

/// How often an executor with nothing to do looks whether there is something, and the longest that it keeps to itself what
/// became of a step.
const LOOK: Duration = Duration::from_millis(250);

/// How long a step runs before the catalog is told what it does: most are over sooner.
const LASTS: Duration = Duration::from_secs(1);

/// How an executor's work on a rollout ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Nothing is left to do.
    Done,
    /// An operator paused it.
    Paused,
    /// This executor was told to stop; the rollout is as it was.
    Stopped,
    /// Too much failed, or the gate didn't open; the reason.
    Halted(String),
    /// An operator gave it up.
    Aborted,
}

/// One process's work on one rollout.
pub struct Executor<'a> {
    fleet: &'a Fleet,
    id: i64,
    plan: Plan,
    /// The editions as the plan has them, each ending at its target.
    editions: BTreeMap<String, Edition>,
    /// Databases at the same time, in place of what the waves say.
    jobs: Option<usize>,
    outages: Outages,
    stop: CancellationToken,
}

impl<'a> Executor<'a> {
    /// Reads the plan, and compares its files with those that are here.
    ///
    /// # Errors
    /// When the files here are others than those that were planned with.
    pub fn new(
        fleet: &'a Fleet,
        rollout: &RolloutRow,
        jobs: Option<usize>,
        stop: CancellationToken,
    ) -> Result<Self, FleetError> {
        let plan = Plan::read(rollout)?;
        let mut editions = BTreeMap::new();
        for (name, target) in &plan.targets {
            let mut edition = fleet.edition(name)?.ending_at(target.version);
            edition.gaps = target.gaps.clone();
            if edition.history_digest(target.version) != target.history {
                return Err(FleetError::Settings(format!(
                    "the files of edition `{name}` are not those that rollout {} was planned with, which end at version {}: \
                     take those files, or give it up (`manybox migrate abort {}`) and plan anew",
                    rollout.id, target.version, rollout.id
                )));
            }
            editions.insert(name.clone(), edition);
        }
        Ok(Self { fleet, id: rollout.id, plan, editions, jobs, outages: Outages::default(), stop })
    }

    /// Brings the templates up, then takes steps until there are none, or until the rollout or this executor is stopped.
    ///
    /// # Errors
    /// When a template can't be brought up, or the catalog is lost.
    pub async fn run(&self) -> Result<Ending, FleetError> {
        let (applied, ready) = oneshot::channel();
        let seat = self.fleet.executor_seat(self.id).await?;
        let tenants = async {
            // Closed without a word when a template failed.
            match ready.await {
                Ok(()) => self.seated(seat).await.map(Some),
                Err(_) => Ok(None),
            }
        };
        let (templates, ending) = join(Box::pin(self.templates(applied)), tenants).await;
        if let Err(error) = templates {
            let reason = error.to_string();
            let from = [RolloutState::Running];
            self.fleet.catalog.rollout_move(self.id, &from, RolloutState::Halted, Some(&reason)).await?;
            return Err(error);
        }
        Ok(ending?.unwrap_or(Ending::Aborted))
    }

    /// Brings the templates up, and says so as soon as their files have run: what is left to do on a template is done
    /// beside the tenants. Then drops those that were replaced; each drop waits for a checkpoint.
    async fn templates(&self, applied: oneshot::Sender<()>) -> Result<(), FleetError> {
        let applied = Mutex::new((Some(applied), 0));
        let told = |number: usize| {
            let mut applied = applied.lock().unwrap_or_else(PoisonError::into_inner);
            applied.1 = number;
            if applied.1 >= self.plan.templates.len()
                && let Some(applied) = applied.0.take()
            {
                // Nobody listens any more when the tenants' part ended before.
                let _ = applied.send(());
            }
        };
        told(0);
        let mut away = HashSet::new();
        for (at, (server, edition)) in self.plan.templates.iter().enumerate() {
            let edition = self.edition(edition)?;
            loop {
                match self.fleet.refresh_template(server, edition, &|| told(at + 1)).await {
                    Err(error) if self.outages.passes(server, &error, &self.stop).await => continue,
                    // A server that is away stops only its own tenants, each of which fails by itself.
                    Err(error) if error.is_outage() => {
                        tracing::warn!(server, edition = edition.name, %error, "the template stays as it is");
                        away.insert(server);
                        told(at + 1);
                    }
                    refreshed => {
                        refreshed?;
                        self.outages.answered(server);
                    }
                }
                break;
            }
        }
        let catalog = &self.fleet.settings.catalog.server;
        loop {
            match self.tend(&away).await {
                Err(error) if self.outages.passes(catalog, &error, &self.stop).await => {}
                tended => return tended,
            }
        }
    }

    /// Looks after the templates, and drops those that were replaced.
    async fn tend(&self, away: &HashSet<&String>) -> Result<(), FleetError> {
        for left in self.fleet.tend_templates().await? {
            tracing::warn!(server = left.server, error = %left.error, "templates are not looked after");
        }
        for (server, edition) in self.plan.templates.iter().filter(|(server, _)| !away.contains(server)) {
            self.fleet.sweep_templates(server, edition).await?;
        }
        Ok(())
    }

    fn edition(&self, name: &str) -> Result<&Edition, FleetError> {
        let unplanned = || FleetError::Settings(format!("rollout {} has no edition `{name}`", self.id));
        self.editions.get(name).ok_or_else(unplanned)
    }

    /// Takes steps, by another seat when the session of the first is lost: the steps that it had are free then.
    async fn seated(&self, seat: Seat) -> Result<Ending, FleetError> {
        let catalog = &self.fleet.settings.catalog.server;
        let mut seated = Ok(seat);
        loop {
            let ended = match seated {
                Ok(seat) => {
                    self.outages.answered(catalog);
                    let ended = self.steps(&seat).await;
                    seat.leave().await;
                    ended
                }
                Err(error) => Err(error),
            };
            match ended {
                Err(error) if self.outages.passes(catalog, &error, &self.stop).await => {}
                ended => return ended,
            }
            seated = self.fleet.executor_seat(self.id).await;
        }
    }

    /// Takes steps and carries them out, and decides what comes next when there are none.
    async fn steps(&self, seat: &Seat) -> Result<Ending, FleetError> {
        // Cancelled by the caller, and by ourselves when the catalog is lost.
        let stop = self.stop.child_token();
        let mut working = FuturesUnordered::new();
        let mut queue: VecDeque<Claim> = VecDeque::new();
        let mut held: HashMap<String, usize> = HashMap::new();
        let mut worked: Vec<Worked> = Vec::new();
        let mut doing: Vec<Doing> = Vec::new();
        let mut exchange: Fuse<BoxFuture<'_, Result<Exchanged, FleetError>>> = Fuse::terminated();
        let mut wave = self.fleet.catalog.rollout(self.id).await?.map_or(0, |row| row.wave);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut look, mut ended) = (true, None);
        // Whether the exchange under way tells of a failure, and whether it is time to tell what has come.
        let (mut judged, mut due) = (false, false);
        loop {
            if ended.is_some() || stop.is_cancelled() {
                // Nobody has begun these.
                worked.extend(queue.drain(..).map(Worked::given_back));
            }
            let jobs = self.jobs(wave);
            // A failure is judged before anything else is begun.
            let judging = (judged && !exchange.is_terminated()) || worked.iter().any(Worked::has_failed);
            while !judging
                && working.len() < jobs
                && let Some(claim) = queue.pop_front()
            {
                let allow_out_of_order = self.plan.policy.allow_out_of_order;
                let options = Options { allow_out_of_order, ..self.fleet.migrate_options() };
                doing.push(Doing::begin(claim.place, &options));
                working.push(self.work(claim, options, stop.clone()));
            }
            let stopped = ended.is_some() || stop.is_cancelled();
            if stopped && working.is_empty() && worked.is_empty() && exchange.is_terminated() {
                return ended.unwrap_or(Ok(Ending::Stopped));
            }
            // As many wait as are worked on: what is taken waits for no longer than a step lasts. More are taken before the
            // last of them is begun, and with what has become of those before: an exchange costs as much for many steps as
            // for one.
            let room = if stopped { 0 } else { jobs.saturating_sub(queue.len()) };
            let takes = look && room > 0 && queue.len() <= jobs / 4;
            let tells = judging
                || worked.len() >= jobs
                || !worked.is_empty() && (due || stopped || working.is_empty())
                || due && doing.iter().any(Doing::is_news);
            if exchange.is_terminated() && (takes || tells) {
                let idle = working.is_empty() && queue.is_empty() && !stopped;
                let room = self.room(wave, room, &held);
                judged = worked.iter().any(Worked::has_failed);
                exchange = {
                    let news: Vec<_> = doing.iter_mut().filter_map(Doing::news).collect();
                    self.exchange(seat, news, std::mem::take(&mut worked), room, idle)
                }
                .boxed()
                .fuse();
                (look, due) = (false, false);
            }
            tokio::select! {
                Some(done) = working.next(), if !working.is_empty() => {
                    let done: Worked = done;
                    doing.retain(|doing| doing.place != done.outcome.place);
                    if let Some(number) = held.get_mut(&done.server) {
                        *number = number.saturating_sub(1);
                    }
                    worked.push(done);
                }
                exchanged = &mut exchange, if !exchange.is_terminated() => match exchanged {
                    Ok(exchanged) => {
                        look = !exchanged.claims.is_empty() || exchanged.decision == Some(Decision::GoOn);
                        for claim in exchanged.claims {
                            *held.entry(claim.server.clone()).or_default() += 1;
                            wave = claim.wave;
                            queue.push_back(claim);
                        }
                        if let Some(Decision::Ended(how)) = exchanged.decision {
                            ended = Some(Ok(how));
                        }
                    }
                    Err(error) => {
                        // What runs is ended first: others take it over.
                        stop.cancel();
                        worked.clear();
                        queue.clear();
                        ended = Some(Err(error));
                    }
                },
                _ = looks.tick() => (look, due) = (true, true),
                () = stop.cancelled(), if !stopped => {}
            }
            if matches!(ended, Some(Err(_))) {
                worked.clear();
            }
        }
    }

    async fn work(&self, claim: Claim, options: Options, stop: CancellationToken) -> Worked {
        let how = (&options, &self.outages);
        work(self.fleet, &self.plan, &self.editions, claim, how, &stop).await
    }

    fn wave(&self, number: i32) -> Option<&PlannedWave> {
        // Tenants that were created meanwhile go with the last.
        let last = self.plan.waves.len().checked_sub(1)?;
        self.plan.waves.get(usize::try_from(number).unwrap_or(0).min(last))
    }

    fn jobs(&self, wave: i32) -> usize {
        let of_wave = self.wave(wave).and_then(|wave| wave.policy.jobs);
        self.jobs.or(of_wave).unwrap_or(self.fleet.settings.migrate.jobs).max(1)
    }

    /// How many steps to take, when `held` of each server have been taken and not ended.
    fn room(&self, wave: i32, all: usize, held: &HashMap<String, usize>) -> Room {
        let per_server = self.wave(wave).and_then(|wave| wave.policy.jobs_per_server).unwrap_or(usize::MAX);
        let left = |(server, held): (&String, &usize)| (server.clone(), per_server.saturating_sub(*held));
        Room { all, per_server, servers: held.iter().map(left).collect() }
    }

    /// Writes what became of steps, takes others, and decides what comes next when that is a question: when something
    /// failed, and when there is nothing to take and nothing to wait for (`idle`).
    async fn exchange(
        &self,
        seat: &Seat,
        news: Vec<(i32, String)>,
        worked: Vec<Worked>,
        room: Room,
        idle: bool,
    ) -> Result<Exchanged, FleetError> {
        let failed: Vec<_> = worked
            .iter()
            .filter(|worked| worked.outcome.state == StepState::Failed)
            .map(|worked| (worked.id.clone(), worked.slug.clone()))
            .collect();
        let judged = worked.iter().any(Worked::has_failed);
        let (outcomes, migrated): (Vec<_>, Vec<_>) =
            worked.into_iter().map(|worked| (worked.outcome, worked.migrated)).unzip();
        let migrated: Vec<_> = migrated.into_iter().flatten().collect();
        // Before their steps are done: a step that is done is taken over by nobody, and a kill between the two would leave
        // the tenant at its old version for routers and for whoever reads the catalog.
        if !migrated.is_empty() {
            self.fleet.catalog.tenants_migrated(&migrated).await?;
        }
        seat.tell(self.id, &news).await?;
        let claims = seat.exchange(self.id, &outcomes, &room).await?;
        for (id, slug) in failed {
            match self.plan.policy.on_error {
                OnError::Serve => {}
                OnError::Quarantine => self.fleet.catalog.tenant_quarantine(&id, true).await?,
                OnError::Suspend => {
                    if let Err(error) = self.fleet.carry_out(&slug, Verb::Suspend).await {
                        tracing::warn!(tenant.id = %id, %error, "tenant {slug} failed and could not be suspended");
                    }
                }
            }
        }
        let decision = if judged || claims.is_empty() && idle { Some(self.decide().await?) } else { None };
        Ok(Exchanged { claims, decision })
    }

    /// Moves the rollout on, as far as that can be done now.
    async fn decide(&self) -> Result<Decision, FleetError> {
        let catalog = &self.fleet.catalog;
        let Some(row) = catalog.rollout(self.id).await? else { return Ok(Decision::Ended(Ending::Aborted)) };
        match row.state {
            RolloutState::Running => {}
            RolloutState::Planned | RolloutState::Paused => return Ok(Decision::Ended(Ending::Paused)),
            RolloutState::Halted => {
                return Ok(Decision::Ended(Ending::Halted(row.reason.unwrap_or_default())));
            }
            RolloutState::Aborted => return Ok(Decision::Ended(Ending::Aborted)),
            RolloutState::Done => return Ok(Decision::Ended(Ending::Done)),
        }
        let Some(planned) = self.wave(row.wave) else { return self.finish(&row).await };
        let counts = catalog.wave_counts(self.id).await?;
        let none = WaveCounts { wave: row.wave, ..WaveCounts::default() };
        let standpoint = Standpoint {
            name: &planned.name,
            wave: &planned.policy,
            counts: counts.iter().find(|counts| counts.wave == row.wave).unwrap_or(&none),
            ended: row.wave_ended,
            approved: row.approved == Some(row.wave),
            now: row.now,
        };
        match gate::next(&standpoint) {
            Move::Work => Ok(Decision::Wait),
            Move::EndWave => {
                catalog.wave_ended(self.id, row.wave).await?;
                Ok(Decision::GoOn)
            }
            Move::Bake(until) => {
                let reason = format!("wave `{}` bakes until {}", planned.name, moment(until));
                catalog.rollout_waits(self.id, Some(&reason)).await?;
                Ok(Decision::Wait)
            }
            Move::AskGate => match self.ask_gate(&row, planned).await? {
                Answer::Open => self.advance(&row).await,
                Answer::Unknown(reason) => {
                    catalog.rollout_waits(self.id, Some(&reason)).await?;
                    Ok(Decision::Wait)
                }
                Answer::Closed(reason) => {
                    self.halt(format!("the gate of wave `{}`: {reason}", planned.name)).await
                }
            },
            Move::Advance => self.advance(&row).await,
            Move::Halt(reason) => self.halt(reason).await,
        }
    }

    async fn halt(&self, reason: String) -> Result<Decision, FleetError> {
        let from = [RolloutState::Running];
        self.fleet.catalog.rollout_move(self.id, &from, RolloutState::Halted, Some(&reason)).await?;
        Ok(Decision::Ended(Ending::Halted(reason)))
    }

    async fn advance(&self, row: &RolloutRow) -> Result<Decision, FleetError> {
        let last = i32::try_from(self.plan.waves.len()).unwrap_or(i32::MAX).saturating_sub(1);
        if row.wave < last {
            self.fleet.catalog.wave_next(self.id, row.wave).await?;
            return Ok(Decision::GoOn);
        }
        self.finish(row).await
    }

    /// Looks again whether anything is behind before it says that all is done: tenants may have been copied from an old
    /// template while the new one was made.
    async fn finish(&self, row: &RolloutRow) -> Result<Decision, FleetError> {
        let catalog = &self.fleet.catalog;
        let (templates, tenants) = join(catalog.templates(), catalog.tenants(&Filter::default())).await;
        let (templates, tenants) = (templates?, tenants?);
        let state = FleetState { editions: &self.editions, templates: &templates, tenants: &tenants };
        let request = RolloutRequest {
            scope: self.plan.scope.clone(),
            policy_name: self.plan.policy_name.clone(),
            policy: self.plan.policy.clone(),
        };
        let known: HashSet<_> = catalog.steps(self.id).await?.into_iter().map(|step| step.tenant).collect();
        let late: Vec<_> = plan(state, &request)
            .steps
            .into_iter()
            .filter(|step| !known.contains(&step.tenant))
            .map(|step| NewStep { wave: row.wave, ..step })
            .collect();
        if !late.is_empty() && !self.plan.waves.is_empty() {
            catalog.rollout_extend(self.id, &late).await?;
            catalog.wave_reopened(self.id).await?;
            return Ok(Decision::GoOn);
        }
        catalog.rollout_move(self.id, &[RolloutState::Running], RolloutState::Done, None).await?;
        Ok(Decision::Ended(Ending::Done))
    }

    async fn ask_gate(&self, row: &RolloutRow, wave: &PlannedWave) -> Result<Answer, FleetError> {
        let Some(gate) = &wave.policy.gate else { return Ok(Answer::Open) };
        health::ask(self.fleet, row, gate).await
    }
}

/// A step that is worked on, and what it does.
struct Doing {
    place: i32,
    since: Instant,
    activity: watch::Receiver<Activity>,
    told: String,
}

impl Doing {
    fn begin(place: i32, options: &Options) -> Self {
        Self { place, since: Instant::now(), activity: options.activity.subscribe(), told: String::new() }
    }

    /// Whether it lasts, and does something else than was told last.
    fn is_news(&self) -> bool {
        self.since.elapsed() > LASTS && self.activity.borrow().to_string() != self.told
    }

    fn news(&mut self) -> Option<(i32, String)> {
        if !self.is_news() {
            return None;
        }
        self.told = self.activity.borrow().to_string();
        Some((self.place, self.told.clone()))
    }
}

/// What came of an [`Executor::exchange`].
struct Exchanged {
    claims: Vec<Claim>,
    decision: Option<Decision>,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// There may be steps to take now.
    GoOn,
    /// Nothing can be done but to look again.
    Wait,
    /// This executor has no more to do.
    Ended(Ending),
}
