//! The schema as it is read from a database.
