//! What a file's name says, and what another tool's name should be here.

/// The version of a repeatable file, which has none.
pub(super) const REPEATABLE: i64 = 0;

/// Reads `V<n>__<snake_name>.sql` as version and name, and `R__<snake_name>.sql` as [`REPEATABLE`] and name. refinery would skip what it doesn't know and cut a name at its
/// first odd character, so that two files look like one; here each file is one or is refused.
///
/// # Errors
/// What is wrong with it and what to do, to stand behind the name.
pub(super) fn parse(file_name: &str) -> Result<(i64, String), String> {
    if let Some(name) = file_name.strip_prefix("R__").and_then(|rest| rest.strip_suffix(".sql"))
        && is_name(name)
    {
        return Ok((REPEATABLE, name.to_owned()));
    }
    let split =
        file_name.split_once("__").and_then(|(prefix, rest)| Some((prefix, rest.strip_suffix(".sql")?)));
    let (digits, name) = match split {
        Some((prefix, name)) if prefix.starts_with('V') => (&prefix[1..], name),
        _ => return Err(of_another_tool(file_name)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || !is_name(name) {
        return Err(of_another_tool(file_name));
    }
    match digits.parse::<i64>() {
        Ok(0) => Err("has version 0, which means that nothing has been applied: begin at 1".into()),
        Ok(version) => Ok((version, name.to_owned())),
        Err(_) => Err(format!("has a version over {}, which the history's column can't hold", i64::MAX)),
    }
}

/// Reads `B<n>__<snake_name>.sql`, the name of a squashed file, as version and name; `None` when it is none.
pub(super) fn parse_squashed(file_name: &str) -> Option<(i64, String)> {
    let (digits, name) = file_name.strip_prefix('B')?.strip_suffix(".sql")?.split_once("__")?;
    let version = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()?;
    (version > 0 && is_name(name)).then(|| (version, name.to_owned()))
}

/// Whether it can stand behind the version in a file's name.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= 200
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Why a name is refused. Whose it looks like decides what is said.
fn of_another_tool(file_name: &str) -> String {
    const SHAPE: &str = "is not the name of a migration: expected `V<number>__<name>.sql` with a capital V, two \
                         underscores, and lower-case letters, digits and underscores in the name";
    let lower = file_name.to_ascii_lowercase();
    let Some(stem) = lower.strip_suffix(".sql") else {
        return format!("{SHAPE}; what is no migration belongs into another folder");
    };
    if let Some(stem) = stem.strip_suffix(".down").or_else(|| stem.strip_suffix(".undo")) {
        return format!(
            "is the way back of `{stem}`: manybox goes forward only, what is wrong is mended by a new file; leave it out"
        );
    }
    let stem = stem.strip_suffix(".up").or_else(|| stem.strip_suffix(".do")).unwrap_or(stem);
    if file_name.starts_with("U") && file_name.contains("__") {
        return "is an undo or unversioned migration, which can run in any order: manybox goes forward only, by \
                versions; give it one, `V<number>__…`, or leave it out"
            .into();
    }
    if file_name.starts_with("R__") {
        return "is not the name of a repeatable migration: expected `R__<name>.sql` with lower-case letters, digits and \
                underscores in the name"
            .into();
    }
    if file_name.starts_with('B') && file_name.contains("__") {
        return "is not the name of a squashed file, `B<number>__<name>.sql` with lower-case letters, digits and underscores \
                in the name, as `manybox migrate squash` writes it; a database that is there already is adopted at a version by \
                `manybox tenant adopt --baseline`"
            .into();
    }
    match suggestion(stem) {
        Some(name) => format!("{SHAPE}; rename it to `{name}`"),
        None => SHAPE.into(),
    }
}

/// The name that a stem like `20240115_add-users`, `0001.create` or `v1_x` should have.
fn suggestion(stem: &str) -> Option<String> {
    let stem =
        stem.strip_prefix('v').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(stem);
    let end = stem.find(|c: char| !c.is_ascii_digit()).unwrap_or(stem.len());
    let (digits, rest) = stem.split_at(end);
    // In `1.2__x` and `1_2__x` the 2 belongs to the version; which number that makes is the author's to say.
    let more = rest.strip_prefix('.').or_else(|| rest.strip_prefix('_').filter(|rest| rest.contains("__")));
    if more.is_some_and(|more| more.starts_with(|c: char| c.is_ascii_digit())) {
        return None;
    }
    let version: i64 = digits.parse().ok().filter(|version| *version > 0)?;
    let name: String = rest.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let name = name.split('_').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("_");
    is_name(&name).then(|| format!("V{version}__{name}.sql"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_may_be_numbers_or_times() {
        for (name, version, stem) in [
            ("V1__a.sql", 1, "a"),
            ("V007__7_b.sql", 7, "7_b"),
            ("V20240115180414__add_users.sql", 20_240_115_180_414, "add_users"),
            ("V9223372036854775807__x.sql", i64::MAX, "x"),
            ("R__2_views.sql", REPEATABLE, "2_views"),
        ] {
            assert_eq!(parse(name), Ok((version, stem.to_owned())));
        }
        assert!(parse("V0__x.sql").unwrap_err().contains("begin at 1"));
        assert!(parse("V9223372036854775808__x.sql").unwrap_err().contains("9223372036854775807"));
    }

    #[test]
    fn names_that_refinery_would_skip_or_cut_are_refused() {
        for name in [
            "V2__add-col.sql",
            "v3__low.sql",
            "V1_one.sql",
            "V__x.sql",
            "V1__.sql",
            "V1__A.sql",
            "V1.5__x.sql",
            "V1_5__x.sql",
            "V+1__x.sql",
            "V1__x.SQL",
            "V1__x.rs",
            "V1__x.sql.orig",
            "notes.txt",
            "V1___x.sql",
            "Vä__x.sql",
            "ä.sql",
            ".sql",
        ] {
            let error = parse(name).unwrap_err();
            assert!(error.contains("V<number>__<name>.sql"), "{name}: {error}");
        }
        assert!(
            ["V1.5__x.sql", "V1_5__x.sql"].iter().all(|name| !parse(name).unwrap_err().contains("rename"))
        );
    }

    #[test]
    fn another_tools_name_is_told_what_to_become() {
        for (name, hint) in [
            ("20240115180414_create_users.sql", "`V20240115180414__create_users.sql`"),
            ("000012_add-Index.up.sql", "`V12__add_index.sql`"),
            ("0001.create users.sql", "`V1__create_users.sql`"),
            ("V2__add-col.sql", "`V2__add_col.sql`"),
            ("v3__low.sql", "`V3__low.sql`"),
            ("V1__A.SQL", "`V1__a.sql`"),
            ("20240115180414_x.down.sql", "goes forward only"),
            ("001.undo.sql", "goes forward only"),
            ("U2__x.sql", "goes forward only"),
            ("R__All Views.sql", "`R__<name>.sql`"),
            ("B5__All.sql", "--baseline"),
        ] {
            let error = parse(name).unwrap_err();
            assert!(error.contains(hint), "{name}: {error}");
        }
    }
}
