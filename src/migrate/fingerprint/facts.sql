-- What the schema of a database is, one row for each fact: its name, unique, and what it says. From catalogs alone: no
-- function of the database's owner runs, and no table of its is read. The session finds `pg_catalog` only, so that every
-- other name is written with its schema.
--
-- Not here: numbers of objects, columns that were dropped, the order in which objects were made, data, the schema of the
-- history, and what an extension brought, which its version tells. That is what belongs to the database's owner or to the
-- bootstrap superuser: what else somebody added to an extension is told of like the rest.
--
-- Expressions are written in PostgreSQL's shorter form. The other one keeps parentheses of nested ANDs, as BETWEEN makes
-- them, which a dump and its restore take away: what was restored would differ for ever.
--
-- In parts, each under a line `-- @ NAME`, with `if` and what must hold for the part to have any rows: the kinds that few
-- databases have cost more to plan than all others. A catalog without a byte has no rows, and need not be opened to know it.
-- What is 16384 (FirstNormalObjectId) or above was made after the cluster was. Parts of one name belong together; other
-- parts read them by it.

-- @ schemas
SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'manybox')

-- @ trusted
SELECT 10::oid AS owner UNION ALL SELECT datdba FROM pg_database WHERE datname = current_database()

-- @ brought
SELECT classid, objid FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'

-- @ relations
SELECT c.*, concat(CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
                                  WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table'
                                  ELSE 'type' END, ' ', c.oid::regclass) AS name
FROM pg_class c
WHERE c.oid >= 16384 AND c.relnamespace IN (SELECT oid FROM schemas) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
  AND NOT (c.relowner IN (SELECT owner FROM trusted)
           AND c.oid IN (SELECT objid FROM brought WHERE classid = 'pg_class'::regclass))

-- @ columns
SELECT a.*, r.name AS relation, concat(r.name, ': column ', quote_ident(a.attname)) AS name
FROM pg_attribute a JOIN relations r ON r.oid = a.attrelid
WHERE a.attrelid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped AND r.relkind <> 'S'

-- @ types
SELECT t.*, concat(CASE t.typtype WHEN 'd' THEN 'domain' ELSE 'type' END, ' ', t.oid::regtype) AS name
FROM pg_type t
WHERE t.oid >= 16384 AND t.typnamespace IN (SELECT oid FROM schemas) AND t.typtype IN ('b', 'd', 'e', 'p', 'r')
  -- Arrays come with their elements.
  AND NOT EXISTS (SELECT FROM pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid)
  AND NOT (t.typowner IN (SELECT owner FROM trusted)
           AND t.oid IN (SELECT objid FROM brought WHERE classid = 'pg_type'::regclass))

-- @ functions
SELECT p.*, concat(CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END, ' ',
                   p.oid::regprocedure) AS name
FROM pg_proc p
WHERE p.oid >= 16384 AND p.pronamespace IN (SELECT oid FROM schemas)
  AND NOT (p.proowner IN (SELECT owner FROM trusted)
           AND p.oid IN (SELECT objid FROM brought WHERE classid = 'pg_proc'::regclass))

-- @ rights
SELECT concat('schema ', quote_ident(nspname)) AS name, nspacl AS acl, acldefault('n', nspowner) AS usual
FROM schemas WHERE nspacl IS NOT NULL
UNION ALL SELECT name, relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)
FROM relations WHERE relacl IS NOT NULL
UNION ALL SELECT name, attacl, '{}'::aclitem[] FROM columns WHERE attacl IS NOT NULL

-- @ rights if EXISTS (SELECT FROM pg_proc WHERE oid >= 16384)
SELECT name, proacl, acldefault('f', proowner) FROM functions WHERE proacl IS NOT NULL

-- @ rights if EXISTS (SELECT FROM pg_type WHERE oid >= 16384 AND (typtype IN ('d', 'e', 'p', 'r') OR typtype = 'b' AND (typarray <> 0 OR typelem = 0)))
SELECT name, typacl, acldefault('T', typowner) FROM types WHERE typacl IS NOT NULL

-- @ rights if pg_relation_size('pg_foreign_data_wrapper') > 0
SELECT concat('foreign-data wrapper ', quote_ident(fdwname)), fdwacl, acldefault('F', fdwowner)
FROM pg_foreign_data_wrapper WHERE fdwacl IS NOT NULL
UNION ALL SELECT concat('foreign server ', quote_ident(srvname)), srvacl, acldefault('S', srvowner)
FROM pg_foreign_server WHERE srvacl IS NOT NULL

-- @ rights if EXISTS (SELECT FROM pg_language WHERE lanacl IS NOT NULL)
SELECT concat('language ', quote_ident(lanname)), lanacl, acldefault('l', lanowner)
FROM pg_language WHERE lanacl IS NOT NULL AND lanname NOT IN ('internal', 'c')

-- @ rights_written
-- Sorted, because the order in which rights were granted is no part of what they are.
SELECT name, array_to_string(ARRAY(SELECT i::text COLLATE "C" FROM unnest(acl) i ORDER BY 1), ' ') AS granted,
       array_to_string(ARRAY(SELECT i::text COLLATE "C" FROM unnest(usual) i ORDER BY 1), ' ') AS usual FROM rights

-- @ facts
SELECT concat('schema ', quote_ident(nspname)) AS name, concat('owner ', pg_get_userbyid(nspowner)) AS definition FROM schemas

-- @ facts
SELECT r.name, concat_ws(', ', 'owner ' || pg_get_userbyid(r.relowner),
    CASE r.relpersistence WHEN 'u' THEN 'unlogged' WHEN 't' THEN 'temporary' END,
    CASE WHEN r.relkind IN ('r', 'p', 'm') AND r.relam <> 0
         THEN NULLIF('access method ' || (SELECT quote_ident(amname) FROM pg_am WHERE oid = r.relam), 'access method heap') END,
    CASE WHEN r.reltablespace <> 0
         THEN 'tablespace ' || (SELECT quote_ident(spcname) FROM pg_tablespace WHERE oid = r.reltablespace) END,
    CASE WHEN r.reloptions IS NOT NULL
         THEN 'options ' || array_to_string(ARRAY(SELECT o FROM unnest(r.reloptions) o ORDER BY o COLLATE "C"), ', ') END,
    CASE WHEN r.reltoastrelid <> 0 THEN (SELECT 'toast options ' || NULLIF(array_to_string(ARRAY(SELECT o FROM unnest(t.reloptions) o ORDER BY o COLLATE "C"), ', '), '')
        FROM pg_class t WHERE t.oid = r.reltoastrelid AND t.reloptions IS NOT NULL) END,
    CASE WHEN r.relrowsecurity THEN 'row-level security' END,
    CASE WHEN r.relforcerowsecurity THEN 'row-level security forced' END,
    CASE r.relreplident WHEN 'f' THEN 'replica identity full' WHEN 'n' THEN CASE WHEN r.relkind <> 'v' AND r.relkind IN ('r', 'p') THEN 'replica identity nothing' END END,
    CASE WHEN r.reloftype <> 0 THEN 'of ' || r.reloftype::regtype END,
    CASE WHEN r.relkind = 'p' THEN 'partition by ' || pg_get_partkeydef(r.oid) END,
    CASE WHEN r.relkind IN ('r', 'p', 'f') THEN (
        SELECT CASE WHEN r.relispartition THEN 'partition of ' ELSE 'inherits ' END || string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno)
        FROM pg_inherits i WHERE i.inhrelid = r.oid) END,
    CASE WHEN r.relispartition THEN pg_get_expr(r.relpartbound, r.oid, true) END)
FROM relations r

-- @ facts if EXISTS (SELECT FROM pg_rewrite WHERE oid >= 16384)
SELECT concat(name, ': definition'), pg_get_viewdef(oid, true) FROM relations WHERE relkind IN ('v', 'm')

-- @ facts
SELECT c.name, concat_ws(' ', format_type(c.atttypid, c.atttypmod),
    CASE WHEN c.attcollation <> t.typcollation THEN 'COLLATE ' || c.attcollation::regcollation END,
    CASE WHEN c.attnotnull THEN 'NOT NULL' END,
    CASE c.attgenerated WHEN '' THEN 'DEFAULT ' || pg_get_expr(d.adbin, 0, true)
        WHEN 's' THEN 'GENERATED ALWAYS AS (' || pg_get_expr(d.adbin, d.adrelid, true) || ') STORED'
        ELSE 'GENERATED ALWAYS AS (' || pg_get_expr(d.adbin, d.adrelid, true) || ') VIRTUAL' END,
    CASE c.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY' WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END,
    CASE WHEN c.attstorage <> t.typstorage THEN 'STORAGE ' || CASE c.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END,
    CASE c.attcompression WHEN 'p' THEN 'COMPRESSION pglz' WHEN 'l' THEN 'COMPRESSION lz4' END,
    'STATISTICS ' || NULLIF(c.attstattarget, -1),
    CASE WHEN c.attoptions IS NOT NULL OR c.attfdwoptions IS NOT NULL
         THEN concat('OPTIONS (', array_to_string(ARRAY(SELECT o FROM unnest(c.attoptions || c.attfdwoptions) o ORDER BY o COLLATE "C"), ', '), ')') END,
    CASE WHEN NOT c.attislocal THEN 'inherited' END)
FROM columns c JOIN pg_type t ON t.oid = c.atttypid
LEFT JOIN pg_attrdef d ON c.atthasdef AND d.adrelid = c.attrelid AND d.adnum = c.attnum

-- @ facts
-- What `SELECT *` gives, and an INSERT without names takes.
SELECT concat(r.name, ': order of columns'), array_to_string(ARRAY(
    SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = r.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum), ', ')
FROM relations r WHERE r.relkind <> 'S'

-- @ facts
SELECT concat(r.name, ': constraint ', quote_ident(k.conname)), pg_get_constraintdef(k.oid, true)
-- Keys that come with the partitions of what they point to are implied by those keys.
FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid WHERE k.contype <> 't' AND NOT (k.contype = 'f' AND k.conparentid <> 0)

-- @ facts if EXISTS (SELECT FROM pg_type WHERE oid >= 16384 AND (typtype IN ('d', 'e', 'p', 'r') OR typtype = 'b' AND (typarray <> 0 OR typelem = 0)))
SELECT concat(t.name, ': constraint ', quote_ident(k.conname)), pg_get_constraintdef(k.oid, true)
FROM pg_constraint k JOIN types t ON t.oid = k.contypid

-- @ facts
SELECT concat(r.name, ': index ', quote_ident(c.relname)), concat_ws(', ',
    -- That of a constraint is what the constraint says: it can have no columns, order or operators of its own.
    CASE WHEN k.oid IS NULL THEN pg_get_indexdef(i.indexrelid, 0, true) ELSE 'of the constraint' END,
    CASE WHEN k.oid IS NOT NULL AND c.reloptions IS NOT NULL
         THEN 'options ' || array_to_string(ARRAY(SELECT o FROM unnest(c.reloptions) o ORDER BY o COLLATE "C"), ', ') END,
    CASE WHEN NOT i.indisvalid THEN 'invalid' END,
    CASE WHEN i.indisreplident THEN 'replica identity' END,
    CASE WHEN i.indisclustered THEN 'clustered' END,
    CASE WHEN c.reltablespace <> 0 THEN 'tablespace ' || (SELECT quote_ident(spcname) FROM pg_tablespace WHERE oid = c.reltablespace) END,
    CASE WHEN c.relispartition THEN 'part of ' || (SELECT h.inhparent::regclass FROM pg_inherits h WHERE h.inhrelid = c.oid LIMIT 1) END)
FROM pg_index i JOIN relations r ON r.oid = i.indrelid JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')

-- @ facts if pg_relation_size('pg_policy') > 0
SELECT concat(r.name, ': policy ', quote_ident(p.polname)), concat_ws(' ',
    CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
    CASE p.polcmd WHEN 'r' THEN 'FOR SELECT' WHEN 'a' THEN 'FOR INSERT' WHEN 'w' THEN 'FOR UPDATE' WHEN 'd' THEN 'FOR DELETE' ELSE 'FOR ALL' END,
    'TO ' || array_to_string(ARRAY(SELECT CASE o WHEN 0 THEN 'PUBLIC' ELSE o::regrole::text END COLLATE "C" FROM unnest(p.polroles) o ORDER BY 1), ', '),
    'USING (' || pg_get_expr(p.polqual, p.polrelid, true) || ')', 'WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid, true) || ')')
FROM pg_policy p JOIN relations r ON r.oid = p.polrelid

-- @ facts if pg_relation_size('pg_trigger') > 0
SELECT concat(r.name, ': trigger ', quote_ident(t.tgname)), concat_ws(', ', pg_get_triggerdef(t.oid, true),
    CASE t.tgenabled WHEN 'D' THEN 'disabled' WHEN 'A' THEN 'enabled always' WHEN 'R' THEN 'enabled for replicas' END)
FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal

-- @ facts if pg_relation_size('pg_trigger') > 0
SELECT concat(r.name, ': enforcement of constraint ', quote_ident(k.conname)), 'switched off'
FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid JOIN pg_constraint k ON k.oid = t.tgconstraint
WHERE t.tgisinternal AND t.tgenabled <> 'O' GROUP BY r.name, k.conname

-- @ facts if EXISTS (SELECT FROM pg_rewrite WHERE oid >= 16384)
SELECT concat(r.name, ': rule ', quote_ident(w.rulename)), concat_ws(', ', pg_get_ruledef(w.oid, true),
    CASE w.ev_enabled WHEN 'D' THEN 'disabled' WHEN 'A' THEN 'enabled always' WHEN 'R' THEN 'enabled for replicas' END)
FROM pg_rewrite w JOIN relations r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'

-- @ facts if pg_relation_size('pg_sequence') > 0
SELECT concat(r.name, ': numbers'), concat_ws(', ', format_type(s.seqtypid, NULL), 'start ' || s.seqstart, 'increment ' || s.seqincrement,
    'from ' || s.seqmin || ' to ' || s.seqmax, 'cache ' || s.seqcache, CASE WHEN s.seqcycle THEN 'cycle' END,
    (SELECT concat('owned by ', d.refobjid::regclass, '.', quote_ident(a.attname))
     FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') LIMIT 1))
FROM pg_sequence s JOIN relations r ON r.oid = s.seqrelid

-- @ facts if EXISTS (SELECT FROM pg_proc WHERE oid >= 16384)
SELECT f.name, concat('owner ', pg_get_userbyid(f.proowner), E'\n', CASE f.prokind WHEN 'a' THEN
    (SELECT concat_ws(', ', 'returns ' || format_type(f.prorettype, NULL), 'kind ' || a.aggkind::text, 'direct arguments ' || a.aggnumdirectargs,
        'sfunc ' || a.aggtransfn::regproc, 'finalfunc ' || a.aggfinalfn::regproc, 'combinefunc ' || a.aggcombinefn::regproc,
        'serialfunc ' || a.aggserialfn::regproc, 'deserialfunc ' || a.aggdeserialfn::regproc, 'msfunc ' || a.aggmtransfn::regproc,
        'minvfunc ' || a.aggminvtransfn::regproc, 'mfinalfunc ' || a.aggmfinalfn::regproc, 'extra ' || concat(a.aggfinalextra, a.aggmfinalextra),
        'modify ' || concat(a.aggfinalmodify, a.aggmfinalmodify), 'sortop ' || a.aggsortop::regoperator, 'stype ' || format_type(a.aggtranstype, NULL),
        'sspace ' || a.aggtransspace, 'mstype ' || format_type(a.aggmtranstype, NULL), 'msspace ' || a.aggmtransspace,
        'initcond ' || quote_literal(a.agginitval), 'minitcond ' || quote_literal(a.aggminitval), 'parallel ' || f.proparallel::text)
     FROM pg_aggregate a WHERE a.aggfnoid = f.oid)
    ELSE (SELECT CASE WHEN f.prosqlbody IS NOT NULL AND (d LIKE '% AND %' OR d LIKE '%::character varying%')
                      -- There is no shorter form of bodies in standard SQL: without parentheses nested ANDs are as they are after a dump.
                      THEN translate(d, '()', '') ELSE d END FROM pg_get_functiondef(f.oid) d) END)
FROM functions f

-- @ facts if EXISTS (SELECT FROM pg_type WHERE oid >= 16384 AND (typtype IN ('d', 'e', 'p', 'r') OR typtype = 'b' AND (typarray <> 0 OR typelem = 0)))
SELECT t.name, concat_ws(', ', 'owner ' || pg_get_userbyid(t.typowner), CASE t.typtype
    WHEN 'e' THEN 'labels ' || array_to_string(ARRAY(SELECT quote_literal(enumlabel) FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder), ', ')
    WHEN 'd' THEN concat_ws(' ', format_type(t.typbasetype, t.typtypmod),
        CASE WHEN t.typcollation <> (SELECT b.typcollation FROM pg_type b WHERE b.oid = t.typbasetype) THEN 'COLLATE ' || t.typcollation::regcollation END,
        CASE WHEN t.typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || pg_get_expr(t.typdefaultbin, 0, true))
    WHEN 'r' THEN (SELECT concat_ws(', ', 'range of ' || format_type(g.rngsubtype, NULL), 'multirange ' || g.rngmultitypid::regtype,
            'collation ' || NULLIF(g.rngcollation, 0)::regcollation, 'operator class ' || (SELECT identity FROM pg_identify_object('pg_opclass'::regclass, g.rngsubopc, 0)),
            'canonical ' || g.rngcanonical::regproc, 'difference ' || g.rngsubdiff::regproc) FROM pg_range g WHERE g.rngtypid = t.oid)
    ELSE concat_ws(', ', CASE WHEN t.typisdefined THEN 'base' ELSE 'shell' END, t.typinput::regproc, t.typoutput::regproc, t.typreceive::regproc, t.typsend::regproc,
        t.typmodin::regproc, t.typmodout::regproc, t.typlen, t.typbyval, t.typalign, t.typstorage, t.typcategory, t.typispreferred, t.typdelim, t.typdefault) END)
FROM types t

-- @ facts
SELECT concat('extension ', quote_ident(e.extname)), format('version %s in schema %I, owner %s', e.extversion, n.nspname, pg_get_userbyid(e.extowner))
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace

-- @ facts
SELECT concat(name, ': rights'), granted FROM rights_written WHERE granted <> usual

-- @ facts if pg_relation_size('pg_default_acl') > 0
SELECT concat('default privileges of ', d.defaclrole::regrole, ' in schema ' || (SELECT quote_ident(nspname) FROM pg_namespace WHERE oid = d.defaclnamespace),
    ' on ', CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types'
                                 WHEN 'n' THEN 'schemas' ELSE d.defaclobjtype::text END, ': rights'),
    array_to_string(ARRAY(SELECT i::text COLLATE "C" FROM unnest(d.defaclacl) i ORDER BY 1), ' ')
FROM pg_default_acl d

-- @ described if EXISTS (SELECT FROM pg_description WHERE objoid >= 16384)
-- FirstNormalObjectId and above.
SELECT * FROM pg_description WHERE objoid >= 16384

-- @ facts
-- The only one below that is the database's own.
SELECT concat('schema ', quote_ident(s.nspname), ': comment'), d.description
FROM schemas s JOIN pg_description d ON d.objoid = s.oid AND d.classoid = 'pg_namespace'::regclass AND d.objsubid = 0
WHERE s.oid = 2200

-- @ facts if EXISTS (SELECT FROM pg_description WHERE objoid >= 16384)
SELECT concat(r.name, ': comment'), d.description
FROM described d JOIN relations r ON r.oid = d.objoid WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0

-- @ facts if EXISTS (SELECT FROM pg_description WHERE objoid >= 16384)
SELECT concat(c.name, ': comment'), d.description
FROM described d JOIN columns c ON c.attrelid = d.objoid AND c.attnum = d.objsubid WHERE d.classoid = 'pg_class'::regclass

-- @ facts if EXISTS (SELECT FROM pg_description WHERE objoid >= 16384)
SELECT concat(f.name, ': comment'), d.description
FROM described d JOIN functions f ON f.oid = d.objoid WHERE d.classoid = 'pg_proc'::regclass

-- @ facts if EXISTS (SELECT FROM pg_description WHERE objoid >= 16384)
SELECT concat(o.type, ' ', o.identity, ': comment'), d.description
FROM described d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) o
WHERE d.classoid <> 'pg_proc'::regclass
  AND NOT (d.classoid = 'pg_class'::regclass AND d.objoid IN (SELECT oid FROM relations))
  AND (d.classoid, d.objoid) NOT IN (SELECT classid, objid FROM brought)
  AND o.identity NOT LIKE 'manybox.%' AND o.identity IS NOT NULL

-- @ facts if pg_relation_size('pg_seclabel') > 0
SELECT concat(o.type, ' ', o.identity, ': security label of ', quote_ident(l.provider)), l.label
FROM pg_seclabel l CROSS JOIN LATERAL pg_identify_object(l.classoid, l.objoid, l.objsubid) o

-- @ facts if pg_relation_size('pg_publication') > 0
SELECT concat('publication ', quote_ident(p.pubname)), concat_ws(', ', 'owner ' || pg_get_userbyid(p.pubowner),
    CASE WHEN p.puballtables THEN 'all tables' END, CASE WHEN p.pubinsert THEN 'insert' END, CASE WHEN p.pubupdate THEN 'update' END,
    CASE WHEN p.pubdelete THEN 'delete' END, CASE WHEN p.pubtruncate THEN 'truncate' END, CASE WHEN p.pubviaroot THEN 'via root' END)
FROM pg_publication p

-- @ facts if pg_relation_size('pg_publication') > 0
SELECT concat('publication ', quote_ident(p.pubname), ': table ', x.prrelid::regclass), concat_ws(' ', 'published',
    '(' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = x.prrelid AND a.attnum = ANY (x.prattrs)) || ')',
    'WHERE ' || pg_get_expr(x.prqual, x.prrelid, true))
FROM pg_publication_rel x JOIN pg_publication p ON p.oid = x.prpubid

-- @ facts if pg_relation_size('pg_publication') > 0
SELECT concat('publication ', quote_ident(p.pubname), ': schema ', x.pnnspid::regnamespace), 'published'
FROM pg_publication_namespace x JOIN pg_publication p ON p.oid = x.pnpubid

-- @ facts if pg_relation_size('pg_subscription') > 0
SELECT concat('subscription ', quote_ident(s.subname)), concat_ws(', ', 'owner ' || pg_get_userbyid(s.subowner),
    CASE WHEN NOT s.subenabled THEN 'disabled' END, 'publications ' || NULLIF(array_to_string(s.subpublications, ', '), ''))
FROM pg_subscription s WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())

-- @ facts if pg_relation_size('pg_statistic_ext') > 0
SELECT concat('statistics ', s.stxnamespace::regnamespace, '.', quote_ident(s.stxname)), concat_ws(', ', 'owner ' || pg_get_userbyid(s.stxowner),
    pg_get_statisticsobjdef(s.oid), 'target ' || NULLIF(s.stxstattarget, -1))
FROM pg_statistic_ext s

-- @ facts if pg_relation_size('pg_event_trigger') > 0
SELECT concat('event trigger ', quote_ident(e.evtname)), concat_ws(', ', 'owner ' || pg_get_userbyid(e.evtowner), 'on ' || e.evtevent,
    'calls ' || e.evtfoid::regprocedure, 'tags ' || NULLIF(array_to_string(e.evttags, ', '), ''), NULLIF('enabled ' || e.evtenabled::text, 'enabled O'))
FROM pg_event_trigger e WHERE (e.evtowner NOT IN (SELECT owner FROM trusted) OR e.oid NOT IN (SELECT objid FROM brought WHERE classid = 'pg_event_trigger'::regclass))

-- @ facts if pg_relation_size('pg_foreign_data_wrapper') > 0
SELECT concat('foreign-data wrapper ', quote_ident(fdwname)), concat_ws(', ', 'owner ' || pg_get_userbyid(fdwowner),
    'handler ' || fdwhandler::regproc, 'validator ' || fdwvalidator::regproc, 'options ' || NULLIF(array_to_string(fdwoptions, ', '), ''))
FROM pg_foreign_data_wrapper

-- @ facts if pg_relation_size('pg_foreign_data_wrapper') > 0
SELECT concat('foreign server ', quote_ident(s.srvname)), concat_ws(', ', 'owner ' || pg_get_userbyid(s.srvowner), 'wrapper ' || quote_ident(w.fdwname),
    'type ' || quote_literal(s.srvtype), 'version ' || quote_literal(s.srvversion), 'options ' || NULLIF(array_to_string(s.srvoptions, ', '), ''))
FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw

-- @ facts if pg_relation_size('pg_foreign_data_wrapper') > 0
-- Their options hold passwords.
SELECT concat('user mapping of ', quote_ident(usename), ' to ', quote_ident(srvname)), 'there' FROM pg_user_mappings

-- @ facts if pg_relation_size('pg_foreign_data_wrapper') > 0
SELECT concat(r.name, ': foreign'), concat_ws(', ', 'server ' || quote_ident(s.srvname), 'options ' || NULLIF(array_to_string(t.ftoptions, ', '), ''))
FROM pg_foreign_table t JOIN relations r ON r.oid = t.ftrelid JOIN pg_foreign_server s ON s.oid = t.ftserver

-- @ facts if EXISTS (SELECT FROM pg_operator WHERE oid >= 16384)
SELECT concat('operator ', o.oid::regoperator), concat_ws(', ', 'owner ' || pg_get_userbyid(o.oprowner), 'calls ' || o.oprcode::regproc,
    'returns ' || format_type(o.oprresult, NULL), 'commutator ' || o.oprcom::regoperator, 'negator ' || o.oprnegate::regoperator,
    'restrict ' || o.oprrest::regproc, 'join ' || o.oprjoin::regproc, CASE WHEN o.oprcanmerge THEN 'merges' END, CASE WHEN o.oprcanhash THEN 'hashes' END)
FROM pg_operator o WHERE o.oprnamespace IN (SELECT oid FROM schemas)
  AND (o.oprowner NOT IN (SELECT owner FROM trusted) OR o.oid NOT IN (SELECT objid FROM brought WHERE classid = 'pg_operator'::regclass))

-- @ facts if EXISTS (SELECT FROM pg_opclass WHERE oid >= 16384)
SELECT concat(o.type, ' ', o.identity), concat_ws(', ', 'owner ' || pg_get_userbyid(c.opcowner), 'for ' || format_type(c.opcintype, NULL),
    CASE WHEN c.opcdefault THEN 'default' END, 'family ' || (SELECT identity FROM pg_identify_object('pg_opfamily'::regclass, c.opcfamily, 0)))
FROM pg_opclass c CROSS JOIN LATERAL pg_identify_object('pg_opclass'::regclass, c.oid, 0) o WHERE c.opcnamespace IN (SELECT oid FROM schemas)
  AND (c.opcowner NOT IN (SELECT owner FROM trusted) OR c.oid NOT IN (SELECT objid FROM brought WHERE classid = 'pg_opclass'::regclass))

-- @ facts if EXISTS (SELECT FROM pg_opfamily WHERE oid >= 16384)
SELECT concat(o.type, ' ', o.identity), concat_ws(', ', 'owner ' || pg_get_userbyid(f.opfowner),
    'operators ' || NULLIF(array_to_string(ARRAY(SELECT concat(a.amopstrategy, ' ', a.amopopr::regoperator) COLLATE "C" FROM pg_amop a WHERE a.amopfamily = f.oid ORDER BY 1), ', '), ''),
    'functions ' || NULLIF(array_to_string(ARRAY(SELECT concat(a.amprocnum, ' ', a.amproc::regprocedure) COLLATE "C" FROM pg_amproc a WHERE a.amprocfamily = f.oid ORDER BY 1), ', '), ''))
FROM pg_opfamily f CROSS JOIN LATERAL pg_identify_object('pg_opfamily'::regclass, f.oid, 0) o WHERE f.opfnamespace IN (SELECT oid FROM schemas)
  AND (f.opfowner NOT IN (SELECT owner FROM trusted) OR f.oid NOT IN (SELECT objid FROM brought WHERE classid = 'pg_opfamily'::regclass))

-- @ facts if EXISTS (SELECT FROM pg_cast WHERE oid >= 16384)
SELECT format('cast (%s AS %s)', format_type(castsource, NULL), format_type(casttarget, NULL)), concat_ws(', ', 'method ' || castmethod::text, 'context ' || castcontext::text,
    'calls ' || NULLIF(castfunc, 0)::regprocedure)
FROM pg_cast WHERE oid >= 16384 AND oid NOT IN (SELECT objid FROM brought WHERE classid = 'pg_cast'::regclass)

-- @ facts if pg_relation_size('pg_transform') > 0
SELECT format('transform for %s language %I', format_type(t.trftype, NULL), l.lanname), concat_ws(', ', 'from ' || NULLIF(t.trffromsql, 0)::regprocedure, 'to ' || NULLIF(t.trftosql, 0)::regprocedure)
FROM pg_transform t JOIN pg_language l ON l.oid = t.trflang WHERE t.oid NOT IN (SELECT objid FROM brought WHERE classid = 'pg_transform'::regclass)

-- @ facts
SELECT concat('language ', quote_ident(lanname)), concat_ws(', ', 'owner ' || pg_get_userbyid(lanowner), CASE WHEN lanpltrusted THEN 'trusted' ELSE 'untrusted' END)
FROM pg_language WHERE lanispl

-- @ facts if EXISTS (SELECT FROM pg_am WHERE oid >= 16384)
SELECT concat('access method ', quote_ident(amname)), concat_ws(', ', 'type ' || amtype::text, 'handler ' || amhandler::regproc) FROM pg_am WHERE oid >= 16384

-- @ facts if EXISTS (SELECT FROM pg_conversion WHERE oid >= 16384)
SELECT concat('conversion ', connamespace::regnamespace, '.', quote_ident(conname)), concat_ws(', ', 'owner ' || pg_get_userbyid(conowner),
    pg_encoding_to_char(conforencoding) || ' to ' || pg_encoding_to_char(contoencoding), 'calls ' || conproc::regproc, CASE WHEN condefault THEN 'default' END)
FROM pg_conversion WHERE connamespace IN (SELECT oid FROM schemas)

-- @ facts if EXISTS (SELECT FROM pg_collation WHERE oid >= 16384)
-- What else a collation says has other names in other versions.
SELECT concat('collation ', c.collnamespace::regnamespace, '.', quote_ident(c.collname)), concat_ws(', ', 'owner ' || pg_get_userbyid(c.collowner),
    to_jsonb(c) - '{oid,collname,collnamespace,collowner,collversion}'::text[])
FROM pg_collation c WHERE c.collnamespace IN (SELECT oid FROM schemas)

-- @ facts if EXISTS (SELECT FROM pg_ts_config WHERE oid >= 16384)
SELECT concat('text search configuration ', c.cfgnamespace::regnamespace, '.', quote_ident(c.cfgname)), concat_ws(', ', 'owner ' || pg_get_userbyid(c.cfgowner),
    'parser ' || (SELECT identity FROM pg_identify_object('pg_ts_parser'::regclass, c.cfgparser, 0)),
    (SELECT string_agg(concat(m.maptokentype, ' ', m.mapdict::regdictionary), ', ' ORDER BY m.maptokentype, m.mapseqno) FROM pg_ts_config_map m WHERE m.mapcfg = c.oid))
FROM pg_ts_config c WHERE c.cfgnamespace IN (SELECT oid FROM schemas)

-- @ facts if EXISTS (SELECT FROM pg_ts_dict WHERE oid >= 16384)
SELECT concat('text search dictionary ', d.dictnamespace::regnamespace, '.', quote_ident(d.dictname)), concat_ws(', ', 'owner ' || pg_get_userbyid(d.dictowner),
    'template ' || (SELECT identity FROM pg_identify_object('pg_ts_template'::regclass, d.dicttemplate, 0)), d.dictinitoption)
FROM pg_ts_dict d WHERE d.dictnamespace IN (SELECT oid FROM schemas)

-- @ facts if EXISTS (SELECT FROM pg_ts_parser WHERE oid >= 16384)
SELECT concat(o.type, ' ', o.identity), concat_ws(', ', p.prsstart::regproc, p.prstoken::regproc, p.prsend::regproc, p.prsheadline::regproc, p.prslextype::regproc)
FROM pg_ts_parser p CROSS JOIN LATERAL pg_identify_object('pg_ts_parser'::regclass, p.oid, 0) o WHERE p.prsnamespace IN (SELECT oid FROM schemas)

-- @ facts if EXISTS (SELECT FROM pg_ts_template WHERE oid >= 16384)
SELECT concat(o.type, ' ', o.identity), concat_ws(', ', t.tmplinit::regproc, t.tmpllexize::regproc)
FROM pg_ts_template t CROSS JOIN LATERAL pg_identify_object('pg_ts_template'::regclass, t.oid, 0) o WHERE t.tmplnamespace IN (SELECT oid FROM schemas)
