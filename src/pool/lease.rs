//! Lease: this router's part of a server's budget, and who has the others.

use std::fmt;

/// What several routers share, as the catalog told it last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    /// Most connections that this router may hold.
    pub share: u32,
    /// Most that all routers together may hold; a guess before anybody has asked the server.
    pub total: u32,
    /// Every router that has a part, this one too.
    pub holders: Vec<Holder>,
}

/// Who has a part of a server's budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The router's name.
    pub router: String,
    /// Where its session in the catalog comes from.
    pub address: String,
    /// The most connections that it holds.
    pub share: u32,
    /// How many it could use.
    pub wanted: u32,
    /// Whether its session in the catalog is gone: it comes back, or its part is given to others within seconds.
    pub is_lost: bool,
    /// Whether it is this one.
    pub is_own: bool,
}

/// What a router says of a server when it asks for its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// The server's name in the settings.
    pub server: String,
    /// Most connections all routers together may hold; none before the server was asked.
    pub total: Option<u32>,
    /// Most connections that this router may hold now, or holds above that.
    pub used: u32,
    /// How many it could use: those in use or used lately, and those that requests wait for.
    pub wanted: u32,
    /// Connections that it opens at a time: what it needs to serve at all.
    pub minimum: u32,
}

impl Lease {
    /// Who else has a part.
    pub fn others(&self) -> impl Iterator<Item = &Holder> {
        self.holders.iter().filter(|holder| !holder.is_own && holder.share > 0)
    }

    /// The same in a sentence without addresses, for whoever was refused a connection.
    pub fn told(&self) -> String {
        self.sentence(false)
    }

    fn sentence(&self, addresses: bool) -> String {
        let mut text = format!(
            "this router may hold {} of the {} connections that the server gives to requests",
            self.share, self.total
        );
        for (place, holder) in self.others().enumerate() {
            let before = if place == 0 { "; of the others, " } else { ", " };
            text.push_str(&format!("{before}router {} holds up to {}", holder.router, holder.share));
            if addresses {
                text.push_str(&format!(" (at {})", holder.address));
            }
            if holder.is_lost {
                text.push_str(" and was lost a moment ago");
            }
        }
        text
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_named_and_addresses_only_to_operators() {
        let holder = |router: &str, share, is_lost, is_own| Holder {
            router: router.into(),
            address: "10.0.0.7".into(),
            share,
            wanted: share,
            is_lost,
            is_own,
        };
        let holders = vec![holder("7-a", 8, true, false), holder("9-b", 4, false, true)];
        let lease = Lease { share: 4, total: 12, holders };
        assert_eq!(
            lease.told(),
            "this router may hold 4 of the 12 connections that the server gives to requests; of the others, router 7-a holds \
             up to 8 and was lost a moment ago"
        );
        assert!(lease.to_string().contains("(at 10.0.0.7)"));
    }
}
