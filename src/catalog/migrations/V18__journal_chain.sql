-- The journal is only appended to, and its lines are chained by hash: who changes one after all breaks what stands behind it.

CREATE FUNCTION catalog.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE insufficient_privilege USING MESSAGE = 'the journal is only appended to';
END $$;

-- Lines that have no place in the chain yet. Which comes first is decided when they are committed, so that commits don't wait
-- for each other.
CREATE TABLE catalog.journal_pending (
    line bigint PRIMARY KEY
);
INSERT INTO catalog.journal_pending SELECT id FROM catalog.journal;

CREATE FUNCTION catalog.note_pending() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO catalog.journal_pending (line) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER pending AFTER INSERT ON catalog.journal FOR EACH ROW EXECUTE FUNCTION catalog.note_pending();

-- The chain: hash = SHA-256 (the hash before, the line's form).
CREATE TABLE catalog.journal_seal (
    position bigint PRIMARY KEY,
    line     bigint NOT NULL UNIQUE,
    hash     bytea NOT NULL
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON catalog.journal
    FOR EACH ROW EXECUTE FUNCTION catalog.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON catalog.journal
    FOR EACH STATEMENT EXECUTE FUNCTION catalog.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON catalog.journal_seal
    FOR EACH ROW EXECUTE FUNCTION catalog.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON catalog.journal_seal
    FOR EACH STATEMENT EXECUTE FUNCTION catalog.refuse_change();

-- A line as it is hashed: whatever the session's settings are, it is the same text.
CREATE FUNCTION catalog.journal_form(line catalog.journal) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT json_build_array(
        line.id, to_char(line.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), line.actor, line.tenant, line.action,
        line.detail::text, line.act::text, line.outcome)::text
$$;

-- Gives the lines that are committed by now their places. One caller at a time; the others find it done.
CREATE FUNCTION catalog.seal_journal(most int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place  bigint;
    former bytea;
    next   record;
    sealed int := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('journal', 0)) THEN
        RETURN 0;
    END IF;
    SELECT s.position, s.hash INTO place, former FROM catalog.journal_seal s ORDER BY s.position DESC LIMIT 1;
    place := coalesce(place, 0);
    former := coalesce(former, '');
    FOR next IN
        SELECT j.id, catalog.journal_form(j) AS form
        FROM catalog.journal_pending p JOIN catalog.journal j ON j.id = p.line ORDER BY p.line LIMIT most
    LOOP
        place := place + 1;
        former := sha256(former || convert_to(next.form, 'UTF8'));
        INSERT INTO catalog.journal_seal (position, line, hash) VALUES (place, next.id, former);
        DELETE FROM catalog.journal_pending WHERE line = next.id;
        sealed := sealed + 1;
    END LOOP;
    RETURN sealed;
END $$;
