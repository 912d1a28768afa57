-- Versions of editions may be timestamps, such as 20240115180414.
ALTER TABLE catalog.tenant ALTER COLUMN version TYPE int8;
ALTER TABLE catalog.template ALTER COLUMN version TYPE int8;
ALTER TABLE catalog.schema ALTER COLUMN version TYPE int8;
