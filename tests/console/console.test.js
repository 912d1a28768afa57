// The console as people use it: signing in, looking, searching, creating, a rollout to its end, and what a viewer may not.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const given = JSON.parse(process.env.CONSOLE);
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const WIDE = { width: 1440, height: 900 };
const PHONE = { width: 360, height: 780 };

let browser;
let owner;

before(async () => {
  browser = await chromium.launch({ executablePath: given.chromium, args: ['--disable-background-networking', '--disable-component-update', '--no-sandbox'] });
  owner = await signedIn(given.tokens.owner);
});

after(() => browser?.close());

// A browser of its own; whatever its pages load from elsewhere, or complain of, fails the test at its end.
async function someone(options = {}) {
  const context = await browser.newContext({ viewport: WIDE, baseURL: given.url, colorScheme: 'light', ...options });
  // A database is dropped behind a checkpoint, for which a busy disk takes a while.
  context.setDefaultTimeout(180_000);
  const page = await context.newPage();
  page.complaints = [];
  page.on('console', (line) => line.type() === 'error' && !/status of 4\d\d/.test(line.text()) && page.complaints.push(line.text()));
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  page.on('request', (request) => request.url().startsWith(given.url) || request.url().startsWith('data:') || page.complaints.push(`asked ${request.url()}`));
  return page;
}

async function signedIn(token, options) {
  const page = await someone(options);
  await page.goto('/');
  assert.match(page.url(), /\/sign-in$/);
  await page.getByLabel('API token').fill(token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.waitForURL((url) => !url.pathname.startsWith('/sign-in'));
  return page;
}

// Nothing serious by axe-core, nothing wider than the screen, and a picture where they are wanted.
async function looksRight(page, name) {
  assert.deepEqual(page.complaints, [], name);
  for (const [theme, viewport] of [['light', WIDE], ['dark', WIDE], ['light', PHONE], ['dark', PHONE]]) {
    await page.emulateMedia({ colorScheme: theme });
    await page.setViewportSize(viewport);
    const [wide, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wide <= screen, `${name} is ${wide} wide on a screen of ${screen}`);
    if (given.screenshots) {
      mkdirSync(given.screenshots, { recursive: true });
      await page.screenshot({ path: `${given.screenshots}/${name}-${theme}-${viewport.width}.png`, fullPage: viewport === PHONE });
    }
    // By the protocol, which no content security policy forbids.
    await page.evaluate(axe);
    const found = await page.evaluate(() => window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] }));
    const serious = found.violations.filter(({ impact }) => ['serious', 'critical'].includes(impact));
    assert.deepEqual(serious.map(({ id, nodes }) => [id, nodes.slice(0, 3).map((node) => [node.html, node.failureSummary])]), [], `${name}, ${theme}, ${viewport.width}`);
  }
  await page.emulateMedia({ colorScheme: 'light' });
  await page.setViewportSize(WIDE);
}

test('nobody sees anything before signing in, and a wrong token says so', async () => {
  const page = await someone();
  for (const path of ['/', '/tenants', '/tenants/acme', '/rollouts', '/journal', '/settings', '/verify']) {
    await page.goto(path);
    assert.match(page.url(), /\/sign-in/, path);
  }
  await page.getByLabel('API token').fill('mbc_nothing');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('alert').getByText('unknown, revoked or expired').waitFor();
  await looksRight(page, 'sign-in');
  await page.getByLabel('API token').fill(given.tokens.owner);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.waitForURL('**/verify');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.waitForURL('**/sign-in');
  await page.goBack();
  await page.goto('/tenants');
  assert.match(page.url(), /\/sign-in/, 'what was signed out stays out');
  await page.context().close();
});

test('the fleet: what there is, and how it goes', async () => {
  const page = owner;
  const began = Date.now();
  const response = await page.goto('/');
  const bytes = (await response.body()).length;
  assert.ok(bytes < 100_000, `the first page has ${bytes} bytes`);
  console.log(`the first page: ${bytes} bytes, loaded in ${Date.now() - began} ms`);
  await page.getByRole('heading', { name: 'Fleet' }).waitFor();
  await page.getByText(/10,\d{3}/).first().waitFor();
  await page.getByRole('region', { name: 'Requests' }).waitFor();
  await looksRight(page, 'fleet');
});

test('tenants: found as one types, filtered, paged, walked through by keys', async () => {
  const page = owner;
  await page.goto('/tenants');
  assert.equal(await page.locator('#results tbody tr').count(), 50);
  await looksRight(page, 'tenants');
  await page.keyboard.press('/');
  await page.keyboard.type('clinic-0600', { delay: 15 });
  await page.waitForFunction(() => document.querySelectorAll('#results tbody tr').length === 2);
  assert.match(page.url(), /q=clinic-0600/);
  await page.keyboard.press('Escape');
  await page.keyboard.press('j');
  await page.keyboard.press('j');
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'clinic-06006');
  await page.keyboard.press('Enter');
  await page.waitForURL('**/tenants/clinic-06006');
  await page.keyboard.press('g');
  await page.keyboard.press('t');
  await page.waitForURL('**/tenants');
  await page.getByLabel('Any state').selectOption('suspended');
  await page.waitForFunction(() => [...document.querySelectorAll('#results .pill')].every((pill) => pill.textContent === 'suspended'));
  await page.getByRole('link', { name: 'Next page' }).click();
  await page.getByRole('link', { name: 'First page' }).waitFor();
  assert.equal(await page.locator('#results tbody tr').count(), 50);
  await page.goto('/tenants?q=nobody-at-all');
  await page.getByText('No tenant matches').waitFor();
});

test('a tenant: made, looked at, changed, suspended, resumed, retired, purged', async () => {
  const page = owner;
  await page.goto('/tenants');
  await page.getByRole('link', { name: 'New tenant' }).click();
  await looksRight(page, 'new-tenant');
  // What was typed stays where something was wrong with it.
  await page.getByLabel('Name', { exact: true }).fill('acme');
  await page.getByLabel('Base URLs of its own').fill('https://second.example');
  await page.getByRole('button', { name: 'Create' }).click();
  await page.getByRole('alert').getByText('taken').waitFor();
  assert.equal(await page.getByLabel('Base URLs of its own').inputValue(), 'https://second.example');
  await page.getByLabel('Name', { exact: true }).fill('new');
  await page.getByRole('button', { name: 'Create' }).click();
  await page.getByRole('status').getByText('new is created and serves').waitFor();
  await page.waitForURL('**/tenants/new');
  await page.getByText('https://second.example').waitFor();

  await page.getByLabel('Setting').selectOption('max_connections');
  await page.getByLabel('Value').fill('0');
  await page.getByRole('button', { name: 'Set', exact: true }).click();
  await page.getByRole('alert').getByText('a number from 1').waitFor();
  await page.getByLabel('Setting').selectOption('db_max_rows');
  await page.getByLabel('Value').fill('77');
  await page.getByRole('button', { name: 'Set', exact: true }).click();
  await page.getByRole('status').getByText('db_max_rows is 77').waitFor();

  const act = async (word, state, fill) => {
    await page.getByRole('button', { name: word, exact: true }).first().click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Reason').fill('tried <b>by</b> a test');
    await fill?.(dialog);
    await dialog.getByRole('button', { name: word, exact: true }).click();
    await page.getByRole('status').getByText(state).waitFor();
  };
  await act('Suspend', 'new is suspended');
  // The server refuses at once, and routers know why within a moment.
  for (let status = 0; status !== 403; ) status = (await page.request.get(`${given.router}/new/items`)).status();
  await page.getByText('“tried <b>by</b> a test”').first().waitFor();
  await act('Resume', 'new is active');
  await act('Retire', 'new is retired');
  await act('Purge', 'new is purged', (dialog) => dialog.getByLabel('Type new to go on').fill('new'));
  await page.goto('/tenants/acme');
  await page.getByRole('heading', { name: 'acme' }).waitFor();
  await looksRight(page, 'tenant');
});

test('a rollout: planned, begun, watched to its end with one tenant failing, and that one left out', async () => {
  const page = owner;
  await page.goto('/rollouts');
  await page.getByRole('link', { name: 'Plan a rollout' }).click();
  await page.getByLabel('Policy').selectOption('careful');
  await looksRight(page, 'new-rollout');
  await page.getByLabel('Only this tenant').fill('nobody-at-all');
  await page.getByRole('button', { name: 'Plan' }).click();
  await page.getByRole('alert').getByText('there is no tenant').waitFor();
  await page.getByLabel('Only this tenant').fill('');
  await page.getByLabel('Edition').selectOption('shop');
  await page.getByRole('button', { name: 'Plan' }).click();
  await page.getByRole('status').getByText(`${given.tenants} tenants in 3 waves`).waitFor();
  assert.equal(await page.locator('.cells i').count(), given.tenants);

  await page.getByRole('button', { name: 'Begin' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Begin' }).click();
  await page.locator('h1 + .pill').getByText('running').waitFor();
  // Cells turn on the page as it is, without another one being loaded.
  await page.evaluate(() => { window.stays = true; });
  await page.locator('.cells i.d').first().waitFor({ state: 'attached' });
  assert.ok(await page.evaluate(() => window.stays), 'the page was not loaded anew');
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.getByRole('dialog').getByLabel('Reason').fill('a look');
  await page.getByRole('dialog').getByRole('button', { name: 'Pause' }).click();
  await page.locator('h1 + .pill').getByText('paused').waitFor();
  await page.getByText('a look').first().waitFor();
  await looksRight(page, 'rollout-paused');
  await page.getByRole('button', { name: 'Go on' }).click();

  // It stops by itself at the one that fails, and says where.
  await page.locator('h1 + .pill').getByText('halted').waitFor({ timeout: 300_000 });
  const failure = page.locator('.failure').filter({ hasText: given.bad });
  await failure.getByText('V2__notes.sql:').first().waitFor();
  await failure.getByText('already exists').first().waitFor();
  assert.equal(await page.locator('.cells i.d').count(), given.tenants - 1);
  assert.equal(await page.locator('.cells i.f').count(), 1);
  await looksRight(page, 'rollout-halted');
  await page.goto('/');
  await page.getByRole('region', { name: 'Needs attention' }).or(page.locator('.attention')).getByText('is halted').first().waitFor();
  await looksRight(page, 'fleet-attention');
  await page.goBack();
  await failure.getByRole('button', { name: 'Leave out' }).click();
  await page.getByRole('status').getByText(`Left out: ${given.bad}`).waitFor();
  await page.getByRole('button', { name: 'Go on all the same' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Go on' }).click();
  await page.locator('h1 + .pill').getByText('done').waitFor();
  assert.equal(await page.locator('.cells i.s').count(), 1);
  await page.goto('/rollouts');
  await page.getByRole('row').filter({ hasText: 'Rollout 1' }).getByText('done').waitFor();
  await looksRight(page, 'rollouts');
});

test('verify: run, followed, reported', async () => {
  const page = owner;
  await page.goto('/verify');
  await page.getByText('There is no report yet').waitFor();
  await page.getByRole('button', { name: 'Verify' }).click();
  await page.getByText(/All green|\d+ finding/).first().waitFor({ timeout: 300_000 });
  await looksRight(page, 'verify');
});

test('the journal tells who did what, and why', async () => {
  const page = owner;
  await page.goto('/journal');
  await page.getByText('olga').first().waitFor();
  await looksRight(page, 'journal');
  await page.getByRole('searchbox').fill(given.bad);
  await page.waitForFunction((slug) => [...document.querySelectorAll('#results .journal li')].every((line) => line.textContent.includes(slug)), given.bad);
  await page.goto('/journal?action=rollout');
  await page.getByText('rollout-paused').waitFor();
  await page.getByText('“a look”').first().waitFor();
});

test('settings: an operator with a token, which is shown once, and revoked', async () => {
  const page = owner;
  await page.goto('/settings');
  await page.getByLabel('Name').fill('<script>alert(1)</script>');
  await page.getByRole('button', { name: 'Add, with a token' }).click();
  const token = await page.locator('#new-token').textContent();
  assert.match(token, /^mbc_/);
  await looksRight(page, 'settings');
  const other = await signedIn(token);
  assert.deepEqual(other.complaints, []);
  await page.goto('/settings');
  assert.ok(!(await page.content()).includes(token), 'it is not shown again');
  await page.getByRole('button', { name: 'Revoke operator <script>' }).click();
  await page.getByRole('status').waitFor();
  await other.goto('/tenants');
  assert.match(other.url(), /\/sign-in/, 'a session ends with its operator');
  await other.context().close();
});

test('somebody who is for some tenants sees these, and nothing of the fleet', async () => {
  const page = await signedIn(given.tokens.some);
  for (const path of ['/rollouts', '/verify', '/journal', '/events']) assert.equal((await page.goto(path)).status(), 403, path);
  await page.goto('/tenants');
  await page.getByText('No tenant matches').waitFor();
  assert.equal((await page.goto('/tenants/acme')).status(), 404);
  assert.deepEqual(await page.locator('.nav a').allTextContents().then((all) => all.map((words) => words.trim().split(/\s/)[0])), []);
  await page.context().close();
});

test('all of it works without a script', async () => {
  const page = await signedIn(given.tokens.owner, { javaScriptEnabled: false });
  await page.goto('/tenants');
  await page.getByLabel('Search tenants').fill('clinic-0600');
  await page.getByRole('button', { name: 'Show' }).click();
  assert.equal(await page.locator('#results tbody tr').count(), 2);
  await page.goto('/tenants/acme');
  await page.getByRole('button', { name: 'Suspend' }).first().click();
  await page.getByRole('dialog').getByRole('button', { name: 'Suspend' }).click();
  await page.getByRole('status').getByText('acme is suspended').waitFor();
  await page.getByRole('button', { name: 'Resume' }).first().click();
  await page.getByRole('dialog').getByRole('button', { name: 'Resume' }).click();
  await page.getByRole('status').getByText('acme is active').waitFor();
  await page.getByRole('button', { name: 'Theme' }).click();
  assert.equal(await page.locator('html').getAttribute('data-theme'), 'dark');
  await page.context().close();
});

test('a viewer looks, and may do nothing', async () => {
  const page = await signedIn(given.tokens.viewer);
  for (const path of ['/', '/tenants', '/tenants/acme', '/rollouts', '/verify', '/journal', '/settings']) {
    assert.equal((await page.goto(path)).status(), 200, path);
    const buttons = await page.locator('main').getByRole('button').allTextContents();
    const left = buttons.filter((words) => !['Copy', 'Cancel'].includes(words.trim()));
    assert.deepEqual(left, [], path);
  }
  for (const path of ['/new-tenant', '/new-rollout']) assert.equal((await page.goto(path)).status(), 403, path);
  await page.goto('/tenants/acme');
  const csrf = await page.locator('input[name=csrf]').first().inputValue();
  for (const [path, form] of [['/tenants/acme/suspend', {}], ['/tenants', { slug: 'mine' }], ['/verify', {}], ['/settings/operators', { name: 'me', role: 'owner' }]]) {
    const status = await page.evaluate(async ([path, body]) => (await fetch(path, { method: 'POST', body: new URLSearchParams(body) })).status, [path, { csrf, ...form }]);
    assert.equal(status, 403, path);
  }
  await page.goto('/tenants/acme');
  await page.locator('.pill').getByText('active').waitFor();
  await page.context().close();
});
