//! The data plane's connection: several statements and one Sync in one write, and answers read as they come.
//!
//! tokio-postgres sends a Sync with each statement, and each costs both sides a flush and a wake-up. Here a *pipeline*
//! is written first ([`command`](Connection::command), [`query`](Connection::query), [`sync`](Connection::sync),
//! [`batch`](Connection::batch)), goes out when its first answer is waited for, and is read by
//! [`next`](Connection::next), message by message. No task stands between the request and the socket: whoever holds the
//! connection drives it, and whoever drops it amid answers leaves it unsettled, which [`is_settled`] tells.
//!
//! What is ours is the order of messages; what they are made of is postgres-protocol's.
//!
//! [`is_settled`]: Connection::is_settled

mod answers;
mod due;
mod error;
mod pipeline;
mod row;
mod startup;
mod statements;
#[cfg(test)]
mod tests;
mod transport;

pub use due::{Phase, Status, Step};
pub use error::{ServerError, WireError};
pub use row::{Column, Row};
pub(super) use startup::{Startup, TlsRequest};
pub use statements::StatementKey;

use std::collections::VecDeque;
use std::sync::Arc;

use postgres_protocol::message::frontend;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::Type;

use super::socket::{Address, Socket};
use due::{Due, Meaning};
use statements::{Described, Statements};
use transport::Transport;

/// A value bound in a statement.
#[derive(Debug, Clone, Copy)]
pub struct Parameter<'a> {
    /// `None` is NULL.
    pub bytes: Option<&'a [u8]>,
    /// The bytes are the value in PostgreSQL's binary form, not its text.
    pub binary: bool,
}

impl<'a> Parameter<'a> {
    /// A value as its text, which the server reads as the type of the place it stands in.
    pub fn text(text: &'a str) -> Self {
        Self { bytes: Some(text.as_bytes()), binary: false }
    }
}

/// A statement of ours whose rows nobody reads, and the tag by which the server says that it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Its text.
    pub sql: &'static str,
    /// What CommandComplete says of it.
    pub tag: &'static str,
}

impl Command {
    /// A command that the server answers by this tag.
    pub const fn new(sql: &'static str, tag: &'static str) -> Self {
        Self { sql, tag }
    }
}

/// Whether statements have names, by which the server knows them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// They are prepared once.
    Kept,
    /// They are parsed each time: a name was refused.
    None,
}

/// A statement of a pipeline whose rows are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Its text.
    pub sql: &'a str,
    /// The types of its values; the server finds out those that are not given.
    pub types: &'a [Type],
    /// Under what it is kept for later requests on this connection. `None`: it is parsed each time.
    pub key: Option<&'a StatementKey>,
    /// Its values, all of them.
    pub parameters: &'a [Parameter<'a>],
}

/// What [`Connection::next`] found.
#[derive(Debug)]
pub enum Answer {
    /// A row, to be read by [`Connection::row`] or value by value by [`Connection::value`]; the next answer skips what
    /// was not read.
    Row(Step),
    /// A statement has ended, and gave or changed so many rows.
    Done(Step, u64),
    /// A statement was refused. What stands behind it, to the next Sync, is not run.
    Failed(Refusal),
    /// The server has come to a Sync, or to the end of a batch.
    Ready(Status),
}

/// The server's error, and where in the pipeline it arose.
#[derive(Debug)]
pub struct Refusal {
    /// The statement; none when none ran.
    pub step: Option<Step>,
    /// What part of it.
    pub phase: Phase,
    /// Whether the statement was prepared for an earlier request.
    pub remembered: bool,
    /// What the statement was to be, if that is a command.
    pub command: Option<Command>,
    /// The server's words.
    pub error: Box<ServerError>,
}

/// What the server needs to find a session that is to be cancelled.
#[derive(Debug, Clone)]
pub struct CancelKey {
    pub(super) address: Address,
    pub(super) encryption: SslMode,
    pub(super) process: i32,
    pub(super) secret: i32,
}

impl CancelKey {
    /// The process that serves the session.
    pub fn process(&self) -> i32 {
        self.process
    }
}

/// A session with the server, driven by whoever holds it. Dropped, it says good-bye; its socket's guard lives until the
/// server has closed its side.
pub struct Connection {
    transport: Transport,
    due: Due,
    status: Status,
    /// Whether an error has made the order of messages unknown.
    broken: bool,
    steps: u64,
    statements: Statements,
    /// Statements of the pipeline under way that the server has not prepared yet.
    preparing: Vec<Preparing>,
    /// Those that it had prepared for an earlier one.
    remembered: Vec<Step>,
    /// Commands that it has prepared, and their names.
    commands: Vec<(Command, String)>,
    /// Those of the pipeline under way, with the names that are new.
    expected: VecDeque<(Step, Command, Option<String>)>,
    /// What the server said of the pipeline's statements.
    described: Vec<(Step, Described)>,
    /// What of the current row was not read: bytes, and values.
    row_left: (usize, u16),
    /// What the host said of itself when the session began: `in_hot_standby`, `default_transaction_read_only`.
    reported: (bool, bool),
    /// How often a client chose the time zone.
    zones: u32,
    cancel: CancelKey,
}

/// Time zones that clients may choose in one session. The server keeps what it knows of each (24 KB) for as long as the
/// session lives, and takes any number of them: `X1`, `X2`, and so on.
const MAX_ZONES: u32 = 200;

struct Preparing {
    step: Step,
    key: Option<StatementKey>,
    name: String,
    values: Arc<[Type]>,
}

impl Connection {
    /// Opens a session over this socket.
    pub(super) async fn open(
        socket: Socket,
        address: Address,
        tls: &TlsRequest<'_>,
        startup: &Startup<'_>,
    ) -> Result<Self, WireError> {
        let begun = startup::begin(startup::encrypt(socket, tls).await?, startup).await?;
        Ok(Self {
            transport: begun.transport,
            due: Due::default(),
            status: Status::Idle,
            broken: false,
            steps: 0,
            statements: Statements::default(),
            preparing: Vec::new(),
            remembered: Vec::new(),
            commands: Vec::new(),
            expected: VecDeque::new(),
            described: Vec::new(),
            row_left: (0, 0),
            reported: (begun.is_standby, begun.is_read_only),
            zones: 0,
            cancel: CancelKey { address, encryption: tls.mode, process: begun.process, secret: begun.secret },
        })
    }

    /// What to cancel the session with.
    pub fn cancel_key(&self) -> &CancelKey {
        &self.cancel
    }

    /// What the host said of itself when the session began: whether it is a standby, and whether transactions only read
    /// unless they say otherwise.
    pub(super) fn reported(&self) -> (bool, bool) {
        self.reported
    }

    /// Whether everything asked was answered and no transaction is open: whoever uses the session next meets no answer
    /// that is not its own.
    pub fn is_settled(&self) -> bool {
        !self.broken
            && self.due.is_settled()
            && self.status == Status::Idle
            && self.row_left.0 == 0
            && self.transport.is_empty()
    }

    /// Notes that a time zone is set which a client chose.
    pub fn note_zone(&mut self) {
        self.zones = self.zones.saturating_add(1);
    }

    /// Whether the server keeps so much for the session that a new one should take its place.
    pub fn is_worn(&self) -> bool {
        self.zones >= MAX_ZONES
    }

    /// Whether everything that was asked has been answered.
    pub fn is_answered(&self) -> bool {
        self.due.is_settled()
    }

    /// Whether a transaction was open at the last Sync.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether the server has ended the session, as far as can be told without waiting. For sessions that nobody uses.
    pub fn is_closed(&mut self) -> bool {
        if self.broken || !self.due.is_settled() {
            return self.broken;
        }
        self.broken = !self.transport.look() || !self.only_asynchronous();
        self.broken
    }

    /// Whether what has arrived without being asked for may come at any time. An error may not: it announces the end.
    fn only_asynchronous(&mut self) -> bool {
        loop {
            match self.transport.discard_message() {
                Ok(None) => return true,
                Ok(Some(tag)) if self.due.accept(tag) == Some(Meaning::Asynchronous) => {}
                Ok(Some(_)) | Err(_) => return false,
            }
        }
    }

    /// Reads to the end of the pipeline, which was written before; the first error is the result.
    ///
    /// # Errors
    /// The server's, after which the session goes on, or whatever broke the connection.
    pub async fn settle(&mut self) -> Result<(), WireError> {
        let mut first = Ok(());
        while !self.is_answered() {
            if let Answer::Failed(refusal) = self.next().await?
                && first.is_ok()
            {
                first = Err(WireError::Server(refusal.error));
            }
        }
        first
    }

    /// Runs statements in one Query message; rows are thrown away.
    ///
    /// # Errors
    /// The server's, after which the session goes on, or whatever broke the connection.
    pub async fn run(&mut self, sql: &str) -> Result<(), WireError> {
        self.batch(sql)?;
        self.settle().await
    }

    /// Runs one statement and gives its rows, of at most `most` bytes together, and how many it gave or changed.
    ///
    /// # Errors
    /// The server's, after which the session goes on, or whatever broke the connection.
    pub async fn rows(&mut self, query: &Query<'_>, most: usize) -> Result<(Vec<Row>, u64), WireError> {
        let step = self.query(query)?;
        self.sync();
        let (mut rows, mut left, mut changed) = (Vec::new(), most, 0);
        let mut first = Ok(());
        while !self.is_answered() {
            match self.next().await? {
                Answer::Row(_) => {
                    let (bytes, _) = self.row_left;
                    rows.push(self.row(step, left).await?);
                    left -= bytes;
                }
                Answer::Done(_, done) => changed = done,
                Answer::Failed(refusal) if first.is_ok() => first = Err(WireError::Server(refusal.error)),
                Answer::Failed(_) | Answer::Ready(_) => {}
            }
        }
        first.map(|()| (rows, changed))
    }

    /// Prepares a statement, unless it is already, and gives the types of its values. One that is
    /// [too long to be kept](StatementKey) is prepared again when it is sent.
    ///
    /// # Errors
    /// The server's, after which the session goes on, or whatever broke the connection.
    pub async fn prepare(&mut self, sql: &str, key: &StatementKey) -> Result<Arc<[Type]>, WireError> {
        if let Some(prepared) = self.statements.get(key) {
            return Ok(Arc::clone(&prepared.described.values));
        }
        let step = self.step();
        self.prepare_as(step, &Query { sql, types: &[], key: Some(key), parameters: &[] })?;
        self.sync();
        self.settle().await?;
        let values = self.described(step).map(|described| Arc::clone(&described.values));
        Ok(values.unwrap_or_else(|| Arc::new([])))
    }

    /// Drops a statement that the server refuses since the schema changed.
    pub fn forget(&mut self, key: &StatementKey) {
        self.statements.forget(key);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Amid a message it would be part of that.
        if self.is_settled() {
            self.transport.terminate();
        }
    }
}

/// Sends a request to cancel over a socket of its own, and waits until the server has taken it.
pub(super) async fn cancel(socket: Socket, tls: &TlsRequest<'_>, key: &CancelKey) -> Result<(), WireError> {
    let mut transport = Transport::new(startup::encrypt(socket, tls).await?);
    frontend::cancel_request(key.process, key.secret, &mut transport.outbox);
    transport.flush().await?;
    // The server closes without an answer once it has sent the signal.
    transport.ended().await;
    Ok(())
}
