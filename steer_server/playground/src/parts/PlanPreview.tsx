// What the server would apply for the controls as they are, asked without generating.
import { useEffect, useState } from 'preact/hooks';
import { postJson } from '../api/client';
import { type ApiError, asApiError, isAbort } from '../api/errors';
import { type Pause, patiently } from '../api/retry';
import type { Plan } from '../api/types';
import { steersBySomething, toSteering } from '../pure/setting';
import { catalogue, model } from '../state/catalogue';
import { edited, heads } from '../state/settings';
import { T } from '../texts';
import { AppliedAdapters } from './Applied';
import { Busy } from './Busy';
import { ErrorNote } from './ErrorNote';

/** A slider in motion does not ask at every step. */
const QUIET_MS = 200;

export function PlanPreview() {
  const [plan, setPlan] = useState<Plan | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [pause, setPause] = useState<Pause | null>(null);
  const isEmpty = !steersBySomething(edited.value);
  const body = JSON.stringify({ model: model.value, steering: toSteering(edited.value, heads.value) });
  // A new catalogue may resolve the same controls to other versions.
  const known = catalogue.value;
  useEffect(() => {
    if (isEmpty) return;
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const post = () => postJson<Plan>('/v1/steering/plan', JSON.parse(body), abort.signal);
        setPlan(await patiently(post, abort.signal, setPause));
        setError(null);
      } catch (caught) {
        if (!isAbort(caught)) setError(asApiError(caught));
      }
    }, QUIET_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [body, isEmpty, known]);
  return (
    <section class="preview" aria-live="polite">
      <h2>{T.plan.heading}</h2>
      {isEmpty ? (
        <p class="note">{T.plan.empty}</p>
      ) : pause ? (
        <Busy pause={pause} />
      ) : error ? (
        <ErrorNote error={error} />
      ) : plan ? (
        <AppliedAdapters plan={plan} none={T.plan.base} />
      ) : (
        <p class="note">{T.plan.waiting}</p>
      )}
    </section>
  );
}
