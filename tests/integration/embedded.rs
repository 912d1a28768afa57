//! The embedded PostgreSQL: shared by its users, alive whatever is killed, closed to everybody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use manybox::embedded::{Embedded, EmbeddedError, Options};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// A folder that the server's user reaches also when the tests run as root.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn options(folder: &TempDir) -> Options {
    Options { folder: folder.path().join("box"), tcp: false, settings: vec![("fsync".into(), "off".into())] }
}

async fn connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn kill(server: &Embedded) {
    let pid = Pid::from_raw(server.postmaster_pid().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

fn with_login(server: &Embedded, login: &str) -> String {
    let url = server.admin_url();
    format!("postgres://{login}@{}", url.rsplit_once('@').unwrap().1)
}

async fn refusal(url: &str) -> String {
    match connect(url).await {
        Ok(_) => format!("{url} got in"),
        Err(error) => error
            .as_db_error()
            .map_or_else(|| format!("{error:?}"), |e| format!("{} {}", e.code().code(), e.message())),
    }
}

#[tokio::test]
async fn users_share_one_server_and_the_last_one_out_stops_it() {
    let folder = folder();
    let first = Embedded::start(&options(&folder)).await.unwrap();
    let second = Embedded::start(&options(&folder)).await.unwrap();
    assert_eq!(first.admin_url(), second.admin_url());
    assert_eq!(first.postmaster_pid(), second.postmaster_pid());
    assert_eq!(first.tcp_port(), None);

    let url = second.admin_url();
    first.stop().await.unwrap();
    let client = connect(&url).await.expect("the second one still uses it");
    let row = client
        .query_one(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, pg_has_role('pg_signal_backend', 'MEMBER')
             FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await
        .unwrap();
    assert_eq!([row.get::<_, bool>(0), row.get(1), row.get(2), row.get(3)], [false, true, true, true]);

    second.stop().await.unwrap();
    assert!(connect(&url).await.is_err());

    let again = Embedded::start(&options(&folder)).await.unwrap();
    assert_eq!(again.admin_url(), url, "same socket, same password");
    again.stop().await.unwrap();
}

#[tokio::test]
async fn ten_at_once_make_one_cluster() {
    let folder = folder();
    let starts: Vec<_> = (0..10)
        .map(|_| {
            let options = options(&folder);
            tokio::spawn(async move { Embedded::start(&options).await.unwrap() })
        })
        .collect();
    let mut servers = Vec::new();
    for start in starts {
        servers.push(start.await.unwrap());
    }
    let pid = servers[0].postmaster_pid();
    assert!(pid.is_some() && servers.iter().all(|server| server.postmaster_pid() == pid));

    let url = servers[0].admin_url();
    let stops: Vec<_> = servers.into_iter().map(|server| tokio::spawn(server.stop())).collect();
    for stop in stops {
        stop.await.unwrap().unwrap();
    }
    assert!(connect(&url).await.is_err());
}

#[tokio::test]
async fn supervise_restarts_a_killed_server() {
    let folder = folder();
    let server = Embedded::start(&Options { tcp: true, ..options(&folder) }).await.unwrap();
    let watch = server.supervise();
    for _ in 0..2 {
        let pid = server.postmaster_pid();
        kill(&server);
        let begun = Instant::now();
        while server.postmaster_pid() == pid || connect(&server.admin_url()).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "not back after {:?}", begun.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let url = server.admin_url();
    server.stop().await.unwrap();
    assert!(watch.await.is_err_and(|end| end.is_cancelled()));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(connect(&url).await.is_err(), "nobody restarts what was stopped");
}

#[tokio::test]
async fn a_dead_servers_pid_file_needs_no_hand_work() {
    let folder = folder();
    let first = Embedded::start(&options(&folder)).await.unwrap();
    kill(&first);
    drop(first);
    let second = Embedded::start(&options(&folder)).await.unwrap();
    kill(&second);
    drop(second);

    // The pid was given to another process meanwhile: this one, which certainly lives.
    let id = fs::read_to_string(folder.path().join("box/id")).unwrap();
    let near = folder.path().join("box/pg/data/postmaster.pid");
    let file = if near.exists() { near } else { format!("/var/lib/manybox/{id}/data/postmaster.pid").into() };
    let text = fs::read_to_string(&file).unwrap();
    let rest = text.split_once('\n').unwrap().1;
    fs::write(&file, format!("{}\n{rest}", std::process::id())).unwrap();

    let third = Embedded::start(&options(&folder)).await.unwrap();
    connect(&third.admin_url()).await.unwrap();
    third.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_left_by_a_killed_command_is_joined() {
    let folder = folder();
    let first = Embedded::start(&options(&folder)).await.unwrap();
    let pid = first.postmaster_pid();
    drop(first);
    let second = Embedded::start(&options(&folder)).await.unwrap();
    assert_eq!(second.postmaster_pid(), pid);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn everybody_but_the_bootstrap_superuser_needs_a_password() {
    let folder = folder();
    let server = Embedded::start(&Options { tcp: true, ..options(&folder) }).await.unwrap();
    let admin = connect(&server.admin_url()).await.unwrap();
    admin.batch_execute("CREATE ROLE tenant LOGIN; CREATE ROLE other LOGIN PASSWORD 'right'").await.unwrap();

    let tenant = refusal(&with_login(&server, "tenant")).await;
    assert!(tenant.contains("password missing"), "{tenant}");
    let tenant = refusal(&with_login(&server, "tenant:guess")).await;
    assert!(tenant.starts_with("28P01"), "{tenant}");
    let closed = refusal(&with_login(&server, "other:right")).await;
    assert!(closed.starts_with("42501"), "CONNECT on postgres is the admin's alone: {closed}");

    let port = server.tcp_port().unwrap();
    let password = server.admin_url().split([':', '@']).nth(2).unwrap().to_owned();
    connect(&format!("postgres://mb_admin:{password}@127.0.0.1:{port}/postgres")).await.unwrap();
    let superuser = refusal(&format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres")).await;
    assert!(superuser.starts_with("28000"), "{superuser}");

    let superuser = connect(&server.superuser_url()).await.unwrap();
    let row = superuser
        .query_one("SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'mb_admin'", &[])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_that_died_before_the_admin_was_made_heals() {
    let folder = folder();
    let server = Embedded::start(&options(&folder)).await.unwrap();
    let superuser = connect(&server.superuser_url()).await.unwrap();
    superuser.batch_execute("REVOKE ALL ON DATABASE postgres FROM mb_admin").await.unwrap();
    superuser.batch_execute("DROP ROLE mb_admin").await.unwrap();
    server.stop().await.unwrap();
    fs::remove_file(folder.path().join("box/admin.password")).unwrap();

    let server = Embedded::start(&options(&folder)).await.unwrap();
    connect(&server.admin_url()).await.unwrap();
    let mode = fs::metadata(folder.path().join("box/admin.password")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn data_of_another_major_version_is_named() {
    let folder = folder();
    let server = Embedded::start(&options(&folder)).await.unwrap();
    server.stop().await.unwrap();
    fs::write(folder.path().join("box/pg/data/PG_VERSION"), "9\n").unwrap();
    let error = Embedded::start(&options(&folder)).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::OtherMajor { data_version: 9, .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_refuses_to_start_shows_its_log() {
    let folder = folder();
    let settings = vec![("shared_buffers".to_owned(), "much".to_owned())];
    let error = Embedded::start(&Options { settings, ..options(&folder) }).await.unwrap_err();
    assert!(error.to_string().contains("invalid value for parameter \"shared_buffers\""), "{error}");
    Embedded::start(&options(&folder)).await.unwrap().stop().await.unwrap();
}
