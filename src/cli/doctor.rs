//! `manybox doctor`: what is not as it should be, and what to do about it; and a lost catalog made anew.

use super::tenant::recover_all;
use super::{Context, Done, Failure, Output};
use crate::doctor;

#[derive(clap::Args)]
pub(super) struct Doctor {
    /// Make a lost catalog anew, and tenants of the databases on the servers by the marks that they carry
    #[arg(long)]
    rebuild_catalog: bool,
}

impl Doctor {
    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        if self.rebuild_catalog {
            let rebuilt = context.rebuild(output).await?;
            let recovered = recover_all(&rebuilt.fleet, output).await;
            // Now that it has tenants, routers may read it.
            let opened = context.init(output).await?;
            recovered?;
            return opened.whole();
        }
        let spinner = output.spinner("looking");
        let findings = doctor::examine(&context.settings, &context.servers, |what| {
            spinner.set_message(format!("looking at {what}"));
        })
        .await;
        spinner.finish_and_clear();
        output.list(
            &findings,
            &["CODE", "WHERE", "WHAT", "NEXT"],
            |f| vec![f.code.to_owned(), f.place.clone(), f.what.clone(), f.next.clone()],
            "nothing was found",
        )?;
        match findings.len() {
            0 => Ok(()),
            n => {
                Err(Failure(format!("{n} finding(s); what each code means: docs/operations.md, \"Doctor\"")))
            }
        }
    }
}
