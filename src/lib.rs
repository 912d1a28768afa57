//! manybox: a database-per-tenant router for PostgreSQL.
pub mod tenant;
pub mod settings;
pub mod telemetry;

pub mod pg;
pub mod embedded;

pub mod catalog;
pub mod schema;

pub mod directory;
pub mod pool;
pub mod rest;

pub mod migrate;
pub mod fleet;
pub mod rollout;

pub mod front;
pub mod admin;
pub mod cli;
