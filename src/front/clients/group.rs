//! Groups: connections that share a limit, and the one of them that was idle for longest.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::tenant::TenantId;

/// How many of the oldest are found at once: to look through all connections for each newcomer would cost more than to
/// serve it.
const FOUND_AT_ONCE: usize = 64;
/// How soon a group in which nobody was idle is looked through again.
const FRUITLESS: Duration = Duration::from_millis(10);

/// What connections have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    All,
    Address(IpAddr),
    Tenant(TenantId),
    /// Their read buffers have grown.
    Grown,
}

impl Kind {
    /// The address as it is counted. Whoever has one IPv6 address has the 64 bits behind it.
    pub(super) fn of_address(address: IpAddr) -> Self {
        Self::Address(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        })
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Address(_) => "address",
            Self::Tenant(_) => "tenant",
            Self::Grown => "buffers",
        }
    }
}

/// A connection, as far as its place needs it.
pub(super) trait Idle {
    /// The key that it was made with.
    fn key(&self) -> usize;

    /// Since when it is idle, in nanoseconds; `None` while a request of it is under way.
    fn idle_since(&self) -> Option<u64>;
}

/// All connections, and the groups that they are in.
pub(super) struct Places<C> {
    all: Slab<Member<C>>,
    groups: HashMap<Kind, Group>,
}

impl<C> Default for Places<C> {
    fn default() -> Self {
        Self { all: Slab::new(), groups: HashMap::new() }
    }
}

struct Member<C> {
    client: Arc<C>,
    kinds: Vec<Kind>,
}

#[derive(Default)]
struct Group {
    members: HashSet<usize>,
    /// Those idle for longest when they were looked for, the oldest last, and since when.
    oldest: Vec<(u64, usize)>,
    /// Not looked through before this.
    rest_until: u64,
}

impl<C: Idle> Places<C> {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn count(&self, kind: &Kind) -> usize {
        self.groups.get(kind).map_or(0, |group| group.members.len())
    }

    pub(super) fn insert(&mut self, kinds: Vec<Kind>, make: impl FnOnce(usize) -> C) -> Arc<C> {
        let entry = self.all.vacant_entry();
        let key = entry.key();
        let client = Arc::new(make(key));
        entry.insert(Member { client: Arc::clone(&client), kinds: Vec::new() });
        for kind in kinds {
            self.add_to(&client, kind);
        }
        client
    }

    pub(super) fn add_to(&mut self, client: &C, kind: Kind) {
        let Some(member) = self.member(client) else { return };
        member.kinds.push(kind.clone());
        self.groups.entry(kind).or_default().members.insert(client.key());
    }

    pub(super) fn remove_from(&mut self, client: &C, kind: &Kind) {
        let Some(member) = self.member(client) else { return };
        member.kinds.retain(|own| own != kind);
        self.take_out(client.key(), kind);
    }

    /// Removes a connection, unless it has lost its place already.
    pub(super) fn remove(&mut self, client: &C) {
        if self.member(client).is_some() {
            let member = self.all.remove(client.key());
            member.kinds.iter().for_each(|kind| self.take_out(client.key(), kind));
        }
    }

    /// It may have lost its place a moment ago, and another may have its key.
    fn member(&mut self, client: &C) -> Option<&mut Member<C>> {
        self.all.get_mut(client.key()).filter(|member| std::ptr::eq(&*member.client, client))
    }

    /// Removes the member of a group that was idle for longest; `None` when nobody is. `now` in nanoseconds.
    pub(super) fn take_oldest(&mut self, kind: &Kind, now: u64) -> Option<Arc<C>> {
        let group = self.groups.get_mut(kind)?;
        let client = match group.next(&self.all) {
            Some(client) => client,
            None if now < group.rest_until => return None,
            None => {
                group.look(&self.all);
                let found = group.next(&self.all);
                if found.is_none() {
                    group.rest_until = now + FRUITLESS.as_nanos() as u64;
                }
                found?
            }
        };
        self.remove(&client);
        Some(client)
    }

    fn take_out(&mut self, key: usize, kind: &Kind) {
        if let Some(group) = self.groups.get_mut(kind) {
            group.members.remove(&key);
            if group.members.is_empty() {
                self.groups.remove(kind);
            }
        }
    }
}

impl Group {
    /// The next of those that were found. Whoever has been busy since is younger than the others by now.
    fn next<C: Idle>(&mut self, all: &Slab<Member<C>>) -> Option<Arc<C>> {
        while let Some((since, key)) = self.oldest.pop() {
            let member = all.get(key).filter(|member| member.client.idle_since() == Some(since));
            if let Some(member) = member {
                return Some(Arc::clone(&member.client));
            }
        }
        None
    }

    fn look<C: Idle>(&mut self, all: &Slab<Member<C>>) {
        let idle = |key: &usize| Some((all.get(*key)?.client.idle_since()?, *key));
        self.oldest.extend(self.members.iter().filter_map(idle));
        if self.oldest.len() > FOUND_AT_ONCE {
            self.oldest.select_nth_unstable(FOUND_AT_ONCE);
            self.oldest.truncate(FOUND_AT_ONCE);
        }
        self.oldest.sort_unstable_by(|one, other| other.cmp(one));
        self.oldest.shrink_to(FOUND_AT_ONCE);
    }
}
