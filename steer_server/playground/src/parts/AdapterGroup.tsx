// One adapter's versions and what an operator may do with each.
import { useState } from 'preact/hooks';
import { type ApiError, asApiError } from '../api/errors';
import type { AdapterVersion } from '../api/types';
import { type Act, act, actsFor, actsForName } from '../state/adapters';
import { T } from '../texts';
import { ErrorNote } from './ErrorNote';
import { Confirm } from './Confirm';
import { bytes } from './format';

interface Asked {
  kind: Act;
  version: string;
}

export function AdapterGroup({ name, versions }: { name: string; versions: AdapterVersion[] }) {
  const [asked, setAsked] = useState<Asked | null>(null);
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const run = async (kind: Act, version: string, detail = '', abort = false) => {
    setAsked(null);
    setBusy(true);
    setError(null);
    try {
      await act(kind, name, version, { detail, abort });
    } catch (caught) {
      setError(asApiError(caught));
    } finally {
      setBusy(false);
    }
  };
  const button = (kind: Act, version: string) => (
    <button
      type="button"
      class="small"
      disabled={isBusy}
      aria-label={T.adapters.actOn(T.adapters.act[kind], version ? `${name}@${version}` : name)}
      onClick={() => (kind === 'quarantine' || kind === 'remove' ? setAsked({ kind, version }) : void run(kind, version))}
    >
      {T.adapters.act[kind]}
    </button>
  );
  const [newest] = versions;
  return (
    <section class="card adapter" aria-label={name}>
      <div class="row spread">
        <div class="named">
          <h3>{name}</h3>
          {newest?.description && <p class="note">{newest.description}</p>}
        </div>
        <div class="row">{actsForName(versions).map((kind) => button(kind, ''))}</div>
      </div>
      <ul class="versions">
        {versions.map((version) => (
          <li key={version.digest ?? version.reason}>
            <div class="version-line">
              <b>{version.version ?? '–'}</b>
              <span class={`state ${version.state}`}>{T.adapters.stateName(version.state)}</span>
              <span class="note facts-line">
                {version.kind && <span>{version.kind}</span>}
                {version.size_bytes !== undefined && <span>{bytes(version.size_bytes)}</span>}
                {version.created_at && (
                  <time dateTime={version.created_at} title={version.pushed_by}>
                    {version.created_at.slice(0, 10)}
                  </time>
                )}
                {version.digest && <code title={version.digest}>{version.digest.slice(0, 8)}</code>}
              </span>
              <span class="row acts">{actsFor(version).map((kind) => button(kind, version.version!))}</span>
            </div>
            {(version.reason || version.problem) && (
              <p class="why">
                {[version.reason && T.adapters.reason(version.reason), version.detail, version.problem]
                  .filter(Boolean)
                  .join(' · ')}
              </p>
            )}
            {asked?.version === version.version && asked && (
              <Confirm
                kind={asked.kind}
                title={`${name}@${asked.version}`}
                onYes={(detail, abort) => void run(asked.kind, asked.version, detail, abort)}
                onNo={() => setAsked(null)}
              />
            )}
          </li>
        ))}
      </ul>
      {error && <ErrorNote error={error} />}
    </section>
  );
}
