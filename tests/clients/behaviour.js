// What every client must find, whichever library speaks: one list of tests, run for each tenant and base URL at once.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { fleet, freeTime, places, unique } from './fleet.js';

// The answer's data, or the error that the client reports instead of throwing.
const ok = ({ data, error, status }) => {
  assert.equal(error, null, `${status}: ${JSON.stringify(error)}`);
  return data;
};

const refused = ({ error, status }, wanted, code) => {
  assert.ok(error, `status ${status} and no error, where ${wanted} ${code} was due`);
  assert.deepEqual({ status, code: error.code }, { status: wanted, code }, error.message);
  return error;
};

const patient = (family_name, more = {}) => ({
  branch_id: 1,
  given_name: 'Test',
  family_name,
  born_on: '1990-05-17',
  sex: 'unknown',
  ...more,
});

// `connect(url, token)` gives a client; without a token one that sends none.
export function behaviour(library, connect) {
  describe(library, { concurrency: true }, () => {
    for (const place of places) {
      describe(`${place.slug} by ${place.form}`, { concurrency: 1 }, () => one(place, connect));
    }
    test('both tenants at once, each request its own rows', () => interleaved(connect));
  });
}

function one({ slug, url, tokens, other }, connect) {
  const anon = connect(url, tokens.anon);
  const api = connect(url, tokens.authenticated);
  const service = connect(url, tokens.service);
  // The demo names branches and addresses after the tenant.
  const own = slug[0].toUpperCase() + slug.slice(1);

  test('reads: columns, aliases, casts, JSON paths, filters, order', async () => {
    const rows = ok(
      await api
        .from('patients')
        .select('id, name:full_name, born:born_on::text, city:contact->address->>city, age_years')
        .gte('born_on', '1950-01-01')
        .lt('born_on', '2000-01-01')
        .in('sex', ['female', 'male'])
        .not('full_name', 'ilike', 'a%')
        .or('given_name.eq.Ben,family_name.like.*er')
        .order('family_name', { ascending: false })
        .order('id')
        .limit(20),
    );
    assert.ok(rows.length > 5, `${rows.length} rows`);
    for (const row of rows) {
      assert.match(row.born, /^19[5-9]\d-\d\d-\d\d$/);
      assert.match(row.name, /^Ben |er$/);
      assert.equal(typeof row.city, 'string');
      assert.ok(row.age_years > 20 && row.age_years < 80);
    }
    const families = rows.map((row) => row.name.split(' ')[1]);
    assert.deepEqual(families, families.toSorted().reverse());
  });

  test('filters on arrays, nulls and patterns', async () => {
    const allergic = ok(await api.from('patients').select('allergies').contains('allergies', ['pollen', 'nuts']).limit(5));
    assert.equal(allergic.length, 5);
    for (const row of allergic) assert.ok(row.allergies.includes('pollen') && row.allergies.includes('nuts'));
    const either = ok(await api.from('patients').select('allergies').overlaps('allergies', ['latex', 'aspirin']).limit(5));
    for (const row of either) assert.ok(row.allergies.some((one) => ['latex', 'aspirin'].includes(one)));
    const plain = ok(await api.from('staff').select('specialty').is('specialty', null));
    assert.equal(plain.length, 4);
    const physicians = ok(await api.from('staff').select('role').eq('role', 'physician').not('specialty', 'is', null));
    assert.equal(physicians.length, 4);
  });

  test('create, read, update, delete', async () => {
    const family = unique('crud');
    const [made] = ok(
      await api.from('patients').insert([patient(family, { contact: { phone: '+44 7700 900000' } })]).select(),
    );
    assert.equal(made.full_name, `Test ${family}`);
    const several = ok(await api.from('patients').insert([patient(family), patient(family, { sex: 'other' })]).select('id, sex'));
    assert.deepEqual(several.map((row) => row.sex), ['unknown', 'other']);
    assert.equal(ok(await api.from('patients').insert(patient(family))), null, 'no representation was asked for');

    assert.equal(ok(await api.from('patients').select('id').eq('family_name', family)).length, 4);
    const changed = ok(
      await api.from('patients').update({ sex: 'female', allergies: ['latex'] }).eq('id', made.id).select('sex, allergies, contact->>phone'),
    );
    assert.deepEqual(changed, [{ sex: 'female', allergies: ['latex'], phone: '+44 7700 900000' }]);
    assert.deepEqual(ok(await api.from('patients').update({ sex: 'male' }).eq('id', -1).select()), []);

    refused(await api.from('patients').delete().eq('id', made.id), 403, '42501');
    const gone = ok(await service.from('patients').delete().eq('family_name', family).select('id'));
    assert.equal(gone.length, 4);
    assert.deepEqual(ok(await api.from('patients').select('id').eq('family_name', family)), []);
  });

  test('errors of the database arrive with code and status', async () => {
    refused(await api.from('patients').insert(patient(unique('bad'), { sex: 'neither' })), 400, '23514');
    refused(await api.from('patients').insert({ branch_id: 1 }), 400, '23502');
    refused(await api.from('patients').insert(patient(unique('bad'), { branch_id: 2 })), 403, '42501');
    refused(await service.from('patients').insert(patient(unique('bad'), { branch_id: 99 })), 409, '23503');
    refused(await api.from('patients').select('nothing'), 400, '42703');
    refused(await api.from('patient').select(), 404, 'PGRST205');
  });

  test('embeds: to one, spread, to many, nested', async () => {
    const rows = ok(
      await api
        .from('appointments')
        .select('id, status, patients(full_name), staff(email, branches(name)), ...services(service:name, price)')
        .order('id')
        .limit(10),
    );
    assert.equal(rows.length, 10);
    for (const row of rows) {
      assert.equal(typeof row.patients.full_name, 'string');
      assert.ok(row.staff.email.endsWith(`@${slug}.example`));
      assert.ok(row.staff.branches.name.startsWith(own));
      assert.equal(typeof row.service, 'string');
    }
    const branches = ok(await service.from('branches').select('name, team:staff(email)').order('id').limit(5));
    for (const branch of branches) {
      assert.equal(branch.team.length, 8);
      for (const person of branch.team) assert.ok(person.email.endsWith(`@${slug}.example`));
    }
  });

  test('embeds: order, limit and filters of their own; !inner; anti-join', async () => {
    const rows = ok(
      await api
        .from('staff')
        .select('id, appointments(starts_at, status)')
        .eq('role', 'physician')
        .neq('appointments.status', 'cancelled')
        .order('starts_at', { referencedTable: 'appointments', ascending: false })
        .limit(3, { referencedTable: 'appointments' }),
    );
    assert.equal(rows.length, 4);
    for (const { appointments } of rows) {
      assert.equal(appointments.length, 3);
      const times = appointments.map((row) => row.starts_at);
      assert.deepEqual(times, times.toSorted().reverse());
      assert.ok(appointments.every((row) => row.status !== 'cancelled'));
    }
    const inner = ok(await service.from('staff').select('email, branches!inner(name)').eq('branches.name', `${own} Riverside`));
    assert.equal(inner.length, 8);
    assert.ok(inner.every((row) => row.branches.name === `${own} Riverside`));
    const left = ok(await service.from('staff').select('email, branches(name)').eq('branches.name', `${own} Riverside`));
    assert.equal(left.length, 40);
    const idle = ok(await api.from('staff').select('role, appointments()').is('appointments', null));
    assert.ok(idle.length > 0 && idle.every((row) => row.role !== 'physician'));
    refused(await api.from('services').select('id, staff(id)'), 400, 'PGRST200');
  });

  test('functions: by POST and GET, one value, one row, many rows, errors', async () => {
    const who = ok(await api.rpc('whoami'));
    assert.deepEqual([who.role, who.claims.branch], ['authenticated', 1]);
    assert.equal(ok(await anon.rpc('whoami', {}, { get: true })).role, 'anon');

    const [person] = ok(await api.from('staff').select('id').eq('role', 'physician').order('id').limit(1));
    const [visitor] = ok(await api.from('patients').select('id, full_name').order('id').limit(1));
    const summary = ok(await api.rpc('patient_summary', { patient_id: visitor.id }));
    assert.deepEqual([summary.id, summary.name], [visitor.id, visitor.full_name]);

    const booking = { patient_id: visitor.id, staff_id: person.id, service_id: 1, starts_at: freeTime() };
    const booked = ok(await api.rpc('book_appointment', booking).select('id, status, patients(full_name)').single());
    assert.deepEqual([booked.status, booked.patients.full_name], ['booked', visitor.full_name]);
    refused(await api.rpc('book_appointment', booking), 409, '23505');
    const missing = refused(await api.rpc('book_appointment', { ...booking, patient_id: -1 }), 404, 'PT404');
    assert.match(missing.hint, /branch that you can see/);
    refused(await api.rpc('book_appointmnt', booking), 404, 'PGRST202');
    assert.equal(ok(await api.from('appointments').delete().eq('id', booked.id).select('id')).length, 1);

    const year = { from: '2000-01-01', to: '2099-12-31' };
    const all = ok(await service.rpc('branch_revenue', year).order('branch_id'));
    assert.deepEqual(all.map((row) => row.branch.split(' ')[0]), Array(5).fill(own));
    const some = ok(await service.rpc('branch_revenue', year).select('branch').gte('branch_id', 4).order('branch_id', { ascending: false }));
    assert.deepEqual(some, [{ branch: `${own} Station` }, { branch: `${own} Northgate` }]);
    assert.equal(ok(await api.rpc('branch_revenue', year, { get: true })).length, 1);
  });

  test('upserts: merged, ignored, by a unique column and by the key', async () => {
    const code = unique('up');
    const row = (name, price) => ({ code, name, price, duration: '00:20:00' });
    const services = () => service.from('services');
    const [first] = ok(await services().upsert(row('One', 10), { onConflict: 'code' }).select());
    const [second] = ok(await services().upsert(row('Two', 20), { onConflict: 'code' }).select());
    assert.deepEqual([second.id, second.name, second.price], [first.id, 'Two', 20]);
    const ignored = ok(await services().upsert(row('Three', 30), { onConflict: 'code', ignoreDuplicates: true }).select());
    assert.deepEqual(ignored, []);
    assert.equal(ok(await services().select('name').eq('code', code).single()).name, 'Two');
    refused(await services().insert(row('Four', 40)), 409, '23505');
    ok(await services().delete().eq('code', code));

    const line = ok(await api.from('invoice_lines').select('*, invoices!inner(status)').eq('invoices.status', 'draft').eq('line', 1).limit(1).single());
    const { invoices, amount, ...key } = line;
    const [again] = ok(await api.from('invoice_lines').upsert({ ...key, quantity: 3 }).select('invoice_id, line, quantity'));
    assert.deepEqual(again, { invoice_id: line.invoice_id, line: 1, quantity: 3 });
  });

  test('counts and ranges', async () => {
    const page = await service.from('staff').select('id', { count: 'exact' }).order('id').range(10, 14);
    assert.equal(ok(page).length, 5);
    assert.deepEqual([page.status, page.count], [206, 40]);
    const head = await api.from('staff').select('*', { count: 'exact', head: true });
    assert.deepEqual([head.error, head.data, head.count], [null, null, 8]);
    const planned = await service.from('patients').select('id', { count: 'planned' }).limit(1);
    assert.ok(planned.count > 0, `${planned.count}`);
    refused(await service.from('staff').select('id', { count: 'exact' }).range(1000, 1010), 416, 'PGRST103');
    const written = await service.from('staff').update({ specialty: null }, { count: 'exact' }).eq('role', 'reception');
    assert.deepEqual([written.error, written.count], [null, 5]);
  });

  test('one object: single, maybeSingle, PGRST116', async () => {
    const query = (id) => api.from('branches').select('id, name').lte('id', id);
    assert.equal(ok(await query(1).single()).name, `${own} Centre`);
    assert.equal(ok(await query(1).maybeSingle()).name, `${own} Centre`);
    assert.equal(ok(await query(0).maybeSingle()), null);
    refused(await query(0).single(), 406, 'PGRST116');
    const many = refused(await query(3).single(), 406, 'PGRST116');
    assert.match(many.details, /3 rows/);
    const before = ok(await service.from('services').select('name').eq('id', 1).single());
    refused(await service.from('services').update({ name: 'All the same' }).lte('id', 2).select().single(), 406, 'PGRST116');
    assert.deepEqual(ok(await service.from('services').select('name').eq('id', 1).single()), before, 'and nothing was written');
  });

  test('what fewer applications use', async () => {
    const pattern = ok(await api.from('patients').select('full_name').ilikeAllOf('full_name', ['%a%', '%e%']).likeAnyOf('family_name', ['A%', 'B%']).limit(5));
    assert.ok(pattern.length > 0 && pattern.every((row) => /a/i.test(row.full_name) && /e/i.test(row.full_name) && / [AB]/.test(row.full_name)));
    const found = ok(await api.from('services').select('name').textSearch('name', 'test | scan', { config: 'english' }));
    assert.deepEqual(found, [{ name: 'Blood test' }]);
    assert.equal(ok(await api.from('services').select('code').match({ code: 'ECG', is_offered: true })).length, 1);
    assert.equal(ok(await api.from('services').select('code').filter('code', 'in', '("ECG","XRAY")')).length, 2);
    const trees = ok(
      await api
        .from('staff')
        .select('id, appointments(status, note)')
        .eq('role', 'physician')
        .or('status.eq.cancelled,and(status.eq.no_show,note.is.null)', { referencedTable: 'appointments' }),
    );
    const seen = trees.flatMap((row) => row.appointments);
    assert.ok(seen.length > 0 && seen.every((row) => row.status === 'cancelled' || (row.status === 'no_show' && row.note === null)));
    const [stripped] = ok(await api.from('staff').select('id, specialty').is('specialty', null).limit(1).stripNulls());
    assert.deepEqual(Object.keys(stripped), ['id']);
    const head = await api.rpc('branch_revenue', { from: '2000-01-01', to: '2099-12-31' }, { head: true, count: 'exact' });
    assert.deepEqual([head.error, head.data, head.count], [null, null, 1]);

    const family = unique('bulk');
    // Columns that a row leaves out: null, which is refused here, or the column's default.
    const rows = [patient(family, { allergies: ['nuts'] }), patient(family)];
    refused(await api.from('patients').insert(rows), 400, '23502');
    const made = ok(await api.from('patients').insert(rows, { defaultToNull: false }).select('allergies').order('id'));
    assert.deepEqual(made.map((row) => row.allergies), [['nuts'], []]);
    const touched = await api.from('patients').update({ sex: 'male' }).eq('family_name', family).maxAffected(1);
    refused(touched, 400, 'PGRST124');
    assert.equal(ok(await api.from('patients').select('id').eq('family_name', family).eq('sex', 'male')).length, 0);
    ok(await service.from('patients').delete().eq('family_name', family));
    // Off unless an operator turns them on.
    refused(await api.from('services').select('price.sum()'), 400, 'PGRST123');
    refused(await api.from('services').select('id').explain(), 406, 'PGRST107');
  });

  test('CSV', async () => {
    const text = ok(await api.from('branches').select('id,name').order('id').limit(2).csv());
    assert.equal(text.trimEnd(), `id,name\n1,"${own} Centre"\n2,"${own} Riverside"`);
  });

  test('auth: own token, none, the other tenant\'s, another branch\'s', async () => {
    assert.equal(ok(await connect(url).from('branches').select('id')).length, 5);
    refused(await connect(url).from('patients').select('id'), 401, '42501');
    refused(await anon.from('patients').select('id'), 403, '42501');
    for (const token of Object.values(other.tokens)) {
      refused(await connect(url, token).from('branches').select('id'), 401, 'PGRST301');
      refused(await connect(url, token).from('patients').insert(patient(unique('foreign'))), 401, 'PGRST301');
    }
    refused(await connect(url, tokens.expired).from('branches').select('id'), 401, 'PGRST303');
    const [head, , signature] = tokens.authenticated.split('.');
    const forged = Buffer.from(JSON.stringify({ role: 'service' })).toString('base64url');
    refused(await connect(url, `${head}.${forged}.${signature}`).from('patients').select('id'), 401, 'PGRST301');

    const branches = async (client) => new Set(ok(await client.from('patients').select('branch_id')).map((row) => row.branch_id));
    assert.deepEqual(await branches(api), new Set([1]));
    assert.deepEqual(await branches(connect(url, tokens.branch2)), new Set([2]));
    // Signed by the application with the tenant's `jwt_secret`, not by manybox.
    assert.deepEqual(await branches(connect(url, tokens.own)), new Set([1]));
  });

  test('sees its own rows and none of the other tenant\'s', async () => {
    const staff = ok(await service.from('staff').select('email'));
    assert.equal(staff.length, 40);
    assert.ok(staff.every((row) => row.email.endsWith(`@${slug}.example`)));
    const branches = ok(await anon.from('branches').select('name'));
    assert.ok(branches.every((row) => row.name.startsWith(own)));

    const family = unique(`of-${slug}`);
    ok(await api.from('patients').insert(patient(family)));
    const there = connect(other.urls.prefix, other.tokens.service);
    assert.deepEqual(ok(await there.from('patients').select('id').eq('family_name', family)), []);
    assert.equal(ok(await service.from('patients').delete({ count: 'exact' }).eq('family_name', family).select('id')).length, 1);
  });
}

// 200 requests at once, tenants, roles and forms of base URL mixed, over connections that both tenants share.
async function interleaved(connect) {
  const clients = places.flatMap(({ slug, url, tokens }) =>
    ['authenticated', 'service'].map((role) => ({ slug, role, client: connect(url, tokens[role]) })),
  );
  const asked = Array.from({ length: 200 }, async (_, n) => {
    const { slug, role, client } = clients[n % clients.length];
    const rows = ok(await client.from('staff').select('email, branch_id'));
    assert.equal(rows.length, role === 'service' ? 40 : 8);
    assert.ok(rows.every((row) => row.email.endsWith(`@${slug}.example`)), `${slug} got ${JSON.stringify(rows[0])}`);
  });
  await Promise.all(asked);
  assert.equal(new Set(clients.map((one) => one.slug)).size, fleet.tenants.length);
}
