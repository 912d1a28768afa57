// @supabase/postgrest-js, straight at a tenant's base URL.

import { PostgrestClient } from '@supabase/postgrest-js';
import { behaviour } from './behaviour.js';

behaviour('postgrest-js', (url, token) =>
  new PostgrestClient(url, { headers: token ? { Authorization: `Bearer ${token}` } : {} }));
