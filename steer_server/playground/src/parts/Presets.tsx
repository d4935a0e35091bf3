// Presets: the server's, and one's own.
import { useState } from 'preact/hooks';
import type { Catalogue, Steering } from '../api/types';
import { toSteering } from '../pure/setting';
import { forgetPreset, ownPresets, savePreset } from '../state/presets';
import { edited, heads, loadPreset } from '../state/settings';
import { T } from '../texts';

export function Presets({ catalogue: { presets } }: { catalogue: Catalogue }) {
  const [name, setName] = useState('');
  const save = (event: Event) => {
    event.preventDefault();
    if (!name.trim()) return;
    savePreset(name.trim(), toSteering(edited.value, heads.value));
    setName('');
  };
  return (
    <details class="fold">
      <summary>{T.presets.heading}</summary>
      {presets.length > 0 && <p class="note">{T.presets.server}</p>}
      <div class="chips">
        {presets.map(({ id, steering }) => (
          <LoadButton id={id} steering={steering} key={id} />
        ))}
      </div>
      <p class="note">{T.presets.own}</p>
      <div class="chips">
        {ownPresets.value.map(({ id, steering }) => (
          <span class="pair" key={id}>
            <LoadButton id={id} steering={steering} />
            <button type="button" class="quiet icon" aria-label={T.presets.forget(id)} onClick={() => forgetPreset(id)}>
              ×
            </button>
          </span>
        ))}
      </div>
      <form class="row" onSubmit={save}>
        <input
          type="text"
          aria-label={T.presets.name}
          placeholder={T.presets.name}
          value={name}
          maxLength={60}
          onInput={(event) => setName(event.currentTarget.value)}
        />
        <button type="submit">{T.presets.save}</button>
      </form>
    </details>
  );
}

function LoadButton({ id, steering }: { id: string; steering: Steering }) {
  return (
    <button type="button" class="chip" title={JSON.stringify(steering)} aria-label={T.presets.load(id)} onClick={() => loadPreset(steering)}>
      {id}
    </button>
  );
}
