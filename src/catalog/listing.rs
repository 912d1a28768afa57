//! Listing: tenants a page at a time, found by what an operator remembers of them. As quick with 100,000 as with ten.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::types::{Json, ToSql};

use super::tenants::{SELECT, tenant_row};
use super::{Catalog, CatalogError, TenantRow};
use crate::policy::Invalid;
use crate::tenant::State;

/// Most tenants of a page.
pub const MAX_PAGE: usize = 500;
/// Longest text that is searched for, bytes: no slug and no host is longer.
const MAX_SEARCH: usize = 300;

/// Which tenants to list, in which order, and from where on. What is `None` or empty says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the slug or in a base URL; upper and lower case are the same.
    pub search: Option<String>,
    /// In this state. Purged ones are listed only when they are asked for.
    pub state: Option<State>,
    /// Of one of these editions.
    pub editions: Option<BTreeSet<String>>,
    /// Of this tier.
    pub tier: Option<String>,
    /// On this server.
    pub server: Option<String>,
    /// With these labels.
    pub labels: BTreeMap<String, String>,
    /// With this trouble.
    pub trouble: Option<Trouble>,
    /// In which order.
    pub order: Order,
    /// Behind this one: [`Page::next`] of the page before.
    pub after: Option<Cursor>,
}

/// What an operator may have to do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Its last migration failed.
    Failed,
    /// Rollouts leave it out, because a migration failed.
    Quarantined,
    /// A change of its state has not reached its server, or it is still being made or dropped.
    Unsettled,
    /// It has secrets that nobody can open any more.
    LostSecrets,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Failed, Self::Quarantined, Self::Unsettled, Self::LostSecrets];

    /// The word in queries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
            Self::Unsettled => "unsettled",
            Self::LostSecrets => "lost-secrets",
        }
    }
}

impl FromStr for Trouble {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let all = Self::ALL.map(Self::as_str);
        let found = Self::ALL.into_iter().find(|trouble| trouble.as_str() == text);
        found.ok_or_else(|| Invalid(format!("`{text}` is no trouble: expected one of {}", all.join(", "))))
    }
}

/// The order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// By slug.
    #[default]
    Slug,
    /// Those that were created last come first.
    Newest,
    /// Those with the lowest version come first.
    Version,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Slug, Self::Newest, Self::Version];

    /// The word in queries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slug => "slug",
            Self::Newest => "newest",
            Self::Version => "version",
        }
    }
}

impl FromStr for Order {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let all = Self::ALL.map(Self::as_str);
        let found = Self::ALL.into_iter().find(|order| order.as_str() == text);
        found.ok_or_else(|| Invalid(format!("`{text}` is not an order: expected one of {}", all.join(", "))))
    }
}

/// A place in a list: what its order goes by, and the id. A text for whoever hands it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    key: String,
    id: String,
}

impl Cursor {
    fn behind(row: &TenantRow, order: Order) -> Self {
        let key = match order {
            Order::Slug => row.record.slug.to_string(),
            Order::Newest => row.created_at.format(&Rfc3339).unwrap_or_default(),
            Order::Version => row.record.lineage().map_or(0, |lineage| lineage.version).to_string(),
        };
        Self { key, id: row.record.id.to_string() }
    }

    /// Whether it is a place in a list of this order.
    fn fits(&self, order: Order) -> bool {
        match order {
            Order::Slug => true,
            Order::Newest => OffsetDateTime::parse(&self.key, &Rfc3339).is_ok(),
            Order::Version => self.key.parse::<i64>().is_ok(),
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.key, self.id)
    }
}

impl FromStr for Cursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parts = text.split_once('~').filter(|_| text.len() <= MAX_SEARCH && !text.contains('\0'));
        let (key, id) = parts.ok_or_else(|| Invalid("that is not a place in a list".into()))?;
        Ok(Self { key: key.to_owned(), id: id.to_owned() })
    }
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// Its tenants.
    pub tenants: Vec<TenantRow>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<Cursor>,
}

impl Catalog {
    /// A page of tenants, at most `most` and never more than [`MAX_PAGE`]. A cursor of another order begins anew.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn tenants_page(&self, listing: &Listing, most: usize) -> Result<Page, CatalogError> {
        let most = most.clamp(1, MAX_PAGE);
        let search = listing.search.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let search = search.map(|text| text.chars().take(MAX_SEARCH).collect::<String>().to_lowercase());
        let (state, trouble) = (listing.state.map(State::as_str), listing.trouble.map(Trouble::as_str));
        let editions = listing.editions.as_ref().map(|editions| editions.iter().collect::<Vec<_>>());
        let limit = i64::try_from(most + 1).unwrap_or(i64::MAX);
        let after = listing.after.as_ref().filter(|cursor| cursor.fits(listing.order));
        let (first, order) = match listing.order {
            Order::Slug => ("", "(t.slug, t.id) > ($9::text, $10::text) ORDER BY t.slug, t.id"),
            Order::Newest => (
                "infinity",
                "(t.created_at, t.id) < ($9::text::timestamptz, $10::text) ORDER BY t.created_at DESC, t.id DESC",
            ),
            Order::Version => {
                ("-1", "(t.version, t.id) > ($9::text::int8, $10::text) ORDER BY t.version, t.id")
            }
        };
        let (key, id) = after.map_or((first, ""), |cursor| (cursor.key.as_str(), cursor.id.as_str()));
        let sql = format!("{SELECT} {WHERE} AND {order} LIMIT $8");
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &state,
            &editions,
            &listing.tier,
            &listing.server,
            &search,
            &Json(&listing.labels),
            &trouble,
            &limit,
            &key,
            &id,
        ];
        let rows = self.sessions.query(&sql, &parameters).await?;
        let mut tenants = rows.iter().map(tenant_row).collect::<Result<Vec<_>, _>>()?;
        let is_last = tenants.len() <= most;
        tenants.truncate(most);
        let next = tenants.last().filter(|_| !is_last).map(|row| Cursor::behind(row, listing.order));
        Ok(Page { tenants, next })
    }
}

/// A purged tenant's slug may be another's by now. The base URLs that match are looked for once, not for each tenant.
const WHERE: &str = "
    WHERE CASE WHEN $1::text IS NULL THEN t.state <> 'purged' ELSE t.state = $1 END
      AND ($2::text[] IS NULL OR t.edition = ANY ($2)) AND ($3::text IS NULL OR t.tier = $3)
      AND ($4::text IS NULL OR t.server = $4)
      AND ($5::text IS NULL OR position($5 IN t.slug) > 0
           OR t.id IN (SELECT b.tenant FROM catalog.base_url b WHERE position($5 IN b.url) > 0))
      AND t.labels @> $6::jsonb
      AND CASE $7::text WHEN 'failed' THEN t.failure IS NOT NULL
                        WHEN 'quarantined' THEN t.quarantined IS NOT NULL
                        WHEN 'unsettled' THEN t.unsettled OR t.state IN ('creating', 'purging')
                        WHEN 'lost-secrets' THEN t.lost_secrets <> '{}'
                        ELSE true END";
