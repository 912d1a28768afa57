-- Leases live and die with a router's session in the catalog, and follow what the router can use.

DROP FUNCTION catalog.renew_lease(text, text, int, int, interval);
DROP FUNCTION catalog.end_leases(text);
DROP TABLE catalog.lease;

-- By which files the catalog was made last, so that a router can tell that it is older, or newer.
CREATE TABLE catalog.made (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- The number of the newest of this folder's files.
    migration int NOT NULL,
    -- The version of the manybox that brought it there.
    by        text NOT NULL
);

-- Since when the catalog's server has been running. Not logged: a crash, which postmaster's start doesn't tell of, empties
-- it. All sessions end then, and none of their routers needs to have died.
CREATE UNLOGGED TABLE catalog.server_run (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    started timestamptz NOT NULL,
    seen    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Routers that live, and those that were lost a moment ago. A router lives as long as one of its sessions holds the
-- advisory lock of its name.
CREATE TABLE catalog.router (
    name            text PRIMARY KEY CHECK (length(name) <= 100),
    -- Where its session comes from.
    address         text NOT NULL,
    version         text NOT NULL,
    -- Its newest master key.
    key_number      int NOT NULL,
    since           timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The run of the server in which it had a session last.
    run             timestamptz NOT NULL,
    -- When its session was found to be gone.
    lost            timestamptz
);

-- What each router may use of a server's connections, so that all routers together stay within its budget.
CREATE TABLE catalog.lease (
    server text NOT NULL,
    router text NOT NULL REFERENCES catalog.router ON DELETE CASCADE,
    -- The budget as this router knows it.
    total  int NOT NULL,
    -- What it may hold, and what it holds above that and has not closed yet.
    share  int NOT NULL CHECK (share >= 0),
    -- What it could use.
    wanted int NOT NULL,
    -- What it would have if nobody else held anything too much.
    target int NOT NULL,
    PRIMARY KEY (server, router)
);

CREATE FUNCTION catalog.router_lock(router text) RETURNS int8
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT hashtextextended('router ' || router, 0)
$$;

-- The present run of the server.
CREATE FUNCTION catalog.current_run() RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run timestamptz;
BEGIN
    SELECT s.seen INTO run FROM catalog.server_run s WHERE s.started = pg_postmaster_start_time();
    IF NOT FOUND THEN
        INSERT INTO catalog.server_run (started) VALUES (pg_postmaster_start_time())
        ON CONFLICT (one) DO UPDATE SET started = excluded.started, seen = excluded.seen
        RETURNING seen INTO run;
    END IF;
    RETURN run;
END $$;

-- Notes whose sessions are gone, and forgets those that did not come back. A router that lives comes back within a second
-- or so; after a restart of the server all have to, and some wait longer before they try again.
CREATE FUNCTION catalog.forget_lost_routers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    present timestamptz := catalog.current_run();
BEGIN
    UPDATE catalog.router r SET lost = clock_timestamp()
    WHERE r.lost IS NULL AND NOT catalog.is_alive(catalog.router_lock(r.name));
    DELETE FROM catalog.router r
    WHERE r.lost < clock_timestamp() - CASE WHEN r.run = present THEN interval '2 seconds' ELSE interval '15 seconds' END;
    IF FOUND THEN
        PERFORM pg_notify('lease', '');
    END IF;
END $$;

-- Says that this session is the router's. Again, it changes what is known of the router.
-- A function, as the following are, because routers may not write to the catalog.
CREATE FUNCTION catalog.register_router(for_router text, version text, key_number int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Shared, because the session that it had before may not have ended here yet.
    PERFORM pg_advisory_lock_shared(catalog.router_lock(for_router));
    PERFORM pg_advisory_xact_lock(hashtextextended('leases', 0));
    INSERT INTO catalog.router (name, address, version, key_number, run)
    VALUES (for_router, coalesce(host(inet_client_addr()), 'local'), register_router.version, register_router.key_number,
            catalog.current_run())
    ON CONFLICT (name) DO UPDATE SET address = excluded.address, version = excluded.version,
        key_number = excluded.key_number, run = excluded.run, lost = NULL;
END $$;

-- Renews a router's lease of a server's connections and returns its share, with all who hold some.
--
-- What a router wants is its due, and at least `minimum`. Where all routers together want more than there is, those
-- who want little get it, and the others equal parts of the rest; what nobody wants is divided equally. A share is given
-- only as far as the others have let go of it: `used` is the most that the router may hold by what it was told before.
-- So a smaller share is free for others with the next renewal, after the router has taken it up. Lost routers' shares
-- count as well, but for a router that has less than the minimum.
--
-- Routers are told to renew their leases when a lease has shrunk, or when another one waits for them to shrink.
CREATE FUNCTION catalog.renew_lease(
    for_router text, for_server text, known_total int, used int, wants int, minimum int,
    OUT share int, OUT total int, OUT holders jsonb
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before  record;
    each    record;
    others  int;
    lost    int;
    routers int;
    lowest  int;
    remains int;
    left_of int;
    due     int;
    own     int;
    held    int;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('leases', 0));
    PERFORM catalog.forget_lost_routers();
    SELECT l.share, l.target INTO before FROM catalog.lease l WHERE l.server = for_server AND l.router = for_router;
    total := coalesce(
        known_total, (SELECT max(l.total) FROM catalog.lease l WHERE l.server = for_server AND l.router <> for_router), minimum);
    INSERT INTO catalog.lease (server, router, total, share, wanted, target)
    VALUES (for_server, for_router, renew_lease.total, used, wants, 0)
    ON CONFLICT (server, router) DO UPDATE SET total = excluded.total, wanted = excluded.wanted;
    SELECT coalesce(sum(l.share) FILTER (WHERE r.lost IS NULL AND l.router <> for_router), 0),
           coalesce(sum(l.share) FILTER (WHERE r.lost IS NOT NULL AND l.router <> for_router), 0),
           count(*) FILTER (WHERE r.lost IS NULL)
    INTO others, lost, routers
    FROM catalog.lease l JOIN catalog.router r ON r.name = l.router WHERE l.server = for_server;
    lowest := greatest(least(minimum, renew_lease.total / routers), 1);
    remains := greatest(renew_lease.total - lost, 0);
    left_of := routers;
    -- Those who want least come first: what they leave is for those behind them.
    FOR each IN
        SELECT l.router, greatest(l.wanted, lowest) AS wanted, row_number() OVER w AS place
        FROM catalog.lease l JOIN catalog.router r ON r.name = l.router
        WHERE l.server = for_server AND r.lost IS NULL
        WINDOW w AS (ORDER BY greatest(l.wanted, lowest), l.router) ORDER BY 3
    LOOP
        IF each.router = for_router THEN
            due := least(each.wanted, remains / left_of);
            own := each.place;
        END IF;
        remains := remains - least(each.wanted, remains / left_of);
        left_of := left_of - 1;
    END LOOP;
    due := due + remains / routers + CASE WHEN own <= remains % routers THEN 1 ELSE 0 END;
    share := greatest(least(due, renew_lease.total - others - lost), least(lowest, renew_lease.total - others), 0);
    held := greatest(share, used);
    UPDATE catalog.lease l SET share = held, target = due WHERE l.server = for_server AND l.router = for_router;
    IF held < before.share OR (share < due AND before.target IS DISTINCT FROM due) THEN
        PERFORM pg_notify('lease', for_router);
    END IF;
    SELECT jsonb_agg(jsonb_build_object(
        'router', r.name, 'address', r.address, 'share', l.share, 'wanted', l.wanted, 'lost', r.lost IS NOT NULL
    ) ORDER BY l.share DESC, r.name) INTO holders
    FROM catalog.lease l JOIN catalog.router r ON r.name = l.router WHERE l.server = for_server;
END $$;

-- A router that stops leaves its shares to the others, and no gate waits for its reports.
CREATE FUNCTION catalog.end_router(for_router text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('leases', 0));
    DELETE FROM catalog.router WHERE name = for_router;
    DELETE FROM catalog.traffic_report WHERE router = for_router;
    PERFORM pg_notify('lease', for_router);
END $$;
