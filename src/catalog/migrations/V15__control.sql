-- Who asks the control service, and by whose order each line of the journal was written.

CREATE TABLE catalog.operator (
    name       text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    role       text NOT NULL CHECK (role IN ('viewer', 'operator', 'owner')),
    -- The tenants that it may see and change: {"editions": ["clinic"], "labels": {"region": "eu"}}; {} is all.
    scopes     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(scopes) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

CREATE TABLE catalog.api_token (
    -- Part of the token, so that a token that is found somewhere can be revoked without being shown.
    id           text PRIMARY KEY,
    operator     text NOT NULL REFERENCES catalog.operator (name),
    -- SHA-256 of the token's secret, which is random and long: nothing slower is needed, and nobody can read it back.
    hash         bytea NOT NULL,
    -- A token may have less than its operator: both hold.
    role         text NOT NULL CHECK (role IN ('viewer', 'operator', 'owner')),
    scopes       jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(scopes) = 'object'),
    note         text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    -- To the minute.
    last_used_at timestamptz
);
CREATE INDEX api_token_operator ON catalog.api_token (operator);

-- Signed-in browsers.
CREATE TABLE catalog.session (
    -- SHA-256 of what the browser's cookie has.
    hash       bytea PRIMARY KEY,
    operator   text NOT NULL REFERENCES catalog.operator (name),
    -- A session may have less than its operator: what it was opened by had less.
    role       text NOT NULL CHECK (role IN ('viewer', 'operator', 'owner')),
    scopes     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(scopes) = 'object'),
    -- `token ID` or `oidc ISSUER`.
    opened_by  text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- To the minute.
    seen_at    timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX session_operator ON catalog.session (operator);
CREATE INDEX session_expires ON catalog.session (expires_at);

-- Whose order a line was written by: operator, token, request id, reason. Null for commands, whose login is the actor.
ALTER TABLE catalog.journal
    ADD COLUMN act     jsonb DEFAULT nullif(current_setting('manybox.act', true), '')::jsonb,
    -- What became of an order, in its last line.
    ADD COLUMN outcome text;
