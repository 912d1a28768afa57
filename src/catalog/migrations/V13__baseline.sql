-- The version up to which files are recorded in a tenant's history that manybox did not run: other tools had made the database.
ALTER TABLE catalog.tenant ADD COLUMN baseline int8;
