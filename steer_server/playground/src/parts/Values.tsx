// The value axes of one adapter, as shares that sum to 1; the policy's floors are limits on their sliders.
import type { Catalogue } from '../api/types';
import { equalShares, mostShare, withShare } from '../pure/weights';
import { change, edited } from '../state/settings';
import { T } from '../texts';
import { Slider } from './Slider';
import { asName, weight } from './format';

export function Values({ catalogue: { values, policy } }: { catalogue: Catalogue }) {
  if (values.length === 0) return null;
  const shares = edited.value.values;
  const ids = Object.keys(shares);
  const adapters = [...new Set(values.map((axis) => axis.adapter))];
  const current = values.find((axis) => axis.id === ids[0])?.adapter;
  const floors = policy.value_floors;
  const use = (adapter: string | undefined) => {
    const axes = values.filter((axis) => axis.adapter === adapter).map((axis) => axis.id);
    change({ values: axes.length > 0 ? equalShares(axes, floors) : {} });
  };
  return (
    <section>
      <h2>{T.controls.values}</h2>
      <label class="check">
        <input
          type="checkbox"
          checked={ids.length > 0}
          onChange={(event) => use(event.currentTarget.checked ? adapters[0] : undefined)}
        />
        {T.controls.steerValues}
      </label>
      {ids.length > 0 && adapters.length > 1 && (
        <label class="line">
          {T.controls.valuesOf}
          <select value={current} onChange={(event) => use(event.currentTarget.value)}>
            {adapters.map((adapter) => (
              <option>{adapter}</option>
            ))}
          </select>
        </label>
      )}
      {ids.map((id) => (
        <Slider
          key={id}
          label={asName(id)}
          title={values.find((axis) => axis.id === id)?.description}
          value={shares[id]!}
          most={1}
          lowest={floors[id] ?? 0}
          highest={mostShare(id, ids, floors)}
          note={floors[id] ? T.controls.floor(weight(floors[id]!)) : undefined}
          onInput={(value) => change({ values: withShare(shares, id, value, floors) })}
        />
      ))}
    </section>
  );
}
