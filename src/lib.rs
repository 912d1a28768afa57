//! manybox: a database-per-tenant router for PostgreSQL.
pub mod settings;
pub mod telemetry;
pub mod tenant;

pub mod embedded;
pub mod pg;

pub mod catalog;
pub mod schema;

pub mod directory;
pub mod pool;
pub mod rest;

pub mod fleet;
pub mod migrate;
pub mod rollout;

pub mod admin;
pub mod cli;
pub mod front;
