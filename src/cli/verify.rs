//! `manybox verify`: whether tenants are kept apart, told to operators, programs and auditors.

use std::path::PathBuf;

use super::output::table;
use super::{Context, Done, Failure, Output};
use crate::verify::{self, Request, Scope, Verification};

/// Tenants looked into when none were named.
const SAMPLE: usize = 20;

#[derive(clap::Args)]
pub(super) struct Verify {
    /// Look into this tenant alone; servers are looked at whole in any case
    #[arg(long, value_name = "SLUG", conflicts_with_all = ["sample", "all"])]
    tenant: Option<String>,
    /// Look into so many tenants, spread over the fleet; 20 when nothing is said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "all")]
    sample: Option<u32>,
    /// Look into all tenants
    #[arg(long)]
    all: bool,
    /// Where a router listens; listen.http when not given
    #[arg(long, value_name = "HOST:PORT")]
    router: Option<String>,
    /// Write one page for auditors, that needs nothing else, to this file
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

impl Verify {
    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let scope = match (self.tenant, self.all) {
            (Some(slug), _) => Scope::Tenant(slug),
            (None, true) => Scope::All,
            (None, false) => Scope::Sample(self.sample.map_or(SAMPLE, |n| n as usize)),
        };
        let router = self.router.unwrap_or_else(|| context.settings.listen.http.to_string());
        let fleet = context.fleet().await?;
        let spinner = output.spinner("verifying");
        let request = Request { scope, router: Some(router) };
        let verification = verify::verify(&fleet, &request, |done| {
            spinner.set_message(format!("verifying: {done} tenant(s) looked into"));
        })
        .await;
        spinner.finish_and_clear();
        let verification = verification?;
        if let Some(file) = &self.report {
            std::fs::write(file, verify::page(&verification))
                .map_err(|e| Failure(format!("--report `{}`: {e}", file.display())))?;
        }
        output.answer(&verification, words)?;
        match verification.findings.len() {
            0 => Ok(()),
            n => Err(Failure(format!("{n} finding(s); what each code means: docs/verify.md"))),
        }
    }
}

fn words(verification: &Verification) -> String {
    let mut text = String::new();
    if !verification.findings.is_empty() {
        let rows = verification.findings.iter().map(|f| {
            let place = f.tenant.clone().or(f.database.clone()).unwrap_or_default();
            vec![f.code.to_owned(), f.server.clone(), place, f.seen.clone(), f.remedy.clone()]
        });
        text = table(&["CODE", "SERVER", "WHERE", "SEEN", "REMEDY"], rows);
        text.push_str("\n\n");
    }
    for what in &verification.left_out {
        text.push_str(&format!("not looked at: {}\n", what.replace('\n', " ")));
    }
    let green = if verification.is_green() { "all green" } else { "not green" };
    text.push_str(&format!(
        "{green}: {} check(s) on {} server(s), {} of {} tenant(s) looked into, {:.1} s",
        verification.tried.len(),
        verification.servers.len(),
        verification.looked_into.len(),
        verification.tenants,
        verification.seconds
    ));
    text
}
