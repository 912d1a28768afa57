-- The tenant whose place the database of a restore is to take, until it has.
ALTER TABLE catalog.tenant ADD COLUMN replaces text REFERENCES catalog.tenant (id);
