-- Operators who sign in to the console by an account of an OpenID issuer.

ALTER TABLE catalog.operator
    -- The account, from its first sign-in on: an e-mail address may be given to somebody else one day, a subject is not.
    ADD COLUMN issuer     text,
    ADD COLUMN subject    text,
    -- Whether its claims made it, and say its role at every sign-in.
    ADD COLUMN is_claimed boolean NOT NULL DEFAULT false;

-- Sign-ins that came to their end, so that none does twice.
CREATE TABLE catalog.finished_sign_in (
    -- SHA-256 of the nonce.
    nonce       bytea PRIMARY KEY,
    finished_at timestamptz NOT NULL DEFAULT now()
);
