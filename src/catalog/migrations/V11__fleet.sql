-- The fleet's identity, which each of its servers keeps: two fleets that share a server unknowingly break each other.
CREATE TABLE catalog.fleet (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id  text NOT NULL DEFAULT gen_random_uuid()::text
);
INSERT INTO catalog.fleet DEFAULT VALUES;

-- What the settings declared of each tenant when `apply` last made it so: by it `apply` tells what was taken out of them from
-- what was never in them.
CREATE TABLE catalog.declared (
    tenant text PRIMARY KEY REFERENCES catalog.tenant (id),
    -- {"tier": true, "settings": ["max_rows"], "base_urls": ["https://..."]}
    what   jsonb NOT NULL
);

-- A tenant that was suspended when it was retired is suspended again when it is restored.
ALTER TABLE catalog.tenant ADD COLUMN was_suspended boolean NOT NULL DEFAULT false;
