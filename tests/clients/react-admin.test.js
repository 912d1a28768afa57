// react-admin's data provider for PostgREST, as an admin page uses it: lists with filters and pages, records by their
// keys, compound keys, changes.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import provider from '@raphiniert/ra-data-postgrest';
import { fetchUtils } from 'ra-core';
import { fleet, places, unique } from './fleet.js';

const connect = (url, token, primaryKeys = new Map()) => {
  const httpClient = (target, options = {}) => {
    const headers = new Headers(options.headers);
    if (token) headers.set('Authorization', `Bearer ${token}`);
    return fetchUtils.fetchJson(target, { ...options, headers });
  };
  return provider.default({ apiUrl: url, httpClient, defaultListOp: 'eq', primaryKeys, schema: provider.defaultSchema });
};

const page = (perPage, number = 1) => ({ pagination: { page: number, perPage }, filter: {} });
const patient = (family_name, more = {}) => ({
  branch_id: 1, given_name: 'Test', family_name, born_on: '1990-05-17', sex: 'unknown', ...more,
});
const refused = (status, code) => (error) => {
  assert.deepEqual({ status: error.status, code: error.body.code }, { status, code }, error.message);
  return true;
};

describe('react-admin', { concurrency: true }, () => {
  for (const place of places) {
    describe(`${place.slug} by ${place.form}`, { concurrency: 1 }, () => one(place));
  }

  test('both tenants at once, each its own rows', async () => {
    await Promise.all(
      fleet.tenants.flatMap(({ slug, urls, tokens }) =>
        Array.from({ length: 20 }, async () => {
          const { data } = await connect(urls.prefix, tokens.service).getList('staff', page(5));
          assert.equal(data.length, 5);
          for (const row of data) assert.ok(row.email.endsWith(`@${slug}.example`), row.email);
        }),
      ),
    );
  });
});

function one({ slug, url, tokens, other }) {
  const admin = connect(url, tokens.service);

  test('getList: pages, totals, order', async () => {
    const sort = { field: 'email', order: 'ASC' };
    const first = await admin.getList('staff', { ...page(15), sort });
    assert.deepEqual([first.data.length, first.total], [15, 40]);
    const last = await admin.getList('staff', { ...page(15, 3), sort });
    assert.deepEqual([last.data.length, last.total], [10, 40]);
    const emails = [...first.data, ...last.data].map((row) => row.email);
    assert.deepEqual(emails, emails.toSorted());
    assert.ok(emails.every((email) => email.endsWith(`@${slug}.example`)));
    const down = await admin.getList('staff', { ...page(1), sort: { field: 'email', order: 'DESC' } });
    assert.equal(down.data[0].email, emails.at(-1));
  });

  test('getList: filters, with operators, with several words, in JSON, with columns chosen', async () => {
    const list = (resource, filter, more = {}) => admin.getList(resource, { ...page(100), filter, ...more });
    const physicians = await list('staff', { role: 'physician', 'specialty@not.is': null });
    assert.equal(physicians.total, 20);
    const some = await list('staff', { 'role@in': '(nurse,manager)', 'hired_on@gte': '2000-01-01' });
    assert.ok(some.data.length > 0 && some.data.every((row) => ['nurse', 'manager'].includes(row.role)));
    const named = await list('patients', { 'full_name@ilike': '* en er' }, { meta: { columns: ['id', 'full_name'] } });
    for (const row of named.data) assert.deepEqual(Object.keys(row), ['id', 'full_name']);
    const places = await list('patients', { 'contact->address->>city': 'Nowhere' });
    assert.deepEqual([places.data, places.total], [[], 0]);
    await assert.rejects(list('patients', { nothing: 1 }), refused(400, '42703'));
  });

  test('getOne, getMany, getManyReference', async () => {
    const { data } = await admin.getList('staff', { ...page(3), sort: { field: 'id', order: 'ASC' } });
    const ids = data.map((row) => row.id);
    assert.deepEqual((await admin.getOne('staff', { id: ids[1] })).data, data[1]);
    await assert.rejects(admin.getOne('staff', { id: -1 }), refused(406, 'PGRST116'));
    const many = await admin.getMany('staff', { ids });
    assert.deepEqual(many.data.map((row) => row.id).toSorted(), ids.toSorted());
    const team = await admin.getManyReference('staff', {
      ...page(4), target: 'branch_id', id: data[0].branch_id, sort: { field: 'id', order: 'ASC' },
    });
    assert.deepEqual([team.data.length, team.total], [4, 8]);
    assert.ok(team.data.every((row) => row.branch_id === data[0].branch_id));
  });

  test('create, update, updateMany, delete, deleteMany', async () => {
    const family = unique('admin');
    const made = [];
    for (let n = 0; n < 3; n++) made.push((await admin.create('patients', { data: patient(family) })).data);
    const ids = made.map((row) => row.id);
    assert.equal(new Set(ids).size, 3);
    assert.equal(made[0].full_name, `Test ${family}`);
    const changed = await admin.update('patients', {
      id: ids[0], data: { sex: 'female', allergies: ['latex'] }, previousData: made[0],
    });
    assert.deepEqual([changed.data.sex, changed.data.allergies], ['female', ['latex']]);
    await admin.updateMany('patients', { ids: ids.slice(1), data: { sex: 'other' } });
    const { data, total } = await admin.getList('patients', {
      ...page(10), filter: { family_name: family }, sort: { field: 'id', order: 'ASC' },
    });
    assert.deepEqual([total, data.map((row) => row.sex)], [3, ['female', 'other', 'other']]);
    await assert.rejects(admin.create('patients', { data: patient(family, { sex: 'neither' }) }), refused(400, '23514'));
    assert.equal((await admin.delete('patients', { id: ids[0], previousData: changed.data })).data.id, ids[0]);
    await admin.deleteMany('patients', { ids: ids.slice(1) });
    assert.equal((await admin.getList('patients', { ...page(10), filter: { family_name: family } })).total, 0);
  });

  test('compound keys', async () => {
    const keyed = connect(url, tokens.service, new Map([['patients', ['id', 'branch_id']]]));
    const { data: made } = await keyed.create('patients', { data: patient(unique('keys')) });
    const [number, branch] = JSON.parse(made.id);
    assert.deepEqual([typeof number, branch], ['number', 1]);
    assert.equal((await keyed.getOne('patients', { id: made.id })).data.full_name, made.full_name);
    const changed = await keyed.update('patients', { id: made.id, data: { ...made, sex: 'male' }, previousData: made });
    assert.equal(changed.data.sex, 'male');
    assert.equal((await keyed.getMany('patients', { ids: [made.id] })).data.length, 1);
    await keyed.delete('patients', { id: made.id, previousData: changed.data });
    await assert.rejects(keyed.getOne('patients', { id: made.id }), refused(406, 'PGRST116'));
  });

  test("another tenant's token opens nothing", async () => {
    await assert.rejects(connect(url, other.tokens.service).getList('staff', page(1)), refused(401, 'PGRST301'));
    await assert.rejects(connect(url).getList('staff', page(1)), refused(401, '42501'));
  });
}
