//! Why a statement or a connection of the data plane failed.

use std::fmt;
use std::io;

use tokio_postgres::error::SqlState;

/// A failure of a [`Connection`](super::Connection).
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The server answered with an error. The session goes on, unless the error [is fatal](ServerError::is_fatal).
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The connection broke, or the server closed it.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The server sent what no PostgreSQL sends here. The connection is of no more use.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// The server sent more than may be kept in memory. The connection is of no more use.
    #[error("the server sent {bytes} bytes where {most} are the most")]
    TooLong {
        /// How many it announced.
        bytes: usize,
        /// How many are allowed.
        most: usize,
    },
    /// Another statement stands behind the name of this one: a function of the tenant has put it there. What the pipeline
    /// did is not known, and the connection is of no more use.
    #[error("another statement ran in the place of `{0}`")]
    Replaced(&'static str),
    /// The login failed on this side: no password, an unknown method, a server that could not prove itself.
    #[error("the login failed: {0}")]
    Login(String),
    /// A statement that the protocol can't carry: a NUL in its text, or more than 65,535 values.
    #[error("the statement can't be sent: {0}")]
    Unsendable(io::Error),
    /// A value of a row is of another type than the caller asked for.
    #[error("column {column}: {reason}")]
    Value {
        /// The column's position, from 0.
        column: usize,
        /// What does not fit.
        reason: String,
    },
}

impl WireError {
    /// What the server said, if it said anything.
    pub fn as_server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) => Some(error),
            _ => None,
        }
    }

    /// The server's SQLSTATE; `None` when the server did not answer.
    pub fn code(&self) -> Option<&SqlState> {
        self.as_server().map(|error| &error.code)
    }
}

/// An ErrorResponse: PostgreSQL, "Error and Notice Message Fields".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, never translated.
    pub severity: String,
    /// The SQLSTATE.
    pub code: SqlState,
    /// The sentence.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The call stack of functions and values, one line each.
    pub context: Option<String>,
}

impl ServerError {
    /// Whether the server closes the connection behind this error.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    /// Whether a function was running. A context alone tells little: text that is no JSON has one as well.
    pub fn is_of_a_function(&self) -> bool {
        let begins = |line: &str| ["PL/", "SQL function"].iter().any(|word| line.starts_with(word));
        self.context.as_ref().is_some_and(|context| context.lines().any(begins))
    }

    /// `fields` may have been cut off anywhere. Texts that are not UTF-8 (errors before the session has an encoding, or
    /// cut amid a letter) are made so.
    pub(super) fn read(fields: &[u8]) -> Self {
        let mut error = Self {
            severity: String::new(),
            code: SqlState::INTERNAL_ERROR,
            message: String::new(),
            detail: None,
            hint: None,
            context: None,
        };
        for field in fields.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { break };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'V' => error.severity = text,
                b'C' => error.code = SqlState::from_code(&text),
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'W' => error.context = Some(text),
                _ => {}
            }
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code.code())?;
        self.hint.iter().try_for_each(|hint| write!(f, " ({hint})"))
    }
}
