-- Encounters, and the requests and invoices that come of them. The statuses are R5's value sets.

CREATE TYPE encounter_status AS ENUM (
    'planned', 'in-progress', 'on-hold', 'discharged', 'completed', 'cancelled', 'discontinued', 'entered-in-error', 'unknown'
);

CREATE TABLE encounters (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch_id          bigint NOT NULL REFERENCES branches,
    patient_id         bigint NOT NULL,
    practitioner_id    bigint NOT NULL,
    service_id         bigint NOT NULL REFERENCES services,
    status             encounter_status NOT NULL DEFAULT 'planned',
    class              text NOT NULL DEFAULT 'AMB' CHECK (class IN ('AMB', 'HH', 'VR', 'EMER')),
    planned_period     tstzrange NOT NULL CHECK (NOT isempty(planned_period)),
    planned_start      timestamptz NOT NULL GENERATED ALWAYS AS (lower(planned_period)) STORED,
    UNIQUE (id, branch_id),
    FOREIGN KEY (patient_id, branch_id) REFERENCES patients (id, branch_id),
    FOREIGN KEY (practitioner_id, branch_id) REFERENCES practitioners (id, branch_id)
);
CREATE INDEX ON encounters (branch_id, planned_start);
CREATE INDEX ON encounters (patient_id, planned_start DESC);
CREATE INDEX ON encounters (service_id);
CREATE UNIQUE INDEX encounters_no_double_booking ON encounters (practitioner_id, planned_start)
    WHERE status <> 'cancelled' AND status <> 'entered-in-error';
COMMENT ON COLUMN encounters.class IS 'ambulatory, home health, virtual or emergency, by their v3 ActCode.';

CREATE TABLE medication_requests (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch_id           bigint NOT NULL REFERENCES branches,
    patient_id          bigint NOT NULL,
    practitioner_id     bigint NOT NULL,
    encounter_id        bigint,
    status              text NOT NULL CHECK (status IN ('active', 'on-hold', 'ended', 'stopped', 'completed', 'cancelled', 'draft')),
    intent              text NOT NULL DEFAULT 'order' CHECK (intent IN ('proposal', 'plan', 'order')),
    medication          text NOT NULL,
    dosage_instruction  jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(dosage_instruction) = 'array'),
    authored_on         timestamptz NOT NULL,
    FOREIGN KEY (patient_id, branch_id) REFERENCES patients (id, branch_id),
    FOREIGN KEY (practitioner_id, branch_id) REFERENCES practitioners (id, branch_id),
    FOREIGN KEY (encounter_id, branch_id) REFERENCES encounters (id, branch_id)
);
CREATE INDEX ON medication_requests (branch_id, authored_on);
CREATE INDEX ON medication_requests (patient_id);
CREATE INDEX ON medication_requests (practitioner_id);
CREATE INDEX ON medication_requests (encounter_id);

CREATE TABLE invoices (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch_id       bigint NOT NULL REFERENCES branches,
    patient_id      bigint NOT NULL,
    encounter_id    bigint,
    identifier      text NOT NULL UNIQUE,
    status          text NOT NULL CHECK (status IN ('draft', 'issued', 'balanced', 'cancelled', 'entered-in-error')),
    creation        date NOT NULL,
    total_net       numeric(12,2) NOT NULL CHECK (total_net >= 0),
    total_gross     numeric(12,2) NOT NULL CHECK (total_gross >= total_net),
    FOREIGN KEY (patient_id, branch_id) REFERENCES patients (id, branch_id),
    FOREIGN KEY (encounter_id, branch_id) REFERENCES encounters (id, branch_id)
);
CREATE INDEX ON invoices (branch_id, creation);
CREATE INDEX ON invoices (patient_id);
CREATE INDEX ON invoices (encounter_id);
