-- Who sees what: `anon` the public face, `authenticated` its own branch, `service` everything.

-- The branch that the caller's token names; null when it names none, and then no row matches.
CREATE FUNCTION current_branch() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT nullif(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'branch', '')::bigint
$$;
GRANT EXECUTE ON FUNCTION current_branch() TO authenticated, service;

GRANT SELECT ON branches, services TO anon, authenticated;
GRANT SELECT ON staff, patients, appointments, prescriptions, invoices, invoice_lines TO authenticated;
GRANT INSERT, UPDATE ON patients, appointments, prescriptions, invoices, invoice_lines TO authenticated;
-- Patients, prescriptions and invoices are records that must be kept; nobody deletes them by way of the API.
GRANT DELETE ON appointments, invoice_lines TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON branches, services, staff, patients, appointments, prescriptions, invoices, invoice_lines TO service;

-- FORCE holds the tables' owner to the policies too, and there is none for it: a later migration that has to change
-- rows, not tables, needs a policy for that time.
ALTER TABLE staff ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE patients ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE appointments ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE prescriptions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE invoices ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE invoice_lines ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

-- `(SELECT …)` makes PostgreSQL ask for the branch once per query, not once per row.
CREATE POLICY own_branch ON staff TO authenticated USING (branch_id = (SELECT current_branch()));
CREATE POLICY own_branch ON patients TO authenticated USING (branch_id = (SELECT current_branch()));
CREATE POLICY own_branch ON appointments TO authenticated USING (branch_id = (SELECT current_branch()));
CREATE POLICY own_branch ON prescriptions TO authenticated USING (branch_id = (SELECT current_branch()));
CREATE POLICY own_branch ON invoices TO authenticated USING (branch_id = (SELECT current_branch()));
CREATE POLICY own_branch ON invoice_lines TO authenticated USING (branch_id = (SELECT current_branch()));

CREATE POLICY everything ON staff TO service USING (true);
CREATE POLICY everything ON patients TO service USING (true);
CREATE POLICY everything ON appointments TO service USING (true);
CREATE POLICY everything ON prescriptions TO service USING (true);
CREATE POLICY everything ON invoices TO service USING (true);
CREATE POLICY everything ON invoice_lines TO service USING (true);
