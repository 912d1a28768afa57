//! What is asked of a tenant's database by HTTP: whether its schema drifted, and a backup.

use manybox::catalog::{OperatorRole, Scopes};
use manybox::fleet::BackupFiles;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Service, token};
use crate::support::{Answer, TestFleet, eventually};

async fn post(service: &Service, token: &str, path: &str, body: &Value, reason: Option<&str>) -> Answer {
    let request = service.bare(Method::POST, path).bearer_auth(token).json(body);
    let request = reason.into_iter().fold(request, |request, reason| request.header("X-Reason", reason));
    Answer::of(request.send().await.unwrap()).await
}

/// The job that an answer names, when it has ended.
async fn ended(service: &Service, begun: &Answer) -> Value {
    assert_eq!(begun.status, 202, "{}", begun.text);
    let place = &begun.headers["location"];
    let job = || async { service.get(&service.owner, place).await.json() };
    eventually("the job ends", || async { !job().await["ended_at"].is_null() }).await;
    job().await
}

#[tokio::test]
async fn drift_is_told_and_accepted_by_who_may() {
    let fleet = TestFleet::builder().tenants(&["acme", "beta"]).build().await;
    let service = Service::start(&fleet).await;
    let (path, operator) = ("/v1/tenants/acme/drift", OperatorRole::Operator);
    let viewer = token(&fleet, "vera", OperatorRole::Viewer, Scopes::default()).await;
    let other = Scopes { editions: Some(["other".into()].into()), ..Scopes::default() };
    let foreign = token(&fleet, "otto", operator, other).await;
    let ole = token(&fleet, "ole", operator, Scopes::default()).await;
    for (token, path, status, code) in [
        (&viewer, path, 403, "MBX602"),
        (&foreign, path, 404, "MBX603"),
        (&ole, "/v1/tenants/none/drift", 404, "MBX603"),
        (&viewer, "/v1/tenants/acme/backup", 403, "MBX602"),
        (&foreign, "/v1/tenants/acme/backup", 404, "MBX603"),
        // There is no folder.
        (&ole, "/v1/tenants/acme/backup", 422, "MBX606"),
    ] {
        let refused = post(&service, token, path, &json!({}), Some("to see")).await;
        assert_eq!(
            (refused.status.as_u16(), refused.json()["code"].as_str()),
            (status, Some(code)),
            "{path}"
        );
    }
    let equal = post(&service, &ole, path, &json!({}), None).await;
    assert_eq!((equal.status.as_u16(), &equal.json()["standing"]), (200, &json!("equal")), "{}", equal.text);
    fleet.owner("acme").await.batch_execute("ALTER TABLE items ADD COLUMN colour text").await.unwrap();
    let drifted = post(&service, &ole, path, &json!({}), None).await.json();
    assert_eq!(drifted["standing"], "drifted");
    assert_eq!(drifted["differences"], json!(["table public.items: column colour not expected: text"]));
    // As a job.
    let request = service.bare(Method::POST, path).bearer_auth(&ole).header("Prefer", "respond-async");
    let begun = Answer::of(request.json(&json!({})).send().await.unwrap()).await;
    let job = ended(&service, &begun).await;
    assert_eq!((&job["state"], &job["result"]["standing"]), (&json!("done"), &json!("drifted")), "{job}");
    // Accepted with a reason, by name, and of one tenant alone.
    let unsaid = post(&service, &ole, path, &json!({ "accept": true }), None).await;
    assert_eq!((unsaid.status.as_u16(), unsaid.json()["code"].as_str()), (422, Some("MBX606")));
    let accepted = post(&service, &ole, path, &json!({ "accept": true }), Some("their own")).await.json();
    assert_eq!((&accepted["standing"], &accepted["reason"]), (&json!("accepted"), &json!("their own")));
    let journal = service.get(&ole, "/v1/tenants/acme/journal").await.json();
    let entries = journal["entries"].as_array().unwrap();
    let line = entries.iter().find(|line| line["action"] == "drift-accepted").unwrap();
    assert_eq!((&line["act"]["operator"], &line["act"]["reason"]), (&json!("ole"), &json!("their own")));
    let beta = post(&service, &ole, "/v1/tenants/beta/drift", &json!({}), None).await;
    assert_eq!(beta.json()["standing"], "equal");
}

#[tokio::test]
async fn a_backup_is_a_job_that_leaves_files_or_says_why_not() {
    let mut fleet = TestFleet::builder().toml("[control]\nbackups = 'kept'").tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    let path = "/v1/tenants/acme/backup";
    let job = ended(&service, &post(&service, &service.owner, path, &json!({}), None).await).await;
    assert_eq!(
        (&job["state"], &job["kind"], &job["slug"]),
        (&json!("done"), &json!("backup"), &json!("acme"))
    );
    // Below the settings' folder, wherever the service was started, and as commands know them.
    let archive = std::path::PathBuf::from(job["result"]["archive"].as_str().unwrap());
    assert_eq!(archive.parent().unwrap(), fleet.folder.path().join("kept"));
    let manifest = BackupFiles::of(&archive).read().unwrap();
    assert_eq!(job["result"]["sha256"].as_str(), Some(manifest.archive.sha256.as_str()));
    let (code, out, error) =
        fleet.run(&["tenant", "restore", "acme", "--from", archive.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{out}{error}");
    // By HTTP a file restores nothing, and that is said; what a caller names is no path.
    for body in [json!({ "from": "../../etc/passwd" }), json!({ "backup": archive })] {
        let refused = post(&service, &service.owner, "/v1/tenants/acme/restore", &body, None).await;
        assert_eq!(
            (refused.status.as_u16(), refused.json()["code"].as_str()),
            (422, Some("MBX606")),
            "{body}"
        );
    }
    // A folder that is none.
    std::fs::write(fleet.folder.path().join("file"), "").unwrap();
    fleet.edit_settings(|text| text.replace("'kept'", "'file/kept'")).await;
    let service = Service::start(&fleet).await;
    let job = ended(&service, &post(&service, &service.owner, path, &json!({}), None).await).await;
    assert_eq!((&job["state"], &job["result"]), (&json!("failed"), &Value::Null));
    let detail = job["problem"]["detail"].as_str().unwrap();
    assert!(detail.contains("file/kept"), "{job}");
}
