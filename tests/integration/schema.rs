//! The schema as it is read from a database: keys seen through views, cardinalities, computed columns, what may change.

use manybox::pool::Budget;
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
    let mut checkout = fleet.pools(Budget::default()).checkout(&fleet.tenant("acme").await).await.unwrap();
    schema::load(checkout.wire(), &["public".into()], &[]).await.unwrap()
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
    let mut checkout = fleet.pools(Budget::default()).checkout(&fleet.tenant("acme").await).await.unwrap();
    let error = schema::load(checkout.wire(), &["public".into()], &[]).await.unwrap_err();
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
