-- The clinic in the words of FHIR R5 (https://hl7.org/fhir/R5/): another line of schema versions for the same
-- business, for customers whose other systems speak FHIR. Resources are tables, elements are columns.

CREATE TABLE branches (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    status     text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'inactive')),
    address    jsonb NOT NULL DEFAULT '{}',
    time_zone  text NOT NULL DEFAULT 'UTC'
);
COMMENT ON TABLE branches IS 'Location: a place of the clinic, with its own practitioners and patients.';

CREATE TABLE services (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code            text NOT NULL UNIQUE,
    name            text NOT NULL,
    active          boolean NOT NULL DEFAULT true,
    duration        interval NOT NULL CHECK (duration > interval '0'),
    price_value     numeric(10,2) NOT NULL CHECK (price_value >= 0),
    price_currency  char(3) NOT NULL DEFAULT 'EUR'
);
COMMENT ON TABLE services IS 'HealthcareService, with its price: the same at all branches.';

CREATE TYPE administrative_gender AS ENUM ('male', 'female', 'other', 'unknown');

CREATE TABLE practitioners (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch_id      bigint NOT NULL REFERENCES branches,
    active         boolean NOT NULL DEFAULT true,
    name_family    text NOT NULL,
    name_given     text NOT NULL,
    gender         administrative_gender NOT NULL DEFAULT 'unknown',
    qualification  text NOT NULL,
    telecom        jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(telecom) = 'array'),
    UNIQUE (id, branch_id)
);
CREATE INDEX ON practitioners (branch_id);
COMMENT ON TABLE practitioners IS 'Practitioner: who works at a branch.';

CREATE TABLE patients (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch_id     bigint NOT NULL REFERENCES branches,
    identifier    text NOT NULL UNIQUE,
    active        boolean NOT NULL DEFAULT true,
    name_family   text NOT NULL,
    name_given    text NOT NULL,
    gender        administrative_gender NOT NULL DEFAULT 'unknown',
    birth_date    date NOT NULL CHECK (birth_date > '1890-01-01'),
    telecom       jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(telecom) = 'array'),
    last_updated  timestamptz NOT NULL DEFAULT now(),
    -- So that a row of one branch can't refer to a patient of another: foreign keys look past row-level security.
    UNIQUE (id, branch_id)
);
CREATE INDEX ON patients (branch_id, name_family, name_given);
COMMENT ON TABLE patients IS 'Patient: who comes, each to one home branch.';
COMMENT ON COLUMN patients.telecom IS 'ContactPoints: [{system: phone | email, value}].';
