-- Who is told of what happens: each webhook walks along the journal's chain, and stands where its receiver has heard all.
CREATE TABLE catalog.webhook (
    id          text PRIMARY KEY,
    url         text NOT NULL,
    -- Kinds of events, such as tenant.suspend; empty: all.
    events      text[] NOT NULL DEFAULT '{}',
    -- What its messages are signed with, sealed with a master key.
    sealed      text NOT NULL,
    -- The place in the chain up to which all was delivered.
    position    bigint NOT NULL,
    -- Who delivers, as a job's.
    executor    int8,
    tries       int NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL DEFAULT now(),
    -- Why the last try failed.
    failure     text,
    -- Since when nobody tries any more.
    disabled_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now()
);
