-- Appointments: who sees whom, when and what for.

CREATE TYPE appointment_status AS ENUM ('booked', 'arrived', 'completed', 'cancelled', 'no_show');

CREATE TABLE appointments (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch_id   bigint NOT NULL REFERENCES branches,
    patient_id  bigint NOT NULL,
    staff_id    bigint NOT NULL,
    service_id  bigint NOT NULL REFERENCES services,
    starts_at   timestamptz NOT NULL,
    ends_at     timestamptz NOT NULL,
    status      appointment_status NOT NULL DEFAULT 'booked',
    note        text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (ends_at > starts_at),
    UNIQUE (id, branch_id),
    FOREIGN KEY (patient_id, branch_id) REFERENCES patients (id, branch_id),
    FOREIGN KEY (staff_id, branch_id) REFERENCES staff (id, branch_id)
);
CREATE INDEX ON appointments (branch_id, starts_at);
CREATE INDEX ON appointments (patient_id, starts_at DESC);
CREATE INDEX ON appointments (service_id);
-- Two bookings of one person at one time are a conflict, whichever request came first; cancelled ones don't count.
CREATE UNIQUE INDEX appointments_no_double_booking ON appointments (staff_id, starts_at) WHERE status <> 'cancelled';
COMMENT ON TABLE appointments IS 'Who sees whom, when and what for.';
