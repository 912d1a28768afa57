-- What a front end asks for as a whole. All of it runs with the caller's own rights and sees the caller's rows only.

CREATE VIEW appointments_today WITH (security_invoker = true) AS
SELECT a.id, a.branch_id, b.name AS branch, a.starts_at, a.ends_at, a.status,
       a.patient_id, p.full_name AS patient, a.staff_id, s.given_name || ' ' || s.family_name AS staff_member,
       v.name AS service
FROM appointments a
JOIN branches b ON b.id = a.branch_id
JOIN patients p ON p.id = a.patient_id
JOIN staff s ON s.id = a.staff_id
JOIN services v ON v.id = a.service_id
-- The second line says it exactly, in the branch's time; the first one lets an index be used.
WHERE a.starts_at BETWEEN now() - interval '1 day' AND now() + interval '1 day'
  AND (a.starts_at AT TIME ZONE b.time_zone)::date = (now() AT TIME ZONE b.time_zone)::date;
GRANT SELECT ON appointments_today TO authenticated, service;

CREATE VIEW invoices_overdue WITH (security_invoker = true) AS
SELECT i.id, i.branch_id, i.number, i.patient_id, p.full_name AS patient, i.total, i.due_on,
       current_date - i.due_on AS days_late
FROM invoices i
JOIN patients p ON p.id = i.patient_id
WHERE i.status = 'sent' AND i.due_on < current_date;
GRANT SELECT ON invoices_overdue TO authenticated, service;

-- A computed column: `patients?select=full_name,age_years`.
CREATE FUNCTION age_years(patients) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT extract(year FROM age($1.born_on))::integer
$$;
GRANT EXECUTE ON FUNCTION age_years(patients) TO authenticated, service;

CREATE FUNCTION whoami() RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'role', current_user,
        'claims', nullif(current_setting('request.jwt.claims', true), '')::json)
$$;
COMMENT ON FUNCTION whoami() IS 'The role and the claims that the database sees for this request.';
GRANT EXECUTE ON FUNCTION whoami() TO anon, authenticated, service;

CREATE FUNCTION patient_summary(patient_id bigint) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'id', p.id,
        'name', p.full_name,
        'age', age_years(p),
        'allergies', p.allergies,
        'visits', (SELECT count(*) FROM appointments a WHERE a.patient_id = p.id AND a.status = 'completed'),
        'next_appointment',
            (SELECT min(a.starts_at) FROM appointments a
             WHERE a.patient_id = p.id AND a.status = 'booked' AND a.starts_at > now()),
        'prescriptions',
            (SELECT coalesce(json_agg(json_build_object('drug', r.drug, 'dose', r.dose, 'until', r.valid_until)
                                      ORDER BY r.valid_until DESC, r.id), '[]')
             FROM prescriptions r WHERE r.patient_id = p.id AND r.valid_until >= current_date),
        'owes', (SELECT coalesce(sum(i.total), 0) FROM invoices i WHERE i.patient_id = p.id AND i.status = 'sent'))
    FROM patients p
    WHERE p.id = patient_summary.patient_id
$$;
COMMENT ON FUNCTION patient_summary(bigint) IS 'What a physician wants to see first; null for patients of other branches.';
GRANT EXECUTE ON FUNCTION patient_summary(bigint) TO authenticated, service;

CREATE FUNCTION book_appointment(
    patient_id bigint, staff_id bigint, service_id bigint, starts_at timestamptz, note text DEFAULT NULL
) RETURNS appointments LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    booked appointments;
BEGIN
    IF book_appointment.starts_at < now() THEN
        RAISE EXCEPTION 'an appointment can''t start in the past'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Choose a starts_at after ' || now();
    END IF;
    INSERT INTO appointments (branch_id, patient_id, staff_id, service_id, starts_at, ends_at, note)
    SELECT p.branch_id, p.id, s.id, v.id, book_appointment.starts_at, book_appointment.starts_at + v.duration,
           book_appointment.note
    FROM patients p, staff s, services v
    WHERE p.id = book_appointment.patient_id AND s.id = book_appointment.staff_id
      AND s.branch_id = p.branch_id AND v.id = book_appointment.service_id AND v.is_offered
    RETURNING * INTO booked;
    IF booked.id IS NULL THEN
        RAISE EXCEPTION 'no such patient, staff member or service at one branch'
            -- The API answers PTxyz with the HTTP status xyz.
            USING ERRCODE = 'PT404', HINT = 'Patient and staff member must belong to a branch that you can see.';
    END IF;
    RETURN booked;
END
$$;
COMMENT ON FUNCTION book_appointment IS 'Books, or fails with 23505 when that staff member is taken then.';
GRANT EXECUTE ON FUNCTION book_appointment(bigint, bigint, bigint, timestamptz, text) TO authenticated, service;

CREATE FUNCTION branch_revenue("from" date, "to" date)
RETURNS TABLE (branch_id bigint, branch text, invoices bigint, billed numeric, paid numeric) LANGUAGE sql STABLE AS $$
    SELECT b.id, b.name, count(i.id), coalesce(sum(i.total), 0),
           coalesce(sum(i.total) FILTER (WHERE i.status = 'paid'), 0)
    FROM branches b
    JOIN invoices i ON i.branch_id = b.id AND i.status IN ('sent', 'paid')
    WHERE i.issued_on BETWEEN branch_revenue."from" AND branch_revenue."to"
    GROUP BY b.id, b.name
    ORDER BY b.id
$$;
COMMENT ON FUNCTION branch_revenue IS 'What each branch that the caller sees billed in a time, both ends included.';
GRANT EXECUTE ON FUNCTION branch_revenue(date, date) TO authenticated, service;
