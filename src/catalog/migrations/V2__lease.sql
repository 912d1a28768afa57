-- What each router may use of a server's connections, so that all routers together stay within its budget.
CREATE TABLE catalog.lease (
    server  text NOT NULL,
    router  text NOT NULL,
    share   int NOT NULL CHECK (share >= 0),
    expires timestamptz NOT NULL,
    PRIMARY KEY (server, router)
);

-- Renews a router's lease and returns its share: an even part of the total, as far as the others have left it.
-- A router that holds more than its share keeps that on its lease until it has closed it; whenever the lease
-- shrinks, or the router waits for others to shrink, they are told to renew theirs.
-- A function, because routers may not write to the catalog.
CREATE FUNCTION catalog.renew_lease(for_server text, for_router text, total int, held int, lifetime interval) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    others  record;
    fair    int;
    part    int;
    before  int;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('lease ' || for_server, 0));
    DELETE FROM catalog.lease WHERE server = for_server AND expires < now();
    SELECT share INTO before FROM catalog.lease WHERE server = for_server AND router = for_router;
    SELECT count(*) AS routers, coalesce(sum(share), 0)::int AS share INTO others
    FROM catalog.lease WHERE server = for_server AND router <> for_router;
    fair := greatest(total / (others.routers + 1), 1);
    part := greatest(least(fair, total - others.share), 0);
    INSERT INTO catalog.lease (server, router, share, expires)
    VALUES (for_server, for_router, greatest(part, held), now() + lifetime)
    ON CONFLICT (server, router) DO UPDATE SET share = excluded.share, expires = excluded.expires;
    IF part < fair OR coalesce(before > greatest(part, held), false) THEN
        PERFORM pg_notify('lease', for_router);
    END IF;
    RETURN part;
END $$;

-- A router that stops leaves its part to the others.
CREATE FUNCTION catalog.end_leases(for_router text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM catalog.lease WHERE router = for_router;
    PERFORM pg_notify('lease', for_router);
END $$;
