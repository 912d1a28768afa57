-- How large tenants' databases are, as one router at a time measures it. Not logged: after a crash it is measured again.

CREATE UNLOGGED TABLE catalog.database_size (
    tenant text PRIMARY KEY,
    bytes  int8 NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);

-- When a router last began to measure all databases of a server.
CREATE UNLOGGED TABLE catalog.size_round (
    server text PRIMARY KEY CHECK (length(server) <= 100),
    at     timestamptz NOT NULL DEFAULT now()
);

-- Whether the router that asks shall measure this server's databases: if nobody began to in the last `every`.
-- Functions, because routers may not write to the catalog.
CREATE FUNCTION catalog.claim_size_round(for_server text, every interval) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH claimed AS (
        INSERT INTO catalog.size_round (server) SELECT for_server
        WHERE EXISTS (SELECT FROM catalog.tenant WHERE server = for_server)
        ON CONFLICT (server) DO UPDATE SET at = excluded.at WHERE size_round.at < now() - every
        RETURNING server
    )
    SELECT EXISTS (SELECT FROM claimed)
$$;

CREATE FUNCTION catalog.report_sizes(tenants text[], bytes int8[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    DELETE FROM catalog.database_size s
    WHERE NOT EXISTS (SELECT FROM catalog.tenant t WHERE t.id = s.tenant AND t.state <> 'purged');
    INSERT INTO catalog.database_size AS s (tenant, bytes)
    SELECT t.id, r.bytes FROM unnest(tenants, report_sizes.bytes) AS r (tenant, bytes) JOIN catalog.tenant t ON t.id = r.tenant
    -- In one order, so that two reports don't wait for each other.
    ORDER BY t.id
    ON CONFLICT (tenant) DO UPDATE SET bytes = excluded.bytes, at = excluded.at;
END $$;
