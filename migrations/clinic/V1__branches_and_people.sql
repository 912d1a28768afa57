-- A clinic: its branches, what it offers, who works there and who comes.

CREATE TABLE branches (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    city       text NOT NULL,
    phone      text NOT NULL,
    -- "Today" is a matter of place; the views below ask this.
    time_zone  text NOT NULL DEFAULT 'UTC',
    opened_on  date NOT NULL
);
COMMENT ON TABLE branches IS 'Places of the clinic, each with its own staff and patients.';

CREATE TABLE services (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code        text NOT NULL UNIQUE,
    name        text NOT NULL,
    duration    interval NOT NULL CHECK (duration > interval '0'),
    price       numeric(10,2) NOT NULL CHECK (price >= 0),
    is_offered  boolean NOT NULL DEFAULT true
);
COMMENT ON TABLE services IS 'The price list, the same at all branches.';

CREATE TYPE staff_role AS ENUM ('physician', 'nurse', 'reception', 'manager');

CREATE TABLE staff (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch_id    bigint NOT NULL REFERENCES branches,
    role         staff_role NOT NULL,
    given_name   text NOT NULL,
    family_name  text NOT NULL,
    email        text NOT NULL UNIQUE,
    specialty    text,
    hired_on     date NOT NULL,
    UNIQUE (id, branch_id)
);
CREATE INDEX ON staff (branch_id, role);
COMMENT ON TABLE staff IS 'Who works at a branch.';

CREATE TABLE patients (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch_id    bigint NOT NULL REFERENCES branches,
    given_name   text NOT NULL,
    family_name  text NOT NULL,
    full_name    text NOT NULL GENERATED ALWAYS AS (given_name || ' ' || family_name) STORED,
    born_on      date NOT NULL CHECK (born_on > '1890-01-01'),
    sex          text NOT NULL CHECK (sex IN ('female', 'male', 'other', 'unknown')),
    contact      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(contact) = 'object'),
    allergies    text[] NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    -- What tables of a branch refer to: a row of one branch can't point to a patient of another, not even to
    -- find out whether the patient exists (foreign keys look past row-level security).
    UNIQUE (id, branch_id)
);
CREATE INDEX ON patients (branch_id, family_name, given_name);
CREATE INDEX ON patients USING gin (allergies);
COMMENT ON TABLE patients IS 'Who comes, each to one home branch.';
COMMENT ON COLUMN patients.contact IS 'phone, email, address {street, city, zip}; all optional.';
