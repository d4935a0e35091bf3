// Adapters, for operators: what is there in which state, acts, uploads, and how fast the server is.
import { useEffect, useState } from 'preact/hooks';
import { AdapterGroup } from '../parts/AdapterGroup';
import { ErrorNote } from '../parts/ErrorNote';
import { Latency } from '../parts/Latency';
import { Upload } from '../parts/Upload';
import type { AdapterVersion } from '../api/types';
import { adaptersError, loadAdapters, versions } from '../state/adapters';
import { key } from '../state/key';
import { T } from '../texts';

export function AdaptersPage() {
  const given = key.value;
  const [filter, setFilter] = useState('');
  useEffect(() => void loadAdapters(), [given]);
  const error = adaptersError.value;
  return (
    <div class="page">
      <Upload />
      <div class="adapters">
        <div class="row spread">
          <h2>{T.adapters.heading}</h2>
          <input
            class="filter"
            type="text"
            aria-label={T.adapters.filter}
            placeholder={T.adapters.filter}
            value={filter}
            onInput={(event) => setFilter(event.currentTarget.value)}
          />
        </div>
        {error && <ErrorNote error={error} onRetry={() => void loadAdapters()} />}
        {!versions.value && !error && <p class="note">{T.adapters.loading}</p>}
        {versions.value?.length === 0 && <p class="note">{T.adapters.empty}</p>}
        {byName((versions.value ?? []).filter((version) => matches(version, filter))).map(([name, group]) => (
          <AdapterGroup key={name} name={name} versions={group} />
        ))}
      </div>
      <Latency />
    </div>
  );
}

/** By name, kind or state. */
function matches({ name, kind = '', state }: AdapterVersion, filter: string): boolean {
  const wanted = filter.trim().toLowerCase();
  return [name, kind, T.adapters.stateName(state)].some((text) => text.toLowerCase().includes(wanted));
}

/** Names in alphabetical order, each with its newest version first. */
function byName(all: AdapterVersion[]): [string, AdapterVersion[]][] {
  const groups = new Map<string, AdapterVersion[]>();
  for (const version of all) groups.set(version.name, [version, ...(groups.get(version.name) ?? [])]);
  return [...groups].sort(([a], [b]) => a.localeCompare(b));
}
