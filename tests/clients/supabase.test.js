// @supabase/supabase-js: it adds /rest/v1 to the base URL, and a key to every request.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient } from '@supabase/supabase-js';
import { behaviour } from './behaviour.js';
import { places } from './fleet.js';

const options = {
  auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
  // Never used here; without it the client doesn't start on a node that has no WebSocket (20).
  realtime: { transport: class {} },
};

// Who has no token gives a key that is none, and the header that it would become is left out.
const keyless = async (input, init) => {
  const headers = new Headers(init.headers);
  headers.delete('Authorization');
  return fetch(input, { ...init, headers });
};

const connect = (url, token) =>
  createClient(url, token ?? 'none', token ? options : { ...options, global: { fetch: keyless } });

behaviour('supabase-js', connect);

test('supabase-js: a user\'s token beside the public key', async () => {
  for (const { url, tokens } of places) {
    const client = createClient(url, tokens.anon, { ...options, accessToken: async () => tokens.authenticated });
    const { data, error } = await client.rpc('whoami');
    assert.equal(error, null);
    assert.equal(data.role, 'authenticated');
  }
});

test('supabase-js: a schema that is not exposed is refused', async () => {
  const { error, status } = await connect(places[0].url, places[0].tokens.anon).schema('pg_catalog').from('pg_class').select();
  assert.deepEqual([status, error.code], [406, 'PGRST106']);
});
