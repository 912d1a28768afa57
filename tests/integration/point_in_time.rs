//! Servers that go back to a base backup, or to a moment behind it, and what of manybox stands on them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use manybox::embedded::{Embedded, Options};
use tokio_postgres::{Client, NoTls};

use crate::support::cluster::Node;
use crate::support::{TestFleet, eventually};

/// A folder that the server's user reaches also when the tests run as root, with one in it that everybody may write into.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(folder.path().join("archive")).unwrap();
    fs::set_permissions(folder.path().join("archive"), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

fn options(folder: &Path, settings: &[(&str, &str)]) -> Options {
    let settings = settings.iter().chain(&[("fsync", "off")]);
    let settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Options { folder: folder.join("box"), tcp: false, settings }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn rows(url: &str) -> Vec<i32> {
    let rows = connect(url).await.query("SELECT i FROM numbers ORDER BY 1", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_server_goes_back_to_its_moment_and_no_further() {
    let folder = folder();
    let archive = folder.path().join("archive").display().to_string();
    let keep = format!("cp %p {archive}/%f");
    let options = options(folder.path(), &[("archive_mode", "on"), ("archive_command", &keep)]);
    let server = Embedded::start(&options).await.unwrap();
    let (node, base) = (Node::of(&server).await, folder.path().join("archive/base"));
    let url = server.superuser_url();
    let client = connect(&url).await;
    client.batch_execute("CREATE TABLE numbers (i int); INSERT INTO numbers VALUES (1)").await.unwrap();
    node.base_backup(&base, &[]);
    client.batch_execute("INSERT INTO numbers VALUES (2)").await.unwrap();
    let moment: String = client.query_one("SELECT clock_timestamp()::text", &[]).await.unwrap().get(0);
    client.batch_execute("INSERT INTO numbers VALUES (3)").await.unwrap();
    let newest = "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_switch_wal()";
    let newest: String = client.query_one(newest, &[]).await.unwrap().get(0);
    eventually("it is archived", async || Path::new(&archive).join(&newest).exists()).await;
    drop(client);
    server.stop().await.unwrap();

    // The end of its recovery takes a second, in which it can be read already. The second time there is another timeline, too.
    let settings = format!(
        "restore_command = 'cp {archive}/%f %p'\nrecovery_target_time = '{moment}'\nrecovery_target_timeline = 'current'\n\
         recovery_end_command = 'sleep 1'\n"
    );
    node.go_back(&base, Some(&format!("{settings}recovery_target_action = 'promote'\n")));
    let server = Embedded::start(&options).await.unwrap();
    let client = connect(&url).await;
    let recovers = client.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap();
    assert!(!recovers.get::<_, bool>(0), "used before its recovery was over");
    // Stopped by the first command that used it.
    server.stop().await.unwrap();
    let server = Embedded::start(&options).await.unwrap();
    assert_eq!(rows(&url).await, [1, 2]);
    server.stop().await.unwrap();

    // One that is told to wait at the moment is left alone until somebody has looked at it.
    node.go_back(&base, Some(&format!("{settings}recovery_target_action = 'pause'\n")));
    for _ in 0..2 {
        let error = Embedded::start(&options).await.unwrap_err().to_string();
        assert!(error.contains("pg_wal_replay_resume()"), "{error}");
        assert_eq!(rows(&url).await, [1, 2]);
    }
    connect(&url).await.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    let server = Embedded::start(&options).await.unwrap();
    assert_eq!(rows(&url).await, [1, 2]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn data_of_somebody_else_are_refused_with_what_to_do() {
    let folder = folder();
    let options = options(folder.path(), &[]);
    let server = Embedded::start(&options).await.unwrap();
    let node = Node::of(&server).await;
    server.stop().await.unwrap();
    let own = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap();
    if own != 0 {
        return; // Nobody but root can give data away.
    }
    // As `cp` leaves a base backup.
    std::os::unix::fs::chown(&node.data, Some(0), Some(0)).unwrap();
    let error = Embedded::start(&options).await.unwrap_err().to_string();
    assert!(error.contains("chown -R"), "{error}");
}

#[tokio::test]
async fn templates_of_a_server_that_went_back_alone_are_made_anew() {
    let folder = folder();
    let options = options(folder.path(), &[]);
    let server = Embedded::start(&options).await.unwrap();
    let two = format!(
        "[servers.two]\nurl = '{}'\n[defaults]\nedition = 'shop'\nserver = 'two'",
        server.admin_url()
    );
    let fleet = TestFleet::builder().toml(&two).build().await;
    let (node, bases) = (Node::of(&server).await, folder.path().join("archive"));
    let add = |version: i32| {
        let file = format!("migrations/shop/V{version}__t{version}.sql");
        fs::write(fleet.folder.path().join(file), format!("CREATE TABLE t{version} (i int)")).unwrap();
    };
    let migrate = async || {
        let (code, _, error) = fleet.run(&["migrate"]).await;
        assert_eq!(code, 0, "{error}");
    };
    node.base_backup(&bases.join("without"), &[]);
    fleet.create("a").await;
    add(3);
    migrate().await;
    node.base_backup(&bases.join("older"), &[]);
    // The template is made from the one of version 2, which the base backup has.
    add(4);
    migrate().await;
    let ready = async || {
        let templates = fleet.fleet.catalog.templates().await.unwrap();
        templates.into_iter().find(|template| template.state == "ready").unwrap()
    };
    let newest = ready().await;
    server.stop().await.unwrap();

    for (base, slug) in [("older", "b"), ("without", "c")] {
        node.go_back(&bases.join(base), None);
        let server = Embedded::start(&options).await.unwrap();
        let (code, _, error) = fleet.run(&["tenant", "create", slug]).await;
        assert_eq!(code, 0, "{base}: {error}");
        assert_eq!(ready().await.lineage, newest.lineage);
        let admin = fleet.owner(slug).await;
        admin.batch_execute("SELECT FROM t3, t4").await.unwrap();
        drop(admin);
        server.stop().await.unwrap();
    }
}
