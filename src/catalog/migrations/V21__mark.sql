-- The mark that each tenant's database was last given: what the catalog would need of it, were it lost; and the number of the
-- master key that signed it.
CREATE TABLE catalog.mark (
    tenant text PRIMARY KEY REFERENCES catalog.tenant (id),
    what   jsonb NOT NULL,
    key    int NOT NULL
);
