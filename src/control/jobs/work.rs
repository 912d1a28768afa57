//! `Work`: what jobs can be, each by a function of the fleet that goes on where a dead worker stopped.

use std::path::PathBuf;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::{Problem, ProblemCode};
use crate::catalog::{RolloutRow, RolloutState, TenantRow};
use crate::fleet::{BackupFiles, CopySpec, Fleet, FleetError, Progress, Proof, Watcher, backup_stem};
use crate::migrate::Drift;
use crate::rollout::{Ending, Executor};
use crate::tenant::{Slug, State, TenantId, Verb};
use crate::verify::{Request, Scope, verify};

/// What a job is to do. It is stored, so a version that knows more must read what an older one wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// Bring an intended tenant into service.
    Create {
        /// Its id.
        tenant: String,
    },
    /// Change a tenant's state.
    CarryOut {
        /// Its id.
        tenant: String,
        /// What is asked for.
        verb: String,
        /// A purge before the time until which it is kept.
        now: bool,
        /// Of a retired one, until when it is kept.
        #[serde(with = "time::serde::rfc3339::option")]
        until: Option<OffsetDateTime>,
    },
    /// Make a tenant from another as it is now.
    Clone {
        /// The other's id.
        source: String,
        /// The new one's name.
        slug: String,
        /// Its tier.
        tier: Option<String>,
        /// Its server.
        server: Option<String>,
    },
    /// Write a tenant's database to files.
    Backup {
        /// Its id.
        tenant: String,
        /// The folder.
        folder: PathBuf,
    },
    /// Compare a tenant's schema with what its files make.
    Drift {
        /// Its id.
        tenant: String,
        /// Accept what is found, for this reason.
        accept: Option<String>,
    },
    /// Carry a running rollout out.
    Rollout {
        /// Its number.
        rollout: i64,
    },
    /// Look whether tenants are kept apart.
    Verify {
        /// One tenant alone.
        tenant: Option<String>,
        /// So many tenants.
        sample: usize,
        /// All of them.
        #[serde(default)]
        all: bool,
        /// Where a router listens.
        router: Option<String>,
    },
}

impl Work {
    /// What kind of work it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::CarryOut { .. } => "carry-out",
            Self::Clone { .. } => "clone",
            Self::Backup { .. } => "backup",
            Self::Drift { .. } => "drift",
            Self::Rollout { .. } => "rollout",
            Self::Verify { .. } => "verify",
        }
    }

    pub(super) fn stored(&self) -> Result<Value, Problem> {
        serde_json::to_value(self).map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))
    }

    pub(super) fn read(stored: &Value) -> Result<Self, Problem> {
        Self::deserialize(stored).map_err(|error| {
            let detail =
                format!("this version does not know such a job ({error}); was it made by a newer manybox?");
            Problem::new(ProblemCode::Internal, detail)
        })
    }

    /// Does it. Each kind is a future of its own on the heap: together they are more than a thread's stack takes.
    pub(super) fn run<'a>(
        self,
        fleet: &'a Fleet,
        progress: &'a (dyn Fn(String) + Sync),
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Value, Problem>> {
        match self {
            Self::Create { tenant } => create(fleet, tenant).boxed(),
            Self::CarryOut { tenant, verb, now, until } => carry_out(fleet, tenant, verb, now, until).boxed(),
            Self::Clone { source, slug, tier, server } => {
                let spec = CopySpec { tier, server, ..CopySpec::default() };
                clone_tenant(fleet, source, slug, spec, stop).boxed()
            }
            Self::Backup { tenant, folder } => backup(fleet, tenant, folder, progress, stop).boxed(),
            Self::Drift { tenant, accept } => look_for_drift(fleet, tenant, accept).boxed(),
            Self::Rollout { rollout } => run_rollout(fleet, rollout, stop).boxed(),
            Self::Verify { tenant, sample, all, router } => {
                let some = if all { Scope::All } else { Scope::Sample(sample) };
                let scope = tenant.map_or(some, Scope::Tenant);
                look_into(fleet, Request { scope, router }, progress).boxed()
            }
        }
    }
}

async fn create(fleet: &Fleet, tenant: String) -> Result<Value, Problem> {
    let row = of_id(fleet, &tenant).await?;
    if row.record.state != State::Creating {
        return shown(&row);
    }
    shown(&fleet.finish_create(&row).await?)
}

async fn carry_out(
    fleet: &Fleet,
    tenant: String,
    verb: String,
    now: bool,
    until: Option<OffsetDateTime>,
) -> Result<Value, Problem> {
    let row = of_id(fleet, &tenant).await?;
    let verb = read_verb(&verb)?;
    let slug = row.record.slug.as_str();
    let row = match verb {
        // A worker before this one came to the end of it.
        Verb::Purge if row.record.state == State::Purged => row,
        Verb::Purge if now => fleet.carry_out_now(slug, verb).await?,
        Verb::Retire => fleet.retire(slug, until).await?,
        verb => fleet.carry_out(slug, verb).await?,
    };
    shown(&row)
}

async fn clone_tenant(
    fleet: &Fleet,
    source: String,
    slug: String,
    spec: CopySpec,
    stop: &CancellationToken,
) -> Result<Value, Problem> {
    let source = of_id(fleet, &source).await?;
    let slug: Slug = slug.parse()?;
    // A worker before this one may have come to the end of it.
    if let Some(row) = fleet.catalog.tenant_by_slug(slug.as_str()).await?
        && row.record.state == State::Active
    {
        return shown(&row);
    }
    let filled = fleet.clone_tenant(&source, &slug, &spec, Watcher::silent(stop)).await?;
    serde_json::to_value(&filled).map_err(|e| Problem::new(ProblemCode::Internal, e.to_string()))
}

async fn backup(
    fleet: &Fleet,
    tenant: String,
    folder: PathBuf,
    progress: &(dyn Fn(String) + Sync),
    stop: &CancellationToken,
) -> Result<Value, Problem> {
    let row = of_id(fleet, &tenant).await?;
    let files = BackupFiles::new(&folder, backup_stem(&row, OffsetDateTime::now_utc()))?;
    let told = |how: Progress| progress(how.to_string());
    let manifest = fleet.backup_into(&row, &files, Watcher::new(&told, stop)).await?;
    Ok(json!({
        "slug": row.record.slug, "archive": files.archive(), "manifest": files.manifest(),
        "bytes": manifest.archive.bytes, "sha256": manifest.archive.sha256,
        "version": manifest.tenant.version,
    }))
}

async fn look_into(
    fleet: &Fleet,
    request: Request,
    progress: &(dyn Fn(String) + Sync),
) -> Result<Value, Problem> {
    let (tell, mut told) = watch::channel(0_usize);
    let (fleet, runtime) = (fleet.clone(), Handle::current());
    // On a thread of its own: the verifier's future borrows too much to be sent about.
    let mut verifying = tokio::task::spawn_blocking(move || {
        let told = |done| {
            tell.send_replace(done);
        };
        runtime.block_on(verify(&fleet, &request, told))
    });
    let verification = loop {
        tokio::select! {
            verified = &mut verifying => break verified,
            Ok(()) = told.changed() => {
                let done = *told.borrow_and_update();
                progress(format!("{done} tenant(s) looked into"));
            }
        }
    };
    let internal = |error: String| Problem::new(ProblemCode::Internal, error);
    let verification = verification.map_err(|error| internal(error.to_string()))??;
    serde_json::to_value(&verification).map_err(|error| internal(error.to_string()))
}

async fn look_for_drift(fleet: &Fleet, tenant: String, accept: Option<String>) -> Result<Value, Problem> {
    let row = of_id(fleet, &tenant).await?;
    let slug = &row.record.slug;
    let lineage = row.record.lineage();
    let lineage = lineage.ok_or_else(|| FleetError::Adopted(slug.to_string(), "compared with an edition"))?;
    let proof = match accept {
        Some(reason) => fleet.accept_drift(&row, &reason).await?,
        None => fleet.prove(&row, lineage, None).await?,
    };
    let reason = match &proof {
        Proof::Accepted(_, reason) | Proof::Unknown(reason) => Some(reason),
        _ => None,
    };
    Ok(json!({
        "slug": slug, "edition": lineage.edition, "version": lineage.version, "standing": proof.word(),
        "differences": proof.drift().map(Drift::lines).unwrap_or_default(), "reason": reason,
    }))
}

async fn run_rollout(fleet: &Fleet, id: i64, stop: &CancellationToken) -> Result<Value, Problem> {
    let row = fleet.catalog.rollout(id).await?.ok_or_else(|| Problem::not_found(&format!("rollout {id}")))?;
    let ending = match Box::pin(execute(fleet, &row, stop)).await {
        Ok(ending) => ending,
        Err(error) if stop.is_cancelled() => return Err(error.into()),
        // Nobody carries it out any more, and it must not look as if somebody did.
        Err(error) => {
            let (from, why) = ([RolloutState::Running], error.to_string());
            fleet.catalog.rollout_move(id, &from, RolloutState::Halted, Some(&why)).await?;
            return Err(error.into());
        }
    };
    let word = match ending {
        Ending::Done => "done",
        Ending::Paused => "paused",
        Ending::Aborted => "aborted",
        Ending::Stopped => {
            return Err(Problem::new(
                ProblemCode::Busy,
                "this service stops; another goes on with the rollout",
            ));
        }
        Ending::Halted(reason) => {
            let detail =
                format!("rollout {id} is halted: {reason}; mend what failed and retry, skip it, or abort");
            return Err(Problem::new(ProblemCode::Files, detail));
        }
    };
    Ok(json!({ "rollout": id, "ending": word }))
}

async fn execute(fleet: &Fleet, row: &RolloutRow, stop: &CancellationToken) -> Result<Ending, FleetError> {
    Executor::new(fleet, row, None, stop.clone())?.run().await
}

/// The verb of this name.
///
/// # Errors
/// When there is none.
pub(super) fn read_verb(text: &str) -> Result<Verb, Problem> {
    let all = [Verb::Suspend, Verb::Resume, Verb::Retire, Verb::Restore, Verb::Purge];
    let found = all.into_iter().find(|verb| verb.to_string() == text);
    found.ok_or_else(|| Problem::new(ProblemCode::Internal, format!("`{text}` is not a verb")))
}

async fn of_id(fleet: &Fleet, id: &str) -> Result<TenantRow, Problem> {
    let id: TenantId = id.parse()?;
    fleet.catalog.tenant(&id).await?.ok_or_else(|| Problem::not_found(&format!("tenant of id `{id}`")))
}

fn shown(row: &TenantRow) -> Result<Value, Problem> {
    serde_json::to_value(row).map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))
}
