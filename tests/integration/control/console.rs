//! The console under attack: forged forms, frames, hostile text, planted sessions, other sites, and those who may not.

use manybox::catalog::{Act, NewJob, OperatorRole, Scopes};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::json;

use super::{Service, token};
use crate::support::TestFleet;

/// What a tenant's owner, an operator or a server may have written.
const HOSTILE: &str =
    "</td><script>alert(1)</script><img src=x onerror=alert(2)>\" onload=\"x' \u{202e}{{7*7}}";

/// A browser that is signed in: its cookie, and the token of its forms.
struct Browser<'a> {
    service: &'a Service,
    cookie: String,
    csrf: String,
}

impl<'a> Browser<'a> {
    async fn signed_in(service: &'a Service, token: &str) -> Self {
        let answer = sign_in(service, token, "/", None).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let cookie = cookie(&answer);
        let page = service.bare(Method::GET, "/settings").header("Cookie", &cookie).send().await.unwrap();
        let page = page.text().await.unwrap();
        let csrf = page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        Self { service, cookie, csrf }
    }

    async fn page(&self, path: &str) -> (u16, String) {
        let answer =
            self.service.bare(Method::GET, path).header("Cookie", &self.cookie).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// A form of a page of the console's own.
    fn form(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let fields: Vec<_> = fields.iter().copied().chain([("csrf", self.csrf.as_str())]).collect();
        self.bare(path, &fields).header("Sec-Fetch-Site", "same-origin")
    }

    /// A form of anybody's, with the cookie.
    fn bare(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        self.service.bare(Method::POST, path).header("Cookie", &self.cookie).form(fields)
    }

    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> u16 {
        self.form(path, fields).send().await.unwrap().status().as_u16()
    }
}

async fn sign_in(service: &Service, token: &str, next: &str, had: Option<&str>) -> Response {
    let mut request = service.bare(Method::POST, "/sign-in").header("Sec-Fetch-Site", "same-origin");
    if let Some(had) = had {
        request = request.header("Cookie", had);
    }
    request.form(&[("token", token), ("next", next)]).send().await.unwrap()
}

fn cookie(answer: &Response) -> String {
    let set = answer.headers()["set-cookie"].to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}

async fn state(fleet: &TestFleet, slug: &str) -> String {
    fleet.row(slug).await.record.state.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_of_other_sites_and_other_sessions_change_nothing() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    let (olga, other) = (
        Browser::signed_in(&service, &service.owner).await,
        Browser::signed_in(&service, &service.owner).await,
    );
    let csrf = [("csrf", olga.csrf.as_str())];
    // With the token, but from elsewhere: nothing says that it is from here, or something says that it isn't.
    for (header, value) in [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        ("Sec-Fetch-Site", "none"),
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("X-Nothing", "x"),
    ] {
        let sent = olga.bare("/tenants/acme/suspend", &csrf).header(header, value).send().await.unwrap();
        assert_eq!(sent.status().as_u16(), 403, "{header}: {value}");
    }
    // From here, but without the token of this session.
    for fields in [
        &[][..],
        &[("csrf", "")],
        &[("csrf", other.csrf.as_str())],
        &[("csrf", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")],
    ] {
        let sent = olga
            .bare("/tenants/acme/suspend", fields)
            .header("Sec-Fetch-Site", "same-origin")
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status().as_u16(), 403, "{fields:?}");
    }
    assert_eq!(state(&fleet, "acme").await, "active");
    // What changes something is no link.
    for path in ["/tenants/acme/suspend", "/sign-out", "/verify/run", "/theme"] {
        let (status, _) = olga.page(path).await;
        assert!(matches!(status, 404 | 405), "{path}: {status}");
    }
    assert_eq!(olga.send("/tenants/acme/suspend", &[]).await, 303);
    assert_eq!(state(&fleet, "acme").await, "suspended");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_in_no_frame_and_load_nothing_foreign() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    let olga = Browser::signed_in(&service, &service.owner).await;
    for path in [
        "/",
        "/sign-in",
        "/tenants",
        "/tenants/acme",
        "/tenants/nobody",
        "/rollouts",
        "/verify",
        "/journal",
        "/settings",
        "/nothing",
        "/new-tenant",
    ] {
        let answer = service.bare(Method::GET, path).header("Cookie", &olga.cookie).send().await.unwrap();
        let headers = answer.headers().clone();
        let of = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(
            (of("x-frame-options").as_str(), of("x-content-type-options").as_str()),
            ("DENY", "nosniff"),
            "{path}"
        );
        assert_eq!(of("cache-control"), "no-store", "{path}");
        let policy = of("content-security-policy");
        for part in ["default-src 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        // Nothing that the policy would have to forbid.
        let page = answer.text().await.unwrap();
        for inline in [" style=", "<style", "javascript:", " onclick=", "<script>", "http://www."] {
            assert!(!page.contains(inline), "{path} has {inline}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_is_text_wherever_it_stands() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    let catalog = &fleet.fleet.catalog;
    let id = fleet.row("acme").await.record.id;
    let admin = fleet.admin_of_catalog().await;
    let labels = [("team".to_owned(), HOSTILE.to_owned())].into();
    catalog.tenant_label(&id, &labels).await.unwrap();
    catalog.note(&id, HOSTILE, &json!({ HOSTILE: HOSTILE })).await.unwrap();
    let sql = "UPDATE catalog.tenant SET failure = $1, quarantined = now(), tier = $1 WHERE id = $2";
    admin.execute(sql, &[&HOSTILE, &id.as_str()]).await.unwrap();
    let plan = json!({ "policy_name": HOSTILE, "policy": { "waves": [{ "name": HOSTILE }] }, "scope": { "edition": null, "tenant": null, "target": null },
        "targets": { HOSTILE: { "version": 2, "history": "x", "files": [HOSTILE], "gaps": {} } }, "templates": [[HOSTILE, HOSTILE]],
        "waves": [{ "name": HOSTILE, "tenants": 1, "policy": { "name": HOSTILE } }] });
    let step = manybox::catalog::NewStep {
        wave: 0,
        tenant: id.to_string(),
        slug: "acme".into(),
        server: "main".into(),
        edition: "shop".into(),
        before: 1,
    };
    let rollout = catalog.rollout_insert(&plan, &[step]).await.unwrap().id;
    let failure = json!({ "kind": "sql", "message": HOSTILE, "place": { "file": HOSTILE, "line": 3, "text": HOSTILE } });
    let sql = "UPDATE catalog.rollout_step SET state = 'failed', failure = $1";
    admin.execute(sql, &[&failure]).await.unwrap();
    admin.execute("UPDATE catalog.rollout SET state = 'halted', reason = $1", &[&HOSTILE]).await.unwrap();
    let finding = json!({ "code": "V00", "server": HOSTILE, "tenant": HOSTILE, "database": null, "seen": HOSTILE, "remedy": HOSTILE });
    let report = json!({ "findings": [finding], "left_out": [HOSTILE], "servers": { HOSTILE: HOSTILE }, "tried": {}, "looked_into": [], "tenants": 1, "seconds": 1.0 });
    let act = Act {
        operator: HOSTILE.into(),
        by: HOSTILE.into(),
        request: "r".into(),
        reason: Some(HOSTILE.into()),
    };
    let verify = |id: &str| NewJob {
        id: id.into(),
        kind: "verify".into(),
        tenant: None,
        slug: None,
        work: json!({}),
        act: act.clone(),
    };
    catalog.job_add(&verify("one"), None).await.unwrap();
    catalog.job_end("one", Ok(&report)).await.unwrap();
    catalog.job_add(&verify("two"), None).await.unwrap();
    let problem = json!({ "code": "MBX600", "detail": HOSTILE });
    catalog.job_end("two", Err(&problem)).await.unwrap();
    token(&fleet, HOSTILE, OperatorRole::Viewer, Scopes::default()).await;
    let router = "SELECT catalog.register_router($1, $2, 1)";
    admin.execute(router, &[&HOSTILE, &HOSTILE]).await.unwrap();

    let olga = Browser::signed_in(&service, &service.owner).await;
    let query = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%20onload%3D%22x";
    let paths = [
        "/".to_owned(),
        "/tenants".to_owned(),
        "/tenants/acme".to_owned(),
        "/rollouts".to_owned(),
        format!("/rollouts/{rollout}"),
        "/verify".to_owned(),
        "/journal".to_owned(),
        "/settings".to_owned(),
        format!("/tenants?q={query}&state={query}&edition={query}&after={query}&tier={query}"),
        format!("/journal?tenant={query}&who={query}&action={query}&before={query}"),
        format!("/tenants/{query}"),
        format!("/rollouts/{query}"),
        format!("/sign-in?next={query}"),
        format!("/new-rollout?edition={query}&target={query}"),
        format!("/{query}"),
    ];
    for path in paths {
        let (status, page) = olga.page(&path).await;
        assert!(status < 500, "{path}: {status} {page}");
        for made in ["<script>", "<img", "onerror=alert(2)>", "\" onload", "\u{202e}"] {
            // A form has to send an operator's name as it is, where nobody sees it.
            let is_sent = made == "\u{202e}" && path == "/settings";
            assert!(is_sent || !page.contains(made), "{path} has {made}");
        }
    }
    let (_, page) = olga.page("/tenants/acme").await;
    assert!(page.contains("&lt;script&gt;alert(1)"), "it is shown, as text");
    // What is told on the next page comes by a cookie of the browser's, which somebody may have planted.
    let planted =
        format!("{}; manybox-said=eyJpc19nb29kIjp0cnVlLCJ0ZXh0IjoiPHNjcmlwdD54PC9zY3JpcHQ-In0", olga.cookie);
    let told = service
        .bare(Method::GET, "/tenants")
        .header("Cookie", planted)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(told.contains("&lt;script&gt;x") && !told.contains("<script>x"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_can_not() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    let viewer = token(&fleet, "vera", OperatorRole::Viewer, Scopes::default()).await;
    let operator = token(&fleet, "otto", OperatorRole::Operator, Scopes::default()).await;
    let labels = [("ring".to_owned(), "blue".to_owned())].into();
    let scoped = token(&fleet, "sam", OperatorRole::Owner, Scopes { labels, ..Scopes::default() }).await;
    let acts: &[(&str, &[(&str, &str)])] = &[
        ("/tenants", &[("slug", "mine")]),
        ("/tenants/acme/suspend", &[]),
        ("/tenants/acme/retire", &[]),
        ("/tenants/acme/purge", &[("typed", "acme")]),
        ("/tenants/acme/reload", &[]),
        ("/tenants/acme/take-in", &[]),
        ("/tenants/acme/settings", &[("key", "db_max_rows"), ("value", "1")]),
        ("/rollouts", &[("edition", "shop")]),
        ("/rollouts/1/run", &[]),
        ("/verify", &[]),
        ("/settings/operators", &[("name", "me"), ("role", "owner")]),
        ("/settings/tokens", &[("operator", "ada"), ("role", "owner")]),
        ("/settings/operators/revoke", &[("name", "ada")]),
        ("/settings/tokens/x/revoke", &[]),
    ];
    let vera = Browser::signed_in(&service, &viewer).await;
    for (path, fields) in acts {
        let status = vera.send(path, fields).await;
        assert!(matches!(status, 403), "a viewer: {path}: {status}");
    }
    let otto = Browser::signed_in(&service, &operator).await;
    for (path, fields) in
        acts.iter().filter(|(path, _)| path.starts_with("/settings") || path.ends_with("purge"))
    {
        assert_eq!(otto.send(path, fields).await, 403, "an operator: {path}");
    }
    // Somebody else's tenants are not there, and neither is the fleet.
    let sam = Browser::signed_in(&service, &scoped).await;
    for (path, fields) in acts.iter().filter(|(path, _)| *path != "/tenants") {
        let status = sam.send(path, fields).await;
        assert!(matches!(status, 403 | 404), "somebody for others: {path}: {status}");
    }
    for path in ["/rollouts", "/rollouts/1", "/verify", "/journal", "/events", "/tenants/acme"] {
        let (status, page) = sam.page(path).await;
        assert!(matches!(status, 403 | 404), "{path}: {status} {page}");
    }
    let (_, settings) = sam.page("/settings").await;
    assert!(!settings.contains(">ada"), "who else there is");
    assert!(!sam.page("/tenants?q=acme").await.1.contains("/tenants/acme"));
    assert_eq!(state(&fleet, "acme").await, "active");
    let operators = fleet.fleet.catalog.operators().await.unwrap();
    assert!(operators.iter().all(|operator| operator.name != "me" && operator.revoked_at.is_none()));
    // Nobody at all is led to the form, whatever the path.
    for (method, path) in [
        (Method::GET, "/tenants/acme"),
        (Method::POST, "/tenants/acme/suspend"),
        (Method::GET, "/rollouts/1/events"),
    ] {
        let answer = service.bare(method, path).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 303, "{path}");
        assert!(answer.headers()["location"].to_str().unwrap().starts_with("/sign-in"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_nobody_elses_and_signing_in_leads_nowhere_else() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    // A session that somebody planted becomes nobody's, and is not the one that signing in gives.
    let mine = Browser::signed_in(&service, &service.owner).await;
    let answer = sign_in(&service, &service.owner, "/", Some(&mine.cookie)).await;
    let fresh = cookie(&answer);
    assert_ne!(fresh, mine.cookie);
    assert_eq!(mine.page("/tenants").await.0, 303, "what was there before is ended");
    let planted = "manybox-session=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let answer = sign_in(&service, &service.owner, "/", Some(planted)).await;
    assert!(!cookie(&answer).contains("AAAAAAAA"));
    let rules = answer.headers()["set-cookie"].to_str().unwrap();
    for rule in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(rules.contains(rule), "{rules}");
    }
    // Signed out, the cookie holds no more wherever it was copied to.
    let olga = Browser::signed_in(&service, &service.owner).await;
    assert_eq!(olga.send("/sign-out", &[]).await, 303);
    assert_eq!(olga.page("/tenants").await.0, 303);

    for next in [
        "//evil.example",
        "https://evil.example/",
        "/\\evil.example",
        "\\/evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "/sign-out",
        "",
    ] {
        let answer = sign_in(&service, &service.owner, next, None).await;
        assert_eq!(answer.headers()["location"], "/", "{next:?}");
    }
    let answer = sign_in(&service, &service.owner, "/tenants?q=a", None).await;
    assert_eq!(answer.headers()["location"], "/tenants?q=a");
    // A page of another site signs nobody in as somebody else.
    for (header, value) in
        [("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.example"), ("X-Nothing", "x")]
    {
        let request = service.bare(Method::POST, "/sign-in").header(header, value);
        let answer = request.form(&[("token", service.owner.as_str())]).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers().get("set-cookie")),
            (403, None),
            "{header}: {value}"
        );
    }
    let wrong = sign_in(&service, "mbc_aaaa_bbbb", "/", None).await;
    assert_eq!((wrong.status().as_u16(), wrong.headers().get("set-cookie")), (401, None));
}
