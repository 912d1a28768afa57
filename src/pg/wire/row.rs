//! `Row`: one row of an answer that was read whole, and the columns it has.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::RowDescriptionBody;
use tokio_postgres::types::{FromSql, Kind, Type};

use super::error::WireError;

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type. A type that is not PostgreSQL's own has no name here and is known by its oid.
    pub kind: Type,
}

impl Column {
    pub(super) fn read(description: &RowDescriptionBody) -> std::io::Result<Arc<[Self]>> {
        let column = |field: postgres_protocol::message::backend::Field<'_>| {
            Ok(Self { name: field.name().to_owned(), kind: of_oid(field.type_oid()) })
        };
        description.fields().map(column).collect::<Vec<_>>().map(Into::into)
    }
}

pub(super) fn of_oid(oid: u32) -> Type {
    Type::from_oid(oid).unwrap_or_else(|| Type::new(String::new(), oid, Kind::Simple, String::new()))
}

/// A row, its values in PostgreSQL's binary form.
#[derive(Debug, Clone)]
pub struct Row {
    columns: Arc<[Column]>,
    values: Vec<Option<Range<usize>>>,
    data: Bytes,
}

impl Row {
    /// `data` is what stands behind the number of columns in a DataRow.
    pub(super) fn read(columns: Arc<[Column]>, data: Bytes) -> Result<Self, WireError> {
        let torn = || WireError::Protocol("a row is shorter than its values".into());
        let mut rest = &data[..];
        let mut values = Vec::with_capacity(columns.len());
        while !rest.is_empty() {
            let length = rest.try_get_i32().map_err(|_| torn())?;
            let Ok(length) = usize::try_from(length) else {
                values.push(None);
                continue;
            };
            let start = data.len() - rest.len();
            rest = rest.get(length..).ok_or_else(torn)?;
            values.push(Some(start..start + length));
        }
        Ok(Self { columns, values, data })
    }

    /// Its values' bytes, with their lengths.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The value of the column at this position, from 0.
    ///
    /// # Errors
    /// [`WireError::Value`] when there is no such column, or it is of another type, or NULL where `T` has no NULL.
    pub fn try_get<'a, T: FromSql<'a>>(&'a self, column: usize) -> Result<T, WireError> {
        let failed = |reason: String| WireError::Value { column, reason };
        let (Some(of), Some(value)) = (self.columns.get(column), self.values.get(column)) else {
            return Err(failed("the answer has no such column".into()));
        };
        if !T::accepts(&of.kind) {
            return Err(failed(format!("its type, {}, is not the one asked for", of.kind.name())));
        }
        let value = value.clone().and_then(|range| self.data.get(range));
        T::from_sql_nullable(&of.kind, value).map_err(|error| failed(error.to_string()))
    }
}
