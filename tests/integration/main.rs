//! Tests against a real PostgreSQL, one module per subject.

mod embedded;
