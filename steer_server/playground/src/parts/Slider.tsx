// A labelled slider with its exact number beside it, and the parts of its track that are out of bounds.
import { useId } from 'preact/hooks';
import { clamp, rounded } from '../pure/weights';
import { T } from '../texts';

interface Props {
  label: string;
  value: number;
  /** Ends of the track. */
  least?: number;
  most: number;
  step?: number;
  /** What the value may be; the rest of the track is hatched. */
  lowest?: number;
  highest?: number;
  /** Why it is limited. */
  note?: string;
  title?: string;
  onInput: (value: number) => void;
  onRemove?: () => void;
}

export function Slider(props: Props) {
  const { label, value, least = 0, most, step = 0.01, onInput } = props;
  const { lowest = least, highest = most } = props;
  const id = useId();
  const note = props.note && `${id}-note`;
  const part = (at: number) => (most > least ? ((at - least) / (most - least)) * 100 : 0);
  const take = (number: number) => {
    if (Number.isFinite(number)) onInput(rounded(clamp(number, lowest, highest)));
  };
  return (
    <div class="slider" title={props.title}>
      <div class="slider-line">
        <label for={id}>{label}</label>
        <input
          class="exact"
          type="number"
          aria-label={T.controls.exact(label)}
          min={lowest}
          max={highest}
          step={step}
          value={value}
          onChange={(event) => {
            take(event.currentTarget.valueAsNumber);
            event.currentTarget.value = String(value);
          }}
        />
        {props.onRemove && (
          <button type="button" class="quiet icon" aria-label={T.controls.remove(label)} onClick={props.onRemove}>
            ×
          </button>
        )}
      </div>
      <div class="track">
        <input
          id={id}
          type="range"
          min={least}
          max={most}
          step={step}
          value={value}
          aria-describedby={note}
          style={{ '--part': `${part(value)}%` }}
          onInput={(event) => {
            take(event.currentTarget.valueAsNumber);
            // The thumb stays at the limit, also when the value does not change.
            event.currentTarget.value = String(clamp(event.currentTarget.valueAsNumber, lowest, highest));
          }}
        />
        {lowest > least && <span class="out" style={{ left: '0', width: `${part(lowest)}%` }} />}
        {highest < most && <span class="out" style={{ right: '0', width: `${100 - part(highest)}%` }} />}
      </div>
      {props.note && (
        <p class="note" id={note}>
          {props.note}
        </p>
      )}
    </div>
  );
}
