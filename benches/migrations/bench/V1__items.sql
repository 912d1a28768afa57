-- What the bench reads: a table that fits into memory, open to everybody.
CREATE TABLE items (
    id    int PRIMARY KEY,
    name  text NOT NULL,
    price numeric(10, 2) NOT NULL
);
INSERT INTO items SELECT n, 'item ' || n, n / 7.0 FROM generate_series(1, 1000) n;
GRANT SELECT ON items TO anon;
