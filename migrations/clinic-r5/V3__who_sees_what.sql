-- Who sees what: `anon` the public face, `authenticated` its own branch, `service` everything.

-- The branch that the caller's token names; null when it names none, and then no row matches.
CREATE FUNCTION current_branch() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT nullif(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'branch', '')::bigint
$$;
GRANT EXECUTE ON FUNCTION current_branch() TO authenticated, service;

GRANT SELECT ON branches, services TO anon, authenticated;
GRANT SELECT ON practitioners, patients, encounters, medication_requests, invoices TO authenticated;
GRANT INSERT, UPDATE ON patients, encounters, medication_requests, invoices TO authenticated;
-- FHIR's records end by a status such as `entered-in-error`; only `service` deletes.
GRANT SELECT, INSERT, UPDATE, DELETE
    ON branches, services, practitioners, patients, encounters, medication_requests, invoices TO service;

-- FORCE holds the tables' owner to the policies too: a later migration that changes rows needs a policy for that time.
ALTER TABLE practitioners ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE patients ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE encounters ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE medication_requests ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE invoices ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

-- `(SELECT …)` makes PostgreSQL ask for the branch once per query, not once per row.
CREATE POLICY own_branch ON practitioners TO authenticated USING (branch_id = (SELECT current_branch()));
CREATE POLICY own_branch ON patients TO authenticated USING (branch_id = (SELECT current_branch()));
CREATE POLICY own_branch ON encounters TO authenticated USING (branch_id = (SELECT current_branch()));
CREATE POLICY own_branch ON medication_requests TO authenticated USING (branch_id = (SELECT current_branch()));
CREATE POLICY own_branch ON invoices TO authenticated USING (branch_id = (SELECT current_branch()));

CREATE POLICY everything ON practitioners TO service USING (true);
CREATE POLICY everything ON patients TO service USING (true);
CREATE POLICY everything ON encounters TO service USING (true);
CREATE POLICY everything ON medication_requests TO service USING (true);
CREATE POLICY everything ON invoices TO service USING (true);
