//! Tenants that go elsewhere: to another edition of the same fleet, and to another fleet.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{TestFleet, eventually, sign, superuser_in};

const SHOP: [&str; 2] =
    [include_str!("migrations/shop/V1__shop.sql"), include_str!("migrations/shop/V2__notes.sql")];
const TWO_EDITIONS: &str = "[editions.market]\n[defaults]\nedition = 'shop'";

fn add(fleet: &TestFleet, edition: &str, file: &str, sql: &str) {
    let folder = fleet.folder.path().join("migrations").join(edition);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(file), sql).unwrap();
}

async fn done(fleet: &TestFleet, arguments: &[&str]) -> Value {
    let (code, out, error) = fleet.run(&[arguments, &["--json"]].concat()).await;
    assert_eq!(code, 0, "{arguments:?}: {out} {error}");
    serde_json::from_str(&out).unwrap_or_default()
}

async fn refused(fleet: &TestFleet, arguments: &[&str]) -> String {
    let (code, out, error) = fleet.run(arguments).await;
    assert_ne!(code, 0, "{arguments:?}: {out}");
    error
}

/// What the database says was applied to it, and who may what on its tables.
async fn state(fleet: &TestFleet, slug: &str) -> String {
    let sql = "SELECT json_build_object(
        'history', (SELECT json_agg(h ORDER BY version) FROM manybox.schema_history h),
        'database', (SELECT datacl::text FROM pg_database WHERE datname = current_database()),
        'relations', (SELECT json_agg((relname, relowner, relacl::text) ORDER BY oid) FROM pg_class WHERE oid >= 16384))::text";
    let client = superuser_in(&fleet.row(slug).await.record.database()).await;
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_tenant_goes_on_by_another_editions_files() {
    let fleet = Box::pin(TestFleet::builder().toml(TWO_EDITIONS).tenants(&["a", "b"]).serve()).await;
    add(&fleet, "market", "V1__market.sql", &SHOP.concat());
    add(&fleet, "market", "V2__stalls.sql", "CREATE TABLE stalls (id int); GRANT SELECT ON stalls TO anon;");
    let owner = fleet.owner("a").await;
    owner
        .batch_execute("INSERT INTO items (name) VALUES ('kept'); GRANT DELETE ON items TO anon")
        .await
        .unwrap();
    let change = ["tenant", "change-edition", "a", "--to", "market", "--baseline", "1"];

    let before = state(&fleet, "a").await;
    let shown = done(&fleet, &[&change[..], &["--dry-run"]].concat()).await;
    assert_eq!(shown["recorded"], json!(["V1__market.sql"]));
    assert_eq!(shown["replaced"], json!(["V1__shop", "V2__notes"]));
    assert_eq!(shown["differences"], json!([]));
    assert_eq!(shown["changes"], json!(["table public.items: `anon` loses DELETE"]));
    assert_eq!(state(&fleet, "a").await, before, "a dry run changes nothing");

    // What the files don't make stands in the way, and so does a migration.
    owner.batch_execute("CREATE INDEX of_its_own ON items (price)").await.unwrap();
    let error = refused(&fleet, &change).await;
    assert!(error.contains("of_its_own") && error.contains("--accept"), "{error}");
    owner.batch_execute("DROP INDEX of_its_own; RESET ROLE").await.unwrap();
    let before = state(&fleet, "a").await;
    let lock = format!("SELECT pg_advisory_lock({})", i64::from_be_bytes(*b"mb:migra"));
    owner.batch_execute(&lock).await.unwrap();
    assert!(refused(&fleet, &change).await.contains("a migration of it is under way"));
    owner.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    let other = ["tenant", "change-edition", "a", "--to", "market", "--baseline", "7"];
    assert!(refused(&fleet, &other).await.contains("ends at version 2"));
    let same = ["tenant", "change-edition", "a", "--to", "shop", "--baseline", "1"];
    assert!(refused(&fleet, &same).await.contains("is of edition `shop` already, at version 2"));
    assert_eq!(state(&fleet, "a").await, before);
    assert_eq!(fleet.row("a").await.record.lineage().unwrap().edition, "shop");

    let shop = fleet.row("a").await;
    let changed = done(&fleet, &change).await;
    assert_eq!(changed["changes"], json!(["table public.items: `anon` loses DELETE"]));
    let market = fleet.row("a").await;
    let lineage = market.record.lineage().unwrap();
    assert_eq!((lineage.edition.as_str(), lineage.version, market.baseline), ("market", 1, Some(1)));
    assert_eq!(fleet.get("/a/items?select=name").await.text, r#"[{"name":"kept"}]"#);
    let journal = done(&fleet, &["tenant", "show", "a"]).await["journal"].to_string();
    assert!(journal.contains("change-edition") && journal.contains("V2__notes"), "{journal}");

    // Cut off between the database and the catalog, it goes on; done, it does nothing.
    let (id, of) = (market.record.id.as_str(), shop.record.lineage().unwrap());
    let back = "UPDATE catalog.tenant SET edition = 'shop', version = 2, history = $2, baseline = NULL WHERE id = $1";
    fleet.admin_of_catalog().await.execute(back, &[&id, &of.history]).await.unwrap();
    for _ in 0..2 {
        let again = done(&fleet, &change).await;
        assert_eq!((&again["recorded"], &again["changes"]), (&json!([]), &json!([])));
        assert_eq!(fleet.row("a").await.record.lineage().unwrap(), lineage);
    }
    assert_eq!(done(&fleet, &["drift"]).await["summary"]["equal"], 2);
    done(&fleet, &["migrate"]).await;
    assert_eq!(fleet.row("a").await.record.lineage().unwrap().version, 2);
    eventually("what the edition has is served", || async { fleet.get("/a/stalls").await.status == 200 })
        .await;

    // What differs may be accepted.
    fleet.owner("b").await.batch_execute("CREATE INDEX of_its_own ON items (price)").await.unwrap();
    let change = ["tenant", "change-edition", "b", "--to", "market", "--baseline", "1"];
    let accepted =
        done(&fleet, &[&change[..], &["--accept", "--reason", "it is slow without"]].concat()).await;
    assert_eq!(accepted["differences"].as_array().unwrap().len(), 1);
    assert_eq!(done(&fleet, &["drift"]).await["summary"]["accepted"], 1);
    let (code, out, _) = fleet.run(&["doctor"]).await;
    assert_eq!(code, 0, "{out}");
}

/// Exports a tenant into a folder of its own, and gives the archive.
async fn export(fleet: &TestFleet, slug: &str, more: &[&str]) -> PathBuf {
    let folder = fleet.folder.path().join("out");
    let to = folder.to_str().unwrap();
    let told = done(fleet, &[&["tenant", "export", slug, "--to", to], more].concat()).await;
    told["archive"].as_str().unwrap().into()
}

#[tokio::test]
async fn a_tenant_goes_to_another_fleet() {
    let secret = "a secret of its own that is long enough";
    let here = Box::pin(TestFleet::builder().tenants(&["a"]).build()).await;
    let there = Box::pin(TestFleet::builder().toml(TWO_EDITIONS).tenants(&["taken"]).serve()).await;
    for (file, sql) in ["V1__shop.sql", "V2__notes.sql"].into_iter().zip(SHOP) {
        add(&there, "market", file, sql);
    }
    let rows = "INSERT INTO items (name) SELECT 'item ' || i FROM generate_series(1, 30) i;
                ALTER TABLE secrets NO FORCE ROW LEVEL SECURITY; INSERT INTO secrets VALUES (1, 'me', 'hush');
                ALTER TABLE secrets FORCE ROW LEVEL SECURITY";
    here.owner("a").await.batch_execute(rows).await.unwrap();
    std::fs::write(here.folder.path().join("secret"), secret).unwrap();
    done(&here, &["tenant", "set", "a", "jwt_secret=@secret", "max_rows=7", "label.region=eu"]).await;

    let archive = export(&here, "a", &["--jwt-secret-to", "exported"]).await;
    let exported = here.folder.path().join("exported");
    assert_eq!(std::fs::read_to_string(&exported).unwrap(), secret);
    for file in [archive.clone(), archive.with_extension("json"), exported.clone()] {
        let mode = std::fs::metadata(&file).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
        let has = std::fs::read(&file).unwrap().windows(secret.len()).any(|part| part == secret.as_bytes());
        assert_eq!(has, file == exported, "{}", file.display());
    }
    let file = archive.to_str().unwrap();
    let to = ["tenant", "export", "a", "--to", file];
    assert!(refused(&here, &to).await.contains("is there already"));

    // With other keys, another catalog, and another name for the edition.
    let exported = exported.to_str().unwrap();
    let import = ["tenant", "import", file, "--edition", "market", "--base-url", "https://a.example"];
    let imported = done(&there, &[&import[..], &["--jwt-secret-file", exported]].concat()).await;
    let notes = imported["notes"].to_string();
    for note in ["max_rows = 7", "region=eu"] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
    assert!(!notes.contains("differs"), "{notes}");
    let (from, row) = (here.row("a").await.record, there.row("a").await.record);
    assert_ne!((&from.id, from.database()), (&row.id, row.database()));
    assert_eq!((row.lineage().unwrap().edition.as_str(), row.lineage().unwrap().version), ("market", 2));
    assert!(row.base_urls.iter().any(|url| url.to_string() == "https://a.example"), "{row:?}");
    let token = sign(secret.as_bytes(), json!({ "role": "authenticated", "sub": "me" }));
    eventually("it is served there", || async { there.get("/a/items?select=id").await.status == 200 }).await;
    assert_eq!(
        there.get("/a/items?select=id").await.json().as_array().unwrap().len(),
        7,
        "max_rows came along"
    );
    assert_eq!(there.get_as(&token, "/a/secrets?select=word").await.text, r#"[{"word":"hush"}]"#);
    assert_eq!(done(&there, &["drift"]).await["summary"]["equal"], 2);
    add(&there, "market", "V3__more.sql", "CREATE TABLE more (id int);");
    done(&there, &["migrate"]).await;
    assert_eq!(there.row("a").await.record.lineage().unwrap().version, 3);

    // By files that did not make it, it is not taken in.
    add(&there, "market", "V2__notes.sql", "CREATE TABLE notes (id int PRIMARY KEY, body text, more text);");
    let error = refused(&there, &["tenant", "import", file, "--as", "b", "--edition", "market"]).await;
    assert!(error.contains("V2__notes"), "{error}");

    // The manifest is a stranger's word: what it says is neither somebody else's nor a secret.
    let manifest = archive.with_extension("json");
    let written = std::fs::read_to_string(&manifest).unwrap();
    let mut forged: Value = serde_json::from_str(&written).unwrap();
    let taken = there.row("taken").await.record;
    forged["tenant"]["slug"] = json!("taken");
    forged["tenant"]["id"] = json!(taken.id.as_str());
    forged["tenant"]["base_urls"] = json!(["https://taken.example", "http://taken.localhost"]);
    forged["tenant"]["settings"]["jwt_secret"] = json!(secret);
    // Nor what `tenant set` refuses.
    forged["tenant"]["settings"]["db_schemas"] = json!("pg_catalog");
    let labels = forged["tenant"]["labels"].take();
    forged["tenant"]["labels"] = json!({ "x".repeat(1000): "1" });
    std::fs::write(&manifest, forged.to_string()).unwrap();
    let error = refused(&there, &["tenant", "import", file, "--as", "c"]).await;
    assert!(error.contains("expected a name of up to 100"), "{error}");
    forged["tenant"]["labels"] = labels;
    std::fs::write(&manifest, forged.to_string()).unwrap();
    let error = refused(&there, &["tenant", "import", file]).await;
    assert!(error.contains("tenant `taken` is there already"), "{error}");
    let imported = done(&there, &["tenant", "import", file, "--as", "c"]).await;
    let row = there.row("c").await.record;
    assert!(row.id != taken.id && row.sealed.is_empty(), "{row:?}");
    assert!(row.base_urls.iter().all(|url| !url.to_string().contains("taken")), "{row:?}");
    let notes = imported["notes"].to_string();
    assert!(
        notes.contains("taken.example") && notes.contains("not taken from the manifest: `db_schemas`"),
        "{notes}"
    );
    eventually("it is served", || async { there.get("/c/items?select=id").await.status == 200 }).await;
    assert_eq!(there.get_as(&token, "/c/secrets?select=word").await.status, 401);
    // Nor does its history pass for one that the files made.
    forged["tenant"]["version"] = json!(1);
    std::fs::write(&manifest, forged.to_string()).unwrap();
    let error = refused(&there, &["tenant", "import", file, "--as", "d"]).await;
    assert!(error.contains("is not of edition `shop` as it is here"), "{error}");
    let left = done(&there, &["tenant", "list"]).await;
    let slugs: Vec<_> = left.as_array().unwrap().iter().map(|row| row["slug"].as_str().unwrap()).collect();
    assert_eq!(slugs, ["a", "c", "taken"], "nothing is left of what was refused");
}
