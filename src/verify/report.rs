//! Report: one page that needs nothing else, for an auditor who is no engineer.

use std::fmt;

use time::macros::format_description;

use super::{CHECKS, Check, Finding, Verification};
use crate::telemetry::printable;

const STYLE: &str = "
:root{--ink:#1c2128;--soft:#57606a;--line:#d8dee4;--good:#116329;--bad:#a40e26;--paper:#fff}
*{box-sizing:border-box}
body{margin:0;background:#f6f8fa;color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:2rem auto;padding:2rem 2.5rem;background:var(--paper);border:1px solid var(--line)}
h1{font-size:1.7rem;margin:0 0 .25rem}h2{font-size:1.2rem;margin:2rem 0 .5rem}
p{margin:.4rem 0}.soft{color:var(--soft)}
.verdict{margin:1.5rem 0;padding:1rem 1.25rem;border-left:.4rem solid;font-size:1.15rem}
.good{color:var(--good)}.bad{color:var(--bad)}.verdict.good{background:#dafbe1}.verdict.bad{background:#ffebe9}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.5rem;margin:1rem 0}dt{color:var(--soft)}dd{margin:0}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;vertical-align:top;padding:.5rem .6rem;border-top:1px solid var(--line)}
th{color:var(--soft);font-weight:600}td.code{white-space:nowrap}
code{font:.85rem/1.4 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}
.finding{border:1px solid var(--line);border-left:.3rem solid var(--bad);padding:.6rem 1rem;margin:.8rem 0}
@media print{body{background:none}main{border:0;margin:0;padding:0;max-width:none}.finding,tr{break-inside:avoid}}
";

/// Text in HTML: whatever a tenant named its objects, it is text here.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in printable::lines(self.0).chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => fmt::Write::write_char(f, c)?,
            }
        }
        Ok(())
    }
}

/// The page.
pub fn page(verification: &Verification) -> String {
    let v = verification;
    let at =
        v.at.format(format_description!("[day padding:none] [month repr:long] [year], [hour]:[minute] UTC"));
    let at = at.unwrap_or_else(|_| v.at.to_string());
    let verdict = if v.is_green() {
        let but = if v.left_out.is_empty() { "" } else { " Something was not looked at; see below." };
        format!(
            "<p class=\"verdict good\"><strong>Nothing was found.</strong> Everything that was tried is as it must \
             be.{but}</p>"
        )
    } else {
        format!(
            "<p class=\"verdict bad\"><strong>{} finding(s).</strong> They are listed below, each with what mends it.</p>",
            v.findings.len()
        )
    };
    let servers =
        v.servers.iter().map(|(name, version)| format!("{} (PostgreSQL {})", Text(name), Text(version)));
    let facts = format!(
        "<dl><dt>When</dt><dd>{}, in {:.0} seconds</dd><dt>Servers</dt><dd>{}</dd><dt>Customers</dt><dd>{} of {} looked \
         into, one database each</dd><dt>Checks</dt><dd>{} kinds, {} trials</dd><dt>By</dt><dd>manybox {}</dd></dl>",
        Text(&at),
        v.seconds.ceil(),
        servers.collect::<Vec<_>>().join(", "),
        v.looked_into.len(),
        v.tenants,
        v.tried.len(),
        v.tried.values().sum::<usize>(),
        v.version
    );
    let findings: String = CHECKS.iter().map(|check| found(v, check)).collect();
    let findings = if findings.is_empty() { findings } else { format!("<h2>What was found</h2>{findings}") };
    let rows: String = CHECKS.iter().map(|check| row(v, check)).collect();
    let left_out: String = v.left_out.iter().map(|what| format!("<li>{}</li>", Text(what))).collect();
    let left_out = if left_out.is_empty() {
        "<p>Nothing was left out.</p>".to_owned()
    } else {
        format!("<ul>{left_out}</ul>")
    };
    let names: Vec<_> = v.looked_into.iter().map(|slug| Text(slug).to_string()).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\"><title>Are customers kept apart?</title><style>{STYLE}</style></head><body><main>\
         <h1>Are customers kept apart?</h1><p class=\"soft\">Each customer of this installation has a database of its \
         own. This page says whether, at the time below, anything let one customer reach another's data. It was written \
         by a program that asked the running system and changed nothing.</p>{verdict}{facts}{findings}\
         <h2>What was checked</h2><table><thead><tr><th>Code</th><th>What must hold</th><th>How it was looked at</th>\
         <th>Trials</th><th>Result</th></tr></thead><tbody>{rows}</tbody></table>\
         <h2>What was not looked at</h2>{left_out}\
         <h2>What this does not prove</h2><p>It is one look at one time. Whoever administers a server or holds the master \
         key can reach everything on it; what the customers' own software does within a customer's database is beyond \
         these checks.</p><h2>Customers looked into</h2><p class=\"soft\">{}</p></main></body></html>\n",
        names.join(", ")
    )
}

fn of<'a>(v: &'a Verification, check: &'a Check) -> impl Iterator<Item = &'a Finding> {
    v.findings.iter().filter(|finding| finding.code == check.code)
}

fn found(v: &Verification, check: &Check) -> String {
    let each: String = of(v, check)
        .map(|finding| {
            let whose = match (&finding.tenant, &finding.database) {
                (Some(tenant), _) => format!("Customer {}", Text(tenant)),
                (None, Some(database)) => format!("Database {}", Text(database)),
                (None, None) => "The whole server".to_owned(),
            };
            format!(
                "<p>{whose}, server {}: {}<br><code>{}</code></p>",
                Text(&finding.server),
                Text(&finding.seen),
                Text(&finding.remedy)
            )
        })
        .collect();
    if each.is_empty() {
        return each;
    }
    format!(
        "<div class=\"finding\"><strong>{}: {}</strong> does not hold. <span class=\"soft\">{}</span>{each}</div>",
        check.code,
        Text(check.title),
        Text(check.risk)
    )
}

fn row(v: &Verification, check: &Check) -> String {
    let (tried, found) = (v.tried.get(check.code).copied().unwrap_or_default(), of(v, check).count());
    let result = match (tried, found) {
        (_, 1..) => format!("<strong class=\"bad\">{found} found</strong>"),
        (0, 0) => "<span class=\"soft\">not tried</span>".to_owned(),
        _ => "<span class=\"good\">as it must be</span>".to_owned(),
    };
    format!(
        "<tr><td class=\"code\">{}</td><td>{}</td><td class=\"soft\">{}</td><td>{tried}</td><td>{result}</td></tr>",
        check.code,
        Text(check.title),
        Text(check.tried)
    )
}
