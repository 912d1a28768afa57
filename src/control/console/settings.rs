//! Settings: who may do what here: operators, their tokens, and the one who looks.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use super::super::access::ApiToken;
use super::super::{Control, Problem, ProblemCode};
use super::document::refuse;
use super::layout::{Place, act, ago, head, option, page, text};
use super::viewer::{Fields, Order as Sent, Viewer};
use crate::catalog::{NewToken, OperatorRole, OperatorRow, Scopes, TokenRow};

/// Days that a token made here holds, when nothing is said.
const DAYS: i64 = 90;

/// `GET /settings`
pub(super) async fn show(State(control): State<Arc<Control>>, viewer: Viewer) -> Response {
    match operators(&control, &viewer).await {
        Ok(operators) => {
            viewer.send(page(&viewer, Place::Settings, "Settings", body(&viewer, &operators, None)))
        }
        Err(problem) => refuse(problem),
    }
}

/// All of them, for owners; nobody else needs to know who else there is.
async fn operators(control: &Control, viewer: &Viewer) -> Result<Vec<OperatorRow>, Problem> {
    if viewer.caller.needs_all(OperatorRole::Owner).is_err() {
        return Ok(Vec::new());
    }
    Ok(control.fleet.catalog.operators().await?)
}

fn body(viewer: &Viewer, operators: &[OperatorRow], made: Option<&str>) -> Markup {
    let now = OffsetDateTime::now_utc();
    html! {
        (head(html! { "Settings" }, html! { "Who may do what here. The fleet's own settings are in its file." }, html! {}))
        @if let Some(token) = made {
            div .notice.good role="status" {
                b { "New token" }
                div .stack {
                    p { "It is shown this once: copy it now." }
                    p { code #new-token { (token) } " " button .small type="button" data-copy=(token) { "Copy" } }
                }
            }
        }
        div .grid {
            div .w4.stack { (you(viewer)) @if viewer.may(OperatorRole::Owner) && viewer.sees_fleet { (new_operator(viewer)) } }
            @if viewer.may(OperatorRole::Owner) && viewer.sees_fleet {
                div .w8.stack { @for operator in operators { (one(viewer, operator, now)) } }
            }
        }
    }
}

fn you(viewer: &Viewer) -> Markup {
    html! {
        section .panel {
            header { h2 { "You" } }
            div .body { dl .facts {
                dt { "Name" } dd { (text(&viewer.name)) }
                dt { "Role" } dd { (viewer.role) }
                dt { "For" } dd { (scopes(&viewer.caller.scopes)) }
                dt { "Signed in by" } dd .mono { (text(&viewer.caller.by)) }
            } }
        }
    }
}

fn scopes(scopes: &Scopes) -> Markup {
    html! {
        @if scopes.is_all() { "the whole fleet" }
        @if let Some(editions) = &scopes.editions { @for edition in editions { span .tag { "edition " (text(edition)) } " " } @if editions.is_empty() { "no tenant" } }
        @for (name, value) in &scopes.labels { span .tag { (text(name)) "=" (text(value)) } " " }
    }
}

fn roles(id: &str, chosen: OperatorRole, most: OperatorRole) -> Markup {
    html! { select id=(id) name="role" { @for role in OperatorRole::ALL.iter().filter(|role| **role <= most) { (option(role.as_str(), role, Some(chosen.as_str()))) } } }
}

fn new_operator(viewer: &Viewer) -> Markup {
    html! {
        section .panel {
            header { h2 { "Add an operator" } }
            div .body { form .form method="post" action="/settings/operators" {
                (viewer.token())
                div .field { label for="name" { "Name" } input id="name" name="name" type="text" required maxlength="200" autocomplete="off" placeholder="jo@example.com"; }
                div .field { label for="role" { "Role" } (roles("role", OperatorRole::Viewer, OperatorRole::Owner))
                    span .hint { "A viewer looks; an operator changes tenants and runs rollouts; an owner purges and looks after operators." } }
                div .field { label for="editions" { "Only these editions" } input id="editions" name="editions" type="text" autocomplete="off" placeholder="all; or names, with commas between"; }
                div .acts { button .primary { "Add, with a token" } }
            } }
        }
    }
}

fn one(viewer: &Viewer, operator: &OperatorRow, now: OffsetDateTime) -> Markup {
    let name = &operator.name;
    let is_revoked = operator.revoked_at.is_some();
    html! {
        section .panel {
            header {
                h2 { (text(name)) " " span .tag { (operator.role) } @if is_revoked { " " span .pill.bad { "revoked" } } }
                span .soft { (scopes(&operator.scopes)) }
            }
            @if !operator.tokens.is_empty() { div .scroll { table {
                thead { tr { th { "Token" } th { "Role" } th .wide { "Note" } th .wide { "Last used" } th { "Ends" } th { span .sr { "What may be done" } } } }
                tbody { @for token in &operator.tokens { (row(viewer, token, now)) } }
            } } }
            @if !is_revoked { div .filters {
                form .filters.bare method="post" action="/settings/tokens" {
                    (viewer.token()) input type="hidden" name="operator" value=(name);
                    @let field = format!("role-{name}");
                    label .sr for=(field) { "Role of a new token" } (roles(&field, operator.role, operator.role))
                    div .search { input type="text" name="note" aria-label="What the new token is for" placeholder="what it is for" maxlength="200" autocomplete="off"; }
                    button .small { "New token" }
                }
                form method="post" action="/settings/operators/revoke" { (viewer.token()) input type="hidden" name="name" value=(name); button .small.danger { "Revoke operator" span .sr { " " (text(name)) } } }
            } }
        }
    }
}

fn row(viewer: &Viewer, token: &TokenRow, now: OffsetDateTime) -> Markup {
    let is_over = token.revoked_at.is_some() || token.expires_at.is_some_and(|at| at < now);
    html! {
        tr {
            td .mono { (text(&token.id)) }
            td { (token.role) @if !token.scopes.is_all() { " " (scopes(&token.scopes)) } }
            td .wide { @if let Some(note) = &token.note { (text(note)) } }
            td .wide { @match token.last_used_at { Some(at) => (ago(at, now)), None => span .soft { "never" } } }
            td { @match (token.revoked_at, token.expires_at) {
                (Some(at), _) => { span .pill { "revoked " (ago(at, now)) } }
                (None, Some(at)) => { (ago(at, now)) }
                (None, None) => { span .soft { "until revoked" } }
            } }
            td .num { @if !is_over { (act(viewer, &format!("/settings/tokens/{}/revoke", token.id), html! { button .small.danger { "Revoke" span .sr { " token " (text(&token.id)) } } })) } }
        }
    }
}

/// `POST /settings/operators`
pub(super) async fn add(State(control): State<Arc<Control>>, Sent { viewer, fields }: Sent) -> Response {
    let made = add_by(&viewer, &fields).await;
    shown(&control, &viewer, made).await
}

/// `POST /settings/tokens`
pub(super) async fn add_token(
    State(control): State<Arc<Control>>,
    Sent { viewer, fields }: Sent,
) -> Response {
    let made = async {
        viewer.caller.needs_all(OperatorRole::Owner)?;
        let role = fields.text("role").parse()?;
        token_for(&viewer, fields.text("operator"), role, fields.get("note")).await
    };
    let made = made.await;
    shown(&control, &viewer, made).await
}

/// The page with the new token on it: it is written nowhere that could be read again.
async fn shown(control: &Control, viewer: &Viewer, made: Result<String, Problem>) -> Response {
    let made = match made {
        Ok(made) => made,
        Err(problem) if problem.code == ProblemCode::Forbidden => return refuse(problem),
        Err(problem) => return viewer.tell("/settings", Err(problem)),
    };
    match operators(control, viewer).await {
        Ok(operators) => {
            viewer.send(page(viewer, Place::Settings, "Settings", body(viewer, &operators, Some(&made))))
        }
        Err(problem) => refuse(problem),
    }
}

async fn add_by(viewer: &Viewer, fields: &Fields) -> Result<String, Problem> {
    viewer.caller.needs_all(OperatorRole::Owner)?;
    let invalid = |detail: &str| Problem::new(ProblemCode::Invalid, detail);
    let name = fields.get("name").ok_or_else(|| invalid("give the operator a name"))?;
    if name.len() > 200 || name.chars().any(char::is_control) {
        return Err(invalid("the name: expected one line of up to 200 bytes"));
    }
    if viewer
        .fleet
        .catalog
        .operators()
        .await?
        .iter()
        .any(|operator| operator.name == name && operator.revoked_at.is_none())
    {
        return Err(Problem::new(ProblemCode::Taken, format!("there is an operator `{name}` already")));
    }
    let role = fields.text("role").parse()?;
    let editions = fields.get("editions").map(|names| {
        names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    });
    let scopes = Scopes { editions, ..Scopes::default() };
    viewer.fleet.catalog.operator_put(name, role, &scopes).await?;
    token_for(viewer, name, role, None).await
}

async fn token_for(
    viewer: &Viewer,
    operator: &str,
    role: OperatorRole,
    note: Option<&str>,
) -> Result<String, Problem> {
    let token = ApiToken::random()?;
    let new = NewToken {
        id: token.id().to_owned(),
        hash: token.hash(),
        role,
        scopes: Scopes::default(),
        note: note.map(|note| note.chars().filter(|c| !c.is_control()).take(200).collect()),
        expires_at: Some(OffsetDateTime::now_utc() + Duration::days(DAYS)),
    };
    viewer.fleet.catalog.token_add(operator, &new).await?;
    Ok(token.reveal().expose().to_owned())
}

/// `POST /settings/operators/revoke`
pub(super) async fn revoke(Sent { viewer, fields }: Sent) -> Response {
    let name = fields.text("name").to_owned();
    let outcome = async {
        viewer.caller.needs_all(OperatorRole::Owner)?;
        if name == viewer.name {
            return Err(Problem::new(ProblemCode::Invalid, "that is you: another owner may revoke you"));
        }
        if !viewer.fleet.catalog.operator_revoke(&name).await? {
            return Err(Problem::not_found("such operator"));
        }
        Ok(format!("{name} may do nothing any more; tokens and sessions hold no more."))
    };
    told(&viewer, outcome.await)
}

/// `POST /settings/tokens/{id}/revoke`
pub(super) async fn revoke_token(Path(id): Path<String>, Sent { viewer, .. }: Sent) -> Response {
    let outcome = async {
        viewer.caller.needs_all(OperatorRole::Owner)?;
        if !viewer.fleet.catalog.token_revoke(&id).await? {
            return Err(Problem::not_found("such token"));
        }
        Ok(format!("Token {id} holds no more, nor does any session that was opened by it."))
    };
    told(&viewer, outcome.await)
}

fn told(viewer: &Viewer, outcome: Result<String, Problem>) -> Response {
    match outcome {
        Err(problem) if problem.code == ProblemCode::Forbidden => refuse(problem),
        outcome => viewer.tell("/settings", outcome),
    }
}
