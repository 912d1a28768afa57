-- What the bench reads: tables that fit into memory, open to everybody.
CREATE TABLE items (
    id    int PRIMARY KEY,
    name  text NOT NULL,
    price numeric(10, 2) NOT NULL
);
INSERT INTO items SELECT n, 'item ' || n, n / 7.0 FROM generate_series(1, 1000) n;
GRANT SELECT ON items TO anon;

-- The same with a policy, as most tables have that are not open to everybody.
CREATE TABLE guarded (LIKE items INCLUDING ALL);
INSERT INTO guarded SELECT * FROM items;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY by_role ON guarded
    USING (current_setting('request.jwt.claims', true)::json ->> 'role' IN ('anon', 'authenticated'));
GRANT SELECT ON guarded TO anon;

-- What `embed` reads; it fills them in one tenant.
CREATE TABLE patients (
    id          int PRIMARY KEY,
    family_name text NOT NULL,
    given_name  text NOT NULL,
    born_on     date NOT NULL
);
CREATE TABLE appointments (
    id         int PRIMARY KEY,
    patient_id int NOT NULL REFERENCES patients,
    starts_at  timestamptz NOT NULL,
    status     text NOT NULL
);
CREATE INDEX ON appointments (patient_id, starts_at DESC);
GRANT SELECT ON patients, appointments TO anon;
