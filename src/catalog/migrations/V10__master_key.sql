-- The fleet's master keys by their fingerprints, which tell nothing of them; which routers have them; and secrets that were
-- sealed with one that is lost.

CREATE TABLE catalog.master_key (
    -- Never given to two keys.
    number        int PRIMARY KEY CHECK (number > 0),
    fingerprint   text NOT NULL UNIQUE,
    state         text NOT NULL CHECK (state IN ('introduced', 'current', 'former', 'lost', 'ended')),
    introduced_at timestamptz NOT NULL DEFAULT now(),
    changed_at    timestamptz NOT NULL DEFAULT now(),
    EXCLUDE (state WITH =) WHERE (state = 'current') DEFERRABLE INITIALLY IMMEDIATE
);

-- What each router has, as it says itself.
CREATE TABLE catalog.router_key (
    router       text PRIMARY KEY,
    -- Its machine, for people.
    host         text NOT NULL,
    -- Its session: while that lives, so does the router.
    process      int NOT NULL,
    fingerprints text[] NOT NULL,
    seen         timestamptz NOT NULL DEFAULT now()
);

-- What can't be opened any more, by the secret's name, as it was sealed: it opens again if the key is found.
ALTER TABLE catalog.tenant ADD COLUMN lost_secrets jsonb NOT NULL DEFAULT '{}';

CREATE FUNCTION catalog.tell_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('directory', 'master-key');
    RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON catalog.master_key FOR EACH STATEMENT EXECUTE FUNCTION catalog.tell_keys();

-- A router says which keys it has, and hears which there are. A function, because routers may not write to the catalog.
CREATE FUNCTION catalog.report_keys(for_router text, on_host text, has text[]) RETURNS SETOF catalog.master_key
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO catalog.router_key (router, host, process, fingerprints)
    VALUES (for_router, on_host, pg_backend_pid(), has)
    ON CONFLICT (router) DO UPDATE
    SET host = excluded.host, process = excluded.process, fingerprints = excluded.fingerprints, seen = now();
    DELETE FROM catalog.router_key WHERE seen < now() - interval '1 hour';
    RETURN QUERY SELECT * FROM catalog.master_key ORDER BY number;
END $$;

-- A router that stops has none.
CREATE FUNCTION catalog.forget_router_keys(for_router text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM catalog.router_key WHERE router = for_router
$$;
