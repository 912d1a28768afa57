//! Declared tenants: `apply` makes them as declared, takes back what was taken out, and says from what to what.

use manybox::catalog::Filter;
use serde_json::{Value, json};

use crate::support::TestFleet;

const DECLARED: &str = "[tiers.large]
[tenants.acme]
tier = 'large'
base_urls = ['https://acme.example', 'https://www.acme.example']
[tenants.acme.settings]
max_rows = 5
db_plan_enabled = true
jwt_secret = 'a secret of its own that is long enough'
";

/// What a dry run says: its exit code, and the changes of acme from what to what.
async fn dry(fleet: &TestFleet) -> (i32, Vec<(String, Value, Value)>) {
    let (code, out, error) = fleet.run(&["apply", "--dry-run", "--json"]).await;
    let changes: Vec<Value> = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e} {out} {error}"));
    let of_acme = changes.iter().filter(|change| change["slug"] == "acme");
    let all = of_acme.flat_map(|change| change["changes"].as_array().cloned().unwrap_or_default());
    let told = |c: Value| (c["key"].as_str().unwrap().to_owned(), c["from"].clone(), c["to"].clone());
    (code, all.map(told).collect())
}

#[tokio::test]
async fn what_is_taken_out_of_a_declaration_is_taken_back() {
    let mut fleet = TestFleet::builder().toml(DECLARED).build().await;
    assert_eq!(fleet.run(&["apply", "--dry-run"]).await.0, 2, "there is something to do");
    assert_eq!(fleet.run(&["apply"]).await.0, 0);
    assert_eq!(dry(&fleet).await, (0, vec![]), "there is nothing to do");
    // Not declared, so it stays.
    assert_eq!(fleet.run(&["tenant", "set", "acme", "max_waiting=7"]).await.0, 0);
    assert_eq!(dry(&fleet).await, (0, vec![]));

    fleet
        .edit_settings(|text| {
            text.replace("max_rows = 5\n", "max_rows = 6\n")
                .replace("db_plan_enabled = true\n", "")
                .replace(", 'https://www.acme.example'", "")
        })
        .await;
    let (code, changes) = dry(&fleet).await;
    assert_eq!(code, 2);
    assert_eq!(
        changes,
        [
            (
                "base_urls".to_owned(),
                json!("https://acme.example,https://www.acme.example"),
                json!("https://acme.example")
            ),
            ("db_plan_enabled".to_owned(), json!("true"), Value::Null),
            ("max_rows".to_owned(), json!("5"), json!("6")),
        ]
    );
    let (_, out, _) = fleet.run(&["apply"]).await;
    assert!(out.contains("max_rows: 5 -> 6") && out.contains("db_plan_enabled: true -> (default)"), "{out}");
    assert_eq!(dry(&fleet).await, (0, vec![]));

    // All of it, at last.
    fleet
        .edit_settings(|text| {
            let (head, _) = text.split_once("[tenants.acme]").unwrap();
            format!("{head}[tenants.acme]\n")
        })
        .await;
    let (code, changes) = dry(&fleet).await;
    let keys: Vec<_> = changes.iter().map(|(key, _, to)| (key.as_str(), to.clone())).collect();
    assert_eq!(code, 2);
    let expected = [
        ("base_urls", Value::Null),
        ("max_rows", Value::Null),
        ("tier", json!("standard")),
        ("jwt_secret", Value::Null),
    ];
    assert_eq!(keys, expected);
    let (code, out, error) = fleet.run(&["apply"]).await;
    assert!(code == 0 && !out.contains("long enough"), "{out} {error}");
    let record = fleet.row("acme").await.record;
    assert_eq!(record.tier, "standard");
    assert_eq!(record.overrides.iter().collect::<Vec<_>>(), [("max_waiting", "7")]);
    assert!(record.sealed.is_empty());
    assert_eq!(dry(&fleet).await, (0, vec![]));
}

#[tokio::test]
async fn default_base_urls_follow_the_templates() {
    let mut fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    fleet.edit_settings(|text| text.replace("'http://{tenant}.localhost', ", "")).await;
    let (code, changes) = dry(&fleet).await;
    assert_eq!((code, changes.len()), (2, 1), "{changes:?}");
    assert_eq!(fleet.run(&["apply"]).await.0, 0);
    let urls: Vec<_> = fleet.row("acme").await.record.base_urls.iter().map(ToString::to_string).collect();
    assert_eq!(urls, ["http://127.0.0.1/acme"]);
}

#[tokio::test]
async fn a_dry_run_that_can_not_be_carried_out_is_an_error() {
    let mut fleet = TestFleet::builder().toml("[tenants.acme]").build().await;
    assert_eq!(fleet.run(&["apply"]).await.0, 0);
    fleet
        .edit_settings(|text| {
            text.replace("[tenants.acme]", "[editions.other]\n[tenants.acme]\nedition = 'other'")
        })
        .await;
    let (code, out, _) = fleet.run(&["apply", "--dry-run"]).await;
    assert!(code == 1 && out.contains("conflict"), "{out}");
    // What can be done is done, and said beside what can't.
    fleet.edit_settings(|text| format!("{text}\n[tenants.more]\nedition = 'shop'\n")).await;
    let (code, out, error) = fleet.run(&["apply"]).await;
    assert!(code == 1 && error.contains("acme") && !out.contains("acme"), "{out} {error}");
    assert!(out.contains("more") && out.contains("create"), "{out}");
    assert!(fleet.row("more").await.record.is_served());
}

#[tokio::test]
async fn create_again_is_done_with_the_same_arguments_and_refused_with_others() {
    let fleet = TestFleet::builder().toml("[tiers.large]").build().await;
    let create = ["tenant", "create", "acme", "--tier", "large", "--base-url", "https://acme.example"];
    for _ in 0..2 {
        let (code, out, error) = fleet.run(&create).await;
        assert!(code == 0 && out.contains("acme is active"), "{out} {error}");
    }
    assert_eq!(fleet.run(&["tenant", "create", "acme"]).await.0, 0);
    for (option, value) in [
        ("--tier", "standard"),
        ("--edition", "other"),
        ("--server", "elsewhere"),
        ("--base-url", "https://other.example"),
    ] {
        let (code, _, error) = fleet.run(&["tenant", "create", "acme", option, value]).await;
        assert!(code == 1 && error.contains(value) && error.contains("nothing was changed"), "{error}");
    }
    assert_eq!(fleet.run(&["tenant", "retire", "acme"]).await.0, 0);
    let (code, _, error) = fleet.run(&create).await;
    assert!(code == 1 && error.contains("retired"), "{error}");
}

#[tokio::test]
async fn two_creates_at_once_give_one_clear_answer() {
    let fleet = TestFleet::builder().toml("[tiers.large]").tenants(&["first"]).build().await;
    for round in 0..4 {
        let slug = format!("t{round}");
        let (same, again) =
            (["tenant", "create", slug.as_str()], ["tenant", "create", slug.as_str(), "--tier", "standard"]);
        let (one, two) = tokio::join!(fleet.run(&same), fleet.run(&again));
        for (code, out, error) in [one, two] {
            assert!(code == 0 && out.contains("is active"), "{out} {error}");
        }
        let slug = format!("u{round}");
        let other = ["tenant", "create", slug.as_str(), "--tier", "large"];
        let same = ["tenant", "create", slug.as_str(), "--tier", "standard"];
        let (one, two) = tokio::join!(fleet.run(&same), fleet.run(&other));
        let (won, lost) = if one.0 == 0 { (one, two) } else { (two, one) };
        assert!(won.0 == 0 && lost.0 == 1, "{} {}", won.2, lost.2);
        assert!(lost.2.contains("its tier is") && !lost.2.contains("duplicate key"), "{}", lost.2);
    }
    let rows = fleet.fleet.catalog.tenants(&Filter::default()).await.unwrap();
    assert_eq!(rows.len(), 9);
}

#[tokio::test]
async fn suspended_stays_suspended_through_retire_and_restore() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    for verb in ["suspend", "retire", "restore", "restore"] {
        let (code, _, error) = fleet.run(&["tenant", verb, "acme"]).await;
        assert_eq!(code, 0, "{verb} {error}");
    }
    assert_eq!(fleet.row("acme").await.record.state.to_string(), "suspended");
    let (code, _, error) = fleet.run(&["tenant", "suspend", "globex"]).await;
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = fleet.run(&["tenant", "restore", "globex"]).await;
    assert!(code == 1 && error.contains("resume"), "{error}");
    // Resumed, it is a tenant like any other.
    for verb in ["resume", "retire", "restore"] {
        assert_eq!(fleet.run(&["tenant", verb, "acme"]).await.0, 0, "{verb}");
    }
    assert_eq!(fleet.row("acme").await.record.state.to_string(), "active");
}

#[tokio::test]
async fn answers_say_what_changed_what_is_known_and_what_can_not_be() {
    let fleet = TestFleet::builder().toml("[tiers.large]").tenants(&["acme", "3m"]).build().await;
    for (arguments, code, expected) in [
        // From what to what.
        (
            &["tenant", "set", "acme", "max_body=1MB", "tier=large"][..],
            0,
            &["max_body: (default) -> 1MB"][..],
        ),
        (&["tenant", "set", "acme", "max_body=2 MB"], 0, &["max_body: 1MB -> 2 MB"]),
        (&["tenant", "set", "acme", "tier="], 0, &["tier: large -> standard"]),
        (&["tenant", "set", "acme", "max_body=2 MB"], 0, &["nothing is otherwise"]),
        // Units have bounds.
        (&["tenant", "set", "acme", "max_body=2GB"], 1, &["up to 1GB"]),
        (&["tenant", "set", "acme", "max_answer=9999999999"], 1, &["up to 1GB"]),
        (&["tenant", "set", "acme", "statement_timeout=30days"], 1, &["24 days"]),
        (&["tenant", "set", "acme", "max_connections=300000"], 1, &["262143"]),
        // What can't be changed says so.
        (&["tenant", "set", "acme", "edition=other"], 1, &["`edition`", "can't be changed"]),
        (&["tenant", "set", "acme", "slug=other"], 1, &["`slug`", "can't be changed"]),
        (&["tenant", "set", "acme", "server=other"], 1, &["`server`", "can't be changed"]),
        // Unknown names list the known.
        (&["tenant", "show", "amce"], 1, &["did you mean `acme`"]),
        (&["tenant", "create", "x", "--edition", "nothing"], 1, &["`shop`"]),
        (&["tenant", "create", "x", "--tier", "nothing"], 1, &["large", "standard"]),
        (&["tenant", "create", "x", "--server", "nothing"], 1, &["`main`"]),
        (&["server", "check", "--server", "nothing"], 1, &["`main`"]),
        (&["tenant", "list", "--state", "nothing"], 2, &["retired"]),
        (&["tenant", "set", "acme", "nothing=1"], 1, &["max_rows"]),
        (&["tenant", "show", "3m"], 0, &["active"]),
    ] {
        let (is, out, error) = fleet.run(arguments).await;
        assert_eq!(is, code, "{arguments:?} {out} {error}");
        for text in expected {
            assert!(out.contains(text) || error.contains(text), "{arguments:?}: {text}: {out} {error}");
        }
    }
    let (_, out, _) = fleet.run(&["tenant", "show", "acme"]).await;
    let created = out.lines().find_map(|line| line.trim().strip_prefix("created")).unwrap().trim().to_owned();
    let format = time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(&created, &format).unwrap_or_else(|e| panic!("{e}: {created}"));
}
