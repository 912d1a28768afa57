-- What the database of a tenant in creation is filled from, when that is not a template; an exchange of databases that was
-- begun; and until when a retired tenant may not be purged.
ALTER TABLE catalog.tenant
    ADD COLUMN filling    text,
    ADD COLUMN exchange   jsonb,
    ADD COLUMN keep_until timestamptz;
