//! What is written: statements, Syncs and batches, one behind the other, into one buffer.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend::{self, BindError};
use tokio_postgres::types::Type;

use super::due::{Owed, Step};
use super::error::WireError;
use super::{Command, Connection, Names, Parameter, Preparing, Query};

impl Connection {
    pub(super) fn step(&mut self) -> Step {
        if self.due.is_settled() {
            self.described.clear();
            self.remembered.clear();
            self.expected.clear();
            // In front of a pipeline no error can skip them, and closing what is not there is none.
            for name in self.statements.take_closing() {
                if frontend::close(b'S', &name, &mut self.transport.outbox).is_ok() {
                    self.due.push(Owed::Close);
                }
            }
        }
        self.steps += 1;
        Step(self.steps)
    }

    /// Adds a statement of ours. With names, it is prepared once for the life of the connection.
    ///
    /// A function can put another text behind a name by PREPARE, but only a query: so the tag of what ran tells, and
    /// [`next`](Self::next) fails with [`WireError::Replaced`].
    ///
    /// # Errors
    /// [`WireError::Unsendable`]; the connection is of no more use.
    pub fn command(&mut self, command: &Command, names: Names) -> Result<Step, WireError> {
        let step = self.step();
        let Self { commands, transport, statements, .. } = self;
        let out = &mut transport.outbox;
        let known = commands.iter().find(|(kept, _)| kept == command).filter(|_| names == Names::Kept);
        let is_known = known.is_some();
        let (new_name, written) = match known {
            Some((_, name)) => (None, run(out, name, &[])),
            None => {
                let name = (names == Names::Kept).then(|| statements.next_name());
                let text = name.as_deref().unwrap_or_default();
                let written = frontend::parse(text, command.sql, [], out).and_then(|()| run(out, text, &[]));
                (name, written)
            }
        };
        self.wrote(written)?;
        if is_known {
            self.remembered.push(step);
        } else {
            self.due.push(Owed::Parse(step));
        }
        self.due.push(Owed::Bind(step));
        self.due.push(Owed::Execute(step));
        self.expected.push_back((step, *command, new_name));
        Ok(step)
    }

    /// Adds a statement whose rows are wanted. The first time, it is prepared in the same pipeline.
    ///
    /// # Errors
    /// [`WireError::Unsendable`]; the connection is of no more use.
    pub fn query(&mut self, query: &Query<'_>) -> Result<Step, WireError> {
        let step = self.step();
        let Self { described, remembered, transport, statements, .. } = self;
        let written = match query.key.and_then(|key| statements.get(key)) {
            Some(prepared) => {
                described.push((step, prepared.described.clone()));
                remembered.push(step);
                run(&mut transport.outbox, &prepared.name, query.parameters)
            }
            None => {
                let name = self.prepare_as(step, query)?;
                run(&mut self.transport.outbox, &name, query.parameters)
            }
        };
        self.wrote(written)?;
        self.due.push(Owed::Bind(step));
        self.due.push(Owed::Execute(step));
        Ok(step)
    }

    pub(super) fn prepare_as(&mut self, step: Step, query: &Query<'_>) -> Result<String, WireError> {
        let name = query.key.map(|key| self.statements.name(key)).unwrap_or_default();
        let out = &mut self.transport.outbox;
        let written = frontend::parse(&name, query.sql, query.types.iter().map(Type::oid), out);
        let written = written.and_then(|()| frontend::describe(b'S', &name, out));
        self.wrote(written)?;
        self.due.push(Owed::Parse(step));
        self.due.push(Owed::Describe(step));
        let key = query.key.filter(|_| !name.is_empty()).cloned();
        self.preparing.push(Preparing { step, key, name: name.clone(), values: Arc::new([]) });
        Ok(name)
    }

    /// Ends the pipeline so far: an error skips what stands before this, not what stands behind.
    pub fn sync(&mut self) {
        frontend::sync(&mut self.transport.outbox);
        self.due.push(Owed::Sync);
    }

    /// Adds statements as one Query message, which is a Sync of its own.
    ///
    /// # Errors
    /// [`WireError::Unsendable`]; the connection is of no more use.
    pub fn batch(&mut self, sql: &str) -> Result<Step, WireError> {
        let step = self.step();
        let written = frontend::query(sql, &mut self.transport.outbox);
        self.wrote(written)?;
        self.due.push(Owed::Batch(step));
        Ok(step)
    }

    fn wrote(&mut self, written: io::Result<()>) -> Result<(), WireError> {
        if self.broken {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        }
        self.broken = written.is_err();
        written.map_err(WireError::Unsendable)
    }
}

/// Binds the statement of this name and runs it.
fn run(out: &mut BytesMut, name: &str, parameters: &[Parameter<'_>]) -> io::Result<()> {
    // One format for all: text unless one of them is not.
    let all_text = parameters.iter().all(|parameter| !parameter.binary);
    let formats = parameters.iter().map(|parameter| i16::from(parameter.binary));
    let formats = formats.take(if all_text { 0 } else { parameters.len() });
    let value = |parameter: &Parameter<'_>, out: &mut BytesMut| match parameter.bytes {
        Some(bytes) => {
            out.extend_from_slice(bytes);
            Ok(IsNull::No)
        }
        None => Ok(IsNull::Yes),
    };
    frontend::bind("", name, formats, parameters, value, [1], out).map_err(|error| match error {
        BindError::Conversion(error) => io::Error::other(error),
        BindError::Serialization(error) => error,
    })?;
    frontend::execute("", 0, out)
}
