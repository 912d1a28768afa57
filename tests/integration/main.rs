//! Integration tests: the whole of manybox on a real PostgreSQL, each test with a fleet of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod adopt;
mod altered;
mod attack;
mod budget;
mod catalog;
mod changes;
mod configured;
mod contradiction;
mod drift;
mod embedded;
mod failover;
mod fingerprint;
mod hostile;
mod https;
mod isolation;
mod lifecycle;
mod metrics;
mod migration_files;
mod migrations;
mod one_migration;
mod openapi;
mod per_tenant;
mod pool;
mod postgrest16;
mod program;
mod rehearsal;
mod repair;
mod requests;
mod rest;
mod rollouts;
mod routing;
mod schema;
mod served;
mod sessions;
mod supervision;
mod support;
mod templates;
mod temporary;
mod traffic;
mod urls;
mod verify;
mod wire;
