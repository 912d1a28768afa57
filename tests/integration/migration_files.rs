//! The linter by the command line: without server or catalog, each edition by itself.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::TestFleet;

/// A folder with editions of these files, and settings whose only server is not there.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut toml = String::from(
        "[listen]\nbase_urls = ['http://{tenant}.localhost']\n[servers.main]\nurl = 'postgres://nobody@127.0.0.1:1/x'\n",
    );
    for (path, sql) in files {
        let (edition, _) = path.split_once('/').unwrap();
        let section = format!("[editions.{edition}]\n");
        if !toml.contains(&section) {
            toml.push_str(&section);
        }
        let path = folder.path().join("migrations").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, sql).unwrap();
    }
    std::fs::write(folder.path().join("tenants.toml"), toml).unwrap();
    folder
}

fn lint(folder: &Path, arguments: &[&str]) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_manybox"));
    let output = command.current_dir(folder).args(["migrate", "lint"]).args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[test]
fn lint_names_what_is_wrong_and_goes_on_with_other_editions() {
    let folder = folder(&[
        ("a/V20240115180414__users.sql", "CREATE TABLE users (id int);"),
        ("a/V20240116000000__index.sql", "CREATE INDEX users_id ON users (id);"),
        ("b/V1__goose.sql", "-- +goose Up\nCREATE TABLE t ();\n-- +goose Down\nDROP TABLE t;"),
        ("c/20240115_x.up.sql", "SELECT 1;"),
        ("d/V1__dump.sql", "SET lock_timeout = 0;\nCREATE TABLE t ();"),
    ]);
    let (output, text) = lint(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    for expected in [
        "warning a/V20240116000000__index.sql:1: ",
        "[require-concurrent-index-creation]",
        "error b/V1__goose.sql:3: begins the way back of a file for goose",
        "rename it to `V20240115__x.sql`",
        "error d/V1__dump.sql:1: takes `lock_timeout` away",
        "4 edition(s): 3 error(s), 2 warning(s)",
    ] {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }

    let (output, text) = lint(folder.path(), &["--edition", "a"]);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let (output, _) = lint(folder.path(), &["--edition", "a", "--strict"]);
    assert_eq!(output.status.code(), Some(1));
    let (output, text) = lint(folder.path(), &["--edition", "a", "--strict", "--after", "20240116000000"]);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let (output, text) = lint(folder.path(), &["--edition", "nix"]);
    assert!(output.status.code() == Some(1) && text.contains("[editions.nix]"), "{text}");

    let (output, _) = lint(folder.path(), &["--json"]);
    let reports: Value = serde_json::from_slice(&output.stdout).unwrap();
    let finding = &reports[0]["findings"][0];
    assert_eq!((&reports[0]["edition"], &reports[0]["files"]), (&"a".into(), &2.into()));
    assert_eq!(finding["version"], 20_240_116_000_000_i64);
    assert_eq!((&finding["line"], &finding["warning"]), (&1.into(), &true.into()));
    assert_eq!(finding["code"], "require-concurrent-index-creation");
    assert!(reports[2]["error"].as_str().unwrap().contains("20240115_x.up.sql"));
}

#[test]
fn an_allowance_says_why() {
    let sql = |mark: &str| format!("CREATE TABLE t ();\n{mark}\nSET lock_timeout = '10s';\n");
    for (mark, code) in [
        ("-- manybox: allow raises-timeout because the table is empty", 0),
        ("-- manybox: allow raises-timeout", 1),
        ("-- manybox: allow raise-timeout because the table is empty", 1),
        ("-- manybox: permit raises-timeout", 1),
    ] {
        let folder = folder(&[("a/V1__x.sql", &sql(mark))]);
        let (output, text) = lint(folder.path(), &[]);
        assert_eq!(output.status.code(), Some(code), "{mark}: {text}");
    }
}

#[tokio::test]
async fn files_run_with_their_editions_settings() {
    let fleet = TestFleet::builder()
        .toml("settings = { search_path = 'app, public', \"app.region\" = \"it's\" }")
        .tenants(&["a"])
        .build()
        .await;
    let folder = fleet.folder.path().join("migrations/shop");
    let placed = "CREATE SCHEMA app; CREATE TABLE placed AS SELECT current_setting('app.region') AS region;";
    std::fs::write(folder.join("V3__placed.sql"), placed).unwrap();
    let outside =
        "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY placed_region ON app.placed (region);";
    std::fs::write(folder.join("V4__index.sql"), outside).unwrap();
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    let region = fleet.admin("a").await.query_one("SELECT region FROM app.placed", &[]).await.unwrap();
    assert_eq!(region.get::<_, String>(0), "it's");

    // One that the server doesn't take stops the files and is named.
    std::fs::write(folder.join("V5__x.sql"), "SELECT 1;").unwrap();
    let file = fleet.folder.path().join("tenants.toml");
    let toml = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, toml.replace("\"app.region\" = \"it's\"", "work_mem = 'much'")).unwrap();
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert!(code == 1 && error.contains("work_mem"), "{error}");
}
