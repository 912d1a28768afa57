//! The schema as it is read from a database: keys seen through views, cardinalities, computed columns, what may change.

use manybox::pool::Budget;
use manybox::schema::{self, Facts, Join, Kind, Room, Schema};

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
    let answers = schema::ask(checkout.wire(), &["public".into()], &[], &Room::default()).await.unwrap();
    Schema::new(answers.into_facts().unwrap()).unwrap()
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
        EXECUTE format('COMMENT ON TABLE a IS %L', repeat('x', 101000000)); END $$";
    owner.batch_execute(long).await.unwrap();
    let mut checkout = fleet.pools(Budget::default()).checkout(&fleet.tenant("acme").await).await.unwrap();
    let error = schema::ask(checkout.wire(), &["public".into()], &[], &Room::default()).await.unwrap_err();
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

/// More schemas, of which requests see some: views look through each other across them.
const SCHEMAS: &str = "
    CREATE SCHEMA inside; CREATE SCHEMA outside; CREATE SCHEMA extra;
    CREATE VIEW inside.authors AS SELECT id, name FROM public.authors;
    CREATE VIEW extra.authors AS SELECT id, name FROM public.authors;
    CREATE VIEW outside.through_inside AS SELECT id AS who FROM inside.authors;
    CREATE VIEW outside.through_extra AS SELECT id AS who FROM extra.authors;
    CREATE VIEW outside.loops AS SELECT 1 AS id;
    CREATE VIEW outside.looped AS SELECT id FROM outside.loops;
    CREATE OR REPLACE VIEW outside.loops AS SELECT id FROM outside.looped;
    CREATE VIEW outside.books AS SELECT * FROM public.books;
    CREATE TABLE outside.notes (id int PRIMARY KEY, book_id bigint REFERENCES public.books);
    CREATE FUNCTION outside.ask(it public.books) RETURNS SETOF outside.books LANGUAGE sql STABLE AS 'SELECT * FROM outside.books';
    CREATE FUNCTION inside.ask() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE DOMAIN \"application/x-test\" AS bytea;
    CREATE FUNCTION outside.file() RETURNS \"application/x-test\" LANGUAGE sql AS 'SELECT NULL::bytea';
    CREATE FUNCTION inside.file() RETURNS \"application/x-test\" LANGUAGE sql AS 'SELECT NULL::bytea';
    COMMENT ON SCHEMA inside IS 'in'; COMMENT ON SCHEMA outside IS 'out';";

#[tokio::test]
async fn what_is_stored_serves_every_choice_of_schemas() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let owner = fleet.owner("acme").await;
    owner.batch_execute(TABLES).await.unwrap();
    owner.batch_execute(SCHEMAS).await.unwrap();
    let mut checkout = fleet.pools(Budget::default()).checkout(&fleet.tenant("acme").await).await.unwrap();
    let all = schema::ask_all(checkout.wire()).await.unwrap().into_facts().unwrap();
    let stored = all.to_json().unwrap();
    assert!(all.relations.iter().all(|relation| relation.schema != "manybox"), "the history");
    assert_eq!(Facts::from_json(&stored).unwrap(), all);
    let choices: [(&[&str], &[&str]); 7] = [
        (&["public"], &["extensions"]),
        (&["public", "outside"], &["extensions"]),
        (&["outside"], &[]),
        (&["outside"], &["extra"]),
        (&["outside", "inside"], &["extra"]),
        (&["inside", "public"], &["public"]),
        (&["none"], &["public"]),
    ];
    for (exposed, along) in choices {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (exposed, along) = (names(exposed), names(along));
        let own = schema::ask(checkout.wire(), &exposed, &along, &Room::default())
            .await
            .unwrap()
            .into_facts()
            .unwrap();
        let selected = Facts::from_json(&stored).unwrap().select(&exposed, &along);
        assert_eq!(Schema::new(selected).unwrap(), Schema::new(own).unwrap(), "{exposed:?} {along:?}");
    }
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
