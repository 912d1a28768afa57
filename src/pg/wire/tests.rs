//! Every order of messages that a server may send, and every one that it may not.

use postgres_protocol::message::backend as tags;
use proptest::prelude::*;

use super::due::{Due, Meaning, Owed, Phase, Step};

/// What a pipeline is made of.
#[derive(Debug, Clone, Copy)]
enum Piece {
    Close,
    Command,
    /// A query; whether it is prepared in the same pipeline.
    Query(bool),
    Sync,
    Batch,
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = prop_oneof![
        1 => Just(Piece::Close),
        4 => Just(Piece::Command),
        4 => any::<bool>().prop_map(Piece::Query),
        2 => Just(Piece::Sync),
        2 => Just(Piece::Batch),
    ];
    prop::collection::vec(piece, 0..8)
}

/// The pipeline, ended by a Sync, as the connection remembers it.
fn written(pieces: &[Piece]) -> (Due, Vec<Owed>) {
    let mut owed = Vec::new();
    for (number, piece) in pieces.iter().chain(&[Piece::Sync]).enumerate() {
        let step = Step(number as u64);
        owed.extend(match piece {
            Piece::Close => vec![Owed::Close],
            Piece::Command => vec![Owed::Parse(step), Owed::Bind(step), Owed::Execute(step)],
            Piece::Query(true) => {
                vec![Owed::Parse(step), Owed::Describe(step), Owed::Bind(step), Owed::Execute(step)]
            }
            Piece::Query(false) => vec![Owed::Bind(step), Owed::Execute(step)],
            Piece::Sync => vec![Owed::Sync],
            Piece::Batch => vec![Owed::Batch(step)],
        });
    }
    let mut due = Due::default();
    owed.iter().for_each(|owed| due.push(*owed));
    (due, owed)
}

/// What PostgreSQL answers, by its own rules: each statement in its order, asynchronous messages anywhere, and at `fails` an error in
/// place of an answer, after which it skips to the next Sync. A Query message is itself a Sync only when it is read, and
/// behind an error it is not.
fn answered(owed: &[Owed], fails: Option<usize>, rows: usize, asynchronous: u8) -> Vec<u8> {
    let mut sent = Vec::new();
    let mut skipping = false;
    for (number, owed) in owed.iter().enumerate() {
        sent.push(asynchronous);
        let failing = fails == Some(number);
        if skipping && !matches!(owed, Owed::Sync) {
            continue;
        }
        match owed {
            Owed::Sync if failing => sent.extend([tags::ERROR_RESPONSE_TAG, tags::READY_FOR_QUERY_TAG]),
            Owed::Sync => sent.push(tags::READY_FOR_QUERY_TAG),
            Owed::Batch(_) if failing => {
                sent.extend([tags::COMMAND_COMPLETE_TAG, tags::ERROR_RESPONSE_TAG, tags::READY_FOR_QUERY_TAG])
            }
            _ if failing => sent.push(tags::ERROR_RESPONSE_TAG),
            Owed::Close => sent.push(tags::CLOSE_COMPLETE_TAG),
            Owed::Parse(_) => sent.push(tags::PARSE_COMPLETE_TAG),
            Owed::Describe(_) => sent.extend([tags::PARAMETER_DESCRIPTION_TAG, tags::ROW_DESCRIPTION_TAG]),
            Owed::Bind(_) => sent.push(tags::BIND_COMPLETE_TAG),
            Owed::Execute(_) => {
                sent.extend(std::iter::repeat_n(tags::DATA_ROW_TAG, rows));
                sent.push(tags::COMMAND_COMPLETE_TAG);
            }
            Owed::Batch(_) => {
                sent.push(tags::ROW_DESCRIPTION_TAG);
                sent.extend(std::iter::repeat_n(tags::DATA_ROW_TAG, rows));
                sent.extend([
                    tags::COMMAND_COMPLETE_TAG,
                    tags::COMMAND_COMPLETE_TAG,
                    tags::READY_FOR_QUERY_TAG,
                ]);
            }
        }
        skipping = match owed {
            Owed::Sync | Owed::Batch(_) => false,
            _ => skipping || failing,
        };
    }
    sent
}

const ASYNCHRONOUS: [u8; 3] =
    [tags::NOTICE_RESPONSE_TAG, tags::NOTIFICATION_RESPONSE_TAG, tags::PARAMETER_STATUS_TAG];

proptest! {
    /// What a server sends is understood to its end, and before the last ReadyForQuery nothing is settled: a connection
    /// whose future was dropped, or whose socket was cut, at any message is never taken for a clean one.
    #[test]
    fn nothing_is_settled_before_the_last_answer(
        pieces in pieces(),
        fails in prop::option::of(0_usize..30),
        rows in 0_usize..3,
        asynchronous in prop::sample::select(&ASYNCHRONOUS[..]),
    ) {
        let (mut due, owed) = written(&pieces);
        let sent = answered(&owed, fails, rows, asynchronous);
        let last = sent.len() - 1;
        for (number, tag) in sent.iter().enumerate() {
            prop_assert!(!due.is_settled(), "settled in front of message {number} of {last}");
            prop_assert!(due.accept(*tag).is_some(), "message {number}, {:?}, refused", char::from(*tag));
        }
        prop_assert!(due.is_settled());
    }

    /// The error belongs to the statement that failed, and no statement behind it is taken for done.
    #[test]
    fn an_error_belongs_to_its_statement(pieces in pieces(), fails in 0_usize..30) {
        let (mut due, owed) = written(&pieces);
        let Some(failing) = owed.get(fails) else { return Ok(()) };
        let mut done = Vec::new();
        let mut failed = None;
        for tag in answered(&owed, Some(fails), 1, ASYNCHRONOUS[0]) {
            match due.accept(tag) {
                Some(Meaning::Done(step)) if failed.is_none() => done.push(step),
                Some(Meaning::Failed(step, phase)) => failed = Some((step, phase)),
                _ => {}
            }
        }
        let expected = match *failing {
            Owed::Parse(step) => (Some(step), Phase::Parse),
            Owed::Describe(step) => (Some(step), Phase::Describe),
            Owed::Bind(step) => (Some(step), Phase::Bind),
            Owed::Execute(step) => (Some(step), Phase::Execute),
            Owed::Batch(step) => (Some(step), Phase::Batch),
            Owed::Close | Owed::Sync => (None, Phase::Sync),
        };
        let (step, phase) = failed.ok_or_else(|| TestCaseError::fail("the error was not seen"))?;
        // Where a step is not known it may still be: an error behind all of a pipeline's statements is nobody's.
        prop_assert_eq!((step, phase), expected);
        if let Some(step) = step.filter(|_| phase != Phase::Batch) {
            prop_assert!(done.iter().all(|done| *done < step));
        }
    }

    /// A message that the server may not send now is refused, and so the connection is given up.
    #[test]
    fn what_is_out_of_place_is_refused(pieces in pieces(), at in 0_usize..20, tag in any::<u8>()) {
        let (mut due, owed) = written(&pieces);
        let sent = answered(&owed, None, 0, ASYNCHRONOUS[0]);
        let at = at.min(sent.len() - 1);
        for tag in &sent[..at] {
            due.accept(*tag);
        }
        let before = due.is_settled();
        if due.accept(tag).is_none() {
            prop_assert_eq!(due.is_settled(), before, "what is refused settles nothing");
        }
        // These no pipeline of ours is ever answered by.
        for never in [tags::COPY_IN_RESPONSE_TAG, tags::COPY_DATA_TAG, tags::AUTHENTICATION_TAG, tags::PORTAL_SUSPENDED_TAG] {
            prop_assert!(due.accept(never).is_none());
        }
    }
}
