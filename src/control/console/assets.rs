//! Assets: the stylesheet and the script, under names that change with what is in them, so that browsers keep them.

use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};

/// A file of the console's own.
struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
    hash: u64,
}

const STYLE: Asset = asset("console.css", "text/css; charset=utf-8", include_str!("assets/console.css"));
const SCRIPT: Asset =
    asset("console.js", "text/javascript; charset=utf-8", include_str!("assets/console.js"));
const ICON: Asset = asset("icon.svg", "image/svg+xml", include_str!("assets/icon.svg"));

const fn asset(name: &'static str, kind: &'static str, text: &'static str) -> Asset {
    Asset { name, kind, text, hash: fnv(text.as_bytes()) }
}

/// FNV-1a: all that it has to do is differ when a file does.
const fn fnv(bytes: &[u8]) -> u64 {
    let (mut hash, mut at) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

impl Asset {
    fn path(&self) -> String {
        format!("/assets/{:016x}/{}", self.hash, self.name)
    }
}

/// Where the stylesheet is.
pub(super) fn style() -> String {
    STYLE.path()
}

/// Where the script is.
pub(super) fn script() -> String {
    SCRIPT.path()
}

/// Where the icon is.
pub(super) fn icon() -> String {
    ICON.path()
}

/// `GET /assets/{hash}/{name}`: a page of another version may ask for what was here before, and gets what is here now, to
/// be asked for again.
pub(super) async fn serve(Path((hash, name)): Path<(String, String)>) -> Response {
    let found = [STYLE, SCRIPT, ICON].into_iter().find(|asset| asset.name == name);
    let Some(asset) = found else { return StatusCode::NOT_FOUND.into_response() };
    let is_named = hash == format!("{:016x}", asset.hash);
    let keep = if is_named { "public, max-age=31536000, immutable" } else { "no-store" };
    ([(header::CONTENT_TYPE, asset.kind), (header::CACHE_CONTROL, keep)], asset.text).into_response()
}
