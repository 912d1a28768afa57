//! What is read: one answer after the other, a row whole or value by value.

use std::sync::Arc;

use bytes::Bytes;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::Message;
use tokio_postgres::types::Type;

use super::due::{Meaning, Phase, Status, Step};
use super::error::WireError;
use super::row::{self, Column, Row};
use super::statements::{Described, Prepared};
use super::transport::FRAME;
use super::{Answer, Connection, Preparing, Refusal};

impl Connection {
    /// The next answer. The pipeline is sent first, as far as it was not.
    ///
    /// # Errors
    /// Any but [`WireError::Server`]; the connection is of no more use then.
    pub async fn next(&mut self) -> Result<Answer, WireError> {
        let answer = self.read_answer().await;
        self.broken |= answer.is_err();
        answer
    }

    async fn read_answer(&mut self) -> Result<Answer, WireError> {
        self.transport.skip(self.row_left.0).await?;
        self.row_left = (0, 0);
        loop {
            let header = self.transport.header().await?;
            let out_of_place =
                || WireError::Protocol(format!("message `{}` out of place", header.tag().escape_ascii()));
            match self.due.accept(header.tag()).ok_or_else(out_of_place)? {
                // Of any length: what functions chose to say, which nobody here listens to.
                Meaning::Asynchronous => self.transport.skip(header.len() as usize + 1).await?,
                Meaning::Progress => self.transport.body(|_| ()).await?,
                Meaning::Values(step) => self.learn_values(step).await?,
                Meaning::Columns(step) => self.learn_columns(step).await?,
                Meaning::Row(step) => {
                    self.transport.skip(FRAME).await?;
                    let values = u16::from_be_bytes(self.transport.number().await?);
                    let left = (header.len() as usize).checked_sub(6);
                    self.row_left =
                        (left.ok_or_else(|| WireError::Protocol("a row without values".into()))?, values);
                    return Ok(Answer::Row(step));
                }
                Meaning::Done(step) => return self.done(step).await,
                Meaning::Failed(step, phase) => return self.refusal(step, phase).await.map(Answer::Failed),
                Meaning::Ready => {
                    self.status = match self.transport.body(|body| body.first().copied()).await? {
                        Some(b'I') => Status::Idle,
                        Some(b'T') => Status::InTransaction,
                        Some(b'E') => Status::Failed,
                        _ => return Err(WireError::Protocol("an unknown transaction status".into())),
                    };
                    if self.due.is_settled() {
                        self.transport.shrink();
                    }
                    return Ok(Answer::Ready(self.status));
                }
            }
        }
    }

    async fn learn_values(&mut self, step: Step) -> Result<(), WireError> {
        let Message::ParameterDescription(body) = self.transport.message().await? else {
            return Err(WireError::Protocol("no description of values".into()));
        };
        let values: Vec<_> = body.parameters().map(|oid| Ok(row::of_oid(oid))).collect()?;
        if let Some(preparing) = self.preparing.iter_mut().find(|preparing| preparing.step == step) {
            preparing.values = values.into();
        }
        Ok(())
    }

    async fn learn_columns(&mut self, step: Step) -> Result<(), WireError> {
        let columns = match self.transport.message().await? {
            Message::RowDescription(body) => Column::read(&body)?,
            _ => Arc::new([]),
        };
        if let Some(at) = self.preparing.iter().position(|preparing| preparing.step == step) {
            let Preparing { key, name, values, .. } = self.preparing.swap_remove(at);
            let described = Described { values, columns };
            self.described.push((step, described.clone()));
            if let Some(key) = key {
                self.statements.keep(key, Prepared { name, described });
            }
        }
        Ok(())
    }

    async fn done(&mut self, step: Step) -> Result<Answer, WireError> {
        let is_next = self.expected.front().is_some_and(|(of, ..)| *of == step);
        let expected = if is_next { self.expected.pop_front() } else { None };
        let (rows, is_it) = self
            .transport
            .body(|body| {
                let tag = body.strip_suffix(&[0]).unwrap_or_default();
                (rows(tag), expected.as_ref().is_none_or(|(_, command, _)| command.tag.as_bytes() == tag))
            })
            .await?;
        match expected {
            Some((_, command, _)) if !is_it => return Err(WireError::Replaced(command.sql)),
            Some((_, command, Some(name))) => self.commands.push((command, name)),
            _ => {}
        }
        Ok(Answer::Done(step, rows))
    }

    async fn refusal(&mut self, step: Option<Step>, phase: Phase) -> Result<Refusal, WireError> {
        let error = Box::new(self.transport.error().await?);
        let remembered = step.is_some_and(|step| self.remembered.contains(&step));
        // Those behind it were never prepared; this one may have been, and nobody will look for it.
        let command =
            self.expected.front().filter(|(of, ..)| Some(*of) == step).map(|(_, command, _)| *command);
        let commands = self.expected.drain(..).filter_map(|(.., name)| name);
        for name in self.preparing.drain(..).map(|preparing| preparing.name).chain(commands) {
            self.statements.abandon(name);
        }
        Ok(Refusal { step, phase, remembered, command, error })
    }

    /// Reads the current row whole.
    ///
    /// # Errors
    /// [`WireError::TooLong`] when it has more than `most` bytes, and whatever breaks the connection; it is of no more
    /// use then.
    pub async fn row(&mut self, step: Step, most: usize) -> Result<Row, WireError> {
        let row = self.read_row(step, most).await;
        self.broken |= row.is_err();
        row
    }

    /// The bytes of the current row that were not read yet.
    pub fn row_len(&self) -> usize {
        self.row_left.0
    }

    async fn read_row(&mut self, step: Step, most: usize) -> Result<Row, WireError> {
        let (bytes, _) = self.row_left;
        if bytes > most {
            return Err(WireError::TooLong { bytes, most });
        }
        let data = self.transport.take(bytes).await?;
        self.row_left = (0, 0);
        let columns = self.described(step).map(|described| Arc::clone(&described.columns));
        Row::read(columns.unwrap_or_else(|| Arc::new([])), data)
    }

    /// The length of the current row's next value, in bytes; `None` for NULL. Its bytes come by
    /// [`bytes`](Self::bytes), before the next value is asked for.
    ///
    /// # Errors
    /// When the row has no more values, or the connection breaks; it is of no more use then.
    pub async fn value(&mut self) -> Result<Option<usize>, WireError> {
        let torn = || WireError::Protocol("a row is shorter than its values".into());
        let (left, values) = self.row_left;
        let (left, values) = left.checked_sub(4).zip(values.checked_sub(1)).ok_or_else(torn)?;
        self.broken = true;
        let length = usize::try_from(i32::from_be_bytes(self.transport.number().await?)).ok();
        if length.is_some_and(|length| length > left) {
            return Err(torn());
        }
        self.broken = false;
        self.row_left = (left, values);
        Ok(length)
    }

    /// So many bytes of the current value.
    ///
    /// # Errors
    /// When the row has fewer, or the connection breaks; it is of no more use then.
    pub async fn bytes(&mut self, bytes: usize) -> Result<Bytes, WireError> {
        let (left, values) = self.row_left;
        let torn = || WireError::Protocol("a row is shorter than its values".into());
        let left = left.checked_sub(bytes).ok_or_else(torn)?;
        self.broken = true;
        let taken = self.transport.take(bytes).await?;
        self.broken = false;
        self.row_left = (left, values);
        Ok(taken)
    }

    /// Throws so many bytes of the current value away.
    ///
    /// # Errors
    /// When the row has fewer, or the connection breaks; it is of no more use then.
    pub async fn skip(&mut self, bytes: usize) -> Result<(), WireError> {
        let (left, values) = self.row_left;
        let torn = || WireError::Protocol("a row is shorter than its values".into());
        let left = left.checked_sub(bytes).ok_or_else(torn)?;
        self.broken = true;
        self.transport.skip(bytes).await?;
        self.broken = false;
        self.row_left = (left, values);
        Ok(())
    }

    /// The type of a column of a statement of the pipeline under way.
    pub fn column_type(&self, step: Step, column: usize) -> Option<&Type> {
        self.described(step)?.columns.get(column).map(|column| &column.kind)
    }

    pub(super) fn described(&self, step: Step) -> Option<&Described> {
        self.described.iter().find(|(of, _)| *of == step).map(|(_, described)| described)
    }
}

/// Of `INSERT 0 3` or `SELECT 2` the last number; of `COMMIT` none.
fn rows(tag: &[u8]) -> u64 {
    let last = tag.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(last).ok().and_then(|number| number.parse().ok()).unwrap_or(0)
}
