//! Hosts: which of a server's hosts a session may be on, as libpq's `target_session_attrs` has it, and what is known of them.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::socket::{Host, Tenure};

/// How long a host that was silent is asked after all others.
const DOUBT: Duration = Duration::from_secs(10);

/// What a session's host must be: libpq's `target_session_attrs`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Target {
    /// Whatever takes the login.
    #[default]
    Any,
    /// No standby, and transactions write unless they say otherwise.
    ReadWrite,
    /// The converse of that.
    ReadOnly,
    /// No standby.
    Primary,
    /// A standby.
    Standby,
    /// A standby if there is one, else whatever takes the login.
    PreferStandby,
}

/// What a host said of itself when a session began. PostgreSQL reports it from version 14 on; no role can set it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HostState {
    /// `in_hot_standby`, which is `pg_is_in_recovery()`.
    pub(super) is_standby: bool,
    /// The server's own `default_transaction_read_only`; not that of a role or a database, which a tenant's code can set.
    pub(super) is_read_only: bool,
}

impl Target {
    const ALL: [(&'static str, Self); 6] = [
        ("any", Self::Any),
        ("read-write", Self::ReadWrite),
        ("read-only", Self::ReadOnly),
        ("primary", Self::Primary),
        ("standby", Self::Standby),
        ("prefer-standby", Self::PreferStandby),
    ];

    /// By its name in a URL.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, target)| *target).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("target_session_attrs={name}: expected one of {}", known.join(", "))
        })
    }

    pub(super) fn suits(self, state: HostState) -> bool {
        match self {
            Self::Any => true,
            Self::ReadWrite => !state.is_standby && !state.is_read_only,
            Self::ReadOnly => state.is_standby || state.is_read_only,
            Self::Primary => !state.is_standby,
            Self::Standby | Self::PreferStandby => state.is_standby,
        }
    }

    /// Whether `default_transaction_read_only` counts.
    pub(super) fn looks_at_read_only(self) -> bool {
        matches!(self, Self::ReadWrite | Self::ReadOnly)
    }

    /// Whether only one host at a time can be right: the primary.
    pub(super) fn is_of_one(self) -> bool {
        matches!(self, Self::ReadWrite | Self::Primary)
    }

    /// What an error says was looked for.
    pub(super) fn wanted(self) -> &'static str {
        match self {
            Self::Any | Self::PreferStandby => "takes the login",
            Self::ReadWrite => "takes writes (target_session_attrs=read-write)",
            Self::ReadOnly => "is read-only (target_session_attrs=read-only)",
            Self::Primary => "is a primary (target_session_attrs=primary)",
            Self::Standby => "is a standby (target_session_attrs=standby)",
        }
    }
}

/// What a host was, for errors and operators.
impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.is_standby, self.is_read_only) {
            (true, _) => "it is a standby",
            (false, true) => "it is a primary whose default_transaction_read_only is on",
            (false, false) => "it is a primary",
        })
    }
}

/// A server's hosts. Shared by all that connect to the server from this process, so that what one finds all know.
#[derive(Debug)]
pub(super) struct Hosts {
    server: String,
    pub(super) all: Vec<Host>,
    pub(super) target: Target,
    /// Whether they are asked in any order: `load_balance_hosts=random`.
    at_random: bool,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// The primary, when it is that which is looked for and one was found.
    leader: Option<usize>,
    hosts: Vec<KnownHost>,
}

#[derive(Debug, Default)]
struct KnownHost {
    silent: Option<Instant>,
    tenure: Tenure,
}

impl Hosts {
    pub(super) fn new(server: &str, all: Vec<Host>, target: Target, at_random: bool) -> Self {
        let known = Known { leader: None, hosts: all.iter().map(|_| KnownHost::default()).collect() };
        Self { server: server.to_owned(), all, target, at_random, known: Mutex::new(known) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the primary must be looked for among several.
    pub(super) fn has_leader(&self) -> bool {
        self.all.len() > 1 && self.target.is_of_one()
    }

    /// The primary as it was last found.
    pub(super) fn leader(&self) -> Option<usize> {
        self.known().leader
    }

    /// In which order they are asked: the primary that is known, then as the URL has them; last those that were silent.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.all.len()).collect();
        if self.at_random && order.len() > 1 {
            let start = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.subsec_nanos() as usize);
            let middle = start % order.len();
            order.rotate_left(middle);
        }
        let known = self.known();
        order.sort_by_key(|at| {
            let silent = known.hosts.get(*at).and_then(|host| host.silent);
            (silent.is_some_and(|since| since.elapsed() < DOUBT), known.leader != Some(*at))
        });
        order
    }

    /// What ends when sessions are to leave this host.
    pub(super) fn tenure(&self, at: usize) -> Tenure {
        self.known().hosts.get(at).map(|host| host.tenure.clone()).unwrap_or_default()
    }

    /// A session began on it, and it is what is looked for. Sessions on a former primary end now: that one is a standby, or
    /// dead without saying so.
    pub(super) fn found(&self, at: usize) {
        let mut known = self.known();
        Self::heard(&mut known, at);
        if !self.has_leader() {
            return;
        }
        let former = known.leader.replace(at);
        if former != Some(at)
            && let Some(host) = self.all.get(at)
        {
            let server = self.server.as_str();
            match former.and_then(|former| known.hosts.get(former)) {
                Some(left) => {
                    left.tenure.end();
                    tracing::info!(server, host = %host, "another host is the primary now; sessions on the former one end");
                }
                None => tracing::info!(server, host = %host, "primary found"),
            }
        }
    }

    /// A session began on it, and it is not what is looked for.
    pub(super) fn unsuitable(&self, at: usize) {
        let mut known = self.known();
        Self::heard(&mut known, at);
        if known.leader == Some(at) {
            known.leader = None;
            if let Some(host) = known.hosts.get(at) {
                host.tenure.end();
            }
        }
    }

    /// It did not answer in its time, or takes no writes where any host would do: it is asked last for a while.
    pub(super) fn doubt(&self, at: usize) {
        if let Some(host) = self.known().hosts.get_mut(at) {
            host.silent = Some(Instant::now());
        }
    }

    fn heard(known: &mut Known, at: usize) {
        if let Some(host) = known.hosts.get_mut(at) {
            host.silent = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(is_standby: bool, is_read_only: bool) -> HostState {
        HostState { is_standby, is_read_only }
    }

    #[test]
    fn targets_are_libpqs() {
        // In the order of `Target::ALL`.
        let table = [
            (state(false, false), [true, true, false, true, false, false]),
            (state(false, true), [true, false, true, true, false, false]),
            (state(true, false), [true, false, true, false, true, true]),
            (state(true, true), [true, false, true, false, true, true]),
        ];
        for (state, expected) in table {
            let suits = Target::ALL.map(|(_, target)| target.suits(state));
            assert_eq!(suits, expected, "{state:?}");
        }
        for (name, target) in Target::ALL {
            assert_eq!(Target::named(name), Ok(target));
        }
        assert!(Target::named("master").unwrap_err().contains("prefer-standby"));
    }

    #[test]
    fn the_primary_is_asked_first_and_the_silent_last() {
        let all = (0..3).map(|n| Host::tcp(&format!("db{n}"), 5432)).collect();
        let hosts = Hosts::new("main", all, Target::Primary, false);
        assert_eq!(hosts.order(), [0, 1, 2]);
        hosts.unsuitable(0);
        hosts.found(2);
        assert_eq!(hosts.order(), [2, 0, 1]);
        hosts.doubt(2);
        assert_eq!(hosts.order(), [0, 1, 2], "it was silent");
        hosts.found(1);
        assert_eq!(hosts.order(), [1, 0, 2]);
        hosts.unsuitable(1);
        assert_eq!((hosts.leader(), hosts.order()), (None, vec![0, 1, 2]));
        hosts.found(2);
        assert_eq!(hosts.order(), [2, 0, 1], "it answers again");
    }

    #[tokio::test]
    async fn only_a_former_primarys_sessions_end() {
        let all = (0..2).map(|n| Host::tcp(&format!("db{n}"), 5432)).collect();
        let hosts = Hosts::new("main", all, Target::Primary, false);
        hosts.found(0);
        let (mut first, mut second) = (hosts.tenure(0).ending(), hosts.tenure(1).ending());
        hosts.found(0);
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        hosts.found(1);
        assert!(futures_util::poll!(first.as_mut()).is_ready());
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        let alone = Hosts::new("main", vec![Host::tcp("db", 5432)], Target::Primary, false);
        let mut only = alone.tenure(0).ending();
        alone.found(0);
        alone.unsuitable(0);
        assert!(futures_util::poll!(only.as_mut()).is_pending(), "behind one name may be many");
    }
}
