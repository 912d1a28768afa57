//! Turns: who opens a connection next, and whose idle one gives way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::{Account, Class};
use super::{Key, Ledger, Open, Orders, Session};
use crate::pool::error::Error;
use crate::tenant::Tenant;

/// How long an idle connection of a tenant within its fair share is safe from others within theirs. Without it, a
/// flood takes a quiet tenant's connection at each of its pauses.
pub(super) const PROTECTED: Duration = Duration::from_secs(1);

impl<S: Session> Ledger<S> {
    /// Puts the tenant in line when it wants a connection opened.
    pub(super) fn enlist(&mut self, key: Key, now: Instant) {
        let class = self.class(key);
        let Some(account) = self.accounts.get_mut(key) else { return };
        if !account.wants(self.max_per_tenant, now) {
            return;
        }
        if account.usable == 0
            && let Some(reason) = self.breaker.refuses(now)
        {
            account.refuse_all(&down(&account.tenant, reason));
            return;
        }
        match account.queued {
            Some(Class::Surplus) if class == Class::Starving => {
                self.rings[Class::Surplus as usize].retain(|other| *other != key);
            }
            Some(_) => return,
            None => {}
        }
        account.queued = Some(class);
        self.rings[class as usize].push_back(key);
    }

    /// Takes the next tenant that still wants a connection out of the line.
    fn next(&mut self, now: Instant) -> Option<(Key, Class)> {
        loop {
            let key = self.rings.iter_mut().find_map(VecDeque::pop_front)?;
            let class = self.class(key);
            let Some(account) = self.accounts.get_mut(key) else { continue };
            let was = account.queued.take();
            if !account.wants(self.max_per_tenant, now) {
                continue;
            }
            if was == Some(Class::Starving) && class == Class::Surplus {
                account.queued = Some(class);
                self.rings[class as usize].push_back(key);
                continue;
            }
            return Some((key, class));
        }
    }

    /// Orders as many connections, and as many evictions for them, as may be under way at once.
    pub(super) fn pump(&mut self, now: Instant, orders: &mut Orders<S>) {
        let most = self.breaker.allows(self.max_connecting, now);
        let mut aside = Vec::new();
        while !self.closed && self.opening + self.evicting < most {
            let Some((key, class)) = self.next(now) else { break };
            if self.taken < self.budget {
                self.reserve(key, orders);
                self.take_turn(key, now);
                continue;
            }
            // Back to its place afterwards: the slot is there only when the server has closed the victim's side.
            aside.push((key, class));
            let Some(session) =
                self.victim(Some(key), class, now).and_then(|victim| self.take_oldest(victim))
            else {
                // Whoever comes later in line may evict no more than this one.
                break;
            };
            self.evict(session, orders);
        }
        for (key, class) in aside.into_iter().rev() {
            if let Some(account) = self.accounts.get_mut(key) {
                account.queued = Some(class);
                self.rings[class as usize].push_front(key);
            }
        }
    }

    /// Takes a slot for a connection of this tenant and orders it opened.
    fn reserve(&mut self, key: Key, orders: &mut Orders<S>) {
        let Some(account) = self.accounts.get_mut(key) else { return };
        account.opening += 1;
        account.taken += 1;
        self.opening += 1;
        self.taken += 1;
        self.breaker.attempt();
        orders.open.push(Open {
            key,
            tenant: Arc::clone(&account.tenant),
            epoch: account.epoch,
            login: account.login,
            refused_logins: account.refused_logins,
        });
    }

    /// After its turn a tenant that wants more goes to the end of the line, or stays for as many turns as its tier's
    /// weight says.
    fn take_turn(&mut self, key: Key, now: Instant) {
        let class = self.class(key);
        let Some(account) = self.accounts.get_mut(key) else { return };
        account.turns += 1;
        if account.turns >= account.tenant.limits.weight.max(1) {
            account.turns = 0;
            self.enlist(key, now);
        } else if account.wants(self.max_per_tenant, now) {
            account.queued = Some(class);
            self.rings[class as usize].push_front(key);
        } else {
            account.turns = 0;
        }
    }

    /// Whose idle connection gives way: the one unused for longest, of tenants above their fair share if there is
    /// one. For tenants that don't starve, others' idle connections are protected a while.
    pub(super) fn victim(&self, wanting: Option<Key>, class: Class, now: Instant) -> Option<Key> {
        let candidates =
            self.accounts.iter().filter(|(key, _)| Some(*key) != wanting).filter_map(|(key, account)| {
                let oldest = account.idle.first()?;
                let above = self.is_above_share(key);
                let open = class == Class::Starving || above || now.duration_since(oldest.since) >= PROTECTED;
                open.then_some(((!above, oldest.since), key))
            });
        candidates.min().map(|(_, key)| key)
    }

    fn take_oldest(&mut self, key: Key) -> Option<S> {
        let account = self.accounts.get_mut(key)?;
        let mut closed = Vec::new();
        account.close_oldest(&mut closed);
        closed.pop()
    }

    pub(super) fn evict(&mut self, session: S, orders: &mut Orders<S>) {
        self.evicting += 1;
        self.counts.evictions += 1;
        orders.evict.push(session);
    }

    /// Whether more connections are held, not counting those on their way out, than the budget has: it was cut.
    pub(super) fn is_overdrawn(&self) -> bool {
        let held = |account: &Account<S>| account.usable + account.opening;
        self.taken > self.budget
            && self.accounts.iter().map(|(_, account)| held(account)).sum::<u32>() > self.budget
    }

    fn class(&self, key: Key) -> Class {
        let fair = (self.budget as usize / self.accounts.len().max(1)).max(1);
        let has = self.accounts.get(key).map_or(0, |account| account.usable + account.opening);
        if (has as usize) < fair { Class::Starving } else { Class::Surplus }
    }

    pub(super) fn is_above_share(&self, key: Key) -> bool {
        let has = self.accounts.get(key).map_or(0, |account| account.usable + account.opening);
        has as usize * self.accounts.len() > self.budget as usize
    }
}

/// What a request is told that needs a connection while none can be had.
pub(super) fn down(tenant: &Tenant, reason: &str) -> Error {
    Error::Server { server: tenant.server.clone(), reason: reason.to_owned() }
}
