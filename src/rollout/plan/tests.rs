//! Tests of the planner: whatever the policy, everybody goes once, and not before it is due.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use time::OffsetDateTime;

use super::*;
use crate::tenant::{Lineage, Origin, Record};

fn edition() -> Edition {
    let files = [("V1__a.sql", "SELECT 1;"), ("V2__b.sql", "SELECT 2;"), ("V3__c.sql", "SELECT 3;")];
    Edition::embedded("shop", &files).unwrap()
}

/// A tenant at a version of `shop`.
fn row(number: usize, version: i64) -> TenantRow {
    let edition = edition();
    let mut record =
        Record::example(&format!("{number:a>16}").replace(|c: char| c.is_ascii_digit(), "b"), "x");
    record.slug = format!("t{number:03}").parse().unwrap();
    record.origin = Origin::Lineage(Lineage {
        edition: "shop".into(),
        version,
        history: edition.history_digest(version),
    });
    let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(number as i64);
    TenantRow {
        record,
        unsettled: false,
        failure: None,
        migrated_at: None,
        baseline: None,
        quarantined: None,
        filling: None,
        replaces: None,
        was_suspended: false,
        exchange: None,
        keep_until: None,
        labels: BTreeMap::new(),
        lost_secrets: Vec::new(),
        created_at: at,
        changed_at: at,
    }
}

fn planned(rows: &[TenantRow], policy: RolloutPolicy, scope: RolloutScope) -> Draft {
    let editions = BTreeMap::from([("shop".to_owned(), edition())]);
    let state = FleetState { editions: &editions, templates: &[], tenants: rows };
    plan(state, &RolloutRequest { scope, policy_name: "p".into(), policy })
}

fn wave() -> impl Strategy<Value = Wave> {
    let tenants = proptest::collection::vec(0..40_usize, 0..4);
    let label = proptest::option::of(0..3_usize);
    (tenants, label, proptest::option::of(1..=100_u8)).prop_map(|(tenants, label, percent)| Wave {
        tenants: tenants.iter().map(|number| format!("t{number:03}")).collect(),
        labels: label.map(|label| ("region".to_owned(), label.to_string())).into_iter().collect(),
        percent,
        ..Wave::default()
    })
}

proptest! {
    #[test]
    fn everybody_who_is_behind_goes_once(
        versions in proptest::collection::vec((1..=3_i64, 0..4_usize, any::<bool>()), 0..40),
        waves in proptest::collection::vec(wave(), 1..6),
    ) {
        let rows: Vec<_> = versions.iter().enumerate().map(|(number, (version, label, aside))| {
            let mut row = row(number, *version);
            row.labels.insert("region".into(), label.to_string());
            row.quarantined = aside.then_some(OffsetDateTime::UNIX_EPOCH);
            row
        }).collect();
        let draft = planned(&rows, RolloutPolicy { waves, ..RolloutPolicy::default() }, RolloutScope::default());

        let due: Vec<_> = rows.iter()
            .filter(|row| row.record.lineage().unwrap().version < 3 && row.quarantined.is_none())
            .map(|row| row.record.slug.to_string())
            .collect();
        let mut going: Vec<_> = draft.steps.iter().map(|step| step.slug.clone()).collect();
        let waves: Vec<_> = draft.steps.iter().map(|step| step.wave).collect();
        prop_assert!(waves.is_sorted(), "steps stand in the order of their waves");
        going.sort();
        prop_assert_eq!(&going, &due);
        for (number, wave) in draft.plan.waves.iter().enumerate() {
            let taken: Vec<_> = draft.steps.iter().filter(|step| step.wave == number as i32).collect();
            prop_assert_eq!(taken.len(), wave.tenants);
            prop_assert!(!taken.is_empty());
            if let Some(percent) = wave.policy.percent {
                prop_assert!(taken.len() <= (due.len() * usize::from(percent)).div_ceil(100));
            }
            for step in taken {
                let row = rows.iter().find(|row| row.record.slug.as_str() == step.slug).unwrap();
                prop_assert!(row.is_taken_by(&wave.policy), "the wave chooses it");
            }
        }
        let aside: BTreeSet<_> = draft.left_out.iter().map(|out| &out.slug).collect();
        prop_assert!(going.iter().all(|slug| !aside.contains(slug)));
    }
}

#[test]
fn a_version_that_is_named_leaves_those_above_it_alone() {
    let rows = [row(0, 1), row(1, 2), row(2, 3)];
    let scope = RolloutScope { target: Some(2), ..RolloutScope::default() };
    let draft = planned(&rows, RolloutPolicy::default(), scope);
    assert_eq!(draft.steps.iter().map(|step| step.slug.as_str()).collect::<Vec<_>>(), ["t000"]);
    let target = &draft.plan.targets["shop"];
    assert_eq!((target.version, target.files.as_slice()), (2, &["V2__b.sql".to_owned()][..]));
}

#[test]
fn one_tenant_that_is_named_goes_even_when_it_was_set_aside() {
    let mut rows = [row(0, 1), row(1, 1)];
    rows[0].quarantined = Some(OffsetDateTime::UNIX_EPOCH);
    let scope = RolloutScope { tenant: Some("t000".into()), ..RolloutScope::default() };
    let draft = planned(&rows, RolloutPolicy::default(), scope);
    assert_eq!(draft.steps.iter().map(|step| step.slug.as_str()).collect::<Vec<_>>(), ["t000"]);
}

#[test]
fn tenants_go_in_the_order_that_the_policy_says() {
    let rows = [row(2, 1), row(0, 1), row(1, 1)];
    let order = |order_by| {
        let draft =
            planned(&rows, RolloutPolicy { order_by, ..RolloutPolicy::default() }, RolloutScope::default());
        draft.steps.iter().map(|step| step.slug.clone()).collect::<Vec<_>>()
    };
    assert_eq!(order(OrderBy::Oldest), ["t000", "t001", "t002"]);
    assert_eq!(order(OrderBy::Newest), ["t002", "t001", "t000"]);
    assert_eq!(order(OrderBy::Slug), ["t000", "t001", "t002"]);
}

#[test]
fn tenants_of_editions_that_are_not_there_are_told_of() {
    let mut rows = [row(0, 1)];
    rows[0].record.origin =
        Origin::Lineage(Lineage { edition: "gone".into(), version: 1, history: String::new() });
    let draft = planned(&rows, RolloutPolicy::default(), RolloutScope::default());
    assert!(draft.is_empty());
    assert_eq!(draft.left_out, [LeftOut { slug: "t000".into(), reason: LeftOutReason::NoEdition }]);
}
