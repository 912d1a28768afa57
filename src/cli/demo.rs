//! `manybox demo`: apply, fill, serve; manybox to look at, on real databases.

use super::output::line;
use super::progress::Bar;
use super::{Context, Done, Failure, Output, apply, control, serve, tenant};
use crate::catalog::{NewToken, OperatorRole, Scopes};
use crate::control::access::ApiToken;
use crate::fleet::Fleet;
use crate::pg::{self, Connection};

/// Who the console's token is for.
const OPERATOR: &str = "demo";
/// How long the printed tokens hold.
const TOKEN: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

pub(super) async fn demo(context: &Context) -> Done {
    let output = Output { json: false };
    let initialised = context.init(output).await?;
    initialised.whole()?;
    let fleet = initialised.fleet;
    let plan = fleet.plan().await?;
    apply::execute(&fleet, &plan.changes, 4, output).await?.whole()?;
    let bar = Bar::new(output, context.settings.tenants.len(), "filling with data");
    for slug in context.settings.tenants.keys() {
        fill(&fleet, slug).await?;
        bar.inc();
    }
    bar.finish();
    let mut greeting = greeting(context, &fleet).await?;
    let token = operator(&fleet).await?;
    // The demo is worth showing without it, too: its port may be another demo's.
    let console = match control::beside(fleet, &context.settings).await {
        Ok((address, control, console)) => {
            greeting.push_str(&format!(
                "\nThe console, and its API below /v1: http://{address}/ with the token {token}"
            ));
            Some((control, console))
        }
        Err(Failure(why)) => {
            output.note(&format!("no console: {why}"));
            None
        }
    };
    // There is no balancer that would have to notice, and somebody waits at the terminal.
    let mut settings = context.settings.clone();
    settings.listen.stop_delay = std::time::Duration::ZERO;
    let served = serve::with(&settings, context.embedded.as_ref(), None, |_| line(&greeting)).await;
    if let Some((control, console)) = console {
        console.abort();
        control.stop().await;
    }
    served
}

/// An owner for the console, with a token that holds as long as the others.
async fn operator(fleet: &Fleet) -> Result<String, Failure> {
    let (token, scopes) = (ApiToken::random()?, Scopes::default());
    let new = NewToken {
        id: token.id().to_owned(),
        hash: token.hash(),
        role: OperatorRole::Owner,
        scopes: scopes.clone(),
        note: Some("demo".into()),
        expires_at: Some(time::OffsetDateTime::now_utc() + TOKEN),
    };
    fleet.catalog.operator_put(OPERATOR, OperatorRole::Owner, &scopes).await?;
    fleet.catalog.token_add(OPERATOR, &new).await?;
    Ok(token.reveal().expose().to_owned())
}

/// Runs the edition's demo file in the tenant's database, by the tenant's own login and as role `service`: what
/// row-level security would refuse to a request, it refuses to the demo.
async fn fill(fleet: &Fleet, slug: &str) -> Done {
    let row = fleet.tenant(slug).await?;
    let Some(edition) = row.record.lineage().map(|lineage| &lineage.edition) else { return Ok(()) };
    let Some(file) = fleet.settings.editions.get(edition).and_then(|e| e.demo.as_ref()) else {
        return Ok(());
    };
    if !row.record.is_served() {
        return Ok(());
    }
    let sql = std::fs::read_to_string(file)
        .map_err(|e| Failure(format!("editions.{edition}.demo: `{}`: {e}", file.display())))?;
    let server = fleet.servers.get(&row.record.server)?;
    let mut client = connect(fleet, &row.record, &server.endpoint).await?;
    let transaction = client.transaction().await?;
    transaction
        .execute(
            "SELECT set_config('role', 'service', true), set_config('search_path', 'public, extensions', true),
                    set_config('manybox.slug', $1, true)",
            &[&slug],
        )
        .await?;
    let told = |e: tokio_postgres::Error| {
        Failure(format!("`{}` in tenant `{slug}`: {}", file.display(), pg::Error::from(e)))
    };
    transaction.batch_execute(&sql).await.map_err(told)?;
    transaction.commit().await.map_err(told)
}

async fn connect(
    fleet: &Fleet,
    record: &crate::tenant::Record,
    endpoint: &pg::Endpoint,
) -> Result<Connection, Failure> {
    let mut refused = None;
    for login in fleet.keys.tenant_logins(record) {
        match pg::connect(endpoint, &login, &record.database()).await {
            Ok(client) => return Ok(client),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.map_or_else(|| Failure("there is no master key".into()), Failure::from))
}

/// Each tenant's base URLs with three lines to paste: what anybody may read, what nobody may, and what a token opens.
async fn greeting(context: &Context, fleet: &Fleet) -> Result<String, Failure> {
    let settings = &context.settings;
    let mut text =
        String::from("\nmanybox is serving. Each of these answers when pasted into another terminal:\n");
    for slug in settings.tenants.keys() {
        let row = fleet.tenant(slug).await?;
        // The path form works without any name resolution.
        let urls = &row.record.base_urls;
        let Some(url) = urls.iter().find(|url| !url.prefix.as_str().is_empty()).or(urls.first()) else {
            continue;
        };
        let all: Vec<_> = urls.iter().map(ToString::to_string).collect();
        let token = tenant::token(fleet, &row, "authenticated", &["branch=1".into()], TOKEN)?;
        text.push_str(&format!(
            "\n{slug}: {}\n  \
             curl '{url}/branches?select=id,name&order=id&limit=3'\n  \
             curl '{url}/patients'   # 401: personal data needs a token\n  \
             curl -H 'Authorization: Bearer {token}' '{url}/patients?limit=2'\n",
            all.join("  ")
        ));
    }
    let first = settings.tenants.keys().next().map_or("acme", String::as_str);
    text.push_str(&format!(
        "\nMore tokens: manybox tenant token {first} --role authenticated --claim branch=2\n\
         Ready: http://{}/ready    Ctrl-C stops it all.",
        settings.listen.admin
    ));
    Ok(text)
}
