//! The command: exit codes, JSON, the page.

use serde_json::Value;

use super::{As, Own};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_green_from_findings_from_wrong_usage() {
    let own = Own::make().await;
    let fleet = &own.fleet;
    let (code, out, error) = fleet.run(&["verify", "--all"]).await;
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("all green") && out.contains("not looked at: the router"), "{out}");
    assert_eq!(fleet.run(&["verify", "--tenant", "acme"]).await.0, 0);
    assert_eq!(fleet.run(&["verify", "--sample", "2"]).await.0, 0);
    assert_eq!(fleet.run(&["verify", "--sample", "0"]).await.0, 2);
    assert_eq!(fleet.run(&["verify", "--all", "--tenant", "acme"]).await.0, 2);
    assert_eq!(fleet.run(&["verify", "--tenant", "nobody"]).await.0, 1);

    // A name that wants to be more than text, on the terminal and on the page.
    let name = "\u{1b}[2J</code><script>alert(1)</script>";
    own.run(As::Owner, &format!("CREATE SCHEMA \"{name}\"; GRANT USAGE ON SCHEMA \"{name}\" TO PUBLIC"))
        .await;
    let (code, out, error) = fleet.run(&["verify", "--tenant", "acme", "--report", "report.html"]).await;
    assert_eq!(code, 1);
    assert!(
        out.contains("V20") && out.contains("REVOKE ALL ON SCHEMA") && error.contains("1 finding"),
        "{out}{error}"
    );
    assert!(!out.contains('\u{1b}'), "{out:?}");
    let page = std::fs::read_to_string(fleet.folder.path().join("report.html")).unwrap();
    assert!(
        !page.contains("<script>") && !page.contains('\u{1b}') && page.contains("&lt;script&gt;"),
        "{page}"
    );
    assert!(!page.contains("http://") && !page.contains("https://"), "it needs nothing else");

    let (code, out, _) = fleet.run(&["verify", "--tenant", "acme", "--json"]).await;
    assert_eq!(code, 1);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["findings"][0]["code"], "V20");
    assert_eq!(answer["findings"][0]["tenant"], "acme");
    assert_eq!(answer["looked_into"], serde_json::json!(["acme"]));
}

#[tokio::test]
async fn every_check_is_explained() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verify.md")).unwrap();
    for check in manybox::verify::CHECKS {
        let row = format!("| {} | {} |", check.code, check.title);
        assert!(page.contains(&row), "docs/verify.md lacks `{row}`");
    }
}
