//! Attacks: what a hostile tenant tries on its neighbours and on manybox, each by its name.

mod admin;
mod bytes;
mod connections;
mod killer;
mod psql;
mod roles;
mod schema;
mod script;
mod sessions;
mod terminal;
mod work;
