//! Jobs: long work, kept in the catalog, begun here and resumed by whichever control service is alive.

mod trace;
mod work;

pub use work::Work;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{Problem, ProblemCode};
use crate::catalog::{Act, JobRow, JobSeat, JobState, NewJob};
use crate::fleet::Fleet;
use crate::otlp::Tracer;
use crate::rollout::{self, Found, RolloutAsk};
use crate::tenant::TenantId;

/// Jobs that run at the same time in one process. Copying databases is bound by the disk.
const AT_A_TIME: usize = 16;
/// Requests that build in scratch databases at the same time.
const BUILDS: usize = 2;
/// Jobs that may wait or run, over all control services.
const MAX_OPEN: i64 = 2000;
/// How often jobs of dead workers are looked for.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is looked whether all have ended.
const POLL: Duration = Duration::from_millis(50);
/// How often the journal's new lines are chained.
const SEAL: Duration = Duration::from_secs(5);

/// This process's part in the fleet's jobs: a handle, cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    fleet: Fleet,
    /// The key of the seat, while there is one.
    seat: watch::Sender<Option<i64>>,
    /// Those that this process is at, with what becomes of them.
    own: Mutex<HashMap<String, watch::Sender<Option<JobRow>>>>,
    room: Semaphore,
    builds: Arc<Semaphore>,
    stop: CancellationToken,
    tracer: Option<Tracer>,
}

/// A job that was begun.
pub struct Begun {
    /// As it is.
    pub row: JobRow,
    ended: watch::Receiver<Option<JobRow>>,
}

impl Begun {
    /// The job when it has ended; `None` when it has not after this time, or its worker is about to stop.
    pub async fn ended_within(&mut self, time: Duration) -> Option<JobRow> {
        let ended = tokio::time::timeout(time, self.ended.wait_for(Option::is_some)).await;
        ended.ok()?.ok()?.clone()
    }
}

impl Jobs {
    /// Begins to work on the fleet's jobs, until it is [stopped](Jobs::stop).
    pub fn start(fleet: Fleet, tracer: Option<Tracer>) -> Self {
        let jobs = Self(Arc::new(Inner {
            fleet,
            seat: watch::Sender::new(None),
            own: Mutex::default(),
            room: Semaphore::new(AT_A_TIME),
            builds: Arc::new(Semaphore::new(BUILDS)),
            stop: CancellationToken::new(),
            tracer,
        }));
        let worker = jobs.clone();
        tokio::spawn(async move { worker.work().await });
        jobs
    }

    /// Takes up no further job, and tells those that can be cut off to end; others go on until the process ends. All of them
    /// are resumed by another.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Waits until none of those that this process is at is under way any more.
    pub(super) async fn ended(&self) {
        while !self.lock().is_empty() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether a worker that lives is at a job to do just this.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub(super) async fn is_at(&self, work: &Work) -> Result<bool, Problem> {
        Ok(self.0.fleet.catalog.is_worked_at(&work.stored()?).await?)
    }

    /// Waits, and says whether this process is still to work then.
    pub(super) async fn goes_on_for(&self, time: Duration) -> bool {
        self.0.stop.run_until_cancelled(tokio::time::sleep(time)).await.is_some()
    }

    /// The key of this worker's seat, by which others know that it lives.
    ///
    /// # Errors
    /// When it has none, because the catalog is away.
    pub async fn seat(&self) -> Result<i64, Problem> {
        let mut seat = self.0.seat.subscribe();
        let had = tokio::time::timeout(LOOK, seat.wait_for(Option::is_some)).await;
        let key = had.ok().and_then(Result::ok).and_then(|key| *key);
        key.ok_or_else(|| {
            Problem::new(ProblemCode::ServerAway, "this service has lost the catalog and tries again")
        })
    }

    /// Puts work into the catalog and begins it.
    ///
    /// # Errors
    /// When too much waits already, or the catalog can't be changed.
    pub async fn begin(
        &self,
        act: Act,
        tenant: Option<(&TenantId, &str)>,
        work: &Work,
    ) -> Result<Begun, Problem> {
        let catalog = self.0.fleet.catalog.acting(&act);
        if catalog.jobs_open().await? >= MAX_OPEN {
            let detail = format!("{MAX_OPEN} jobs wait or run already; try again when some have ended");
            return Err(Problem::new(ProblemCode::Busy, detail));
        }
        let seat = self.seat().await?;
        let new = NewJob {
            id: TenantId::random()?.to_string(),
            kind: work.kind().to_owned(),
            tenant: tenant.map(|(id, _)| id.to_string()),
            slug: tenant.map(|(_, slug)| slug.to_owned()),
            work: work.stored()?,
            act,
        };
        // Known as this process's before anybody else can see it.
        let ended = self.own(&new.id);
        match catalog.job_add(&new, Some(seat)).await {
            Ok(row) => {
                self.run(row.clone());
                Ok(Begun { row, ended })
            }
            Err(error) => {
                self.forget(&new.id);
                Err(error.into())
            }
        }
    }

    /// Finds a rollout as `migrate plan` does. What is built for that is dropped, also when whoever asked has gone.
    ///
    /// # Errors
    /// Those of [`rollout::find`].
    pub(super) async fn plan(&self, fleet: &Fleet, ask: &RolloutAsk) -> Result<Found, Problem> {
        let mut found = rollout::find(fleet, ask).await?;
        if !found.draft.plan.templates.is_empty() {
            let (fleet, draft, builds) = (fleet.clone(), found.draft.clone(), Arc::clone(&self.0.builds));
            let compared = tokio::spawn(async move {
                // Closed never.
                let _place = builds.acquire().await;
                rollout::frozen_rows(&fleet, &draft).await
            });
            let failed =
                |error| Problem::new(ProblemCode::Internal, format!("comparing builds failed: {error}"));
            found.notes.extend(compared.await.map_err(failed)??);
        }
        Ok(found)
    }

    /// Gives the journal's lines their places in its chain, until this is stopped.
    pub(super) fn seal_the_journal(&self) {
        let jobs = self.clone();
        tokio::spawn(async move {
            while jobs.goes_on_for(SEAL).await {
                if let Err(error) = jobs.0.fleet.catalog.journal_seal().await {
                    tracing::warn!(%error, "lines of the journal can't be chained; trying again");
                }
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Sender<Option<JobRow>>>> {
        self.0.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self, id: &str) -> watch::Receiver<Option<JobRow>> {
        self.lock().entry(id.to_owned()).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Looks for jobs that nobody is at, for as long as the process lives.
    async fn work(&self) {
        let mut seat: Option<JobSeat> = None;
        let stop = &self.0.stop;
        while !stop.is_cancelled() {
            if seat.as_ref().is_none_or(JobSeat::is_lost) {
                let before = seat.take().map(|lost| lost.key());
                self.0.seat.send_replace(None);
                match self.take_seat(before).await {
                    Ok(taken) => {
                        self.0.seat.send_replace(Some(taken.key()));
                        seat = Some(taken);
                    }
                    Err(problem) => tracing::warn!(reason = problem.detail, "no seat for jobs; trying again"),
                }
            }
            if let Some(seat) = &seat {
                let room = self.0.room.available_permits();
                if room > 0 {
                    match self.0.fleet.catalog.jobs_claim(seat.key(), room).await {
                        Ok(rows) => rows.into_iter().for_each(|row| self.resume(row)),
                        Err(error) => tracing::warn!(%error, "jobs of dead workers can't be looked for"),
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        // The seat lives to the end of the process: until then what runs is this worker's.
        std::future::pending::<()>().await;
        drop(seat);
    }

    async fn take_seat(&self, before: Option<i64>) -> Result<JobSeat, Problem> {
        let seat = self.0.fleet.job_seat().await?;
        if let Some(before) = before {
            let own: Vec<_> = self.lock().keys().cloned().collect();
            self.0.fleet.catalog.jobs_kept(&own, before, seat.key()).await?;
        }
        Ok(seat)
    }

    fn resume(&self, row: JobRow) {
        if self.lock().contains_key(&row.id) {
            // It is at it already: its seat was lost for a moment.
            return;
        }
        tracing::info!(job = row.id, kind = row.kind, attempts = row.attempts, "job taken up");
        drop(self.own(&row.id));
        self.run(row);
    }

    fn run(&self, row: JobRow) {
        let jobs = self.clone();
        tokio::spawn(async move {
            let id = row.id.clone();
            let ended = jobs.carry_out(row).await;
            let told = jobs.lock().remove(&id);
            if let (Some(told), Some(ended)) = (told, ended) {
                told.send_replace(Some(ended));
            }
        });
    }

    /// Carries a job out and writes what became of it. `None` when it was cut off, or that could not be written: then it is
    /// still this worker's in the catalog, and somebody's again when the worker is dead.
    async fn carry_out(&self, row: JobRow) -> Option<JobRow> {
        let inner = &self.0;
        let fleet = inner.fleet.acting(&row.act);
        let outcome = match Work::read(&row.work) {
            Ok(work) => {
                // Closed never.
                let _place = inner.room.acquire().await;
                let traced = inner.tracer.as_ref().and_then(|tracer| Some((tracer, tracer.begin(None)?)));
                let running =
                    tokio::spawn(run(fleet.acting(&row.act), work, row.id.clone(), inner.stop.clone()));
                let outcome = running.await.unwrap_or_else(|error| {
                    Err(Problem::new(ProblemCode::Internal, format!("the job's worker failed: {error}")))
                });
                if let Some((tracer, begun)) = traced {
                    tracer.end(begun, trace::finished(&row, outcome.as_ref().err()));
                }
                outcome
            }
            Err(problem) => Err(problem),
        };
        if inner.stop.is_cancelled() && matches!(&outcome, Err(problem) if problem.code == ProblemCode::Busy)
        {
            return None;
        }
        let problem = outcome.as_ref().err().map(Problem::stored);
        let written = match (&outcome, &problem) {
            (Ok(result), _) => Ok(result),
            (Err(_), problem) => Err(problem.as_ref().unwrap_or(&Value::Null)),
        };
        // Tried again, because what was done should not be done anew.
        for wait in [100, 1000, 5000] {
            match fleet.catalog.job_end(&row.id, written).await {
                Ok(row) => return Some(row),
                Err(error) => {
                    tracing::warn!(%error, job = row.id, "the end of a job can't be written; trying again")
                }
            }
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        None
    }
}

async fn run(fleet: Fleet, work: Work, id: String, stop: CancellationToken) -> Result<Value, Problem> {
    let (tell, mut told) = watch::channel(String::new());
    let catalog = fleet.catalog.acting(&Act {
        operator: String::new(),
        by: "job".into(),
        request: id.clone(),
        reason: None,
    });
    let progress = async {
        while told.changed().await.is_ok() {
            let text = told.borrow_and_update().clone();
            // Only for those who watch.
            let _ = catalog.job_progress(&id, &text).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        std::future::pending::<()>().await;
    };
    let told_now = |text: String| drop(tell.send_replace(text));
    let work = work.run(&fleet, &told_now, &stop);
    tokio::select! {
        outcome = work => outcome,
        () = progress => Err(Problem::new(ProblemCode::Internal, "progress ended")),
    }
}

/// What a job that has ended is to those who waited for it.
///
/// # Errors
/// Its problem.
pub(super) fn outcome(row: &JobRow) -> Result<Value, Problem> {
    match (row.state, &row.problem) {
        (JobState::Failed, Some(problem)) => Err(Problem::read(problem)),
        _ => Ok(row.result.clone().unwrap_or(Value::Null)),
    }
}
