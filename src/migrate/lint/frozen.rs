//! Values that are made once, in the template, and that all tenants copied from it would share: secrets, mostly.
//!
//! The files are read in order, and what they define is remembered: columns with a default that is another each time,
//! functions and triggers that make such values. What a string for `EXECUTE` does is not seen. `now()` and `nextval()`
//! are frozen as well, but nobody takes the time of a row or its number for a secret.

#[cfg(test)]
mod tests;
mod writes;

use std::collections::{HashMap, HashSet};

use super::codes;
use super::finding::Finding;
use super::tables::{altered_table, created_table, items, temporary};
use crate::migrate::statements::{Statement, split};
use writes::{Given, Write, writes};

/// Functions that give another value each time, which nobody is to guess or have twice.
const RANDOM: &[&str] = &[
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "uuid_generate_v7",
    "random",
    "random_normal",
    "gen_random_bytes",
    "gen_salt",
    "gen_ulid",
    "generate_ulid",
    "gen_random_ulid",
    "nanoid",
    "randombytes_buf",
    "randombytes_random",
    "crypto_secretbox_keygen",
    "crypto_auth_keygen",
];

/// How many functions are followed from one statement.
const DEEPEST: usize = 100;

/// What the files so far have defined, by names without schemas.
#[derive(Debug, Default)]
pub(super) struct Known {
    tables: HashMap<String, Table>,
    functions: HashMap<String, Vec<String>>,
    /// The calls in a domain's default.
    domains: HashMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Default)]
struct Table {
    columns: Vec<Column>,
    /// Functions of triggers on INSERT or UPDATE.
    triggers: Vec<String>,
    /// Whether a file makes it, so that all that fills it is known.
    created: bool,
    /// Whether some statement wrote rows to it.
    filled: bool,
    /// Gone when the session ends.
    temporary: bool,
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    /// The calls in its default.
    calls: Vec<String>,
}

impl Known {
    /// Looks at a statement, and remembers what it defines. One that runs in each tenant freezes nothing.
    pub(super) fn look(&mut self, statement: &Statement<'_>, per_tenant: bool) -> Option<Finding> {
        if per_tenant {
            return None;
        }
        let how = self.frozen(statement);
        self.learn(statement);
        how.map(|how| {
            Finding::new(
                &codes::FROZEN_VALUE,
                statement.line(),
                format!(
                    "makes a random value once, in the template ({how}): all tenants copied from it share it"
                ),
                "put `-- manybox: per-tenant` right above the statement, so that it runs in each tenant",
            )
        })
    }

    /// How a statement that is run would write a random value.
    fn frozen(&self, statement: &Statement<'_>) -> Option<String> {
        let at = |i| statement.keyword(i).unwrap_or_default();
        match at(0).as_str() {
            "CREATE" => {
                let filled = statement.find(0, &["AS"])?;
                let made = statement.has_pair("MATERIALIZED", "VIEW") || created_table(statement).is_some();
                if !made || temporary(statement) {
                    return None;
                }
                self.random_call(statement, filled, &mut HashSet::new())
            }
            "ALTER" => self.filled_column(statement),
            "COMMENT" | "GRANT" | "REVOKE" | "DROP" | "SET" | "RESET" => None,
            "DO" => statement.strings().find_map(|(body, _)| self.frozen_body(&body, &mut HashSet::new())),
            _ => self.frozen_unit(&[*statement], &mut HashSet::new()),
        }
    }

    /// The same of a function's or block's body, whose statements pass values to each other.
    fn frozen_body(&self, body: &str, seen: &mut HashSet<String>) -> Option<String> {
        let statements = split(body).ok()?;
        self.frozen_unit(&statements.iter().collect::<Vec<_>>(), seen)
    }

    fn frozen_unit(&self, unit: &[Statement<'_>], seen: &mut HashSet<String>) -> Option<String> {
        let writes: Vec<_> = unit.iter().flat_map(writes).filter(|write| self.has_effect(write)).collect();
        if !writes.is_empty()
            && let Some(how) =
                unit.iter().find_map(|statement| self.random_call(statement, 0, &mut HashSet::new()))
        {
            return Some(how);
        }
        if let Some(how) = writes.iter().find_map(|write| self.by_table(write)) {
            return Some(how);
        }
        // What is called may write by itself.
        let calls: Vec<_> = unit.iter().flat_map(|statement| calls(statement, 0)).collect();
        calls.iter().find_map(|name| {
            let bodies =
                self.functions.get(name).filter(|_| seen.len() < DEEPEST && seen.insert(name.clone()))?;
            let how = bodies.iter().find_map(|body| self.frozen_body(body, seen))?;
            Some(format!("by calling {name}: {how}"))
        })
    }

    /// How a write gets a random value from its table: by a default, or by a trigger.
    fn by_table(&self, write: &Write) -> Option<String> {
        let table = self.tables.get(&write.table)?;
        let default = table.columns.iter().enumerate().find_map(|(place, column)| {
            let from = self.random_of(&column.calls, &mut HashSet::new())?;
            let left = match &write.columns {
                Given::Named(names) => write.defaults || !names.contains(&column.name),
                Given::First(number) => write.defaults || place >= *number,
                Given::All => write.defaults,
            };
            left.then(|| format!("by the default of `{}.{}`, {from}", write.table, column.name))
        });
        default.or_else(|| {
            table.triggers.iter().find_map(|function| {
                let from = self.random_of(std::slice::from_ref(function), &mut HashSet::new())?;
                Some(format!("by a trigger on `{}`, {from}", write.table))
            })
        })
    }

    /// `ALTER TABLE … ADD COLUMN … DEFAULT random` and `… USING random`, where there are rows already.
    fn filled_column(&self, statement: &Statement<'_>) -> Option<String> {
        let (name, at) = altered_table(statement)?;
        self.tables.get(&name).filter(|table| table.filled && !table.temporary)?;
        for item in items(statement, at) {
            let adds = statement.has_at(item.start, &["ADD"]);
            let default = item
                .clone()
                .find(|i| (adds && statement.has_at(*i, &["DEFAULT"])) || statement.has_at(*i, &["USING"]));
            let calls: Vec<_> =
                default.into_iter().flat_map(|from| calls_in(statement, from..item.end)).collect();
            if let Some(from) = self.random_of(&calls, &mut HashSet::new()) {
                return Some(format!("in rows that `{name}` has already, {from}"));
            }
        }
        None
    }

    /// Whether a write leaves rows in the template: a backfill of tables that nothing has filled does not.
    fn has_effect(&self, write: &Write) -> bool {
        let is_empty =
            |name: &String| self.tables.get(name).is_some_and(|table| table.created && !table.filled);
        let temporary = self.tables.get(&write.table).is_some_and(|table| table.temporary);
        !temporary && !write.source.as_ref().is_some_and(is_empty)
    }

    /// The first call of a statement, from a position on, that gives a random value.
    fn random_call(
        &self,
        statement: &Statement<'_>,
        from: usize,
        seen: &mut HashSet<String>,
    ) -> Option<String> {
        self.random_of(&calls(statement, from), seen)
    }

    /// The first of some functions that gives a random value, by itself or by what it calls.
    fn random_of(&self, names: &[String], seen: &mut HashSet<String>) -> Option<String> {
        names.iter().find_map(|name| {
            if let Some(bodies) = self.functions.get(name) {
                if seen.len() >= DEEPEST || !seen.insert(name.clone()) {
                    return None;
                }
                return bodies.iter().find_map(|body| {
                    let statements = split(body).ok()?;
                    let inner = statements.iter().find_map(|s| self.random_call(&s, 0, seen))?;
                    Some(format!("{name}() by {inner}"))
                });
            }
            RANDOM.contains(&name.as_str()).then(|| format!("{name}()"))
        })
    }

    /// Remembers what a statement defines.
    fn learn(&mut self, statement: &Statement<'_>) {
        self.learn_writes(statement);
        let at = |i| statement.keyword(i).unwrap_or_default();
        match at(0).as_str() {
            "DO" => {
                for (body, _) in statement.strings() {
                    let Ok(inner) = split(&body) else { continue };
                    inner.iter().for_each(|inner| self.learn_writes(&inner));
                }
            }
            "CREATE" => self.created(statement),
            "ALTER" => self.altered(statement),
            "DROP" if at(1) == "TABLE" => {
                let skip = if statement.has_at(2, &["IF", "EXISTS"]) { 4 } else { 2 };
                for item in items(statement, skip) {
                    if let Some((_, name, _)) = statement.qualified_name(item.start) {
                        self.tables.remove(&name);
                    }
                }
            }
            _ => {}
        }
    }

    fn learn_writes(&mut self, statement: &Statement<'_>) {
        for write in writes(statement) {
            if self.has_effect(&write) {
                self.tables.entry(write.table).or_default().filled = true;
            }
        }
    }

    fn created(&mut self, statement: &Statement<'_>) {
        if let Some((name, at)) = created_table(statement) {
            let mut table = Table { created: true, temporary: temporary(statement), ..Table::default() };
            let parent = statement
                .find(at, &["PARTITION", "OF"])
                .map(|i| i + 2)
                .or_else(|| statement.find(at, &["INHERITS"]).map(|i| i + 2))
                .and_then(|i| statement.qualified_name(i))
                .and_then(|(_, parent, _)| self.tables.get(&parent));
            table.columns.extend(parent.into_iter().flat_map(|parent| parent.columns.clone()));
            if statement.opens_at(at) {
                for item in items(statement, at + 1) {
                    self.column(statement, item, &mut table);
                }
            }
            table.filled = statement.find(at, &["AS"]).is_some();
            self.tables.insert(name, table);
            return;
        }
        let replaces = usize::from(statement.has_at(1, &["OR"])) * 2;
        let kind = statement.keyword(1 + replaces).unwrap_or_default();
        let Some((_, name, behind)) = statement.qualified_name(2 + replaces) else { return };
        match kind.as_str() {
            "FUNCTION" | "PROCEDURE" => {
                let mut bodies: Vec<_> = statement.strings().map(|(body, _)| body.into_owned()).collect();
                if let Some(begin) = statement
                    .find(behind, &["BEGIN", "ATOMIC"])
                    .or_else(|| statement.find(behind, &["RETURN"]))
                {
                    bodies.push(
                        (begin + 1..statement.len())
                            .map(|i| statement.written(i))
                            .collect::<Vec<_>>()
                            .join(" "),
                    );
                }
                let known = self.functions.entry(name).or_default();
                if replaces > 0 {
                    known.clear();
                }
                known.extend(bodies);
            }
            "DOMAIN" => {
                let default = statement.find(behind, &["DEFAULT"]).unwrap_or(statement.len());
                self.domains.insert(name, calls(statement, default));
            }
            "TRIGGER" => {
                let (Some(on), Some(function)) =
                    (statement.find(behind, &["ON"]), statement.find(behind, &["EXECUTE"]).map(|i| i + 2))
                else {
                    return;
                };
                let fires = (behind..on)
                    .any(|i| statement.has_at(i, &["INSERT"]) || statement.has_at(i, &["UPDATE"]));
                if let (true, Some((_, table, _)), Some((_, function, _))) =
                    (fires, statement.qualified_name(on + 1), statement.qualified_name(function))
                {
                    self.tables.entry(table).or_default().triggers.push(function);
                }
            }
            _ => {}
        }
    }

    /// Reads one item of a table's list.
    fn column(&self, statement: &Statement<'_>, item: std::ops::Range<usize>, table: &mut Table) {
        let first = statement.keyword(item.start).unwrap_or_default();
        match first.as_str() {
            "LIKE" => {
                let like =
                    statement.qualified_name(item.start + 1).and_then(|(_, name, _)| self.tables.get(&name));
                let defaults = item.clone().any(|i| {
                    statement.has_at(i, &["INCLUDING", "DEFAULTS"])
                        || statement.has_at(i, &["INCLUDING", "ALL"])
                });
                table.columns.extend(like.into_iter().flat_map(|like| like.columns.clone()).map(|column| {
                    Column { calls: if defaults { column.calls } else { Vec::new() }, ..column }
                }));
            }
            "CONSTRAINT" | "PRIMARY" | "UNIQUE" | "CHECK" | "FOREIGN" | "EXCLUDE" => {}
            _ => {
                let Some(name) = statement.name(item.start) else { return };
                table.columns.retain(|column| column.name != name);
                let calls = match item.clone().find(|i| statement.has_at(*i, &["DEFAULT"])) {
                    Some(from) => calls_in(statement, from..item.end),
                    // The type may be a domain with a default of its own.
                    None => statement
                        .qualified_name(item.start + 1)
                        .and_then(|(_, of, _)| self.domains.get(&of).cloned())
                        .unwrap_or_default(),
                };
                table.columns.push(Column { name, calls });
            }
        }
    }

    fn altered(&mut self, statement: &Statement<'_>) {
        let Some((name, at)) = altered_table(statement) else { return };
        let mut table = self.tables.remove(&name).unwrap_or_default();
        let mut new_name = name;
        for item in items(statement, at) {
            let word = |i: usize| statement.keyword(item.start + i).unwrap_or_default();
            let column = item.start + 1 + usize::from(word(1) == "COLUMN");
            match word(0).as_str() {
                "ADD" => {
                    let column =
                        if statement.has_at(column, &["IF", "NOT", "EXISTS"]) { column + 3 } else { column };
                    self.column(statement, column..item.end, &mut table);
                }
                "ALTER" => {
                    let Some(of) = statement.name(column) else { continue };
                    let calls = if statement.has_at(column + 1, &["SET", "DEFAULT"]) {
                        calls_in(statement, column + 3..item.end)
                    } else if statement.has_at(column + 1, &["DROP", "DEFAULT"]) {
                        Vec::new()
                    } else {
                        continue;
                    };
                    match table.columns.iter_mut().find(|column| column.name == of) {
                        Some(known) => known.calls = calls,
                        None => table.columns.push(Column { name: of, calls }),
                    }
                }
                "DROP" => {
                    let column =
                        if statement.has_at(column, &["IF", "EXISTS"]) { column + 2 } else { column };
                    let dropped = statement.name(column);
                    table.columns.retain(|column| Some(&column.name) != dropped.as_ref());
                }
                "RENAME" if word(1) == "TO" => new_name = statement.name(item.start + 2).unwrap_or(new_name),
                "RENAME" => {
                    let (from, to) = (statement.name(column), statement.name(column + 2));
                    for known in table.columns.iter_mut().filter(|known| Some(&known.name) == from.as_ref()) {
                        known.name = to.clone().unwrap_or_default();
                    }
                }
                _ => {}
            }
        }
        self.tables.insert(new_name, table);
    }
}

/// The names of what a statement calls, from a position on.
fn calls(statement: &Statement<'_>, from: usize) -> Vec<String> {
    calls_in(statement, from..statement.len())
}

fn calls_in(statement: &Statement<'_>, range: std::ops::Range<usize>) -> Vec<String> {
    range.filter(|at| statement.opens_at(at + 1)).filter_map(|at| statement.name(at)).collect()
}
