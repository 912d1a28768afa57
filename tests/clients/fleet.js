// The fleet under test, as the runner (./run) describes it: tenants, their base URLs and tokens.

import dns from 'node:dns';
import { readFileSync } from 'node:fs';

const file = process.env.MANYBOX_CLIENTS;
if (!file) throw new Error('MANYBOX_CLIENTS is not set: these tests are started by ./run, or make test-clients');

export const fleet = JSON.parse(readFileSync(file, 'utf8'));

// Browsers take *.localhost for this machine without asking anybody; node asks the system, and few systems know.
const lookup = dns.lookup;
dns.lookup = (host, ...rest) => lookup(host.endsWith('.localhost') ? '127.0.0.1' : host, ...rest);

// Every tenant in each form of its base URL, with the tenant whose rows and tokens must stay out.
export const places = fleet.tenants.flatMap((tenant) =>
  Object.entries(tenant.urls).map(([form, url]) => ({
    ...tenant,
    form,
    url,
    other: fleet.tenants.find((other) => other !== tenant),
  })),
);

let made = 0;

// A name that no other test, process or earlier run has given to a row.
export const unique = (what) => `${what}-${process.pid}-${Date.now()}-${++made}`;

// A time that no other test books, whichever process it runs in.
export const freeTime = () =>
  new Date(Date.UTC(2100, 0, 1) + ((process.pid * 10_000 + ++made) * 60_000)).toISOString();
