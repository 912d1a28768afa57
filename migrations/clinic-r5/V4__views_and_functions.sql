-- What a front end asks for as a whole. All of it runs with the caller's own rights and sees the caller's rows only.

CREATE VIEW encounters_today WITH (security_invoker = true) AS
SELECT e.id, e.branch_id, b.name AS branch, e.planned_period, e.status, e.class,
       e.patient_id, p.name_given || ' ' || p.name_family AS patient,
       e.practitioner_id, r.name_given || ' ' || r.name_family AS practitioner, v.name AS service
FROM encounters e
JOIN branches b ON b.id = e.branch_id
JOIN patients p ON p.id = e.patient_id
JOIN practitioners r ON r.id = e.practitioner_id
JOIN services v ON v.id = e.service_id
-- The second line says it exactly, in the branch's time; the first one lets an index be used.
WHERE e.planned_start BETWEEN now() - interval '1 day' AND now() + interval '1 day'
  AND (e.planned_start AT TIME ZONE b.time_zone)::date = (now() AT TIME ZONE b.time_zone)::date;
GRANT SELECT ON encounters_today TO authenticated, service;

CREATE FUNCTION whoami() RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'role', current_user,
        'claims', nullif(current_setting('request.jwt.claims', true), '')::json)
$$;
COMMENT ON FUNCTION whoami() IS 'The role and the claims that the database sees for this request.';
GRANT EXECUTE ON FUNCTION whoami() TO anon, authenticated, service;

CREATE FUNCTION patient_summary(patient_id bigint) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'resourceType', 'Patient',
        'id', p.id,
        'identifier', p.identifier,
        'name', json_build_object('family', p.name_family, 'given', json_build_array(p.name_given)),
        'birthDate', p.birth_date,
        'encounters', (SELECT count(*) FROM encounters e WHERE e.patient_id = p.id AND e.status = 'completed'),
        'activeMedication',
            (SELECT coalesce(json_agg(m.medication ORDER BY m.authored_on DESC, m.id), '[]')
             FROM medication_requests m WHERE m.patient_id = p.id AND m.status = 'active'),
        'open', (SELECT coalesce(sum(i.total_gross), 0) FROM invoices i WHERE i.patient_id = p.id AND i.status = 'issued'))
    FROM patients p
    WHERE p.id = patient_summary.patient_id
$$;
COMMENT ON FUNCTION patient_summary(bigint) IS 'What a physician wants to see first; null for patients of other branches.';
GRANT EXECUTE ON FUNCTION patient_summary(bigint) TO authenticated, service;

CREATE FUNCTION branch_revenue("from" date, "to" date)
RETURNS TABLE (branch_id bigint, branch text, invoices bigint, billed numeric, paid numeric) LANGUAGE sql STABLE AS $$
    SELECT b.id, b.name, count(i.id), coalesce(sum(i.total_gross), 0),
           coalesce(sum(i.total_gross) FILTER (WHERE i.status = 'balanced'), 0)
    FROM branches b
    JOIN invoices i ON i.branch_id = b.id AND i.status IN ('issued', 'balanced')
    WHERE i.creation BETWEEN branch_revenue."from" AND branch_revenue."to"
    GROUP BY b.id, b.name
    ORDER BY b.id
$$;
COMMENT ON FUNCTION branch_revenue IS 'What each branch that the caller sees billed in a time, both ends included.';
GRANT EXECUTE ON FUNCTION branch_revenue(date, date) TO authenticated, service;
