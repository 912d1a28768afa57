#!/bin/sh
# The login that manybox makes tenants by, once, when PostgreSQL's data is new: docs/operations.md, Servers.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$ADMIN_PASSWORD" --username "$POSTGRES_USER" <<'SQL'
CREATE ROLE mb_admin LOGIN CREATEDB CREATEROLE PASSWORD :'password';
GRANT pg_signal_backend TO mb_admin;
CREATE ROLE mb_backup NOLOGIN BYPASSRLS IN ROLE pg_read_all_data ADMIN mb_admin;
REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE postgres TO mb_admin;
SQL
