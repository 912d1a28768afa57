//! manybox: a database-per-tenant router for PostgreSQL.
//!
//! One process serves thousands of tenants, each on a database of its own, behind its own base URL, with a REST API
//! made from that database's schema. This page is the map; it holds no code.
//!
//! # The way of a request
//!
//! [`front`] finds the tenant in the [`directory`] and hands the request to [`rest`], whose five stages stand on one
//! page: request → plan → sql → execute → response. Only `execute` takes a connection, a [`pool::Checkout`], and there
//! is no way to one but through a tenant.
//!
//! # The way of a change
//!
//! [`cli`] → [`fleet`] (a tenant's life) or [`rollout`] (all tenants to a new version, by [`migrate`]) → [`catalog`],
//! whose notices reach every router's [`directory`]. The two planes meet in the catalog only: a router serves on while
//! the control plane is down, and a command needs no router.
//!
//! # Layers
//!
//! Arrows go down only, and the files of one module form no circle; `tests/tidy.rs` holds the rules.
//!
//! | layer | modules |
//! |---|---|
//! | 4 edges | [`front`], [`admin`], [`control`], [`cli`] |
//! | 3 data plane; control plane | [`directory`], [`pool`], [`rest`]; [`migrate`], [`fleet`], [`rollout`], [`verify`], [`doctor`] |
//! | 2 facts | [`catalog`], [`schema`] |
//! | 1 PostgreSQL | [`pg`], [`vault`], [`embedded`] |
//! | 1 what leaves the process beside that | [`outbound`], [`otlp`] |
//! | 0 words | [`policy`], [`tenant`], [`settings`], [`telemetry`]; [`backoff`] |
//!
//! # Words
//!
//! A *tenant* is a customer with one database; its id is never reused, its *slug* is its name. The *fleet* is all
//! tenants. A *server* is a PostgreSQL server. The *catalog* is the control database, the *directory* a router's copy
//! of it. An *edition* is a line of schema versions, a *tier* a set of limits, a *template* a database that tenants
//! are copied from.

#![warn(clippy::large_futures)]

pub mod backoff;
pub mod policy;
pub mod settings;
pub mod telemetry;
pub mod tenant;

pub mod embedded;
pub mod otlp;
pub mod outbound;
pub mod pg;
pub mod vault;

pub mod catalog;
pub mod schema;

pub mod directory;
pub mod pool;
pub mod rest;

pub mod doctor;
pub mod fleet;
pub mod migrate;
pub mod rollout;
pub mod verify;

pub mod admin;
pub mod cli;
pub mod control;
pub mod front;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
