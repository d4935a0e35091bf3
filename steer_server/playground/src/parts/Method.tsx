// The method, its own options, and the strength.
import type { Catalogue } from '../api/types';
import { optionsFor } from '../pure/setting';
import { change, edited, editing } from '../state/settings';
import { T } from '../texts';
import { OptionField } from './OptionField';
import { Slider } from './Slider';
import { weight } from './format';

/** The plain model first: it is what the others are compared with. */
const ORDER = ['none', 'adapters', 'best_of_n', 'align_pro', 'diffpo'];

export function Method({ catalogue }: { catalogue: Catalogue }) {
  const { method, options } = edited.value;
  const place = (id: string) => (ORDER.includes(id) ? ORDER.indexOf(id) : ORDER.length);
  return (
    <section>
      <fieldset class="choices">
        <legend>{T.controls.method}</legend>
        {[...catalogue.methods]
          .sort((a, b) => place(a) - place(b))
          .map((id) => (
            <label class={id === method ? 'choice chosen' : 'choice'} key={id}>
              <input
                type="radio"
                name={`method-${editing.value}`}
                checked={id === method}
                onChange={() => change({ method: id })}
              />
              {T.controls.methodName(id)}
            </label>
          ))}
      </fieldset>
      <p class="note">{T.controls.methodAbout(method)}</p>
      {optionsFor(edited.value).map((option) => (
        <OptionField
          key={option.key}
          option={option}
          known={catalogue}
          value={options[method]?.[option.key]}
          onInput={(value) =>
            change({ options: { ...options, [method]: { ...options[method], [option.key]: value } } })
          }
        />
      ))}
    </section>
  );
}

export function Strength({ catalogue: { policy } }: { catalogue: Catalogue }) {
  return (
    <section>
      <Slider
        label={T.controls.strength}
        value={edited.value.strength}
        most={policy.max_strength}
        note={T.controls.strengthLimit(weight(policy.max_strength))}
        onInput={(strength) => change({ strength })}
      />
    </section>
  );
}
