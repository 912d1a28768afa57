-- The journal has a schema of its own: `init` gives it and what is in it to a role that nobody can become. In the catalog's
-- schema its owner could drop the tables, whoever they belong to.
CREATE SCHEMA journal;

ALTER TABLE catalog.journal SET SCHEMA journal;
ALTER TABLE journal.journal RENAME TO line;
ALTER TABLE catalog.journal_pending SET SCHEMA journal;
ALTER TABLE journal.journal_pending RENAME TO pending;
ALTER TABLE catalog.journal_seal SET SCHEMA journal;
ALTER TABLE journal.journal_seal RENAME TO seal;

ALTER FUNCTION catalog.refuse_change() SET SCHEMA journal;
ALTER FUNCTION catalog.note_pending() SET SCHEMA journal;
ALTER FUNCTION catalog.journal_form(journal.line) SET SCHEMA journal;
ALTER FUNCTION journal.journal_form(journal.line) RENAME TO form;
DROP FUNCTION catalog.seal_journal(int);

CREATE OR REPLACE FUNCTION journal.note_pending() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO journal.pending (line) VALUES (NEW.id);
    RETURN NULL;
END $$;

-- Gives the lines that are committed by now their places. One caller at a time; the others find it done. By its owner's
-- rights: nobody else may write to the chain.
CREATE FUNCTION journal.seal_lines(most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place  bigint;
    former bytea;
    next   record;
    sealed int := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('journal', 0)) THEN
        RETURN 0;
    END IF;
    SELECT s.position, s.hash INTO place, former FROM journal.seal s ORDER BY s.position DESC LIMIT 1;
    place := coalesce(place, 0);
    former := coalesce(former, '');
    FOR next IN
        SELECT l.id, journal.form(l) AS form
        FROM journal.pending p JOIN journal.line l ON l.id = p.line ORDER BY p.line LIMIT most
    LOOP
        place := place + 1;
        former := sha256(former || convert_to(next.form, 'UTF8'));
        INSERT INTO journal.seal (position, line, hash) VALUES (place, next.id, former);
        DELETE FROM journal.pending WHERE line = next.id;
        sealed := sealed + 1;
    END LOOP;
    RETURN sealed;
END $$;

-- For queries that know it by its former name. manybox itself does not: whoever may change the catalog may change a view.
CREATE VIEW catalog.journal WITH (security_invoker = true) AS SELECT * FROM journal.line;
