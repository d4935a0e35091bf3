// One of a method's own options: a number, a choice or a text.
import type { Catalogue } from '../api/types';
import type { Option } from '../pure/setting';
import { T } from '../texts';
import { Slider } from './Slider';

interface Props {
  option: Option;
  known: Catalogue;
  /** Undefined until it is changed. */
  value: number | string | undefined;
  onInput: (value: number | string) => void;
}

export function OptionField({ option, known, value, onInput }: Props) {
  const label = T.controls.option(option.key);
  switch (option.kind) {
    case 'number':
      return (
        <Slider
          label={label}
          value={Number(value ?? option.start)}
          least={option.least}
          most={option.most(known)}
          step={option.step}
          onInput={onInput}
        />
      );
    case 'choice':
      return (
        <label class="line">
          {label}
          <select value={value ?? ''} onChange={(event) => onInput(event.currentTarget.value)}>
            <option value="">{T.controls.serversChoice}</option>
            {option.of(known).map((one) => (
              <option>{one}</option>
            ))}
          </select>
        </label>
      );
    case 'text':
      return (
        <label class="stacked">
          {label}
          <textarea rows={2} value={value ?? ''} onInput={(event) => onInput(event.currentTarget.value)} />
        </label>
      );
  }
}
