-- Rollouts: what was planned, how far it came, and what became of each tenant.

ALTER TABLE catalog.tenant
    -- Given by operators, to say which tenants a wave takes.
    ADD COLUMN labels      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
    -- Since when rollouts leave the tenant out, because a migration failed; null when they don't.
    ADD COLUMN quarantined timestamptz;

CREATE TABLE catalog.rollout (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state      text NOT NULL CHECK (state IN ('planned', 'running', 'paused', 'halted', 'aborted', 'done')),
    -- Policy, scope, targets and waves, as they were planned. Never changed.
    plan       jsonb NOT NULL,
    -- The wave that is open, from 0.
    wave       int NOT NULL DEFAULT 0,
    wave_begun timestamptz,
    -- When no step of the wave was left to do: the bake time runs from here.
    wave_ended timestamptz,
    -- The wave whose gate an operator passed by hand.
    approved   int,
    -- Why it is paused or halted, or what it waits for.
    reason     text,
    actor      text NOT NULL DEFAULT session_user,
    created_at timestamptz NOT NULL DEFAULT now(),
    begun_at   timestamptz,
    ended_at   timestamptz
);

CREATE TABLE catalog.rollout_step (
    rollout    bigint NOT NULL REFERENCES catalog.rollout (id) ON DELETE CASCADE,
    -- The order in which steps are begun.
    place      int NOT NULL,
    wave       int NOT NULL,
    tenant     text NOT NULL REFERENCES catalog.tenant (id),
    slug       text NOT NULL,
    server     text NOT NULL,
    edition    text NOT NULL,
    state      text NOT NULL DEFAULT 'pending'
               CHECK (state IN ('pending', 'running', 'done', 'drifted', 'failed', 'skipped')),
    -- The version before the rollout, and the one that was reached.
    before     int8 NOT NULL,
    version    int8 NOT NULL,
    -- Who works on it: the key of an advisory lock that the executor's session holds. Once nobody holds it, the executor is
    -- dead, and another may take the step over.
    executor   int8,
    attempts   int NOT NULL DEFAULT 0,
    begun_at   timestamptz,
    ended_at   timestamptz,
    -- What runs now, when it has run for a second.
    activity   text,
    -- Kind, sentence, file, line, statement and SQLSTATE of what failed.
    failure    jsonb,
    -- What is different from the template, and whether it was before.
    drift      jsonb,
    notices    jsonb,
    PRIMARY KEY (rollout, place),
    UNIQUE (rollout, tenant)
);
CREATE INDEX rollout_step_open ON catalog.rollout_step (rollout, wave, place) WHERE state IN ('pending', 'running');
CREATE INDEX rollout_step_tenant ON catalog.rollout_step (tenant);

-- Whether somebody holds the advisory lock of this key in this database.
CREATE FUNCTION catalog.is_alive(executor int8) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND classid::int8 = (executor >> 32) & 4294967295 AND objid::int8 = executor & 4294967295)
$$;

-- A router that stops leaves its part to the others, and no gate waits for its reports.
CREATE OR REPLACE FUNCTION catalog.end_leases(for_router text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM catalog.lease WHERE router = for_router;
    DELETE FROM catalog.traffic_report WHERE router = for_router;
    PERFORM pg_notify('lease', for_router);
END $$;
