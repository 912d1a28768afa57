//! `manybox doctor`: what is not as it should be, and what to do about it.

use super::{Context, Done, Failure, Output};
use crate::doctor;

pub(super) async fn run(context: &Context, output: Output) -> Done {
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
        n => Err(Failure(format!("{n} finding(s); what each code means: docs/operations.md, \"Doctor\""))),
    }
}
