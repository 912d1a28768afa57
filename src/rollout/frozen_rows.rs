//! Frozen rows: what two builds of a template that a rollout is to make have differently, and its tenants would share.

use super::plan::Draft;
use crate::fleet::{Fleet, FleetError};

/// Builds each template twice that a draft is to make and whose new files may leave rows, and says what the builds have
/// differently: one sentence each. Given up, it leaves scratch databases behind, which [`Fleet::sweep_scratch`] drops.
///
/// # Errors
/// When the catalog can't be read. What a build fails by is a sentence, too.
pub async fn frozen_rows(fleet: &Fleet, draft: &Draft) -> Result<Vec<String>, FleetError> {
    let mut found = Vec::new();
    if draft.plan.templates.is_empty() {
        return Ok(found);
    }
    let (editions, templates) = (fleet.editions().sound, fleet.catalog.templates().await?);
    for (name, target) in &draft.plan.targets {
        let of = draft.plan.templates.iter().find(|(_, edition)| edition == name);
        let (Some((server, _)), Some(edition)) = (of, editions.get(name)) else { continue };
        let edition = edition.ending_at(target.version);
        let ready = templates.iter().filter(|t| t.state == "ready" && t.lineage.edition == *name);
        let oldest = ready.map(|template| template.lineage.version).min().unwrap_or_default();
        if !edition.may_fill_above(oldest) {
            continue;
        }
        // Boxed: it is too large to be part of what a request's stack holds.
        match Box::pin(fleet.frozen_rows(server, &edition)).await {
            Ok(findings) => found.extend(findings.iter().map(ToString::to_string)),
            // The template's own build says it, and stops the rollout.
            Err(FleetError::Migrate { .. }) => {}
            Err(error) => found.push(format!(
                "whether rows of edition `{name}` are others in each build of its template is not known: {error}"
            )),
        }
    }
    Ok(found)
}
