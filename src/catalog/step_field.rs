//! The field of steps: what became of each tenant of a rollout, a letter each, for those who watch thousands of them.

use super::{Catalog, CatalogError};

/// A wave's steps in their order, a letter for each: `p`ending, `r`unning, `d`one, drifted (`w`), `f`ailed, `s`kipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaveField {
    /// The wave, from 0.
    pub wave: i32,
    /// Its steps.
    pub letters: String,
}

impl Catalog {
    /// Every wave's steps, in the order of the waves.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn step_field(&self, rollout: i64) -> Result<Vec<WaveField>, CatalogError> {
        let sql = "SELECT wave, string_agg(CASE state WHEN 'drifted' THEN 'w' ELSE left(state, 1) END, '' ORDER BY place)
                   FROM catalog.rollout_step WHERE rollout = $1 GROUP BY wave ORDER BY wave";
        let rows = self.sessions.query(sql, &[&rollout]).await?;
        rows.iter().map(|row| Ok(WaveField { wave: row.try_get(0)?, letters: row.try_get(1)? })).collect()
    }
}
