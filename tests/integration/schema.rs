//! The schema as it is read from a database: keys seen through views, cardinalities, computed columns, what may change.

use manybox::schema::{self, Join, Kind, Schema};

use crate::support::TestFleet;

const TABLES: &str = "
    CREATE TABLE authors (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE books (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        title varchar(80) NOT NULL DEFAULT 'untitled',
        author_id int REFERENCES authors,
        editor_id int CONSTRAINT edited_by REFERENCES authors,
        follows bigint UNIQUE REFERENCES books);
    CREATE TABLE covers (book_id bigint PRIMARY KEY REFERENCES books, colour text);
    CREATE TABLE readers (id int PRIMARY KEY);
    CREATE TABLE loans (book_id bigint REFERENCES books, reader_id int REFERENCES readers, PRIMARY KEY (book_id, reader_id));
    CREATE VIEW titles AS SELECT b.id AS number, b.title, b.author_id AS writer FROM books b;
    CREATE VIEW everything AS SELECT id, title FROM books UNION ALL SELECT id, name FROM authors;
    CREATE VIEW grouped AS WITH b AS (SELECT author_id AS who, title FROM books) SELECT who, title FROM b;
    CREATE FUNCTION shout(books) RETURNS text LANGUAGE sql STABLE AS 'SELECT upper($1.title)';
    CREATE FUNCTION rivals(authors) RETURNS SETOF authors LANGUAGE sql STABLE AS 'SELECT * FROM authors WHERE id <> $1.id';
    CREATE FUNCTION many(a int, VARIADIC b int[]) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a';";

async fn read(fleet: &TestFleet) -> Schema {
    let owner = fleet.owner("acme").await;
    owner.batch_execute("BEGIN READ ONLY").await.unwrap();
    let schema = schema::load(&owner, &["public".into()], &[]).await.unwrap();
    owner.batch_execute("COMMIT").await.unwrap();
    schema
}

/// Cardinality and target of each relationship from a relation, with the key that makes it.
fn ways(schema: &Schema, from: &str) -> Vec<String> {
    let way = |r: &schema::Relationship| {
        let kind = match &r.join {
            Join::OneToMany { .. } => "many",
            Join::ManyToOne { .. } => "one",
            Join::OneToOne { .. } => "only",
            Join::ManyToMany(_) => "through",
            Join::Computed { .. } => "computed",
        };
        format!("{kind} {} {}", r.to.name, r.constraint().unwrap_or("-"))
    };
    let mut ways: Vec<_> = schema.relationships("public", from).iter().map(way).collect();
    ways.sort_unstable();
    ways
}

#[tokio::test]
async fn a_comment_that_is_a_book_is_not_kept() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let owner = fleet.owner("acme").await;
    let long = "CREATE TABLE a (id int); DO $$ BEGIN
        EXECUTE format('COMMENT ON TABLE a IS %L', repeat('x', 68000000)); END $$";
    owner.batch_execute(long).await.unwrap();
    owner.batch_execute("BEGIN READ ONLY").await.unwrap();
    let error = schema::load(&owner, &["public".into()], &[]).await.unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}

#[tokio::test]
async fn what_a_database_contains() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let before = read(&fleet).await;
    fleet.owner("acme").await.batch_execute(TABLES).await.unwrap();
    let schema = read(&fleet).await;
    assert_ne!(before.fingerprint, schema.fingerprint);
    assert_eq!(schema.fingerprint, read(&fleet).await.fingerprint, "reading again gives the same");

    let books = schema.relation("public", "books").unwrap();
    assert_eq!((books.kind, books.primary_key.clone()), (Kind::Table, vec!["id".to_owned()]));
    let id = books.column("id").unwrap();
    assert!(id.identity && id.not_null && id.has_default, "{id:?}");
    let title = books.column("title").unwrap();
    assert_eq!((title.type_name.as_str(), title.max_length), ("character varying(80)", Some(80)));
    assert!(books.computed_column(&["public"], "shout").is_some());

    // A view has the keys of the table whose columns it shows, by its own names; a UNION has none.
    let titles = schema.relation("public", "titles").unwrap();
    assert_eq!((titles.is_view(), titles.primary_key.clone()), (true, vec!["number".to_owned()]));
    assert!(titles.insertable && titles.updatable && titles.deletable);
    let everything = schema.relation("public", "everything").unwrap();
    assert!(everything.primary_key.is_empty() && !everything.updatable);
    assert!(schema.relation("public", "pg_class").is_none());
}

#[tokio::test]
async fn which_tables_run_only_the_servers_code() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let owner = fleet.owner("acme").await;
    owner
        .batch_execute(
            "CREATE DOMAIN short AS text CHECK (length(VALUE) < 9);
             CREATE TYPE mood AS ENUM ('good', 'bad');
             CREATE TABLE ordinary (a int, b text[], c jsonb, d int4range, e timestamptz DEFAULT now());
             CREATE TABLE guarded (a int); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
             CREATE TABLE parent (a int); CREATE TABLE child () INHERITS (parent);
             CREATE TABLE parted (a int) PARTITION BY LIST (a);
             CREATE VIEW seen AS SELECT a FROM ordinary;
             CREATE TABLE with_domain (a short); CREATE TABLE with_enum (a mood); CREATE TABLE with_enums (a mood[]);
             CREATE TABLE with_row (a ordinary);
             CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';
             CREATE TABLE with_index (a int); CREATE INDEX ON with_index (twice(a));
             CREATE TABLE with_filter (a int); CREATE INDEX ON with_filter (a) WHERE twice(a) > 1;
             CREATE TABLE with_statistics (a int); CREATE STATISTICS s ON (twice(a)), a FROM with_statistics;
             CREATE TABLE with_check (a int CHECK (twice(a) > 0)); CREATE TABLE with_names (a regclass[]);",
        )
        .await
        .unwrap();
    /// The edition's own.
    const EDITION: [&str; 2] = ["items", "notes"];
    let plain = async || {
        let schema = read(&fleet).await;
        let tables = schema.relations["public"].values().filter(|relation| relation.plain);
        tables
            .map(|relation| relation.name.clone())
            .filter(|name| !EDITION.contains(&name.as_str()))
            .collect::<Vec<_>>()
    };
    assert_eq!(plain().await, ["child", "ordinary"]);
    // `text = text` stays the server's, being looked for there first; `varchar = varchar` there is none.
    owner
        .batch_execute(
            "CREATE FUNCTION same(varchar, varchar) RETURNS boolean LANGUAGE sql AS 'SELECT true';
             CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = same)",
        )
        .await
        .unwrap();
    assert_eq!(plain().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_belongs_together() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    fleet.owner("acme").await.batch_execute(TABLES).await.unwrap();
    let schema = read(&fleet).await;
    let ways = |from: &str| ways(&schema, from).join("\n");
    insta::assert_snapshot!(ways("books"));
    insta::assert_snapshot!(ways("authors"));
    insta::assert_snapshot!(ways("titles"));
    assert_eq!(ways("everything"), "");
    assert!(ways("grouped").contains("one authors books_author_id_fkey"), "{}", ways("grouped"));
    let many = &schema.routines("public", "many")[0];
    assert!(many.is_variadic());
    assert_eq!(
        many.inputs().map(|a| a.is_required()).collect::<Vec<_>>(),
        [true, true],
        "no DEFAULT, no leaving out"
    );
}
