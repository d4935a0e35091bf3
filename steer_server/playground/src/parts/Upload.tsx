// Dropping packages: how much is sent, what the server has checked, while it does so, and what became of each.
import { useState } from 'preact/hooks';
import { type Outcome, outcomes, sent, steps, upload } from '../state/uploads';
import { T } from '../texts';
import { ErrorNote } from './ErrorNote';
import { percent } from './format';

export function Upload() {
  const [isOver, setOver] = useState(false);
  const [activates, setActivates] = useState(true);
  const share = sent.value;
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
          void upload(event.dataTransfer?.files ?? [], activates);
        }}
      >
        <p>{T.adapters.drop}</p>
        <label class="button">
          {T.adapters.choose}
          <input
            class="visually-hidden"
            type="file"
            accept=".tar,.gz,.tgz,.zip"
            multiple
            onChange={(event) => {
              const input = event.currentTarget;
              void upload(input.files ?? [], activates);
              // The same file can be chosen again, mended.
              input.value = '';
            }}
          />
        </label>
      </div>
      <label class="check">
        <input type="checkbox" checked={activates} onChange={(event) => setActivates(event.currentTarget.checked)} />
        {T.adapters.activate}
      </label>
      <div aria-live="polite">
        {share !== null && <p class="note">{share < 1 ? T.adapters.sending(percent(share)) : T.adapters.checking}</p>}
        <ol class="steps">
          {steps.value.map((step) => (
            <li key={step.id} class={step.outcome === 'refused' ? 'failed' : ''}>
              {T.adapters.action(step.action)}
            </li>
          ))}
        </ol>
        {outcomes.value.map((outcome, index) => (
          <OutcomeNote key={index} outcome={outcome} />
        ))}
      </div>
    </section>
  );
}

function OutcomeNote({ outcome }: { outcome: Outcome }) {
  if ('taken' in outcome) {
    const { name, version, state } = outcome.taken;
    return <p class="ok">{T.adapters.taken(`${name}@${version}`, T.adapters.stateName(state).toLowerCase())}</p>;
  }
  return (
    <>
      <h3>{T.adapters.refused}</h3>
      <p class="note">{outcome.fileName}</p>
      <ErrorNote error={outcome.error} />
    </>
  );
}
