//! Fingerprints of schemas: equal for databases made by the same files, different after every kind of change, which the
//! difference names.

use manybox::migrate::{facts, fingerprint};

use crate::support::TestFleet;

#[tokio::test]
async fn copies_of_a_template_are_equal_and_the_facts_make_the_same_hash() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let (a, b) = (fleet.admin("a").await, fleet.owner("b").await);
    let kept = facts(&a).await.unwrap();
    assert_eq!(fingerprint(&a).await.unwrap(), kept.fingerprint());
    assert_eq!(fingerprint(&b).await.unwrap(), kept.fingerprint(), "whoever asks");
    assert!(kept.iter().any(|fact| fact.name == "table public.items: column price"));
    assert!(!kept.iter().any(|fact| fact.name.contains("manybox")), "the history is no part of it");
}
