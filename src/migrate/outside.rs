//! Running a file outside of transactions: statement by statement, each recorded, continued after a crash where it stopped.
//!
//! refinery always opens a transaction, so these have their own path. Most of these statements can't be in one transaction
//! with their record, so a row in `manybox.schema_unfinished` says how many of the file's statements are done, and whether
//! the next one was begun. Whoever finds that row knows that what this statement left is its own: a valid index means that
//! only the record is missing, an invalid one is dropped and built again.

use ring::digest::{SHA256, digest};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::{Client, Row, Transaction};

use super::activity::Activity;
use super::check::check;
use super::file::File;
use super::history::{HISTORY, UNFINISHED};
use super::leftover::{self, Found};
use super::outcome::FailureKind;
use super::place::{Piece, pieces};
use super::resumable::StepKind;
use super::script::{self, Company};
use super::session::{Roles, StatementError};
use super::stop::Stop;
use crate::pg::Ident;

/// A file outside transactions, and how far it has come.
pub(super) struct OutsideWork<'f> {
    file: &'f File,
    roles: &'f Roles,
    /// Who logged in.
    session: &'f str,
    /// Its statements but for the settings, in order.
    steps: Vec<OutsideStep<'f>>,
    /// The settings.
    settings: Vec<Piece<'f>>,
    /// How many of `steps` are done.
    done: usize,
    /// Whether the one behind them was begun.
    begun: bool,
}

/// One statement of such a file.
#[derive(Clone)]
pub(super) struct OutsideStep<'f> {
    piece: Piece<'f>,
    kind: &'f StepKind,
    /// Whether nobody stands behind it while it waits for a lock.
    pub(super) waits_alone: bool,
}

impl OutsideStep<'_> {
    /// Where it stands, for messages.
    pub(super) fn place(&self) -> String {
        self.piece.place(None).to_string()
    }
}

impl<'f> OutsideWork<'f> {
    /// Reads how far the file has come.
    ///
    /// # Errors
    /// When the record can't be read, or is of statements that the file does not have any more.
    pub(super) async fn begin(
        client: &mut Client,
        file: &'f File,
        roles: &'f Roles,
        session: &'f str,
    ) -> Result<Self, Stop> {
        let pieces = pieces(file);
        let (mut steps, mut settings) = (Vec::new(), Vec::new());
        for (piece, step) in pieces.into_iter().zip(&file.steps) {
            match &step.kind {
                StepKind::Setting => settings.push(piece),
                kind => steps.push(OutsideStep { piece, kind, waits_alone: step.waits_alone }),
            }
        }
        let mut work = Self { file, roles, session, steps, settings, done: 0, begun: false };
        let transaction = work.as_writer(client).await?;
        let sql =
            format!("SELECT done, checksum, begun_at IS NOT NULL FROM {UNFINISHED} WHERE version = $1::int8");
        let row = transaction.query_opt(&sql, &[&file.version]).await.map_err(StatementError::from)?;
        transaction.rollback().await.map_err(StatementError::from)?;
        if let Some(row) = row {
            let (done, checksum, begun) = read(&row).map_err(StatementError::from)?;
            work.begun = begun;
            work.done = usize::try_from(done.unwrap_or(0)).unwrap_or(usize::MAX);
            if work.done > work.steps.len() || (work.done > 0 && checksum != Some(work.checksum())) {
                return Err(changed(file, work.done));
            }
        }
        Ok(work)
    }

    /// The first statement that is not done.
    pub(super) fn next(&self) -> Option<OutsideStep<'f>> {
        self.steps.get(self.done).cloned()
    }

    /// Runs it, in a session as every statement finds it, and records that it is done. `clamp` takes back what settings raised
    /// of the timeouts. The inner error is the file's own.
    pub(super) async fn run(
        &mut self,
        client: &mut Client,
        step: &OutsideStep<'f>,
        clamp: &str,
        company: &mut Company<'_, '_>,
    ) -> Result<Result<(), StatementError>, Stop> {
        // All that lasts from one statement to the next, so that it does not matter where a file was interrupted.
        for setting in self.settings.iter().filter(|setting| setting.number < step.piece.number) {
            if let Err(error) = script::run_one(client, setting, company).await {
                return Ok(Err(error));
            }
        }
        let marked = |piece: &Piece<'_>| piece.number <= step.piece.number && piece.may_raise_timeouts;
        if !self.settings.iter().chain(self.steps.iter().map(|step| &step.piece)).any(marked) {
            client.batch_execute(clamp).await.map_err(StatementError::from)?;
        }
        match step.kind {
            StepKind::Atomic => self.run_atomic(client, step, company).await,
            _ => Ok(self.run_resumable(client, step, company).await),
        }
    }

    /// Runs a statement in a transaction with its record.
    async fn run_atomic(
        &mut self,
        client: &mut Client,
        step: &OutsideStep<'f>,
        company: &mut Company<'_, '_>,
    ) -> Result<Result<(), StatementError>, Stop> {
        let transaction = client.transaction().await.map_err(StatementError::from)?;
        if let Err(error) = script::run_one(transaction.client(), &step.piece, company).await {
            return Ok(Err(error));
        }
        if let Err(error) = transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await {
            return Ok(Err(ours_at(error.into(), step)));
        }
        let when = format!("after {}", step.place());
        check(transaction.client(), self.roles, self.session, &when).await?;
        self.become_writer(&transaction).await?;
        (self.done, self.begun) = (self.done + 1, false);
        let kept = match self.keep(&transaction).await {
            Ok(()) => transaction.commit().await.map_err(StatementError::from),
            Err(error) => Err(error),
        };
        if kept.is_err() {
            self.done -= 1;
        }
        Ok(kept.map_err(|error| ours_at(error, step)))
    }

    /// Runs a statement that can be in no transaction: says first that it is begun.
    async fn run_resumable(
        &mut self,
        client: &mut Client,
        step: &OutsideStep<'f>,
        company: &mut Company<'_, '_>,
    ) -> Result<(), StatementError> {
        let found = leftover::resume(client, step.kind, self.begun).await;
        match found.map_err(|error| ours_at(error, step))? {
            Found::Done => {}
            Found::Conflict(why) => return Err(ours_at(StatementError::ours(why), step)),
            Found::Nothing => {
                if !self.begun {
                    self.begun = true;
                    self.save(client).await?;
                }
                if let Err(error) = script::run_one(client, &step.piece, company).await {
                    if !error.lost {
                        company.activity.send_replace(Activity::CleaningUp);
                        self.clean_up(client, step).await;
                    }
                    return Err(error);
                }
            }
        }
        self.done += 1;
        self.begun = false;
        self.save(client).await
    }

    /// Clears away what a statement that failed left. What can't be cleared away now is when the file is run again, because
    /// the record that it was begun stays.
    async fn clean_up(&mut self, client: &mut Client, step: &OutsideStep<'f>) {
        let cleaned = match leftover::clean_up(client, step.kind).await {
            Ok(left) if left == self.begun => Ok(()),
            Ok(left) => {
                self.begun = left;
                self.save(client).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = cleaned {
            tracing::warn!(place = step.place(), %error, "what a statement left stays until it is run again");
        }
    }

    /// Writes the row that refinery would have written.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn record(&self, client: &mut Client) -> Result<(), StatementError> {
        let applied_on =
            OffsetDateTime::now_utc().format(&Rfc3339).map_err(|e| StatementError::ours(e.to_string()))?;
        let file = self.file;
        let transaction = self.as_writer(client).await?;
        self.forget(&transaction).await?;
        let sql = format!(
            "INSERT INTO {HISTORY} (version, name, applied_on, checksum) VALUES ($1::int8, $2, $3, $4)"
        );
        let checksum = file.checksum.to_string();
        transaction.execute(&sql, &[&file.version, &file.name, &applied_on, &checksum]).await?;
        Ok(transaction.commit().await?)
    }

    async fn save(&self, client: &mut Client) -> Result<(), StatementError> {
        let transaction = self.as_writer(client).await?;
        self.keep(&transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Writes how far the file has come.
    async fn keep(&self, transaction: &Transaction<'_>) -> Result<(), StatementError> {
        self.forget(transaction).await?;
        if self.done == 0 && !self.begun {
            return Ok(());
        }
        let sql = format!(
            "INSERT INTO {UNFINISHED} (version, done, checksum, begun_at)
             VALUES ($1::int8, $2, $3, CASE WHEN $4::bool THEN pg_catalog.now() END)"
        );
        let done = i32::try_from(self.done).map_err(|e| StatementError::ours(e.to_string()))?;
        transaction.execute(&sql, &[&self.file.version, &done, &self.checksum(), &self.begun]).await?;
        Ok(())
    }

    async fn forget(&self, transaction: &Transaction<'_>) -> Result<(), StatementError> {
        let sql = format!("DELETE FROM {UNFINISHED} WHERE version = $1::int8");
        transaction.execute(&sql, &[&self.file.version]).await?;
        Ok(())
    }

    /// Tells the statements that are done from others.
    fn checksum(&self) -> String {
        let texts: Vec<_> = self.steps.iter().take(self.done).map(|step| step.piece.text).collect();
        let digest = digest(&SHA256, texts.join("\0").as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A transaction of the history's writer. Role and search path are for it alone, so that the session stays as the file
    /// left it, and is checked so.
    async fn as_writer<'c>(&self, client: &'c mut Client) -> Result<Transaction<'c>, StatementError> {
        let transaction = client.transaction().await?;
        self.become_writer(&transaction).await?;
        Ok(transaction)
    }

    async fn become_writer(&self, transaction: &Transaction<'_>) -> Result<(), StatementError> {
        let writer = Ident::new(&self.roles.writer);
        // Operators of others than PostgreSQL's would run as the writer.
        let sql = format!("SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL ROLE {writer}");
        Ok(transaction.batch_execute(&sql).await?)
    }
}

/// What the record has: how many statements are done, what tells them from others, whether the next is begun.
fn read(row: &Row) -> Result<(Option<i32>, Option<String>, bool), tokio_postgres::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
}

/// An error of a statement of ours, on behalf of one of the file.
fn ours_at(error: StatementError, step: &OutsideStep<'_>) -> StatementError {
    StatementError { position: None, ..error }.of(&step.piece)
}

fn changed(file: &File, done: usize) -> Stop {
    let message = format!(
        "{0} was interrupted behind its first {done} statement(s), which are done, and they were changed since: put them \
         back as they were and change only those behind them, or undo what they did and run `manybox migrate repair \
         --mark-not-applied {1}`",
        file.file_name(),
        file.version
    );
    Stop::at(file, FailureKind::Divergent, message)
}
