-- Long work of the control service, resumed by whoever is alive, and answers that are given once.

CREATE TABLE catalog.job (
    id         text PRIMARY KEY,
    kind       text NOT NULL,
    -- The tenant's id and its name at the time.
    tenant     text,
    slug       text,
    -- What is to be done, in the control service's form. No secrets.
    work       jsonb NOT NULL,
    -- By whose order.
    act        jsonb NOT NULL,
    state      text NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
    -- The key of an advisory lock that the worker's session holds. Once nobody holds it, the worker is dead, and another may
    -- take the job over.
    executor   int8,
    attempts   int NOT NULL DEFAULT 0,
    progress   text,
    result     jsonb,
    problem    jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    begun_at   timestamptz,
    ended_at   timestamptz
);
CREATE INDEX job_open ON catalog.job (created_at) WHERE state IN ('queued', 'running');
CREATE INDEX job_created ON catalog.job (created_at, id);
CREATE INDEX job_tenant ON catalog.job (tenant, created_at);

-- Answers by their Idempotency-Key.
CREATE TABLE catalog.idempotency (
    operator    text NOT NULL,
    key         text NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    -- SHA-256 of method, path, query and body.
    fingerprint bytea NOT NULL,
    -- Who works on it, as a job's.
    executor    int8 NOT NULL,
    -- Null while it is worked on.
    status      int,
    location    text,
    body        bytea,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (operator, key)
);
CREATE INDEX idempotency_created ON catalog.idempotency (created_at);
