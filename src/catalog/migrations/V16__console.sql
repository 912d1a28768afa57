-- What all tenants' requests together came to, minute by minute and router by router, for charts of a few hours: so that they
-- are not added up from the rows of thousands of tenants. Not logged, as those aren't.
CREATE UNLOGGED TABLE catalog.traffic_minute (
    at        timestamptz NOT NULL,
    router    text NOT NULL,
    requests  int8 NOT NULL,
    errors    int8 NOT NULL,
    -- By bucket, from the first on.
    latencies int8[] NOT NULL CHECK (cardinality(latencies) = 64),
    PRIMARY KEY (at, router)
);

-- Verifications that somebody asked the control service for.
CREATE TABLE catalog.verification (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor       text NOT NULL,
    begun_at    timestamptz NOT NULL DEFAULT now(),
    -- When it last said how far it is.
    seen_at     timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    looked_into int8 NOT NULL DEFAULT 0,
    report      jsonb,
    failure     text
);

-- The newest tenants first.
CREATE INDEX tenant_created ON catalog.tenant (created_at, id);

CREATE OR REPLACE FUNCTION catalog.report_traffic(
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
        DELETE FROM catalog.traffic_minute WHERE at < now() - interval '6 hours';
    END IF;
    INSERT INTO catalog.traffic_report (router, at) VALUES (for_router, now())
    ON CONFLICT (router) DO UPDATE SET at = excluded.at;
    INSERT INTO catalog.traffic (tenant, at, router, requests, errors, lowest, latencies)
    SELECT t.id, now(), for_router, r.requests, r.errors, r.lowest, report_traffic.latencies[r.upto - r.length + 1 : r.upto]
    FROM (SELECT *, sum(u.length) OVER (ORDER BY u.place) AS upto
          FROM unnest(tenants, requests, errors, lowest, lengths)
               WITH ORDINALITY AS u (tenant, requests, errors, lowest, length, place)) r
    JOIN catalog.tenant t ON t.id = r.tenant;
    -- Buckets of tenants stand behind each other: where one begins and which bucket that is says where each count belongs.
    INSERT INTO catalog.traffic_minute (router, at, requests, errors, latencies)
    SELECT for_router, date_trunc('minute', now()), s.requests, s.errors, s.latencies
    FROM (SELECT (SELECT sum(n) FROM unnest(report_traffic.requests) n) AS requests,
                 (SELECT sum(n) FROM unnest(report_traffic.errors) n) AS errors,
                 ARRAY(SELECT coalesce(sum(c.count), 0)::int8 FROM generate_series(0, 63) AS b (bucket)
                       LEFT JOIN (SELECT u.first + place - u.upto + u.length - 1 AS bucket, report_traffic.latencies[place] AS count
                                  FROM (SELECT l.first, l.length, sum(l.length) OVER (ORDER BY l.place) AS upto
                                        FROM unnest(lowest, lengths) WITH ORDINALITY AS l (first, length, place)) u,
                                       generate_series(u.upto - u.length + 1, u.upto) AS place) c USING (bucket)
                       GROUP BY b.bucket ORDER BY b.bucket) AS latencies) s
    WHERE s.requests > 0
    ON CONFLICT (at, router) DO UPDATE SET
        requests = traffic_minute.requests + excluded.requests, errors = traffic_minute.errors + excluded.errors,
        latencies = ARRAY(SELECT a + b FROM unnest(traffic_minute.latencies, excluded.latencies) WITH ORDINALITY AS x (a, b, place)
                          ORDER BY place);
END $$;
