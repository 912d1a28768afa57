//! `manybox operator`: who may use the control service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;

use super::output::time;
use super::{Context, Done, Failure, Output, arguments};
use crate::catalog::{NewToken, OperatorRole, OperatorRow, Scopes};
use crate::control::access::ApiToken;

#[derive(clap::Subcommand)]
pub(super) enum OperatorCommand {
    /// Add an operator, or give one that is there another token; the token is shown once
    Add(Add),
    /// List operators and their tokens
    List,
    /// Take everything from an operator, or one token by its id
    Revoke {
        /// The operator
        #[arg(required_unless_present = "token", conflicts_with = "token")]
        name: Option<String>,
        /// Only this token: the part between the underscores
        #[arg(long, value_name = "ID")]
        token: Option<String>,
    },
}

#[derive(clap::Args)]
pub(super) struct Add {
    /// Its name: a person's, a service's, or the e-mail address that the OIDC issuer has
    name: String,
    /// viewer looks; operator creates, changes and retires tenants and runs rollouts; owner does everything
    #[arg(long, default_value = "viewer")]
    role: OperatorRole,
    /// Only for tenants of this edition; may be given more than once
    #[arg(long = "edition", value_name = "EDITION")]
    editions: Vec<String>,
    /// Only for tenants with this label; may be given more than once
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// How long the token holds; until it is revoked when not given
    #[arg(long, value_parser = arguments::time)]
    expires: Option<Duration>,
    /// What the token is for
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// No token: it signs in to the console by OIDC
    #[arg(long, conflicts_with_all = ["expires", "note"])]
    no_token: bool,
}

impl OperatorCommand {
    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let catalog = context.fleet().await?.catalog;
        match self {
            Self::Add(add) => add.run(&catalog, output).await,
            Self::List => output.list(
                &catalog.operators().await?,
                &["OPERATOR", "ROLE", "FOR", "TOKENS", "SINCE", "REVOKED"],
                cells,
                "there are no operators; add one with `manybox operator add NAME --role owner`",
            ),
            Self::Revoke { name: Some(name), .. } => {
                if !catalog.operator_revoke(&name).await? {
                    return Err(Failure(format!(
                        "there is no operator `{name}`; see `manybox operator list`"
                    )));
                }
                output.answer(&serde_json::json!({ "revoked": name }), |_| {
                    format!("{name} is no operator any more; its tokens and sessions hold no more")
                })
            }
            Self::Revoke { token, .. } => {
                let token = token.unwrap_or_default();
                if !catalog.token_revoke(&token).await? {
                    return Err(Failure(format!(
                        "there is no token `{token}`; see `manybox operator list --json`"
                    )));
                }
                output.answer(&serde_json::json!({ "revoked": token }), |_| {
                    format!("token {token} holds no more")
                })
            }
        }
    }
}

impl Add {
    async fn run(self, catalog: &crate::catalog::Catalog, output: Output) -> Done {
        if self.name.is_empty() || self.name.len() > 200 || self.name.chars().any(char::is_control) {
            return Err(Failure("an operator's name has 1 to 200 characters, in one line".into()));
        }
        let editions =
            (!self.editions.is_empty()).then(|| self.editions.iter().cloned().collect::<BTreeSet<_>>());
        let label = |label: &String| {
            let pair = label.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
            let (name, value) =
                pair.ok_or_else(|| Failure(format!("--label `{label}`: expected NAME=VALUE")))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        let labels = self.labels.iter().map(label).collect::<Result<BTreeMap<_, _>, Failure>>()?;
        let scopes = Scopes { editions, labels };
        catalog.operator_put(&self.name, self.role, &scopes).await?;
        let mut answer = serde_json::json!({ "operator": self.name, "role": self.role, "scopes": scopes });
        if !self.no_token {
            let token = ApiToken::random()?;
            let new = NewToken {
                id: token.id().to_owned(),
                hash: token.hash(),
                role: self.role,
                scopes,
                note: self.note,
                expires_at: self.expires.map(|expires| OffsetDateTime::now_utc() + expires),
            };
            catalog.token_add(&self.name, &new).await?;
            answer["token"] = token.reveal().expose().into();
        }
        output.answer(&answer, |answer| match answer["token"].as_str() {
            Some(token) => format!("{token}\n{} is {}; the token is not shown again", self.name, self.role),
            None => format!("{} is {}", self.name, self.role),
        })
    }
}

fn cells(operator: &OperatorRow) -> Vec<String> {
    let now = OffsetDateTime::now_utc();
    let holds = |token: &&crate::catalog::TokenRow| {
        token.revoked_at.is_none() && token.expires_at.is_none_or(|until| until > now)
    };
    let mut what: Vec<String> = operator.scopes.editions.iter().flatten().cloned().collect();
    what.extend(operator.scopes.labels.iter().map(|(name, value)| format!("{name}={value}")));
    vec![
        operator.name.clone(),
        operator.role.to_string(),
        if what.is_empty() { "all".into() } else { what.join(", ") },
        operator.tokens.iter().filter(holds).count().to_string(),
        time(operator.created_at),
        operator.revoked_at.map(time).unwrap_or_default(),
    ]
}
