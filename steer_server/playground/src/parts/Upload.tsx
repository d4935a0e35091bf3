// Dropping a package: how much is sent, and what the server has checked, while it does so.
import { useRef, useState } from 'preact/hooks';
import { getJson } from '../api/client';
import { type ApiError, asApiError } from '../api/errors';
import { uploadPackage } from '../api/upload';
import type { AdapterVersion, Act } from '../api/types';
import { loadAdapters } from '../state/adapters';
import { loadCatalogue } from '../state/catalogue';
import { T } from '../texts';
import { ErrorNote } from './ErrorNote';
import { percent } from './format';

const LOOK_EVERY_MS = 300;

export function Upload() {
  const [isOver, setOver] = useState(false);
  const [activates, setActivates] = useState(true);
  const [sent, setSent] = useState<number | null>(null);
  const [steps, setSteps] = useState<Act[]>([]);
  const [taken, setTaken] = useState<AdapterVersion | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const input = useRef<HTMLInputElement>(null);

  const take = async (file: File | undefined) => {
    if (!file || sent !== null) return;
    setTaken(null);
    setError(null);
    setSteps([]);
    setSent(0);
    const watching = await watchAudit(setSteps);
    try {
      setTaken(await uploadPackage(file, activates, setSent));
    } catch (caught) {
      setError(asApiError(caught));
    } finally {
      await watching.end();
      setSent(null);
      if (input.current) input.current.value = '';
      await Promise.all([loadAdapters(), loadCatalogue()]);
    }
  };

  return (
    <section class="card upload" aria-label={T.adapters.upload}>
      <h2>{T.adapters.upload}</h2>
      <div
        class={isOver ? 'drop over' : 'drop'}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          void take(event.dataTransfer?.files[0]);
        }}
      >
        <p>{T.adapters.drop}</p>
        <label class="button">
          {T.adapters.choose}
          <input
            ref={input}
            class="visually-hidden"
            type="file"
            accept=".tar,.gz,.tgz,.zip"
            disabled={sent !== null}
            onChange={(event) => void take(event.currentTarget.files?.[0])}
          />
        </label>
      </div>
      <label class="check">
        <input type="checkbox" checked={activates} onChange={(event) => setActivates(event.currentTarget.checked)} />
        {T.adapters.activate}
      </label>
      <div aria-live="polite">
        {sent !== null && <p class="note">{sent < 1 ? T.adapters.sending(percent(sent)) : T.adapters.checking}</p>}
        <ol class="steps">
          {steps.map((step) => (
            <li key={step.id} class={step.outcome === 'refused' ? 'failed' : ''}>
              {T.adapters.action(step.action)}
            </li>
          ))}
        </ol>
        {taken && (
          <p class="ok">
            {T.adapters.taken(`${taken.name}@${taken.version}`, T.adapters.stateName(taken.state).toLowerCase())}
          </p>
        )}
        {error && (
          <>
            <h3>{T.adapters.refused}</h3>
            <ErrorNote error={error} />
          </>
        )}
      </div>
    </section>
  );
}

/** Shows the acts that the audit gains from now on, oldest first, until `end`. */
async function watchAudit(show: (acts: Act[]) => void) {
  const read = async () => (await getJson<{ data: Act[] }>('/v1/audit?limit=20')).data;
  // A key that may not read it may not upload either, and the upload itself says so.
  const before = await read().catch(() => null);
  let isOver = before === null;
  const last = before?.[0]?.id ?? 0;
  const look = async () => {
    const acts = await read().catch(() => []);
    if (acts.length > 0) show(acts.filter((act) => act.id > last).reverse());
  };
  const watch = async () => {
    while (!isOver) {
      await look();
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  };
  void watch();
  return {
    end: async () => {
      if (!isOver) await look();
      isOver = true;
    },
  };
}
