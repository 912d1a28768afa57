-- What the owner of tenants' objects can't own, or what would have the admin's own statements run a tenant's code.
SELECT format('event trigger %I', evtname) FROM pg_event_trigger e
WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e')
UNION ALL
SELECT format('foreign-data wrapper %I', fdwname) FROM pg_foreign_data_wrapper f
WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_foreign_data_wrapper'::regclass AND d.objid = f.oid AND d.deptype = 'e')
UNION ALL
SELECT format('language %I', lanname) FROM pg_language l
WHERE oid >= 16384
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_language'::regclass AND d.objid = l.oid AND d.deptype = 'e')
UNION ALL
SELECT format('publication %I, of all tables', pubname) FROM pg_publication WHERE puballtables
UNION ALL
SELECT format('subscription %I', subname) FROM pg_subscription
WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 1
