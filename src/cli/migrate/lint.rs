//! `manybox migrate lint`: what the linter says of each edition's files, without server or catalog.

use std::collections::BTreeMap;

use super::stop::Stop;
use crate::cli::{Done, Failure, Output};
use crate::fleet::{self, Fleet};
use crate::migrate::{Edition, EditionError, Finding};
use crate::settings::Settings;

#[derive(clap::Args)]
pub(super) struct Lint {
    /// Only this edition
    #[arg(long, value_name = "EDITION")]
    edition: Option<String>,
    /// Only files above this version, for those that every tenant has already
    #[arg(long, value_name = "VERSION", default_value_t = 0)]
    after: i64,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
    /// Build each edition twice in scratch databases of the default server too, and compare the rows
    #[arg(long)]
    build: bool,
}

/// What is found in one edition.
#[derive(serde::Serialize)]
struct Report {
    edition: String,
    /// Number of files; none when they can't be told.
    files: Option<usize>,
    /// Why the edition can't be read at all.
    error: Option<String>,
    findings: Vec<Finding>,
}

impl Report {
    fn new(edition: &str, read: Result<&Edition, &EditionError>, after: i64) -> Self {
        let (files, error, mut findings) = match read {
            Ok(edition) => (
                Some(edition.files.iter().filter(|file| !file.is_replaced()).count()),
                None,
                edition.warnings(after),
            ),
            Err(EditionError::Lint { findings, warnings, .. }) => {
                (None, None, findings.iter().chain(warnings).cloned().collect())
            }
            Err(error) => (None, Some(error.to_string()), Vec::new()),
        };
        // What is refused stops the edition, whichever file it is in.
        findings.retain(|finding| !finding.warning || finding.version > after);
        findings.sort_by_key(|finding| (finding.version, finding.line));
        Self { edition: edition.to_owned(), files, error, findings }
    }
}

impl Lint {
    /// Whether it needs neither server nor catalog.
    pub(super) fn is_offline(&self) -> bool {
        !self.build
    }

    /// The same with what only builds show.
    pub(super) async fn run_with_builds(&self, fleet: &Fleet, stop: &Stop, output: Output) -> Done {
        let mut frozen = BTreeMap::new();
        for (name, edition) in fleet.editions().sound {
            if self.edition.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            let spinner = output.spinner(format!("building edition {name} twice"));
            let found =
                stop.or_swept(fleet, fleet.frozen_rows(&fleet.settings.defaults.server, &edition)).await;
            spinner.finish_and_clear();
            frozen.insert(name, found??);
        }
        self.run(&fleet.settings, frozen, output)
    }

    /// Exit code 1 when an edition would be refused, or has a warning under `--strict`. `more` are findings of editions that
    /// the files alone don't show.
    pub(super) fn run(
        &self,
        settings: &Settings,
        mut more: BTreeMap<String, Vec<Finding>>,
        output: Output,
    ) -> Done {
        let mut editions = fleet::editions(settings);
        if let Some(only) = &self.edition {
            if !editions.knows(only) {
                return Err(Failure(format!(
                    "there is no edition `{only}` in the settings; add [editions.{only}]"
                )));
            }
            editions.sound.retain(|name, _| name == only);
            editions.broken.retain(|name, _| name == only);
        }
        let sound = editions.sound.iter().map(|(name, edition)| Report::new(name, Ok(edition), self.after));
        let broken = editions.broken.iter().map(|(name, error)| Report::new(name, Err(error), self.after));
        let mut reports: Vec<_> = sound.chain(broken).collect();
        reports.sort_by(|a, b| a.edition.cmp(&b.edition));
        for report in &mut reports {
            report.findings.extend(more.remove(&report.edition).unwrap_or_default());
        }

        let findings = || reports.iter().flat_map(|report| &report.findings);
        let warnings = findings().filter(|finding| finding.warning).count();
        let errors = findings().count() - warnings + reports.iter().filter(|r| r.error.is_some()).count();
        output.answer(&reports, |reports| {
            let mut lines: Vec<_> = reports.iter().flat_map(words).collect();
            lines.push(format!("{} edition(s): {errors} error(s), {warnings} warning(s)", reports.len()));
            lines.join("\n")
        })?;
        if errors > 0 || (self.strict && warnings > 0) {
            return Err(Failure("the files are not in order".into()));
        }
        Ok(())
    }
}

fn words(report: &Report) -> Vec<String> {
    let edition = &report.edition;
    let findings = report
        .findings
        .iter()
        .map(|finding| format!("{} {edition}/{finding}", if finding.warning { "warning" } else { "error" }));
    report.error.iter().map(|error| format!("error {error}")).chain(findings).collect()
}
