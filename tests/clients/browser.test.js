// supabase-js in a browser, on a page of another origin: what CORS lets through, and what it doesn't.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { PostgrestClient } from '@supabase/postgrest-js';
import { chromium } from 'playwright-core';
import { fleet, places, unique } from './fleet.js';

const here = (path) => new URL(path, import.meta.url);
const files = {
  '/': ['text/html', here('page.html')],
  '/supabase.js': ['text/javascript', here('node_modules/@supabase/supabase-js/dist/umd/supabase.js')],
};

// The runner chose the ports, because it has told the tenant below which of them is welcome.
async function serve(port) {
  const server = createServer(async (request, response) => {
    const [type, file] = files[request.url] ?? [];
    if (!file) return response.writeHead(404).end();
    response.writeHead(200, { 'Content-Type': `${type}; charset=utf-8` }).end(await readFile(file));
  });
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve));
  return server;
}

let browser;
let servers;

before(async () => {
  servers = await Promise.all(Object.values(fleet.pages).map(serve));
  browser = await chromium.launch({ executablePath: fleet.chromium, args: ['--disable-background-networking', '--disable-component-update'] });
});

after(async () => {
  await browser?.close();
  for (const server of servers ?? []) {
    server.closeAllConnections();
    server.close();
  }
});

// Opens the page at a port, has it ask these tenants, and tells what it showed and which requests the browser sent.
async function visit(port, tenants) {
  const page = await browser.newPage();
  try {
    const sent = [];
    const network = await page.context().newCDPSession(page);
    // Preflights are the browser's own: only its network log shows them. Nothing else here sends OPTIONS.
    network.on('Network.requestWillBeSent', ({ request }) => sent.push(request));
    await network.send('Network.enable');
    await page.goto(`http://localhost:${port}/#${encodeURIComponent(JSON.stringify(tenants))}`);
    await page.waitForSelector('body[data-done]', { timeout: 60_000 });
    const shown = await page.$$eval('li', (lines) => lines.map((line) => [line.dataset.slug, JSON.parse(line.textContent)]));
    return { shown, sent };
  } finally {
    await page.close();
  }
}

const preflights = (sent, url) => sent.filter((one) => one.method === 'OPTIONS' && one.url.startsWith(url)).length;

const described = ({ slug, url, tokens }) => ({
  slug,
  url,
  key: tokens.anon,
  token: tokens.authenticated,
  family: unique('page'),
});

const written = (family) => ({
  inserted: `Page ${family}`,
  upserted: [true, 20],
  updated: { status: 'sent', total: 20, patients: { full_name: `Page ${family}` } },
  count: 1,
  csv: 'status,total\nsent,20.00',
  deleted: [{ amount: 20 }],
  summary: 20,
  role: 'authenticated',
  none: [406, 'PGRST116'],
});

for (const form of ['prefix', 'subdomain']) {
  test(`a page of another origin uses both tenants at once, by ${form}`, async () => {
    const tenants = places.filter((place) => place.form === form).map(described);
    const { shown, sent } = await visit(fleet.pages.allowed, tenants);
    assert.deepEqual(shown.map(([slug]) => slug), ['acme', 'globex']);
    for (const [n, [slug, { branches, ...rest }]] of shown.entries()) {
      assert.deepEqual(rest, written(tenants[n].family));
      assert.equal(branches.length, 1);
      assert.ok(branches[0].name.toLowerCase().startsWith(slug), branches[0].name);
      assert.deepEqual(branches[0].staff.map((row) => row.email.split('@')[1]), Array(2).fill(`${slug}.example`));
    }
    for (const { url } of tenants) {
      assert.ok(preflights(sent, url) > 0, `no preflight to ${url}`);
    }
  });
}

test('a tenant with origins of its own: pages of these work, the browser refuses others', async () => {
  const { slug, url, tokens } = fleet.picky;
  const direct = new PostgrestClient(url, { headers: { Authorization: `Bearer ${tokens.service}` } });
  const ok = ({ data, error }) => {
    assert.equal(error, null);
    return data;
  };
  ok(await direct.from('branches').insert({ name: 'First', city: 'Linz', phone: '1', opened_on: '2020-01-01' }));
  ok(await direct.from('services').insert({ code: 'CONS', name: 'Consultation', duration: '00:30:00', price: 60 }));

  const welcome = described(fleet.picky);
  const [[, { branches, ...rest }]] = (await visit(fleet.pages.allowed, [welcome])).shown;
  assert.deepEqual(rest, written(welcome.family));
  assert.deepEqual(branches, [{ name: 'First', staff: [] }]);

  const { shown, sent } = await visit(fleet.pages.other, [described(fleet.picky), described(places[0])]);
  const answers = Object.fromEntries(shown);
  assert.match(answers[slug].failed, /Failed to fetch/);
  assert.equal(answers[places[0].slug].failed, undefined, 'the same page may use other tenants');
  assert.ok(preflights(sent, url) > 0);

  // The tenant itself answers, and the refused page wrote nothing.
  const patients = ok(await direct.from('patients').select('family_name'));
  assert.deepEqual(patients, [{ family_name: welcome.family }]);
});
