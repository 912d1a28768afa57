-- The control database: every tenant, its base URLs, the templates, and what was done.

CREATE SCHEMA catalog;

CREATE TABLE catalog.tenant (
    id          text PRIMARY KEY,
    slug        text NOT NULL,
    state       text NOT NULL CHECK (state IN ('creating', 'active', 'suspended', 'retired', 'purging', 'purged')),
    tier        text NOT NULL,
    server      text NOT NULL,
    edition     text NOT NULL,
    version     int NOT NULL DEFAULT 0,
    history     text NOT NULL DEFAULT '',
    generation  int NOT NULL DEFAULT 1,
    key         int NOT NULL,
    overrides   jsonb NOT NULL DEFAULT '{}',
    -- True between a change of state and its effect on the server (LOGIN, NOLOGIN, sessions ended).
    unsettled   boolean NOT NULL DEFAULT true,
    -- Why the last migration failed; null when it did not.
    failure     text,
    migrated_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now()
);

-- A purged tenant's row stays, so that its id is never used again; its slug is free.
CREATE UNIQUE INDEX tenant_slug ON catalog.tenant (slug) WHERE state <> 'purged';

CREATE TABLE catalog.base_url (
    host      text COLLATE "C" NOT NULL,
    prefix    text COLLATE "C" NOT NULL,
    url       text NOT NULL,
    tenant    text NOT NULL REFERENCES catalog.tenant (id),
    -- Made from listen.base_urls, not given by the operator.
    templated boolean NOT NULL,
    PRIMARY KEY (host, prefix)
);
CREATE INDEX base_url_tenant ON catalog.base_url (tenant);

CREATE TABLE catalog.template (
    database   text PRIMARY KEY,
    server     text NOT NULL,
    edition    text NOT NULL,
    version    int NOT NULL DEFAULT 0,
    history    text NOT NULL DEFAULT '',
    state      text NOT NULL CHECK (state IN ('building', 'ready', 'stale')),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX template_ready ON catalog.template (server, edition) WHERE state = 'ready';

CREATE TABLE catalog.journal (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT now(),
    actor  text NOT NULL DEFAULT session_user,
    tenant text,
    action text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX journal_tenant ON catalog.journal (tenant, id);

-- Counts changes that routers must hear of, for a router that missed a notice.
CREATE TABLE catalog.clock (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL DEFAULT 0
);
INSERT INTO catalog.clock DEFAULT VALUES;

CREATE FUNCTION catalog.tick() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE catalog.clock SET version = version + 1;
    RETURN NULL;
END $$;

CREATE FUNCTION catalog.tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'tenant' THEN
        PERFORM pg_notify('directory', COALESCE(NEW.id, OLD.id));
    ELSE
        PERFORM pg_notify('directory', COALESCE(NEW.tenant, OLD.tenant));
    END IF;
    RETURN NULL;
END $$;

-- A base URL nested under another tenant's would take over part of its paths.
CREATE FUNCTION catalog.base_url_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    parts text[] := string_to_array(NEW.prefix, '/');
    above text[] := ARRAY(SELECT array_to_string(parts[1:n], '/') FROM generate_series(1, cardinality(parts)) n);
    other record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.host, 0));
    SELECT b.url, t.slug INTO other
    FROM catalog.base_url b JOIN catalog.tenant t ON t.id = b.tenant
    WHERE b.host = NEW.host AND b.tenant <> NEW.tenant
      AND (b.prefix = '' OR b.prefix = ANY (above) OR NEW.prefix = ''
           -- '0' is the character behind '/' in the C collation.
           OR (b.prefix >= NEW.prefix || '/' AND b.prefix < NEW.prefix || '0'))
    LIMIT 1;
    IF FOUND THEN
        RAISE unique_violation USING
            MESSAGE = format('base URL %s is taken by or nested with %s of tenant %s', NEW.url, other.url, other.slug),
            HINT = 'give the tenant another host or prefix';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON catalog.base_url FOR EACH ROW EXECUTE FUNCTION catalog.base_url_guard();
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON catalog.base_url FOR EACH ROW EXECUTE FUNCTION catalog.tell();
CREATE TRIGGER tick AFTER INSERT OR UPDATE OR DELETE ON catalog.base_url FOR EACH STATEMENT EXECUTE FUNCTION catalog.tick();
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON catalog.tenant FOR EACH ROW EXECUTE FUNCTION catalog.tell();
CREATE TRIGGER tick AFTER INSERT OR UPDATE OR DELETE ON catalog.tenant FOR EACH STATEMENT EXECUTE FUNCTION catalog.tick();
