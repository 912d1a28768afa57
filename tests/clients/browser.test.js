// supabase-js in a browser, on a page of another origin: what CORS lets through, and what it doesn't.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { fleet, places } from './fleet.js';

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

for (const form of ['prefix', 'subdomain']) {
  test(`a page of another origin uses both tenants at once, by ${form}`, async () => {
    const tenants = places
      .filter((place) => place.form === form)
      .map(({ slug, url, tokens }) => ({ slug, url, token: tokens.service }));
    const { shown, sent } = await visit(fleet.pages.allowed, tenants);
    assert.deepEqual(shown.map(([slug]) => slug), ['acme', 'globex']);
    for (const [slug, { branches, ...rest }] of shown) {
      assert.deepEqual(rest, {
        inserted: { name: 'First' },
        upserted: { name: 'Second' },
        updated: { name: 'Second', price: 13 },
        count: 1,
        csv: 'name,price\nSecond,13.00',
        who: 'service',
        read: 'service',
        none: [406, 'PGRST116'],
        deleted: [{ name: 'Second' }],
      });
      assert.equal(branches.length, 5);
      for (const { name, staff } of branches) {
        assert.ok(name.toLowerCase().startsWith(slug), name);
        assert.deepEqual(staff.map((row) => row.email.split('@')[1]), [`${slug}.example`, `${slug}.example`]);
      }
    }
    for (const { url } of tenants) {
      assert.ok(preflights(sent, url) > 0, `no preflight to ${url}`);
    }
  });
}

test('a tenant with origins of its own: pages of these work, the browser refuses others', async () => {
  const { slug, url, token } = fleet.picky;
  const [[, welcome]] = (await visit(fleet.pages.allowed, [fleet.picky])).shown;
  assert.deepEqual([welcome.failed, welcome.inserted, welcome.count], [undefined, { name: 'First' }, 1]);

  const { shown, sent } = await visit(fleet.pages.other, [fleet.picky, { ...places[0], token: places[0].tokens.service }]);
  const answers = Object.fromEntries(shown);
  assert.match(answers[slug].failed, /Failed to fetch/);
  assert.equal(answers[places[0].slug].failed, undefined, 'the same page may use other tenants');
  assert.ok(preflights(sent, url) > 0);

  // The tenant itself answers: it was the browser that refused.
  const direct = await fetch(`${url}/services?select=id`, { headers: { Authorization: `Bearer ${token}` } });
  assert.equal(direct.status, 200);
  assert.deepEqual(await direct.json(), [], 'and nothing was written');
});
