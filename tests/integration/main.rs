//! Tests against a real PostgreSQL, one module per subject.
// Helpers of tests are no tests to clippy, so clippy.toml does not reach them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod embedded;
