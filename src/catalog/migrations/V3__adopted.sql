-- Tenants whose database was there before them, sealed secrets, and the wish that routers read a schema again.

ALTER TABLE catalog.tenant
    ALTER COLUMN edition DROP NOT NULL,
    ADD COLUMN database   text,
    ADD COLUMN login_role text,
    ADD COLUMN sealed     jsonb NOT NULL DEFAULT '{}',
    -- Counts `tenant reload`: a router that missed the notice sees by it that its schema is old.
    ADD COLUMN reloads    int NOT NULL DEFAULT 0,
    -- Made from an edition, or adopted.
    ADD CHECK ((edition IS NULL) = (database IS NOT NULL) AND (database IS NULL) = (login_role IS NULL));

-- Two tenants over one database would be one tenant with two names.
CREATE UNIQUE INDEX tenant_database ON catalog.tenant (server, database) WHERE state <> 'purged';
