-- Fills one tenant of the edition `clinic-r5`: 5 branches, 40 practitioners, 2,500 patients, 6,000 encounters around
-- today, 3,000 medication requests, 3,000 invoices. Runs as `service`, in one transaction. The same rules as in
-- clinic.sql: everything but "today" follows from the tenant's slug, and nothing happens when there are branches.
DO $$
DECLARE
    slug text := coalesce(nullif(current_setting('manybox.slug', true), ''), 'demo');
    salt bigint := abs(hashtext(slug)::bigint);
    given text[] := '{Aiko,Alba,Bilal,Bruno,Clara,Daria,Dmitri,Ebba,Enzo,Esra,Filip,Freya,Gita,Henri,Ida,Igor,Isla,Jakub,
        Joana,Kai,Kira,Lars,Layla,Mateo,Mina,Nils,Nora,Oskar,Petra,Rafael,Rania,Sofia,Sven,Tara,Theo,Uma,Viktor,Wanda,Xenia,Zara}';
    family text[] := '{Andersson,Bakker,Bianchi,Botha,Carvalho,Dubois,Dvorak,Ferrari,Ferreira,Gruber,Hansen,Horvat,Huber,
        Ivanova,Jovanovic,Kim,Kovacs,Larsen,Laurent,Lopez,Meyer,Murphy,Nguyen,Nilsson,Nowak,Oliveira,Popescu,Richter,
        Romano,Santos,Schneider,Steiner,Svensson,Torres,Urban,Virtanen,Wolf,Yamada,Zhang,Zimmermann}';
    cities text[] := '{Bilbao,Bruges,Chur,Cologne,Debrecen,Dresden,Galway,Innsbruck,Lille,Lugano,Odense,Padua,Tampere,Turin,Vigo}';
    parts text[] := '{Harbour,University,West,Hillside,Airport}';
    medications text[] := '{Amlodipine 5 mg,Atorvastatin 20 mg,Omeprazole 20 mg,Paracetamol 500 mg,Metoprolol 50 mg,
        Doxycycline 100 mg,Loratadine 10 mg,Sertraline 50 mg}';
BEGIN
    IF EXISTS (SELECT FROM branches) THEN
        RETURN;
    END IF;

    INSERT INTO branches (name, address, time_zone)
    SELECT initcap(slug) || ' ' || parts[n],
           jsonb_build_object('city', cities[1 + (salt + n * 4) % 15], 'postalCode', lpad(((salt + n * 613) % 99999)::text, 5, '0')),
           'Europe/Paris'
    FROM generate_series(1, 5) n ORDER BY n;

    INSERT INTO services (code, name, active, duration, price_value)
    SELECT s.code, s.name, s.code <> 'HH', s.minutes * interval '1 minute', round(s.price * (90 + salt % 21) / 100, 2)
    FROM (VALUES ('GP', 'General practice', 30, 65.00), ('PED', 'Paediatrics', 30, 75.00), ('IMM', 'Immunization', 10, 38.00),
                 ('LAB', 'Laboratory', 15, 52.00), ('CARD', 'Cardiology', 30, 130.00), ('DERM', 'Dermatology', 20, 85.00),
                 ('RAD', 'Radiology', 20, 99.00), ('PHY', 'Physiotherapy', 30, 58.00), ('VID', 'Video consultation', 15, 40.00),
                 ('HH', 'Home visit', 30, 150.00)) s (code, name, minutes, price);

    -- The first 20 see patients, four at each branch: encounters count on that.
    INSERT INTO practitioners (branch_id, name_family, name_given, gender, qualification, telecom)
    SELECT b.id, f, g, (CASE h / 3 % 2 WHEN 0 THEN 'female' ELSE 'male' END)::administrative_gender,
           CASE WHEN n < 20 THEN 'MD' WHEN n < 32 THEN 'RN' ELSE 'MFA' END,
           jsonb_build_array(jsonb_build_object('system', 'email', 'value', lower(g || '.' || f || n || '@' || slug || '.example')))
    FROM generate_series(0, 39) n
    JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS i FROM branches) b ON b.i = n % 5
    CROSS JOIN LATERAL (SELECT abs(hashtext(slug || ' practitioner ' || n)::bigint) AS h) r
    CROSS JOIN LATERAL (SELECT given[1 + h % array_length(given, 1)] AS g, family[1 + h / 64 % array_length(family, 1)] AS f) names
    ORDER BY n;

    INSERT INTO patients (branch_id, identifier, name_family, name_given, gender, birth_date, telecom, last_updated)
    SELECT b.id, 'MRN-' || lpad(n::text, 6, '0'), f, g,
           (CASE h / 3 % 50 WHEN 0 THEN 'other' WHEN 1 THEN 'unknown'
                 ELSE CASE h / 5 % 2 WHEN 0 THEN 'female' ELSE 'male' END END)::administrative_gender,
           date '1932-01-01' + (h / 7 % 33000)::int,
           jsonb_build_array(
               jsonb_build_object('system', 'phone', 'value', '+44 7700 900' || lpad((h % 1000)::text, 3, '0')),
               jsonb_build_object('system', 'email', 'value', lower(g || '.' || f || n || '@mail.example'))),
           timestamptz '2021-01-04 08:00+00' + (h % 2000000) * interval '1 minute'
    FROM generate_series(0, 2499) n
    JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS i FROM branches) b ON b.i = n % 5
    CROSS JOIN LATERAL (SELECT abs(hashtext(slug || ' patient ' || n)::bigint) AS h) r
    CROSS JOIN LATERAL (SELECT given[1 + h % array_length(given, 1)] AS g, family[1 + h / 64 % array_length(family, 1)] AS f) names
    ORDER BY n;

    INSERT INTO encounters (branch_id, patient_id, practitioner_id, service_id, status, class, planned_period)
    SELECT s.branch_id, p.id, s.id, v.id,
           (CASE WHEN t.day > 0 THEN CASE h % 20 WHEN 0 THEN 'cancelled' ELSE 'planned' END
                 WHEN t.day = 0 THEN CASE h % 4 WHEN 0 THEN 'in-progress' ELSE 'planned' END
                 ELSE CASE h % 14 WHEN 0 THEN 'cancelled' WHEN 1 THEN 'discontinued' ELSE 'completed' END END)::encounter_status,
           CASE v.code WHEN 'VID' THEN 'VR' ELSE 'AMB' END,
           tstzrange(t.starts_at, t.starts_at + v.duration)
    FROM generate_series(0, 5999) n
    CROSS JOIN LATERAL (SELECT abs(hashtext(slug || ' encounter ' || n)::bigint) AS h) r
    JOIN (SELECT id, branch_id, row_number() OVER (ORDER BY id) - 1 AS i FROM practitioners) s ON s.i = n % 20
    JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS i FROM patients) p ON p.i = n % 5 + 5 * (h / 23 % 500)
    JOIN (SELECT id, code, duration, row_number() OVER (ORDER BY id) - 1 AS i FROM services) v ON v.i = h / 29 % 9
    CROSS JOIN LATERAL (
        SELECT n / 20 / 6 - 35 AS day,
               (current_date + (n / 20 / 6 - 35) + time '08:00' + (n / 20 % 6 * 3 + h % 3) * interval '30 minutes')
                   AT TIME ZONE 'Europe/Paris' AS starts_at) t
    ORDER BY n;

    INSERT INTO medication_requests
        (branch_id, patient_id, practitioner_id, encounter_id, status, medication, dosage_instruction, authored_on)
    SELECT e.branch_id, e.patient_id, e.practitioner_id, e.id,
           CASE h / 7 % 10 WHEN 0 THEN 'stopped' WHEN 1 THEN 'on-hold' WHEN 2 THEN 'active' WHEN 3 THEN 'active' ELSE 'completed' END,
           medications[1 + h % 8],
           jsonb_build_array(jsonb_build_object('text', (1 + h / 8 % 3) || ' times a day',
               'timing', jsonb_build_object('repeat', jsonb_build_object('frequency', 1 + h / 8 % 3, 'period', 1, 'periodUnit', 'd')))),
           e.planned_start
    FROM (SELECT *, abs(hashtext(slug || ' request ' || row_number() OVER (ORDER BY id))::bigint) AS h
          FROM encounters WHERE status = 'completed' ORDER BY id LIMIT 3000) e
    ORDER BY e.id;

    INSERT INTO invoices (branch_id, patient_id, encounter_id, identifier, status, creation, total_net, total_gross)
    SELECT e.branch_id, e.patient_id, e.id, 'INV-' || lpad(e.n::text, 6, '0'),
           CASE WHEN e.h / 3 % 20 < 15 THEN 'balanced' WHEN e.h / 3 % 20 < 19 THEN 'issued' ELSE 'draft' END,
           e.planned_start::date, v.price_value, round(v.price_value * 1.05, 2)
    FROM (SELECT *, abs(hashtext(slug || ' invoice ' || n)::bigint) AS h
          FROM (SELECT *, row_number() OVER (ORDER BY id DESC) AS n FROM encounters WHERE status = 'completed') c
          WHERE n <= 3000) e
    JOIN services v ON v.id = e.service_id
    ORDER BY e.n;
END
$$;
