//! `Due`: which answers the server still owes. Pure, so that a property test can send it any order of messages.
//!
//! The rules are PostgreSQL's, "Message Flow": statements are answered in their order; after an error the server skips
//! to the next Sync; a Query message ends by a ReadyForQuery of its own.

use std::collections::VecDeque;

use postgres_protocol::message::backend as tags;

/// One statement of a pipeline, or one Query message. Numbers rise for as long as the connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step(pub(super) u64);

/// What part of a statement failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its text was read.
    Parse,
    /// Its columns were asked for.
    Describe,
    /// Its values were read, and it was planned.
    Bind,
    /// It ran.
    Execute,
    /// It is a Query message, which has no parts.
    Batch,
    /// No statement ran: the error came at the Sync, or from outside, as from an administrator.
    Sync,
}

/// Whether a transaction is open, as ReadyForQuery says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// None.
    Idle,
    /// One that goes on.
    InTransaction,
    /// One that can only be rolled back.
    Failed,
}

/// An answer that is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    Close,
    Parse(Step),
    /// The types of the values first, then those of the columns.
    Describe(Step),
    Bind(Step),
    Execute(Step),
    Sync,
    Batch(Step),
}

/// What a message means where it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing that anybody waits for.
    Progress,
    /// A notice, a notification or a changed parameter, which may come at any time.
    Asynchronous,
    /// The types of a statement's values.
    Values(Step),
    /// The columns of a statement; none when it gives no rows.
    Columns(Step),
    /// A row.
    Row(Step),
    /// The end of a statement, or of one of a Query message's.
    Done(Step),
    /// An error. Whatever stood between it and the next Sync is not run.
    Failed(Option<Step>, Phase),
    /// A ReadyForQuery.
    Ready,
}

/// The answers that are owed, in their order.
#[derive(Debug, Default)]
pub(super) struct Due {
    owed: VecDeque<Owed>,
}

impl Due {
    pub(super) fn push(&mut self, owed: Owed) {
        self.owed.push_back(owed);
    }

    /// Whether the server has answered everything.
    pub(super) fn is_settled(&self) -> bool {
        self.owed.is_empty()
    }

    /// Takes the message with this tag; `None` when no server may send it now.
    pub(super) fn accept(&mut self, tag: u8) -> Option<Meaning> {
        if matches!(
            tag,
            tags::NOTICE_RESPONSE_TAG | tags::NOTIFICATION_RESPONSE_TAG | tags::PARAMETER_STATUS_TAG
        ) {
            return Some(Meaning::Asynchronous);
        }
        let first = self.owed.front().copied();
        let (meaning, is_last) = match (first, tag) {
            (Some(Owed::Close), tags::CLOSE_COMPLETE_TAG)
            | (Some(Owed::Parse(_)), tags::PARSE_COMPLETE_TAG)
            | (Some(Owed::Bind(_)), tags::BIND_COMPLETE_TAG) => (Meaning::Progress, true),
            (Some(Owed::Describe(step)), tags::PARAMETER_DESCRIPTION_TAG) => (Meaning::Values(step), false),
            (Some(Owed::Describe(step)), tags::ROW_DESCRIPTION_TAG | tags::NO_DATA_TAG) => {
                (Meaning::Columns(step), true)
            }
            (Some(Owed::Batch(_)), tags::ROW_DESCRIPTION_TAG) => (Meaning::Progress, false),
            (Some(Owed::Execute(step) | Owed::Batch(step)), tags::DATA_ROW_TAG) => {
                (Meaning::Row(step), false)
            }
            (Some(Owed::Execute(step)), tags::COMMAND_COMPLETE_TAG | tags::EMPTY_QUERY_RESPONSE_TAG) => {
                (Meaning::Done(step), true)
            }
            (Some(Owed::Batch(step)), tags::COMMAND_COMPLETE_TAG | tags::EMPTY_QUERY_RESPONSE_TAG) => {
                (Meaning::Done(step), false)
            }
            (Some(Owed::Sync | Owed::Batch(_)), tags::READY_FOR_QUERY_TAG) => (Meaning::Ready, true),
            (_, tags::ERROR_RESPONSE_TAG) => return Some(self.fail(first)),
            _ => return None,
        };
        if is_last {
            self.owed.pop_front();
        }
        Some(meaning)
    }

    fn fail(&mut self, first: Option<Owed>) -> Meaning {
        // What a Query message and a Sync still owe is their ReadyForQuery, and nothing owed is a server that shuts
        // down. A fatal error is followed by the end of the stream, wherever it comes.
        let (step, phase) = match first {
            Some(Owed::Parse(step)) => (Some(step), Phase::Parse),
            Some(Owed::Describe(step)) => (Some(step), Phase::Describe),
            Some(Owed::Bind(step)) => (Some(step), Phase::Bind),
            Some(Owed::Execute(step)) => (Some(step), Phase::Execute),
            Some(Owed::Batch(step)) => return Meaning::Failed(Some(step), Phase::Batch),
            Some(Owed::Close | Owed::Sync) | None => (None, Phase::Sync),
        };
        while self.owed.front().is_some_and(|owed| !matches!(owed, Owed::Sync)) {
            self.owed.pop_front();
        }
        Meaning::Failed(step, phase)
    }
}
