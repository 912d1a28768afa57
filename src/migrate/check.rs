//! `check`: whether a session still is who it was, under its lock, in a database in which all belongs to the owner.

use tokio_postgres::Client;

use super::outcome::FailureKind;
use super::session::{self, Roles, State};
use super::stop::{Stop, not_the_owners};

/// Checks that we are still who we were, under our lock, and that everything belongs to the owner.
///
/// # Errors
/// What is otherwise, with `when` in front.
pub(super) async fn check(client: &Client, roles: &Roles, session: &str, when: &str) -> Result<(), Stop> {
    let state = session::state(client, roles).await?;
    check_state(&state, roles, session, when)?;
    if state.has_foreign_objects
        && let Some(object) = session::foreign_object(client, roles).await?
    {
        return Err(not_the_owners(&object, when, &roles.owner));
    }
    Ok(())
}

/// The same of a state that was asked for already, without a look at owners.
///
/// # Errors
/// As [`check`].
pub(super) fn check_state(state: &State, roles: &Roles, session: &str, when: &str) -> Result<(), Stop> {
    let owner = &roles.owner;
    if state.current_user != *owner {
        let message = format!(
            "{when} the role is `{}` instead of `{owner}`; what leaves the owner's role is rolled back",
            state.current_user
        );
        return Err(Stop::new(FailureKind::Owner, message));
    }
    if session != state.session_user {
        let message = format!("{when} the session belongs to `{}`", state.session_user);
        return Err(Stop::new(FailureKind::Session, message));
    }
    if !state.locked {
        let message =
            format!("{when} another migrator has this database: remove what releases advisory locks");
        return Err(Stop::new(FailureKind::Session, message));
    }
    Ok(())
}
