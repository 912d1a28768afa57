//! Hosts, targets and paths that two programs could read differently: each leads to its own tenant or nowhere.

use super::{Findings, raw, statuses, two_tenants};

/// Where a request may lead.
#[derive(Debug, Clone, Copy, PartialEq)]
enum To {
    /// To acme, whose request it is.
    Acme,
    /// To a refusal.
    Refusal,
    /// Either: it names acme in an unusual way.
    AcmeOrRefusal,
}
use To::{Acme, AcmeOrRefusal, Refusal};

/// Acme is whom a proxy in front would take the request for; globex is whom the attack wants.
async fn lead(cases: &[(&str, To, &str)], toml: &str) {
    let mut fleet = two_tenants("").await;
    if !toml.is_empty() {
        fleet.edit_settings(|text| text.replace("[listen]", &format!("[listen]\n{toml}"))).await;
        fleet.start_router().await;
    }
    let mut findings = Findings::default();
    for (name, to, head) in cases {
        let answer = raw(&fleet, format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await;
        let status = statuses(&answer).first().copied();
        let found = match status {
            Some(200) if answer.contains("acme-row") => Some(Acme),
            Some(400..=499 | 505) => Some(Refusal),
            _ => None,
        };
        let right = found == Some(*to) || (*to == AcmeOrRefusal && found.is_some());
        findings.check(right && !answer.contains("globex-row"), name, format!("expected {to:?}: {answer}"));
    }
    findings.none();
}

#[tokio::test]
async fn hosts_that_two_programs_could_read_differently() {
    lead(
        &[
            ("two Hosts", Refusal, "GET /items HTTP/1.1\r\nHost: acme.localhost\r\nHost: globex.localhost"),
            (
                "two equal Hosts",
                Refusal,
                "GET /items HTTP/1.1\r\nHost: acme.localhost\r\nHost: acme.localhost",
            ),
            (
                "two Hosts in two cases",
                Refusal,
                "GET /items HTTP/1.1\r\nHost: acme.localhost\r\nhOsT: globex.localhost",
            ),
            ("no Host", Refusal, "GET /acme/items HTTP/1.1\r\nX: y"),
            ("no Host over HTTP/1.0", Refusal, "GET /acme/items HTTP/1.0\r\nX: y"),
            ("HTTP/1.0 with a Host", Acme, "GET /items HTTP/1.0\r\nHost: acme.localhost"),
            ("an empty Host", Refusal, "GET /acme/items HTTP/1.1\r\nHost:"),
            ("hosts with a comma", Refusal, "GET /items HTTP/1.1\r\nHost: acme.localhost, globex.localhost"),
            ("hosts with a space", Refusal, "GET /items HTTP/1.1\r\nHost: acme.localhost globex.localhost"),
            ("hosts with a tab", Refusal, "GET /items HTTP/1.1\r\nHost: acme.localhost\tglobex.localhost"),
            ("a NUL in the Host", Refusal, "GET /items HTTP/1.1\r\nHost: globex.localhost\0.acme.localhost"),
            (
                "user info in the Host",
                Refusal,
                "GET /items HTTP/1.1\r\nHost: acme.localhost@globex.localhost",
            ),
            (
                "user info with a port",
                Refusal,
                "GET /items HTTP/1.1\r\nHost: acme.localhost:80@globex.localhost",
            ),
            ("a path in the Host", Refusal, "GET /items HTTP/1.1\r\nHost: globex.localhost/acme.localhost"),
            ("a query in the Host", Refusal, "GET /items HTTP/1.1\r\nHost: globex.localhost?.acme.localhost"),
            (
                "a fragment in the Host",
                Refusal,
                "GET /items HTTP/1.1\r\nHost: globex.localhost#.acme.localhost",
            ),
            (
                "a backslash in the Host",
                Refusal,
                "GET /items HTTP/1.1\r\nHost: globex.localhost\\.acme.localhost",
            ),
            ("an encoded dot in the Host", Refusal, "GET /items HTTP/1.1\r\nHost: acme%2elocalhost"),
            ("a scheme in the Host", Refusal, "GET /items HTTP/1.1\r\nHost: http://acme.localhost"),
            ("two ports", Refusal, "GET /items HTTP/1.1\r\nHost: acme.localhost:80:81"),
            ("a port of letters", Refusal, "GET /items HTTP/1.1\r\nHost: acme.localhost:http"),
            ("a port with a sign", Refusal, "GET /items HTTP/1.1\r\nHost: acme.localhost:+80"),
            ("a port too large", Refusal, "GET /items HTTP/1.1\r\nHost: acme.localhost:65536"),
            ("a Host with a port", Acme, "GET /items HTTP/1.1\r\nHost: acme.localhost:8080"),
            ("a Host with an empty port", Acme, "GET /items HTTP/1.1\r\nHost: acme.localhost:"),
            ("a dot behind the Host", Acme, "GET /items HTTP/1.1\r\nHost: acme.localhost."),
            ("two dots behind the Host", Refusal, "GET /items HTTP/1.1\r\nHost: acme.localhost.."),
            ("a dot before the Host", Refusal, "GET /items HTTP/1.1\r\nHost: .acme.localhost"),
            ("large letters in the Host", Acme, "GET /items HTTP/1.1\r\nHost: ACME.LocalHost"),
            ("wide letters in the Host", AcmeOrRefusal, "GET /items HTTP/1.1\r\nHost: ａcme.localhost"),
            ("a wide dot in the Host", AcmeOrRefusal, "GET /items HTTP/1.1\r\nHost: acme。localhost"),
            ("a soft hyphen in the Host", AcmeOrRefusal, "GET /items HTTP/1.1\r\nHost: ac\u{ad}me.localhost"),
            ("a letter that only looks right", Refusal, "GET /items HTTP/1.1\r\nHost: аcme.localhost"),
            ("punycode of plain letters", Refusal, "GET /items HTTP/1.1\r\nHost: xn--acme-.localhost"),
            ("a wildcard Host", Refusal, "GET /items HTTP/1.1\r\nHost: *.localhost"),
            ("the parent of all hosts", Refusal, "GET /items HTTP/1.1\r\nHost: localhost"),
            ("a host below acme's", Refusal, "GET /items HTTP/1.1\r\nHost: x.acme.localhost"),
            ("a broken IPv6 address", Refusal, "GET /acme/items HTTP/1.1\r\nHost: [::1"),
            ("an IPv6 zone", Refusal, "GET /acme/items HTTP/1.1\r\nHost: [::1%25lo]"),
            ("an address in one number", Refusal, "GET /acme/items HTTP/1.1\r\nHost: 2130706433"),
            ("an address in octal", Refusal, "GET /acme/items HTTP/1.1\r\nHost: 0177.0.0.1"),
            ("a short address", Refusal, "GET /acme/items HTTP/1.1\r\nHost: 127.1"),
            (
                "a space before the colon",
                Refusal,
                "GET /items HTTP/1.1\r\nHost: acme.localhost\r\nHost : globex.localhost",
            ),
            (
                "a folded Host",
                Refusal,
                "GET /items HTTP/1.1\r\nX: y\r\n Host: globex.localhost\r\nHost: acme.localhost",
            ),
        ],
        "",
    )
    .await;
}

#[tokio::test]
async fn targets_that_are_no_path() {
    lead(
        &[
            (
                "a target of another host",
                Refusal,
                "GET http://globex.localhost/items HTTP/1.1\r\nHost: acme.localhost",
            ),
            (
                "a target of the same host",
                Acme,
                "GET http://acme.localhost/items HTTP/1.1\r\nHost: acme.localhost",
            ),
            (
                "a target of the same host and a port",
                Acme,
                "GET http://acme.localhost:1/items HTTP/1.1\r\nHost: acme.localhost:2",
            ),
            ("a target and no Host", AcmeOrRefusal, "GET http://acme.localhost/items HTTP/1.1\r\nX: y"),
            (
                "a target and two Hosts",
                Refusal,
                "GET http://acme.localhost/items HTTP/1.1\r\nHost: acme.localhost\r\nHost: globex.localhost",
            ),
            (
                "user info in the target",
                Refusal,
                "GET http://acme.localhost@globex.localhost/items HTTP/1.1\r\nHost: acme.localhost",
            ),
            (
                "steps in the target",
                Refusal,
                "GET http://127.0.0.1/acme/../globex/items HTTP/1.1\r\nHost: 127.0.0.1",
            ),
            ("a target without a host", Refusal, "GET http:///acme/items HTTP/1.1\r\nHost: 127.0.0.1"),
            ("a target with a strange scheme", Refusal, "GET file:///acme/items HTTP/1.1\r\nHost: 127.0.0.1"),
            ("a target without slashes", Refusal, "GET http:/acme/items HTTP/1.1\r\nHost: 127.0.0.1"),
            (
                "CONNECT to another host",
                Refusal,
                "CONNECT globex.localhost:80 HTTP/1.1\r\nHost: acme.localhost",
            ),
            (
                "CONNECT to the same host",
                Refusal,
                "CONNECT acme.localhost:80 HTTP/1.1\r\nHost: acme.localhost",
            ),
            ("an asterisk", Refusal, "OPTIONS * HTTP/1.1\r\nHost: acme.localhost"),
            ("GET of an asterisk", Refusal, "GET * HTTP/1.1\r\nHost: acme.localhost"),
            ("a path without a slash", Refusal, "GET acme/items HTTP/1.1\r\nHost: 127.0.0.1"),
            ("TRACE", Refusal, "TRACE /items HTTP/1.1\r\nHost: acme.localhost"),
            ("a fragment", AcmeOrRefusal, "GET /acme/items#/../../globex/items HTTP/1.1\r\nHost: 127.0.0.1"),
            ("a path in the query", Acme, "GET /acme/items?/../../globex/items HTTP/1.1\r\nHost: 127.0.0.1"),
            ("a version that isn't one", Refusal, "GET /acme/items HTTP/1.2 HTTP/1.1\r\nHost: 127.0.0.1"),
            ("a space in the path", Refusal, "GET /acme/items x HTTP/1.1\r\nHost: 127.0.0.1"),
            ("a tab in the path", Refusal, "GET /acme/items\tx HTTP/1.1\r\nHost: 127.0.0.1"),
        ],
        "",
    )
    .await;
}

#[tokio::test]
async fn paths_that_two_programs_could_read_differently() {
    let paths: &[(&str, To, &str)] = &[
        ("a step up", Refusal, "/acme/../globex/items"),
        ("a step up at the end", Refusal, "/acme/items/.."),
        ("a step nowhere", Refusal, "/acme/./items"),
        ("an encoded step up", Refusal, "/acme/%2e%2e/globex/items"),
        ("a half encoded step up", Refusal, "/acme/.%2e/globex/items"),
        ("a step up in mixed case", Refusal, "/acme/%2E%2e/globex/items"),
        ("a step up twice encoded", Refusal, "/acme/%252e%252e/globex/items"),
        ("a step up thrice encoded", Refusal, "/acme/%25252e%25252e/globex/items"),
        ("a step up with a parameter", Refusal, "/acme/..;/globex/items"),
        ("a step up with a named parameter", Refusal, "/acme/..;a=b/globex/items"),
        ("a step up behind a parameter", Refusal, "/acme;/../globex/items"),
        ("an encoded slash", Refusal, "/acme%2fitems"),
        ("a large encoded slash", Refusal, "/acme%2Fitems"),
        ("an encoded slash and steps", Refusal, "/acme%2f..%2fglobex/items"),
        ("a slash twice encoded", Refusal, "/acme%252fitems"),
        ("an encoded backslash", Refusal, "/acme/..%5cglobex/items"),
        ("a backslash", Refusal, "/acme\\..\\globex/items"),
        ("steps by backslash", Refusal, "/acme/..\\globex/items"),
        ("overlong dots", Refusal, "/acme/%c0%ae%c0%ae/globex/items"),
        ("overlong dots of three bytes", Refusal, "/acme/%e0%80%ae%e0%80%ae/globex/items"),
        ("an overlong slash", Refusal, "/acme%c0%afitems"),
        ("wide dots", Refusal, "/acme/%ef%bc%8e%ef%bc%8e/globex/items"),
        ("a wide slash", Refusal, "/acme%ef%bc%8fitems"),
        ("IIS's encoding", Refusal, "/acme/%u002e%u002e/globex/items"),
        ("half an encoding", Refusal, "/acme/%2/items"),
        ("no encoding", Refusal, "/acme/%zz/items"),
        ("a NUL", Refusal, "/acme%00/items"),
        ("a NUL at the end", Refusal, "/acme/items%00.json"),
        ("an encoded line break", Refusal, "/acme/items%0d%0aHost:%20globex.localhost"),
        ("an encoded question mark", Refusal, "/acme/items%3fselect=name"),
        ("an encoded fragment", Refusal, "/acme/items%23"),
        ("an empty first segment", Refusal, "//acme/items"),
        ("an empty segment", Refusal, "/acme//items"),
        ("a host by two slashes", Refusal, "//globex.localhost/items"),
        ("an encoded letter of the prefix", Refusal, "/%61cme/items"),
        ("another case of the prefix", Refusal, "/ACME/items"),
        ("a part of the prefix", Refusal, "/acm/items"),
        ("more than the prefix", Refusal, "/acmeglobex/items"),
        ("the prefix and a dot", Refusal, "/acme./items"),
        ("the prefix and a parameter", Refusal, "/acme;x=y/items"),
        ("the prefix and a space", Refusal, "/acme%20/items"),
        ("the prefix behind /rest/v1", Refusal, "/rest/v1/acme/items"),
        ("/rest/v1 and steps", Refusal, "/acme/rest/v1/../../globex/items"),
        ("/rest/v1 twice", Refusal, "/acme/rest/v1/rest/v1/items"),
        ("one prefix in another", Refusal, "/acme/globex/items"),
        ("one prefix in another behind /rest/v1", Refusal, "/acme/rest/v1/globex/items"),
        ("the database's name", Refusal, "/mb_0123456789abcdef/items"),
        ("no prefix", Refusal, "/items"),
        ("nothing", Refusal, "/"),
        ("a plain path", Acme, "/acme/items"),
        ("a plain path with the alias", Acme, "/acme/rest/v1/items"),
    ];
    let heads: Vec<String> =
        paths.iter().map(|(_, _, path)| format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1")).collect();
    let long = format!("GET /acme{} HTTP/1.1\r\nHost: 127.0.0.1", "/a".repeat(20_000));
    let cases = paths.iter().zip(&heads).map(|((name, to, _), head)| (*name, *to, head.as_str()));
    let cases: Vec<_> = cases.chain([("a long path", Refusal, long.as_str())]).collect();
    lead(&cases, "").await;
}

#[tokio::test]
async fn headers_by_which_only_a_trusted_proxy_may_choose() {
    let names = [
        "X-Forwarded-Host: globex.localhost",
        "X-Forwarded-Server: globex.localhost",
        "X-Original-Host: globex.localhost",
        "X-Host: globex.localhost",
        "X-HTTP-Host-Override: globex.localhost",
        "Forwarded: for=127.0.0.1;host=globex.localhost",
        "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: globex.localhost",
        "X-Forwarded-Prefix: /globex",
        "X-Original-URL: /globex/items",
        "X-Rewrite-URL: /globex/items",
        "X-Forwarded-Uri: /globex/items",
        "X-HTTP-Method-Override: DELETE",
        "X-Tenant: globex",
        "Destination: http://globex.localhost/items",
        "Origin: http://globex.localhost",
        "Referer: http://globex.localhost/items",
        "Cookie: tenant=globex",
    ];
    let heads =
        names.map(|header| (header, format!("GET /items HTTP/1.1\r\nHost: acme.localhost\r\n{header}")));
    let cases: Vec<_> = heads.iter().map(|(name, head)| (*name, Acme, head.as_str())).collect();
    lead(&cases, "").await;
}

#[tokio::test]
async fn a_trusted_proxys_word_that_two_programs_could_read_differently() {
    let words: &[(&str, To, &str)] = &[
        ("one", Acme, "X-Forwarded-Host: acme.localhost"),
        ("one with a port", Acme, "X-Forwarded-Host: acme.localhost:443"),
        ("two", Refusal, "X-Forwarded-Host: acme.localhost\r\nX-Forwarded-Host: globex.localhost"),
        ("two in one", Refusal, "X-Forwarded-Host: acme.localhost, globex.localhost"),
        ("none", Refusal, "X-Forwarded-Host:"),
        ("user info", Refusal, "X-Forwarded-Host: acme.localhost@globex.localhost"),
        ("a path", Refusal, "X-Forwarded-Host: globex.localhost/acme"),
        ("no text", Refusal, "X-Forwarded-Host: \u{80}\u{ff}"),
        ("Forwarded counts for nothing", Refusal, "Forwarded: host=acme.localhost"),
    ];
    let heads: Vec<String> = words
        .iter()
        .map(|(_, _, header)| format!("GET /items HTTP/1.1\r\nHost: proxy.localhost\r\n{header}"))
        .collect();
    let cases: Vec<_> =
        words.iter().zip(&heads).map(|((name, to, _), head)| (*name, *to, head.as_str())).collect();
    lead(&cases, "trusted_proxies = ['127.0.0.0/8']").await;
}
