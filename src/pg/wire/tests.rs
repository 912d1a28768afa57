//! Every order of messages that a server may send, and every one that it may not; and what a connection makes of their
//! bytes, wherever they end.

use std::collections::VecDeque;
use std::time::Duration;

use postgres_protocol::message::backend as tags;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::due::{Due, Meaning, Owed, Phase, Status, Step};
use super::statements::{Described, Prepared, Statements};
use super::transport::{Stream, Transport};
use super::{Answer, CancelKey, Command, Connection, Names, Query, StatementKey, WireError};
use crate::pg::socket::{Address, Socket};

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

    /// At each place just those messages are taken that a server may send there; after any other the connection is given
    /// up.
    #[test]
    fn what_is_out_of_place_is_refused(pieces in pieces(), at in 0_usize..60, tag in any::<u8>()) {
        let (mut due, owed) = written(&pieces);
        let sent = answered(&owed, None, 1, ASYNCHRONOUS[0]);
        let at = at.min(sent.len() - 1);
        for tag in &sent[..at] {
            due.accept(*tag);
        }
        // Each answer is announced by an asynchronous message.
        let first = owed[sent[..=at].iter().filter(|tag| **tag == ASYNCHRONOUS[0]).count() - 1];
        let places: &[u8] = match first {
            _ if sent[at] == ASYNCHRONOUS[0] => return Ok(()),
            Owed::Close => &[tags::CLOSE_COMPLETE_TAG],
            Owed::Parse(_) => &[tags::PARSE_COMPLETE_TAG],
            Owed::Bind(_) => &[tags::BIND_COMPLETE_TAG],
            Owed::Describe(_) => &[tags::PARAMETER_DESCRIPTION_TAG, tags::ROW_DESCRIPTION_TAG, tags::NO_DATA_TAG],
            Owed::Execute(_) => &[tags::DATA_ROW_TAG, tags::COMMAND_COMPLETE_TAG, tags::EMPTY_QUERY_RESPONSE_TAG],
            Owed::Sync => &[tags::READY_FOR_QUERY_TAG],
            Owed::Batch(_) => &[tags::ROW_DESCRIPTION_TAG, tags::DATA_ROW_TAG, tags::COMMAND_COMPLETE_TAG,
                tags::EMPTY_QUERY_RESPONSE_TAG, tags::READY_FOR_QUERY_TAG],
        };
        let may = places.contains(&tag) || ASYNCHRONOUS.contains(&tag) || tag == tags::ERROR_RESPONSE_TAG;
        prop_assert_eq!(due.accept(tag).is_some(), may, "{:?} in answer to {:?}", char::from(tag), first);
        prop_assert!(may || !due.is_settled(), "what is refused settles nothing");
    }
}

/// The message, with a body such as it may have.
fn message(tag: u8, status: u8) -> Vec<u8> {
    let body = match tag {
        tags::PARAMETER_DESCRIPTION_TAG => b"\0\x01\0\0\0\x17".to_vec(),
        tags::ROW_DESCRIPTION_TAG => b"\0\x01c\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\x01".to_vec(),
        tags::DATA_ROW_TAG => b"\0\x02\0\0\0\x03abc\xff\xff\xff\xff".to_vec(),
        tags::COMMAND_COMPLETE_TAG => b"SELECT 1\0".to_vec(),
        tags::ERROR_RESPONSE_TAG | tags::NOTICE_RESPONSE_TAG => b"VERROR\0CXX000\0Mnone\0\0".to_vec(),
        tags::READY_FOR_QUERY_TAG => vec![status],
        tags::NOTIFICATION_RESPONSE_TAG => b"\0\0\0\x01c\0p\0".to_vec(),
        tags::PARAMETER_STATUS_TAG => b"name\0value\0".to_vec(),
        _ => Vec::new(),
    };
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], length.to_be_bytes().as_slice(), &body].concat()
}

/// A session in which a statement is prepared, and the server's side of it.
fn connected() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut statements = Statements::default();
    let described = Described { values: [].into(), columns: [].into() };
    statements.keep(key(), Prepared { name: "kept".into(), described });
    let address = Address::nowhere();
    let connection = Connection {
        transport: Transport::new(Stream::Plain(Socket::from(ours))),
        due: Due::default(),
        status: Status::Idle,
        broken: false,
        steps: 0,
        statements,
        preparing: Vec::new(),
        remembered: Vec::new(),
        commands: Vec::new(),
        expected: VecDeque::new(),
        described: Vec::new(),
        row_left: (0, 0),
        reported: (false, false),
        zones: 0,
        cancel: CancelKey {
            address,
            encryption: tokio_postgres::config::SslMode::Disable,
            process: 0,
            secret: 0,
        },
    };
    (connection, theirs)
}

fn key() -> StatementKey {
    StatementKey::new("", "", "SELECT 1")
}

/// Its tag is that of the messages here.
const BEGIN: Command = Command::new("BEGIN", "SELECT 1");

fn write(connection: &mut Connection, pieces: &[Piece]) {
    for piece in pieces.iter().chain(&[Piece::Sync]) {
        match piece {
            // Only what stands in front of a pipeline is closed.
            Piece::Close => {}
            Piece::Command => drop(connection.command(&BEGIN, Names::None).unwrap()),
            Piece::Query(anew) => {
                let key = key();
                let key = (!anew).then_some(&key);
                let query = Query { sql: "SELECT 1", types: &[], key, parameters: &[] };
                connection.query(&query).unwrap();
            }
            Piece::Sync => connection.sync(),
            Piece::Batch => drop(connection.batch("COMMIT").unwrap()),
        }
    }
}

/// How a row is read.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Not,
    Whole,
    Value,
    HalfAValue,
}

/// Takes so many answers, or all.
async fn take(connection: &mut Connection, most: usize, reading: Reading) -> Result<(), WireError> {
    for _ in 0..most {
        if connection.is_answered() {
            return Ok(());
        }
        if let Answer::Row(step) = connection.next().await? {
            match reading {
                Reading::Not => {}
                Reading::Whole => drop(connection.row(step, 1000).await?),
                Reading::Value => {
                    let length = connection.value().await?.unwrap_or_default();
                    connection.bytes(length).await?;
                    connection.value().await?;
                }
                Reading::HalfAValue => {
                    connection.value().await?;
                    connection.bytes(1).await?;
                }
            }
        }
    }
    Ok(())
}

fn without_closes(pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.into_iter().filter(|piece| !matches!(piece, Piece::Close)).collect()
}

fn readings() -> impl Strategy<Value = Reading> {
    prop::sample::select(&[Reading::Not, Reading::Whole, Reading::Value, Reading::HalfAValue][..])
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A connection is settled when every byte that was due has come and was read, and no transaction is open: not a byte
    /// earlier, and not when its reader went away before.
    #[test]
    fn a_connection_is_settled_by_the_last_byte(
        pieces in pieces().prop_map(without_closes),
        fails in prop::option::of(0_usize..30),
        rows in 0_usize..3,
        asynchronous in prop::sample::select(&ASYNCHRONOUS[..]),
        status in prop::sample::select(&b"IITE"[..]),
        cut in prop::option::of(any::<prop::sample::Index>()),
        stops in prop::option::of(0_usize..20),
        reading in readings(),
    ) {
        let (_, owed) = written(&pieces);
        let sent = answered(&owed, fails, rows, asynchronous);
        let mut bytes: Vec<u8> = sent.iter().flat_map(|tag| message(*tag, status)).collect();
        let whole = bytes.len();
        bytes.truncate(cut.map_or(whole, |cut| cut.index(whole + 1)));
        let (settled, taken, answered) = run(async {
            let (mut connection, mut server) = connected();
            write(&mut connection, &pieces);
            server.write_all(&bytes).await.unwrap();
            server.shutdown().await.unwrap();
            let taken = take(&mut connection, stops.unwrap_or(1000), reading).await.is_ok();
            (connection.is_settled(), taken, connection.is_answered())
        });
        let is_whole = bytes.len() == whole;
        if settled {
            prop_assert!(is_whole && taken && answered && status == b'I');
        }
        if is_whole && stops.is_none() {
            prop_assert!(taken && answered);
            prop_assert_eq!(settled, status == b'I');
        }
        if !is_whole && stops.is_none() {
            prop_assert!(!taken, "half an answer is none");
        }
    }

    /// Whatever bytes come, reading them ends with the stream, without a panic.
    #[test]
    fn garbage_ends(
        pieces in pieces().prop_map(without_closes),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        reading in readings(),
    ) {
        let (_, owed) = written(&pieces);
        let mut bytes: Vec<u8> =
            answered(&owed, None, 1, ASYNCHRONOUS[0]).iter().flat_map(|tag| message(*tag, b'I')).collect();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        run(async {
            let (mut connection, mut server) = connected();
            write(&mut connection, &pieces);
            server.write_all(&bytes).await.unwrap();
            server.shutdown().await.unwrap();
            let read = take(&mut connection, 1000, reading);
            let _ = tokio::time::timeout(Duration::from_secs(10), read).await.expect("it ends");
        });
    }
}

/// While nobody asks, a session may be told this and that, and is given up for all else.
#[test]
fn an_idle_connection_hears_asynchronous_messages_only() {
    let heard = |bytes: Vec<u8>| {
        run(async {
            let (mut connection, mut server) = connected();
            server.write_all(&bytes).await.unwrap();
            // The reactor has to hear of it.
            tokio::time::sleep(Duration::from_millis(2)).await;
            !connection.is_closed() && connection.is_settled()
        })
    };
    for asynchronous in ASYNCHRONOUS {
        assert!(heard(message(asynchronous, b'I').repeat(100)), "{}", char::from(asynchronous));
        assert!(!heard(message(asynchronous, b'I')[..7].to_vec()), "half of one");
    }
    for tag in (0..=u8::MAX).filter(|tag| !ASYNCHRONOUS.contains(tag)) {
        assert!(!heard(message(tag, b'I')), "{}", char::from(tag));
    }
    assert!(!heard(vec![0; 100_000]));
}
