// The cultures of a blend: which ones, by map or by name, the picker for two or three, and each weight.
import type { Catalogue, Weights } from '../api/types';
import { change, edited } from '../state/settings';
import { T } from '../texts';
import { Blend } from './Blend';
import { CultureMap } from './CultureMap';
import { Slider } from './Slider';
import { asName } from './format';

export function Cultures({ catalogue: { cultures, policy } }: { catalogue: Catalogue }) {
  const weights = edited.value.cultures;
  const others = cultures.filter((culture) => !(culture.id in weights));
  const set = (next: Weights) => change({ cultures: next });
  const isFull = Object.keys(weights).length >= policy.max_adapters;
  const add = (id: string) => set({ ...weights, [id]: startWeight(weights, policy.max_weight) });
  const remove = (id: string) => {
    const { [id]: _, ...rest } = weights;
    set(rest);
  };
  return (
    <section>
      <h2>{T.controls.cultures}</h2>
      {cultures.length === 0 && <p class="note">{T.controls.noCultures}</p>}
      <CultureMap
        cultures={cultures}
        weights={weights}
        most={policy.max_weight}
        onPick={(id) => (id in weights ? remove(id) : isFull || add(id))}
      />
      <Blend weights={weights} most={policy.max_weight} onInput={set} />
      {Object.entries(weights).map(([id, weight]) => (
        <Slider
          key={id}
          label={asName(id)}
          title={cultures.find((culture) => culture.id === id)?.description}
          value={weight}
          least={policy.min_weight}
          most={policy.max_weight}
          onInput={(value) => set({ ...weights, [id]: value })}
          onRemove={() => remove(id)}
        />
      ))}
      {others.length > 0 && !isFull && (
        <select
          class="add"
          aria-label={T.controls.addCulture}
          value=""
          onChange={(event) => {
            const id = event.currentTarget.value;
            event.currentTarget.value = '';
            if (id) add(id);
          }}
        >
          <option value="">{T.controls.addCulture} …</option>
          {others.map(({ id, description }) => (
            <option value={id} title={description}>
              {asName(id)}
            </option>
          ))}
        </select>
      )}
    </section>
  );
}

/** As much as the others have on average, so that a new culture is seen at once. */
function startWeight(weights: Weights, most: number): number {
  const all = Object.values(weights).filter((weight) => weight > 0);
  const mean = all.reduce((before, weight) => before + weight, 0) / all.length;
  return all.length > 0 ? Math.round(mean * 100) / 100 : Math.min(1, most);
}
