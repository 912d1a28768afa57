//! Document: what every page of the console has, also those of nobody who is signed in.

use std::borrow::Cow;

use axum::response::{Html, IntoResponse as _, Response};
use http::{StatusCode, header};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::super::Problem;
use super::assets;
use crate::telemetry::printable;

/// What a page of the console may load and do: what is its own, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
/// Light, dark, or as the system has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Theme {
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    pub(super) fn read(word: Option<&str>) -> Self {
        match word {
            Some("light") => Self::Light,
            Some("dark") => Self::Dark,
            _ => Self::System,
        }
    }

    /// As the page's root has it.
    pub(super) const fn attribute(self) -> Option<&'static str> {
        match self {
            Self::System => None,
            Self::Light => Some("light"),
            Self::Dark => Some("dark"),
        }
    }

    /// What the switch leads to, where no script knows better.
    pub(super) const fn other(self) -> &'static str {
        match self {
            Self::System | Self::Light => "dark",
            Self::Dark => "light",
        }
    }
}

/// A page of its own, for those who are not signed in.
pub(super) fn document(theme: Theme, title: &str, content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" data-theme=[theme.attribute()] {
            head {
                meta charset="utf-8";
                title { (text(title)) " · manybox" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href=(assets::icon()) type="image/svg+xml";
                link rel="stylesheet" href=(assets::style());
                script src=(assets::script()) defer {}
            }
            body { (content) }
        }
    }
}

pub(super) fn logo() -> Markup {
    PreEscaped(
        r#"<svg viewBox="0 0 32 32" aria-hidden="true" fill="currentColor"><rect x="2" y="2" width="12" height="12" rx="3"/><rect x="18" y="2" width="12" height="12" rx="3" opacity=".5"/><rect x="2" y="18" width="12" height="12" rx="3" opacity=".5"/><rect x="18" y="18" width="12" height="12" rx="3"/></svg>"#
            .to_owned(),
    )
}

/// Text of anybody's, as one line. What would change the direction of the text around it, or hide it, is spelled out.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    printable::one_line(text)
}

/// The same for a text of several lines.
pub(super) fn lines(text: &str) -> Cow<'_, str> {
    printable::lines(text)
}

/// A page with what keeps it to itself.
pub(super) fn send(status: StatusCode, page: Markup) -> Response {
    let policy = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        // The path of a page, for the switch of its theme; nothing for other sites.
        (header::REFERRER_POLICY, "same-origin"),
    ];
    (status, policy, Html(page.into_string())).into_response()
}

/// Says no, on a page of its own.
pub(super) fn refuse(problem: Problem) -> Response {
    let (code, status, title) = problem.code.row();
    let page = document(
        Theme::System,
        title,
        html! { main .sign-in { div .panel { h1 { "That did not work" } p { (lines(&problem.detail)) }
        p .soft.small { (code) ", " (title) } a .button href="/" { "Back to the console" } } } },
    );
    let mut response = send(status, page);
    response.extensions_mut().insert(problem);
    response
}
