-- Fills one tenant of the edition `clinic` with a believable clinic: 5 branches, 40 staff, 2,500 patients,
-- 6,000 appointments around today, 3,000 prescriptions, 3,000 invoices. Runs as `service`, in one transaction.
--
-- Everything but "today" follows from the tenant's slug by hashing: the same slug gives the same clinic on every
-- machine, and two tenants never look alike. Does nothing when there are branches already.
DO $$
DECLARE
    slug text := coalesce(nullif(current_setting('manybox.slug', true), ''), 'demo');
    salt bigint := abs(hashtext(slug)::bigint);
    given text[] := '{Ada,Amir,Anna,Ben,Carla,Chen,Dana,David,Elif,Emma,Farid,Felix,Grace,Hana,Hugo,Ines,Ivan,Jana,
        Jonas,Kofi,Lea,Leon,Lina,Luca,Maja,Marco,Mei,Mila,Nadia,Noah,Olga,Omar,Paul,Priya,Rosa,Sami,Sara,Tariq,Tom,
        Vera,Yara,Yusuf,Zoe}';
    family text[] := '{Abbas,Adler,Alvarez,Bauer,Becker,Brandt,Castro,Chen,Costa,Demir,Diaz,Eriksen,Fischer,Fontaine,
        Garcia,Haas,Hoffmann,Ibrahim,Jansen,Kaya,Keller,Khan,Kowalski,Lang,Lindgren,Marino,Martin,Mensah,Moreau,
        Nakamura,Novak,Okafor,Olsen,Patel,Peters,Petrov,Quinn,Reyes,Rossi,Sato,Schmidt,Silva,Singh,Tanaka,Vogel,
        Wagner,Weiss,Yilmaz,Ziegler}';
    cities text[] := '{Aachen,Antwerp,Basel,Bergen,Bologna,Bordeaux,Bremen,Brno,Cork,Gdansk,Ghent,Graz,Leeds,Leipzig,
        Linz,Lyon,Malmo,Nantes,Porto,Utrecht}';
    parts text[] := '{Centre,Riverside,Old Town,Northgate,Station}';
    streets text[] := '{Mill Lane,Church Street,Market Square,Park Road,Garden Street,Harbour Road,School Lane}';
    allergens text[] := '{penicillin,pollen,nuts,latex,aspirin}';
    drugs text[] := '{Amoxicillin,Ibuprofen,Metformin,Ramipril,Pantoprazole,Levothyroxine,Salbutamol,Cetirizine}';
    doses text[] := '{500 mg,400 mg,850 mg,5 mg,40 mg,75 ug,100 ug,10 mg}';
    specialties text[] := '{General practice,Paediatrics,Cardiology,Dermatology}';
BEGIN
    IF EXISTS (SELECT FROM branches) THEN
        RETURN;
    END IF;

    INSERT INTO branches (name, city, phone, time_zone, opened_on)
    SELECT initcap(slug) || ' ' || parts[n], cities[1 + (salt + n * 7) % 20],
           '+44 20 7946 0' || lpad(((salt + n * 37) % 1000)::text, 3, '0'), 'Europe/Berlin',
           date '1994-03-01' + ((salt + n * 911) % 9000)::int
    FROM generate_series(1, 5) n ORDER BY n;

    INSERT INTO services (code, name, duration, price, is_offered)
    SELECT s.code, s.name, s.minutes * interval '1 minute', round(s.price * (90 + salt % 21) / 100, 2), s.code <> 'HOME'
    FROM (VALUES ('CONS', 'Consultation', 30, 60.00), ('CHECK', 'Check-up', 30, 95.00), ('VACC', 'Vaccination', 10, 35.00),
                 ('BLOOD', 'Blood test', 15, 48.50), ('ECG', 'Electrocardiogram', 20, 72.00), ('ULTRA', 'Ultrasound', 30, 120.00),
                 ('XRAY', 'X-ray', 15, 88.00), ('DERMA', 'Skin check', 20, 79.90), ('CHILD', 'Child check-up', 30, 70.00),
                 ('WOUND', 'Wound care', 15, 42.00), ('CERT', 'Certificate', 10, 20.00), ('HOME', 'House call', 30, 140.00))
         s (code, name, minutes, price);

    -- The first 20 are physicians, four at each branch: appointments count on that.
    INSERT INTO staff (branch_id, role, given_name, family_name, email, specialty, hired_on)
    SELECT b.id,
           (CASE WHEN n < 20 THEN 'physician' WHEN n < 30 THEN 'nurse' WHEN n < 35 THEN 'reception' ELSE 'manager' END)::staff_role,
           g, f, lower(g || '.' || f || n || '@' || slug || '.example'),
           CASE WHEN n < 20 THEN specialties[1 + n / 5] END,
           date '2010-01-01' + (h % 5400)::int
    FROM generate_series(0, 39) n
    JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS i FROM branches) b ON b.i = n % 5
    CROSS JOIN LATERAL (SELECT abs(hashtext(slug || ' staff ' || n)::bigint) AS h) r
    CROSS JOIN LATERAL (SELECT given[1 + h % array_length(given, 1)] AS g, family[1 + h / 64 % array_length(family, 1)] AS f) names
    ORDER BY n;

    INSERT INTO patients (branch_id, given_name, family_name, born_on, sex, contact, allergies, created_at)
    SELECT b.id, g, f, date '1932-01-01' + (h / 7 % 33000)::int,
           (CASE h / 3 % 50 WHEN 0 THEN 'other' WHEN 1 THEN 'unknown' ELSE CASE h / 5 % 2 WHEN 0 THEN 'female' ELSE 'male' END END),
           jsonb_build_object(
               'phone', '+44 7700 900' || lpad((h % 1000)::text, 3, '0'),
               'email', lower(g || '.' || f || n || '@mail.example'),
               'address', jsonb_build_object('street', streets[1 + h / 11 % 7] || ' ' || 1 + h / 13 % 140,
                                             'city', b.city, 'zip', lpad((h % 99999)::text, 5, '0'))),
           CASE h / 17 % 6 WHEN 0 THEN ARRAY[allergens[1 + h / 19 % 5]] WHEN 1 THEN ARRAY['pollen', 'nuts'] ELSE '{}' END,
           timestamptz '2021-01-04 08:00+00' + (h % 2000000) * interval '1 minute'
    FROM generate_series(0, 2499) n
    JOIN (SELECT id, city, row_number() OVER (ORDER BY id) - 1 AS i FROM branches) b ON b.i = n % 5
    CROSS JOIN LATERAL (SELECT abs(hashtext(slug || ' patient ' || n)::bigint) AS h) r
    CROSS JOIN LATERAL (SELECT given[1 + h % array_length(given, 1)] AS g, family[1 + h / 64 % array_length(family, 1)] AS f) names
    ORDER BY n;

    -- 300 for each physician: six a day from five weeks ago to two weeks ahead, each in a slot of its own.
    INSERT INTO appointments (branch_id, patient_id, staff_id, service_id, starts_at, ends_at, status, note, created_at)
    SELECT s.branch_id, p.id, s.id, v.id, t.starts_at, t.starts_at + v.duration,
           (CASE WHEN t.day > 0 THEN CASE h % 20 WHEN 0 THEN 'cancelled' ELSE 'booked' END
                 WHEN t.day = 0 THEN CASE h % 4 WHEN 0 THEN 'arrived' ELSE 'booked' END
                 ELSE CASE h % 14 WHEN 0 THEN 'cancelled' WHEN 1 THEN 'no_show' ELSE 'completed' END END)::appointment_status,
           CASE h % 9 WHEN 0 THEN 'Prefers the ground floor' WHEN 1 THEN 'Brings an interpreter' END,
           t.starts_at - (1 + h % 20) * interval '1 day'
    FROM generate_series(0, 5999) n
    CROSS JOIN LATERAL (SELECT abs(hashtext(slug || ' appointment ' || n)::bigint) AS h) r
    JOIN (SELECT id, branch_id, row_number() OVER (ORDER BY id) - 1 AS i FROM staff) s ON s.i = n % 20
    JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS i FROM patients) p ON p.i = n % 5 + 5 * (h / 23 % 500)
    JOIN (SELECT id, duration, row_number() OVER (ORDER BY id) - 1 AS i FROM services) v ON v.i = h / 29 % 11
    CROSS JOIN LATERAL (
        SELECT n / 20 / 6 - 35 AS day,
               (current_date + (n / 20 / 6 - 35) + time '08:00' + (n / 20 % 6 * 3 + h % 3) * interval '30 minutes')
                   AT TIME ZONE 'Europe/Berlin' AS starts_at) t
    ORDER BY n;

    INSERT INTO prescriptions (branch_id, patient_id, staff_id, appointment_id, drug, dose, dosage, issued_on, valid_until)
    SELECT a.branch_id, a.patient_id, a.staff_id, a.id, drugs[1 + h % 8], doses[1 + h % 8],
           jsonb_build_object('times_a_day', 1 + h / 8 % 3, 'days', 7 * (1 + h / 24 % 8))
               || CASE h / 5 % 2 WHEN 0 THEN '{"with_food": true}'::jsonb ELSE '{}' END,
           a.starts_at::date, a.starts_at::date + 28 * (1 + h / 31 % 4)::int
    FROM (SELECT *, abs(hashtext(slug || ' prescription ' || row_number() OVER (ORDER BY id))::bigint) AS h
          FROM appointments WHERE status = 'completed' ORDER BY id LIMIT 3000) a
    ORDER BY a.id;

    INSERT INTO invoices (branch_id, patient_id, appointment_id, number, status, issued_on, due_on, paid_at, total)
    SELECT a.branch_id, a.patient_id, a.id, 'INV-' || lpad(n::text, 6, '0'), t.status, a.starts_at::date, a.starts_at::date + 14,
           CASE t.status WHEN 'paid' THEN a.ends_at + (a.h % 240) * interval '1 hour' END, v.price
    FROM (SELECT *, abs(hashtext(slug || ' invoice ' || n)::bigint) AS h
          FROM (SELECT *, row_number() OVER (ORDER BY id DESC) AS n FROM appointments WHERE status = 'completed') c
          WHERE n <= 3000) a
    JOIN services v ON v.id = a.service_id
    CROSS JOIN LATERAL (
        SELECT (CASE WHEN a.h / 3 % 20 < 15 THEN 'paid' WHEN a.h / 3 % 20 < 19 THEN 'sent' ELSE 'draft' END)::invoice_status AS status) t
    ORDER BY n;

    INSERT INTO invoice_lines (invoice_id, line, branch_id, service_id, quantity, unit_price)
    SELECT i.id, 1, i.branch_id, a.service_id, 1, i.total
    FROM invoices i JOIN appointments a ON a.id = i.appointment_id;

    -- Every third has a blood test beside.
    INSERT INTO invoice_lines (invoice_id, line, branch_id, service_id, quantity, unit_price)
    SELECT i.id, 2, i.branch_id, v.id, 1 + (i.id % 2)::int, v.price
    FROM invoices i JOIN services v ON v.code = 'BLOOD' WHERE i.id % 3 = 0;
    UPDATE invoices i SET total = i.total + l.amount FROM invoice_lines l WHERE l.invoice_id = i.id AND l.line = 2;
END
$$;
