//! What is done to row-level security, and to whoever asks about it.

use manybox::verify::Scope;

use super::As::Owner;
use super::{Own, Tampering};

const WAYS: &[Tampering] = &[
    Tampering(
        "a part of the table that has no policies",
        "V30",
        Owner,
        "CREATE TABLE public.more_secrets () INHERITS (public.secrets); GRANT SELECT ON public.more_secrets TO anon",
        "DROP TABLE public.more_secrets",
    ),
    Tampering(
        "a view of what a materialized view keeps",
        "V32",
        Owner,
        "CREATE MATERIALIZED VIEW public.kept AS SELECT * FROM public.secrets;
         CREATE VIEW public.seen_all AS SELECT * FROM public.kept; GRANT SELECT ON public.seen_all TO authenticated",
        "DROP MATERIALIZED VIEW public.kept CASCADE",
    ),
    Tampering(
        "a policy that is always true, behind thousands of other findings",
        "V31",
        Owner,
        "DO $$ DECLARE all_columns text := (SELECT string_agg('c' || i, ', ') FROM generate_series(1, 1300) i); BEGIN
             EXECUTE format('CREATE TABLE public.wide (%s int)', replace(all_columns, ',', ' int,'));
             EXECUTE format('GRANT SELECT (%1$s), INSERT (%1$s), UPDATE (%1$s), REFERENCES (%1$s) ON public.wide TO PUBLIC', all_columns);
         END $$;
         CREATE POLICY wide ON public.secrets FOR SELECT TO authenticated USING (true)",
        "DROP POLICY wide ON public.secrets; DROP TABLE public.wide",
    ),
    Tampering(
        "row-level security is off",
        "V30",
        Owner,
        "ALTER TABLE public.secrets DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE public.secrets ENABLE ROW LEVEL SECURITY",
    ),
    Tampering(
        "row-level security is not forced",
        "V30",
        Owner,
        "ALTER TABLE public.secrets NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE public.secrets FORCE ROW LEVEL SECURITY",
    ),
    Tampering(
        "the table is gone",
        "V30",
        Owner,
        "ALTER TABLE public.secrets RENAME TO hidden",
        "ALTER TABLE public.hidden RENAME TO secrets",
    ),
    Tampering(
        "a policy that is always true",
        "V31",
        Owner,
        "CREATE POLICY wide ON public.secrets FOR SELECT TO authenticated USING (true)",
        "DROP POLICY wide ON public.secrets",
    ),
    Tampering(
        "a policy that does not bite",
        "V31",
        Owner,
        "CREATE POLICY wide ON public.secrets FOR SELECT TO PUBLIC USING (id > 0)",
        "DROP POLICY wide ON public.secrets",
    ),
    Tampering(
        "a policy by a function that asks nobody",
        "V31",
        Owner,
        "CREATE FUNCTION public.ok() RETURNS boolean LANGUAGE plpgsql STABLE AS 'BEGIN RETURN true; END';
         GRANT EXECUTE ON FUNCTION public.ok TO authenticated;
         CREATE POLICY wide ON public.secrets FOR SELECT TO authenticated USING (public.ok())",
        "DROP FUNCTION public.ok CASCADE",
    ),
    Tampering(
        "a materialized view",
        "V32",
        Owner,
        "ALTER TABLE public.secrets NO FORCE ROW LEVEL SECURITY;
         CREATE MATERIALIZED VIEW public.seen_all AS SELECT * FROM public.secrets; GRANT SELECT ON public.seen_all TO authenticated;
         ALTER TABLE public.secrets FORCE ROW LEVEL SECURITY",
        "DROP MATERIALIZED VIEW public.seen_all",
    ),
    Tampering(
        "a view with its owner's rights",
        "V32",
        Owner,
        "CREATE VIEW public.seen_all AS SELECT * FROM public.secrets; GRANT SELECT ON public.seen_all TO authenticated;
         ALTER TABLE public.secrets NO FORCE ROW LEVEL SECURITY",
        "DROP VIEW public.seen_all; ALTER TABLE public.secrets FORCE ROW LEVEL SECURITY",
    ),
    Tampering(
        "a policy that takes its time",
        "V00",
        Owner,
        "CREATE POLICY slow ON public.secrets FOR SELECT TO authenticated USING (pg_sleep(60) IS NOT NULL)",
        "DROP POLICY slow ON public.secrets",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_row_level_security_is_found() {
    Own::make().await.tamper(WAYS).await;
}

/// A tenant's policy that ignores the request to cancel keeps neither `verify` nor a backend.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_never_ends_is_told_of_and_ended() {
    let own = Own::make().await;
    own.run(
        Owner,
        "CREATE FUNCTION public.stay() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             LOOP BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;
         END $$;
         GRANT EXECUTE ON FUNCTION public.stay TO authenticated, anon;
         CREATE POLICY stay ON public.secrets FOR SELECT TO authenticated USING (public.stay())",
    )
    .await;
    let found = own.verified(Scope::Tenant("acme".into())).await.findings;
    assert!(found.iter().any(|f| f.code == "V00" && f.seen.contains("secrets")), "{found:#?}");
    let login = own.row("acme").await.record.login_role();
    let superuser = own.superuser("postgres").await;
    crate::support::eventually("its backend is gone", || async {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
        superuser.query_one(sql, &[&login]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

/// What a tenant defines in its own database is not called by whoever verifies it.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_code_does_not_run_as_the_admin() {
    let own = Own::make().await;
    own.run(
        Owner,
        "CREATE TABLE public.ran (who text);
         CREATE FUNCTION public.trap(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.ran VALUES (current_user); RETURN $1; END $$;
         CREATE FUNCTION public.format(text, VARIADIC anyarray) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.ran VALUES (current_user); RETURN ''; END $$;
         CREATE FUNCTION public.same(name, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.ran VALUES (current_user); RETURN true; END $$;
         CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = text, FUNCTION = public.same);
         CREATE VIEW public.pg_roles AS SELECT public.trap('x') AS rolname;
         CREATE INDEX ON public.items ((lower(name)))",
    )
    .await;
    own.verified(Scope::Tenant("acme".into())).await;
    let ran = own.fleet.admin("acme").await.query_one("SELECT count(*) FROM public.ran", &[]).await.unwrap();
    assert_eq!(ran.get::<_, i64>(0), 0);
}
