//! Terminals: what a tenant's code, a file or another process says is shown to operators, and never obeyed.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::TestFleet;

/// A clear screen, a window title, colours in one byte, rubout, overprinting, reversed text, and a line that says that
/// all is well.
const TRICKS: &str =
    "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{7f}\u{8}\rok\u{202e}txt\u{2066}\u{2028}\nmanybox: all is well";

/// The same as a PostgreSQL literal.
const RAISED: &str =
    r"U&'\001b[2J\001b]0;owned\0007\009b31m\007f\0008\000dok\202etxt\2066\2028\000amanybox: all is well'";

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

/// Asserts that a text has nothing that a terminal obeys, and no line that it wants to pass for ours.
fn is_tame(what: &str, text: &str) {
    let obeyed = |c: char| {
        c.is_control() && c != '\n'
            || ('\u{2028}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    assert!(!text.contains(obeyed), "{what}: {text:?}");
    let pretended = text.lines().filter(|line| line.starts_with("manybox: all is well")).count();
    assert_eq!(pretended, 0, "{what}: {text:?}");
}

/// Runs the program, and gives all that it wrote.
async fn written(fleet: &TestFleet, arguments: &[&str]) -> String {
    let (_, out, error) = fleet.run(arguments).await;
    is_tame(&format!("{arguments:?}"), &out);
    is_tame(&format!("{arguments:?}"), &error);
    out + &error
}

#[tokio::test]
async fn a_raise_in_a_migration_is_shown_and_not_obeyed() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    // Not in the template, where it would stop the rollout before the tenants' turn.
    fleet.owner("acme").await.batch_execute("INSERT INTO public.items (name) VALUES ('x')").await.unwrap();
    let sql = format!(
        "DO $$ BEGIN IF EXISTS (SELECT FROM items) THEN
             RAISE EXCEPTION USING message = {RAISED}, detail = {RAISED}, hint = {RAISED};
         END IF; END $$;"
    );
    add(&fleet, "V3__tricks.sql", &sql);
    for arguments in [
        &["migrate"][..],
        &["migrate", "--json"],
        &["migrate", "status"],
        &["migrate", "status", "--json"],
        &["tenant", "show", "acme"],
        &["tenant", "show", "acme", "--json"],
    ] {
        written(&fleet, arguments).await;
    }
    let shown = written(&fleet, &["migrate"]).await;
    assert!(
        shown.contains(r"\u{1b}[2J") && shown.contains("owned"),
        "the operator sees what it was: {shown}"
    );
    let (_, out, _) = fleet.run(&["migrate", "status", "--json"]).await;
    let status: Value = serde_json::from_str(&out).unwrap();
    assert!(
        status["tenants"][0]["failure"].as_str().unwrap().contains(TRICKS),
        "JSON has the words themselves"
    );
}

#[tokio::test]
async fn a_notice_of_a_migration_in_the_log_is_shown_and_not_obeyed() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    add(&fleet, "V3__tricks.sql", &format!("DO $$ BEGIN RAISE WARNING USING message = {RAISED}; END $$;"));
    let mut program = fleet.program(&["migrate"]);
    program.env("RUST_LOG", "debug");
    let output = tokio::task::spawn_blocking(move || program.output()).await.unwrap().unwrap();
    is_tame("the log", &String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn names_in_arguments_and_files_are_shown_and_not_obeyed() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let setting = format!("app.settings.{TRICKS}={TRICKS}");
    for arguments in [
        &["tenant", "show", TRICKS][..],
        &["tenant", "suspend", TRICKS],
        &["tenant", "set", "acme", TRICKS],
        &["tenant", "set", "acme", &setting],
        &["tenant", "set", "acme", &format!("tier={TRICKS}")],
        &["tenant", "show", "acme"],
        &["tenant", "list", "--search", TRICKS],
        &["migrate", "--edition", TRICKS],
        &["server", "check", "--server", TRICKS],
        &["top", "--once", "--admin", TRICKS],
    ] {
        written(&fleet, arguments).await;
    }
    std::fs::write(fleet.folder.path().join("tenants.toml"), format!("[{TRICKS}]\n{TRICKS} = 1")).unwrap();
    written(&fleet, &["tenant", "list"]).await;
    written(&fleet, &["config"]).await;
}

#[tokio::test]
async fn an_adopted_databases_names_and_errors_are_shown_and_not_obeyed() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    // The admin may not make a role of such a name in another test's way: it is asked for, and refused by its name.
    let shown =
        written(&fleet, &["tenant", "adopt", "old", "--database", TRICKS, "--login-role", TRICKS]).await;
    assert!(shown.contains("owned"), "{shown}");
}

#[tokio::test]
async fn a_false_admin_port_is_shown_and_not_obeyed() {
    let fleet = TestFleet::builder().build().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || answer(&listener));
    let shown = written(&fleet, &["top", "--once", "--interval", "100ms", "--admin", &address]).await;
    assert!(shown.contains("owned"), "{shown}");
    let mut rows = shown.lines().skip_while(|line| !line.starts_with("TENANT")).skip(1);
    assert!(
        rows.next().is_some_and(|row| row.contains(r"\nmanybox: all is well")),
        "a cell is one line: {shown}"
    );
    written(&fleet, &["top", "--once", "--interval", "100ms", "--json", "--admin", &address]).await;
}

/// Answers as a router's admin port would, with tricks in every text.
fn answer(listener: &std::net::TcpListener) {
    let server = json!([{
        "server": TRICKS, "budget": 1, "open": 0, "idle": 0, "busy": 0, "waiting": 0, "evictions": 0, "connects": 0,
        "refused": 0, "breaker": TRICKS,
    }]);
    let flow = json!({ "requests": 0, "errors": 0, "refusals": 0, "micros": 0, "recent": 0 });
    let tenant = json!([{
        "slug": TRICKS, "id": "x", "server": TRICKS, "flow": flow, "open": 0, "busy": 0, "waiting": 0,
    }]);
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut request = [0; 4096];
        let read = std::io::Read::read(&mut stream, &mut request).unwrap_or(0);
        let asked = String::from_utf8_lossy(&request[..read]).into_owned();
        let body = if asked.starts_with("GET /servers") { &server } else { &tenant }.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all((head + &body).as_bytes());
    }
}

#[test]
fn no_command_writes_to_a_terminal_past_the_output_layer() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![source];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("cli/output.rs") && path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for way in [
                    "println!(",
                    "eprint!(",
                    "print!(",
                    "stdout().lock()",
                    "stderr().lock()",
                    "buffered_stdout",
                ] {
                    assert!(!text.contains(way), "{} writes by {way}", path.display());
                }
            }
        }
    }
}
