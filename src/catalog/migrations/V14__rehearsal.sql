-- Rehearsals that passed: these files, on a copy of this tenant. A policy can ask for some before a rollout.
CREATE TABLE catalog.rehearsal (
    edition text NOT NULL,
    version int8 NOT NULL,
    -- The digest of the files up to the version.
    history text NOT NULL,
    tenant  text NOT NULL REFERENCES catalog.tenant (id),
    at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (edition, version, history, tenant)
);
