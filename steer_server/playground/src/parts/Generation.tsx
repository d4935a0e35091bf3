// What both sides generate with.
import { generation, type Generation as Values } from '../state/settings';
import { T } from '../texts';

export function Generation() {
  const { maxTokens, temperature, seed, system } = generation.value;
  const set = (part: Partial<Values>) => {
    generation.value = { ...generation.value, ...part };
  };
  return (
    <details class="fold">
      <summary>{T.generation.heading}</summary>
      <div class="fields">
        <label>
          {T.generation.maxTokens}
          <input
            type="number"
            min={1}
            value={maxTokens}
            onChange={(event) => set({ maxTokens: Math.max(1, Math.round(event.currentTarget.valueAsNumber) || 1) })}
          />
        </label>
        <label>
          {T.generation.temperature}
          <input
            type="number"
            min={0}
            max={2}
            step={0.1}
            value={temperature}
            onChange={(event) => set({ temperature: Math.max(0, event.currentTarget.valueAsNumber || 0) })}
          />
        </label>
        <label>
          {T.generation.seed}
          <input
            type="number"
            step={1}
            placeholder={T.generation.seedNone}
            value={seed ?? ''}
            onChange={(event) => {
              const number = event.currentTarget.valueAsNumber;
              set({ seed: Number.isFinite(number) ? Math.round(number) : null });
            }}
          />
        </label>
      </div>
      <label class="stacked">
        {T.generation.system}
        <textarea rows={2} value={system} onInput={(event) => set({ system: event.currentTarget.value })} />
      </label>
    </details>
  );
}
