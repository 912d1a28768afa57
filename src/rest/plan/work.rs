//! Work: how much of it one plan is worth.

use std::cell::Cell;

use http::StatusCode;

use super::super::error::{Code, Error};

/// Most columns of a plan, on all levels, each time that a level hands them to the one above. PostgreSQL takes 1,664 a
/// level.
const MAX_COLUMNS: usize = 20_000;
/// Most relationships that are looked at for all embeds of a plan: half a millisecond's worth.
const MAX_RELATIONSHIPS: usize = 200_000;

/// What is left of it. A select list of some bytes can stand for the product of what it names and of what the schema has,
/// which its owner chooses.
pub(super) struct Work {
    columns: Cell<usize>,
    relationships: Cell<usize>,
}

impl Default for Work {
    fn default() -> Self {
        Self { columns: Cell::new(MAX_COLUMNS), relationships: Cell::new(MAX_RELATIONSHIPS) }
    }
}

impl Work {
    /// So many columns more are in the plan.
    ///
    /// # Errors
    /// 400 when there are too many.
    pub(super) fn columns(&self, more: usize) -> Result<(), Error> {
        take(&self.columns, more, "columns")
    }

    /// So many relationships more are looked at.
    ///
    /// # Errors
    /// 400 when there are too many.
    pub(super) fn relationships(&self, more: usize) -> Result<(), Error> {
        take(&self.relationships, more, "relationships")
    }
}

fn take(left: &Cell<usize>, more: usize, what: &str) -> Result<(), Error> {
    let after = left.get().checked_sub(more).ok_or_else(|| {
        // As PostgreSQL has it for too many columns.
        let code = Code::Sqlstate { state: "54011".into(), status: StatusCode::BAD_REQUEST };
        let hint = "name the columns that are wanted, and fewer embedded relations";
        Error::new(code, format!("The select list stands for too many {what}")).with_hint(hint)
    })?;
    left.set(after);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_out() {
        let work = Work::default();
        assert!(work.columns(MAX_COLUMNS - 1).is_ok() && work.columns(1).is_ok());
        assert!(work.columns(1).is_err_and(|error| error.to_string().contains("too many columns")));
        assert!(work.relationships(MAX_RELATIONSHIPS + 1).is_err() && work.relationships(1).is_ok());
    }
}
