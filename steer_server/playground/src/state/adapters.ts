// Every adapter version on the server and the operator's acts on them.
import { signal } from '@preact/signals';
import { getJson, headers, postJson, send } from '../api/client';
import type { ApiError } from '../api/errors';
import { byLastCall } from '../api/lastCall';
import type { AdapterVersion } from '../api/types';
import { loadCatalogue } from './catalogue';

export const versions = signal<AdapterVersion[] | null>(null);
export const adaptersError = signal<ApiError | null>(null);

export type Act = 'activate' | 'quarantine' | 'release' | 'rollback' | 'deactivate' | 'remove';

export const loadAdapters = byLastCall(
  () => getJson<{ data: AdapterVersion[] }>('/v1/adapters'),
  ({ data }) => {
    versions.value = data;
    adaptersError.value = null;
  },
  (error) => (adaptersError.value = error),
);

/** Acts, and reads again what is there. Throws: ApiError. */
export async function act(kind: Act, name: string, version: string, why: { detail: string; abort: boolean }): Promise<void> {
  const adapter = `/v1/adapters/${encodeURIComponent(name)}`;
  const label = encodeURIComponent(version);
  try {
    if (kind === 'remove') await send(`${adapter}?version=${label}`, { method: 'DELETE', headers: headers() });
    else if (kind === 'rollback' || kind === 'deactivate') await postJson(`${adapter}/${kind}`);
    else await postJson(`${adapter}/versions/${label}/${kind}`, kind === 'quarantine' ? why : undefined);
  } finally {
    await readAgain();
  }
}

/** What is there after an act. */
export async function readAgain(): Promise<void> {
  // In this order: who sees here that a culture is gone finds it gone from the controls too.
  await loadCatalogue();
  await loadAdapters();
}

/** What may be done with a version in its state. */
export function actsFor({ state, version }: AdapterVersion): Act[] {
  if (version === undefined) return [];
  switch (state) {
    case 'active':
      return ['quarantine'];
    case 'probed':
    case 'retired':
      return ['activate', 'quarantine', 'remove'];
    case 'quarantined':
      return ['release', 'remove'];
    default:
      return [];
  }
}

/** What may be done with a name: its alias moves back, or away. */
export function actsForName(all: AdapterVersion[]): Act[] {
  const acts: Act[] = [];
  if (all.some((one) => one.state === 'retired')) acts.push('rollback');
  if (all.some((one) => one.state === 'active')) acts.push('deactivate');
  return acts;
}
