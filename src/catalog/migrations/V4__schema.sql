-- What the databases of a lineage contain: read from its template just before that is sealed, so that no tenant had a
-- hand in it. Routers take it from here for all of the lineage's tenants. Extensions differ by server, and so may it.
CREATE TABLE catalog.schema (
    server    text NOT NULL,
    edition   text NOT NULL,
    version   int NOT NULL,
    history   text NOT NULL,
    -- Which form `facts` has: programs of two versions can serve side by side.
    format    int NOT NULL,
    -- JSON, which the catalog does not look into. PostgreSQL compresses it (TOAST) to about a tenth.
    facts     text NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (server, edition, version, history, format)
);
