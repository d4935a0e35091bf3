// Reward heads that score both answers, and how much each counts for best_of_n.
import type { Catalogue } from '../api/types';
import { change, edited, heads } from '../state/settings';
import { T } from '../texts';
import { Slider } from './Slider';
import { asName } from './format';

export function Heads({ catalogue: { reward_heads: all } }: { catalogue: Catalogue }) {
  const { method, headWeights } = edited.value;
  const chosen = heads.value;
  const toggle = (id: string) => {
    heads.value = chosen.includes(id) ? chosen.filter((head) => head !== id) : [...chosen, id];
  };
  return (
    <section>
      <h2>{T.heads.heading}</h2>
      <p class="note">{all.length > 0 ? T.heads.about : T.heads.none}</p>
      <div class="chips">
        {all.map(({ id, description }) => (
          <label class={chosen.includes(id) ? 'chip chosen' : 'chip'} title={description} key={id}>
            <input type="checkbox" checked={chosen.includes(id)} onChange={() => toggle(id)} />
            {asName(id)}
          </label>
        ))}
      </div>
      {method === 'best_of_n' && chosen.length > 1 && (
        <div role="group" aria-label={T.heads.weights}>
          <p class="note">{T.heads.weights}</p>
          {chosen.map((id) => (
            <Slider
              key={id}
              label={T.heads.weight(asName(id))}
              value={headWeights[id] ?? 1}
              most={1}
              onInput={(value) => change({ headWeights: { ...headWeights, [id]: value } })}
            />
          ))}
        </div>
      )}
    </section>
  );
}
