//! Layout: the frame of every page, and the small parts that pages are made of.

use std::fmt::Display;

use maud::{Markup, html};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::document::document;
pub(super) use super::document::{lines, logo, text};
use super::viewer::{Said, Viewer};
use crate::tenant::State;

/// The pages that the navigation has, with the key that leads to each behind `g`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Fleet,
    Tenants,
    Rollouts,
    Verify,
    Journal,
    Settings,
}

impl Place {
    const ALL: [(Self, &'static str, &'static str, &'static str); 6] = [
        (Self::Fleet, "/", "Fleet", "f"),
        (Self::Tenants, "/tenants", "Tenants", "t"),
        (Self::Rollouts, "/rollouts", "Rollouts", "r"),
        (Self::Verify, "/verify", "Verify", "v"),
        (Self::Journal, "/journal", "Journal", "j"),
        (Self::Settings, "/settings", "Settings", "s"),
    ];
}

/// A page that somebody who is signed in sees.
pub(super) fn page(viewer: &Viewer, place: Place, title: &str, body: Markup) -> Markup {
    let content = html! {
        a .skip href="#main" { "Skip to the content" }
        div .frame {
            div .side {
                a .brand href=(if viewer.sees_fleet { "/" } else { "/tenants" }) { (logo()) "manybox" }
                nav .nav aria-label="Pages" {
                    @for (of, path, name, key) in Place::ALL {
                        @if viewer.sees_fleet || of == Place::Tenants {
                            a href=(path) data-key=(key) aria-current=[(of == place).then_some("page")] {
                                (name) kbd aria-hidden="true" { "g " (key) }
                            }
                        }
                    }
                }
                div .side-foot {
                    p .who { b { (text(&viewer.name)) } span .soft { (viewer.role) @if !viewer.sees_fleet { ", some tenants" } } }
                    div .row {
                        form method="post" action="/theme" data-theme-form { (viewer.token()) button .plain name="theme" value=(viewer.theme.other()) { "Theme" } }
                        form method="post" action="/sign-out" { (viewer.token()) button .plain { "Sign out" } }
                    }
                    button .plain.keys popovertarget="keys" { "Keys " kbd { "?" } }
                }
            }
            main #main tabindex="-1" {
                @if let Some(said) = &viewer.said { (notice(said)) }
                (body)
            }
        }
        div #keys popover role="dialog" aria-labelledby="keys-title" {
            h2 #keys-title { "Keys" }
            dl .facts {
                dt { kbd { "/" } } dd { "search" }
                dt { kbd { "j" } " " kbd { "k" } } dd { "next and previous row, " kbd { "Enter" } " opens it" }
                @for (of, _, name, key) in Place::ALL {
                    @if viewer.sees_fleet || of == Place::Tenants { dt { kbd { "g" } " " kbd { (key) } } dd { (name) } }
                }
                dt { kbd { "?" } } dd { "this list" }
            }
        }
    };
    document(viewer.theme, title, content)
}

/// What somebody is told about what they did.
pub(super) fn notice(said: &Said) -> Markup {
    let (class, word, role) =
        if said.is_good { ("good", "Done", "status") } else { ("bad", "Not done", "alert") };
    html! { div .notice.(class) role=(role) { b { (word) } p { (lines(&said.text)) } } }
}

/// A page's title, with what stands under and beside it.
pub(super) fn head(title: Markup, under: Markup, acts: Markup) -> Markup {
    html! {
        div .head {
            div { div .title { h1 { (title) } } p .sub { (under) } }
            div .acts { (acts) }
        }
    }
}

/// Nothing to list, and why.
pub(super) fn empty(what: &str, more: &str) -> Markup {
    html! { div .empty { strong { (what) } (more) } }
}

/// A tenant's state.
pub(super) fn state(state: State) -> Markup {
    let class = match state {
        State::Active => "good",
        State::Suspended => "warn",
        State::Creating => "info live",
        State::Purging | State::Purged => "bad",
        State::Retired => "",
    };
    html! { span class={ "pill " (class) } { (state) } }
}

/// 1234567 as 1,234,567.
pub(super) fn count(number: impl Display) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with a word behind it: 1 tenant, 2 tenants.
pub(super) fn some(number: u64, word: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{} {word}{end}", count(number))
}

/// Requests a second, with as many digits as matter.
pub(super) fn rate(rate: f64) -> String {
    match rate {
        rate if rate >= 100.0 => count(rate.round() as u64),
        rate if rate >= 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

/// A time as long ago as it is, and when that was.
pub(super) fn ago(at: OffsetDateTime, now: OffsetDateTime) -> Markup {
    let seconds = (now - at).whole_seconds();
    let words = match seconds {
        ..-59 => format!("in {}", span(-seconds)),
        -59..=4 => "just now".to_owned(),
        _ => format!("{} ago", span(seconds)),
    };
    html! { time datetime=(at.format(&Rfc3339).unwrap_or_default()) title=(moment(at)) { (words) } }
}

/// A time to the minute.
pub(super) fn moment(at: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    at.to_offset(time::UtcOffset::UTC).format(form).unwrap_or_else(|_| at.to_string())
}

/// A span of time by its largest unit.
pub(super) fn span(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A question in front of an act, over the page: it needs no script. `button` opens it.
pub(super) fn ask(
    id: &str,
    title: Markup,
    viewer: &Viewer,
    action: &str,
    inside: Markup,
    confirm: Markup,
) -> Markup {
    html! {
        div id=(id) popover role="dialog" aria-labelledby={ (id) "-title" } {
            form method="post" action=(action) {
                (viewer.token())
                h2 id={ (id) "-title" } { (title) }
                (inside)
                div .acts { button type="button" popovertarget=(id) popovertargetaction="hide" { "Cancel" } (confirm) }
            }
        }
    }
}

/// A form that is one button.
pub(super) fn act(viewer: &Viewer, action: &str, button: Markup) -> Markup {
    html! { form method="post" action=(action) { (viewer.token()) (button) } }
}

/// An option of a choice.
pub(super) fn option(value: &str, words: impl Display, chosen: Option<&str>) -> Markup {
    html! { option value=(value) selected[chosen == Some(value)] { (words) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(["0", "999", "1000", "1234567"].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 0.257, 3.1, 12.34, 1234.5].map(rate), ["0", "0.26", "3.1", "12.3", "1,235"]);
        assert_eq!([5, 61, 7200, 200_000].map(span), ["5 s", "1 min", "2 h", "2 days"]);
    }

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "<script>alert(1)</script>\u{202e}\" onload=x";
        let shown = html! { p title=(text(hostile)) { (lines(hostile)) } }.into_string();
        assert!(
            !shown.contains("<script") && !shown.contains('\u{202e}') && !shown.contains("\" onload"),
            "{shown}"
        );
    }
}
