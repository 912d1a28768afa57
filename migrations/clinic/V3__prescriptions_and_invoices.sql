-- What comes of an appointment: prescriptions and bills.

CREATE TABLE prescriptions (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch_id       bigint NOT NULL REFERENCES branches,
    patient_id      bigint NOT NULL,
    staff_id        bigint NOT NULL,
    appointment_id  bigint,
    drug            text NOT NULL,
    dose            text NOT NULL,
    dosage          jsonb NOT NULL CHECK (jsonb_typeof(dosage) = 'object'),
    issued_on       date NOT NULL,
    valid_until     date NOT NULL,
    CHECK (valid_until >= issued_on),
    FOREIGN KEY (patient_id, branch_id) REFERENCES patients (id, branch_id),
    FOREIGN KEY (staff_id, branch_id) REFERENCES staff (id, branch_id),
    FOREIGN KEY (appointment_id, branch_id) REFERENCES appointments (id, branch_id)
);
CREATE INDEX ON prescriptions (branch_id, issued_on);
CREATE INDEX ON prescriptions (patient_id);
CREATE INDEX ON prescriptions (staff_id);
CREATE INDEX ON prescriptions (appointment_id);
COMMENT ON COLUMN prescriptions.dosage IS 'times_a_day, days, and with_food if it matters.';

CREATE TYPE invoice_status AS ENUM ('draft', 'sent', 'paid', 'void');

CREATE TABLE invoices (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch_id       bigint NOT NULL REFERENCES branches,
    patient_id      bigint NOT NULL,
    appointment_id  bigint,
    number          text NOT NULL UNIQUE,
    status          invoice_status NOT NULL DEFAULT 'draft',
    issued_on       date NOT NULL,
    due_on          date NOT NULL,
    paid_at         timestamptz,
    total           numeric(12,2) NOT NULL CHECK (total >= 0),
    CHECK (due_on >= issued_on),
    CHECK ((status = 'paid') = (paid_at IS NOT NULL)),
    UNIQUE (id, branch_id),
    FOREIGN KEY (patient_id, branch_id) REFERENCES patients (id, branch_id),
    FOREIGN KEY (appointment_id, branch_id) REFERENCES appointments (id, branch_id)
);
CREATE INDEX ON invoices (branch_id, issued_on);
CREATE INDEX ON invoices (patient_id);
CREATE INDEX ON invoices (appointment_id);

CREATE TABLE invoice_lines (
    invoice_id   bigint NOT NULL,
    line         smallint NOT NULL CHECK (line > 0),
    branch_id    bigint NOT NULL,
    service_id   bigint NOT NULL REFERENCES services,
    quantity     integer NOT NULL DEFAULT 1 CHECK (quantity > 0),
    unit_price   numeric(10,2) NOT NULL CHECK (unit_price >= 0),
    amount       numeric(12,2) NOT NULL GENERATED ALWAYS AS (quantity * unit_price) STORED,
    PRIMARY KEY (invoice_id, line),
    FOREIGN KEY (invoice_id, branch_id) REFERENCES invoices (id, branch_id) ON DELETE CASCADE
);
CREATE INDEX ON invoice_lines (service_id);
