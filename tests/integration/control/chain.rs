//! The journal's chain: nobody changes a line unnoticed.

use manybox::catalog::JournalHead;

use crate::support::TestFleet;

#[tokio::test]
async fn who_changes_the_journal_is_found_out() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let (code, out, error) = fleet.run(&["journal", "verify"]).await;
    assert_eq!(code, 0, "{error}");
    let kept: JournalHead = out.trim().parse().unwrap();
    assert!(kept.position >= 4);
    let admin = fleet.admin_of_catalog().await;
    for change in [
        "UPDATE catalog.journal SET actor = 'nobody'",
        "DELETE FROM catalog.journal",
        "TRUNCATE catalog.journal",
        "UPDATE catalog.journal_seal SET hash = ''",
        "DELETE FROM catalog.journal_seal",
    ] {
        let refused = admin.batch_execute(change).await.unwrap_err();
        assert!(refused.as_db_error().unwrap().message().contains("only appended to"), "{change}");
    }
    // Lines of many at once all find their places.
    let catalog = &fleet.fleet.catalog;
    let id = fleet.row("a").await.record.id;
    let detail = serde_json::json!({ "é": "\u{1F600}" });
    futures_util::future::join_all((0..20).map(|_| catalog.note(&id, "note", &detail))).await;
    let head = catalog.journal_verify(std::slice::from_ref(&kept)).await.unwrap();
    assert_eq!(head.breaks, [""; 0]);
    assert_eq!(head.head.unwrap().position, kept.position + 20);
    let (_, exported, _) = fleet.run(&["journal", "export"]).await;
    assert_eq!(exported.lines().count() as i64, kept.position + 20);
    assert_eq!(fleet.run(&["journal", "tail", "-n", "3"]).await.1.lines().count(), 3);

    // Somebody who may take the guard off.
    admin
        .batch_execute(
            "ALTER TABLE catalog.journal DISABLE TRIGGER append_only; ALTER TABLE catalog.journal DISABLE TRIGGER pending;
             UPDATE catalog.journal SET detail = '{}' WHERE id = (SELECT line FROM catalog.journal_seal WHERE position = 2);
             DELETE FROM catalog.journal WHERE id = (SELECT line FROM catalog.journal_seal WHERE position = 3);
             INSERT INTO catalog.journal (action) VALUES ('unseen')",
        )
        .await
        .unwrap();
    let (code, _, error) = fleet.run(&["journal", "verify"]).await;
    assert_eq!(code, 1);
    for word in ["place 2 is not what was sealed", "place 3 is gone", "1 line(s) were written past the chain"]
    {
        assert!(error.contains(word), "{word}: {error}");
    }
    // Somebody who makes the whole chain anew is betrayed by what was kept of it.
    let anew = JournalHead { hash: "0".repeat(64), ..kept };
    let report = catalog.journal_verify(&[anew]).await.unwrap();
    assert!(report.breaks.iter().any(|what| what.contains("made anew")), "{report:?}");
}
