//! `Difference`: what is not the same in two versions of one tenant, by who has to act on it.

use super::{Adopted, Origin, Record, Tenant};
use crate::policy::{JWT_SECRET, Limits};

/// A part of a tenant that can change while it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Slug, tier and base URLs.
    Names,
    /// Whether the login is let in, which database and role it is, and what its password derives from.
    Login,
    /// The server that holds the database.
    Server,
    /// Limits that a session gets when it starts, and keeps.
    SessionLimits,
    /// Limits that are looked up anew for every request.
    RequestLimits,
    /// Requests a second.
    Rate,
    /// How the API is exposed, and which tokens it accepts.
    Api,
    /// Which schema the database has.
    Lineage,
    /// How often an operator asked for the schema to be read again.
    Reloads,
}

/// The parts that differ, in the order of [`Part`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference(Vec<Part>);

impl Difference {
    /// Compares two versions of one tenant.
    ///
    /// The fields are taken apart without `..`: one that is added later doesn't compile until it is given its part.
    pub fn between(before: &Tenant, after: &Tenant) -> Self {
        let Tenant { record, limits, api } = before;
        let Record {
            id: _,
            slug,
            state,
            tier,
            server,
            generation,
            key,
            origin,
            base_urls,
            // What they do is in the limits and the API settings; what this version doesn't know does nothing.
            overrides: _,
            sealed: _,
            reloads,
        } = record;
        let Limits {
            max_connections,
            max_waiting,
            weight,
            acquire_timeout,
            statement_timeout,
            transaction_idle_timeout,
            request_timeout,
            idle_timeout,
            max_body,
            max_answer,
            max_rows,
            max_database_size,
            max_requests_per_second,
        } = limits;
        let other = &after.limits;
        let differs = [
            (Part::Names, *slug != after.slug || *tier != after.tier || *base_urls != after.base_urls),
            (
                Part::Login,
                *state != after.state
                    || *generation != after.generation
                    || *key != after.key
                    || adopted(origin) != adopted(&after.origin)
                    || secrets(record, true).ne(secrets(after, true)),
            ),
            (Part::Server, *server != after.server),
            (
                Part::SessionLimits,
                *statement_timeout != other.statement_timeout
                    || *transaction_idle_timeout != other.transaction_idle_timeout,
            ),
            (
                Part::RequestLimits,
                *max_connections != other.max_connections
                    || *max_waiting != other.max_waiting
                    || *weight != other.weight
                    || *acquire_timeout != other.acquire_timeout
                    || *request_timeout != other.request_timeout
                    || *idle_timeout != other.idle_timeout
                    || *max_body != other.max_body
                    || *max_answer != other.max_answer
                    || *max_rows != other.max_rows
                    || *max_database_size != other.max_database_size,
            ),
            (Part::Rate, *max_requests_per_second != other.max_requests_per_second),
            (Part::Api, *api != after.api || secrets(record, false).ne(secrets(after, false))),
            (Part::Lineage, record.lineage() != after.lineage()),
            (Part::Reloads, *reloads != after.reloads),
        ];
        Self(differs.into_iter().filter_map(|(part, differs)| differs.then_some(part)).collect())
    }

    /// Whether this part differs.
    pub fn has(&self, part: Part) -> bool {
        self.0.contains(&part)
    }

    /// Whether connections that were opened for one version must not serve requests of the other.
    pub fn ends_connections(&self) -> bool {
        [Part::Login, Part::Server, Part::SessionLimits].into_iter().any(|part| self.has(part))
    }
}

fn adopted(origin: &Origin) -> Option<&Adopted> {
    match origin {
        Origin::Lineage(_) => None,
        Origin::Adopted(adopted) => Some(adopted),
    }
}

/// The sealed secrets of the login, or those of the API.
fn secrets(record: &Record, login: bool) -> impl Iterator<Item = (&String, &String)> {
    record.sealed.iter().filter(move |(name, _)| (*name != JWT_SECRET) == login)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::Api;
    use crate::tenant::State;

    type Edit = fn(&mut Tenant);

    fn tenant(edits: impl IntoIterator<Item = Edit>) -> Tenant {
        let record = Record::example("aaaaaaaaaaaaaaaa", "acme");
        let mut tenant = Tenant::new(record, Limits::default(), Api::default());
        for edit in edits {
            edit(&mut tenant);
        }
        tenant
    }

    /// Every way in which a tenant changes, with what has to follow. No two touch the same field.
    const CHANGES: &[(Part, Edit)] = &[
        (Part::Names, |t| t.record.slug = "globex".parse().unwrap()),
        (Part::Names, |t| t.record.tier = "large".into()),
        (Part::Names, |t| t.record.base_urls.push("http://acme.test".parse().unwrap())),
        (Part::Login, |t| t.record.state = State::Suspended),
        (Part::Login, |t| t.record.generation = 2),
        (Part::Login, |t| t.record.key = 2),
        (Part::Login, |t| drop(t.record.sealed.insert("password".into(), "1:AAAA".into()))),
        (Part::Server, |t| t.record.server = "other".into()),
        (Part::SessionLimits, |t| t.limits.statement_timeout = Duration::from_secs(1)),
        (Part::SessionLimits, |t| t.limits.transaction_idle_timeout = Duration::from_secs(1)),
        (Part::RequestLimits, |t| t.limits.max_connections = 1),
        (Part::RequestLimits, |t| t.limits.max_waiting = 1),
        (Part::RequestLimits, |t| t.limits.weight = 2),
        (Part::RequestLimits, |t| t.limits.acquire_timeout = Duration::from_secs(1)),
        (Part::RequestLimits, |t| t.limits.request_timeout = Duration::from_secs(1)),
        (Part::RequestLimits, |t| t.limits.idle_timeout = Duration::from_secs(1)),
        (Part::RequestLimits, |t| t.limits.max_body = 1),
        (Part::RequestLimits, |t| t.limits.max_answer = 1),
        (Part::RequestLimits, |t| t.limits.max_rows = Some(1)),
        (Part::RequestLimits, |t| t.limits.max_database_size = Some(1)),
        (Part::Rate, |t| t.limits.max_requests_per_second = Some(1)),
        (Part::Api, |t| t.api.db_max_rows = Some(1)),
        (Part::Api, |t| drop(t.record.sealed.insert(JWT_SECRET.into(), "1:AAAA".into()))),
        (Part::Lineage, |t| {
            let Origin::Lineage(lineage) = &mut t.record.origin else { return };
            (lineage.version, lineage.history) = (2, "b2".into());
        }),
        (Part::Reloads, |t| t.record.reloads = 1),
    ];

    #[test]
    fn an_adopted_database_of_another_name_is_another_login() {
        let adopted = |database: &str| {
            let mut tenant = tenant([]);
            let (database, login_role) = (database.to_owned(), "api".to_owned());
            tenant.record.origin = Origin::Adopted(Adopted { database, login_role });
            tenant
        };
        let difference = Difference::between(&adopted("shop"), &adopted("shop2"));
        assert_eq!(difference, Difference(vec![Part::Login]));
        assert_eq!(Difference::between(&adopted("shop"), &adopted("shop")), Difference(Vec::new()));
    }

    proptest! {
        #[test]
        fn it_has_what_changed_and_nothing_else(which in prop::collection::vec(any::<bool>(), CHANGES.len())) {
            let made: Vec<_> = CHANGES.iter().zip(which).filter(|(_, made)| *made).map(|(change, _)| *change).collect();
            let mut parts: Vec<_> = made.iter().map(|(part, _)| *part).collect();
            parts.dedup();
            let (before, after) = (tenant([]), tenant(made.iter().map(|(_, change)| *change)));
            let difference = Difference::between(&before, &after);
            let closes = parts.iter().any(|p| matches!(p, Part::Login | Part::Server | Part::SessionLimits));
            prop_assert_eq!(difference.ends_connections(), closes);
            prop_assert_eq!(&difference, &Difference::between(&after, &before));
            prop_assert_eq!(difference, Difference(parts));
        }
    }
}
