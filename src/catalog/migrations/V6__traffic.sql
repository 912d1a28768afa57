-- What requests of tenants came to of late, as routers report it: a rollout looks here before it goes on.
-- Not logged: it costs no wait for the disk, and after a crash it is empty, which reads as "no report".

CREATE UNLOGGED TABLE catalog.traffic (
    tenant    text NOT NULL,
    -- When it was reported; it was counted since the router's report before.
    at        timestamptz NOT NULL,
    router    text NOT NULL,
    requests  int NOT NULL,
    -- Of these, those answered with 5xx.
    errors    int NOT NULL,
    -- The bucket of `latencies[1]`; empty ones before it and behind the last are left out.
    lowest    int2 NOT NULL CHECK (lowest >= 0),
    latencies int[] NOT NULL CHECK (lowest + cardinality(latencies) BETWEEN 1 AND 64),
    PRIMARY KEY (tenant, at, router)
);
CREATE INDEX traffic_at ON catalog.traffic (at);

-- When each router reported last, with or without traffic.
CREATE UNLOGGED TABLE catalog.traffic_report (
    router text PRIMARY KEY CHECK (length(router) <= 100),
    at     timestamptz NOT NULL
);

-- Takes a router's report: what it counted for each tenant that had requests since its last one. `latencies` are those
-- of all these tenants behind each other, `lengths` says how many belong to each.
-- A function, because routers may not write to the catalog. Rows older than two hours are deleted, some at a time.
CREATE FUNCTION catalog.report_traffic(
    for_router text, tenants text[], requests int[], errors int[], lowest int2[], lengths int2[], latencies int[]
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    old timestamptz := now() - interval '2 hours';
BEGIN
    IF cardinality(tenants) > 20000 OR cardinality(latencies) > 20000 * 64 THEN
        RAISE program_limit_exceeded USING MESSAGE = 'a report of traffic has at most 20000 tenants';
    END IF;
    -- One router at a time: the others' reports find it done.
    IF pg_try_advisory_xact_lock(hashtextextended('traffic', 0)) THEN
        DELETE FROM catalog.traffic WHERE ctid = ANY (
            ARRAY(SELECT t.ctid FROM catalog.traffic t WHERE t.at < old ORDER BY t.at LIMIT 50000));
        DELETE FROM catalog.traffic_report WHERE at < old;
    END IF;
    INSERT INTO catalog.traffic_report (router, at) VALUES (for_router, now())
    ON CONFLICT (router) DO UPDATE SET at = excluded.at;
    INSERT INTO catalog.traffic (tenant, at, router, requests, errors, lowest, latencies)
    SELECT t.id, now(), for_router, r.requests, r.errors, r.lowest, report_traffic.latencies[r.upto - r.length + 1 : r.upto]
    FROM (SELECT *, sum(u.length) OVER (ORDER BY u.place) AS upto
          FROM unnest(tenants, requests, errors, lowest, lengths)
               WITH ORDINALITY AS u (tenant, requests, errors, lowest, length, place)) r
    JOIN catalog.tenant t ON t.id = r.tenant;
END $$;
