-- Verifications that somebody asked the control service for are jobs like its other work.
INSERT INTO catalog.job (id, kind, work, act, state, attempts, progress, result, problem, created_at, begun_at, ended_at)
SELECT 'verify-' || v.id, 'verify', '{"kind": "verify", "tenant": null, "sample": 20, "router": null}',
       jsonb_build_object('operator', v.actor, 'by', '', 'request', ''), CASE WHEN v.report IS NULL THEN 'failed' ELSE 'done' END,
       1, v.looked_into || ' tenant(s) looked into', v.report,
       CASE WHEN v.report IS NULL THEN
           jsonb_build_object('code', 'MBX600', 'detail', coalesce(v.failure, 'it was cut off')) END,
       v.begun_at, v.begun_at, coalesce(v.ended_at, v.seen_at)
FROM catalog.verification v;
DROP TABLE catalog.verification;
CREATE INDEX job_kind ON catalog.job (kind, created_at);
