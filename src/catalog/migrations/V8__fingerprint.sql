-- What the schema of a lineage's databases is, as facts and as a hash of them: read from its template just before that is
-- sealed, so that no tenant had a hand in it. A tenant whose own differs has drifted.
CREATE TABLE catalog.fingerprint (
    server      text NOT NULL,
    edition     text NOT NULL,
    version     int8 NOT NULL,
    history     text NOT NULL,
    -- The form of the facts, and PostgreSQL's major version, which decides how it writes an expression.
    basis       text NOT NULL,
    hash        text NOT NULL,
    -- JSON, which the catalog does not look into.
    facts       text NOT NULL,
    stored_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (server, edition, version, history, basis)
);

-- Drift that an operator said is right. Not a column of the tenant: no router needs to hear of it.
CREATE TABLE catalog.accepted_drift (
    tenant      text PRIMARY KEY REFERENCES catalog.tenant (id),
    -- JSON, as above.
    drift       text NOT NULL,
    reason      text NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    accepted_by text NOT NULL DEFAULT session_user
);
