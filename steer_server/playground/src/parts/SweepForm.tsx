// What a sweep is asked: the prompt, the slider that moves, from where to where, in how many points.
import { useState } from 'preact/hooks';
import { LEAST_POINTS, MOST_POINTS, type SweepAxis, sweepAxes } from '../pure/sweep';
import { catalogue } from '../state/catalogue';
import { prompt, settings } from '../state/settings';
import { isSweeping, runSweep, stopSweep } from '../state/sweep';
import { T } from '../texts';
import { Slider } from './Slider';
import { asName } from './format';

export function SweepForm() {
  const [chosen, setChosen] = useState('');
  const [ends, setEnds] = useState<[number, number] | null>(null);
  const [count, setCount] = useState(7);
  const known = catalogue.value;
  if (!known) return null;
  const setting = settings.B.value;
  const axes = sweepAxes(setting, known);
  const axis = axes.find((one) => keyOf(one) === chosen) ?? axes[0];
  if (!axis) return <p class="empty">{T.sweep.nothing}</p>;
  const [first = ''] = Object.keys(setting.cultures);
  const [from, to] = ends ?? [axis.least, axis.most];
  const run = (event: Event) => {
    event.preventDefault();
    const asked = prompt.value.trim();
    if (asked) void runSweep({ prompt: asked, setting, axis, from, to, count, first }, known);
  };
  return (
    <form class="card sweep-form" onSubmit={run}>
      <p class="note">{T.sweep.about}</p>
      <label class="visually-hidden" for="sweep-prompt">
        {T.chat.prompt}
      </label>
      <textarea
        id="sweep-prompt"
        rows={2}
        placeholder={T.chat.placeholder}
        value={prompt.value}
        onInput={(event) => (prompt.value = event.currentTarget.value)}
      />
      <div class="sweep-fields">
        <label class="stacked">
          {T.sweep.setting}
          <select
            value={keyOf(axis)}
            onChange={(event) => {
              setChosen(event.currentTarget.value);
              setEnds(null);
            }}
          >
            {axes.map((one) => (
              <option value={keyOf(one)}>{axisTitle(one, first)}</option>
            ))}
          </select>
        </label>
        <Slider label={T.sweep.from} value={from} least={axis.least} most={axis.most} highest={to} onInput={(at) => setEnds([at, to])} />
        <Slider label={T.sweep.to} value={to} least={axis.least} most={axis.most} lowest={from} onInput={(at) => setEnds([from, at])} />
        <Slider label={T.sweep.points} value={count} least={LEAST_POINTS} most={MOST_POINTS} step={1} onInput={setCount} />
      </div>
      <div class="row end">
        {/* With keys for the same reason as in Composer.tsx. */}
        {isSweeping.value ? (
          <button key="stop" type="button" onClick={stopSweep}>
            {T.sweep.stop}
          </button>
        ) : (
          <button key="run" type="submit" class="primary" disabled={!prompt.value.trim() || from === to}>
            {T.sweep.run}
          </button>
        )}
      </div>
    </form>
  );
}

/** Args: first: the first of two cultures, for a blend. */
export function axisTitle({ kind, id }: SweepAxis, first: string): string {
  switch (kind) {
    case 'strength':
      return T.sweep.strength;
    case 'blend':
      return T.sweep.blend(asName(first), asName(id));
    case 'culture':
      return T.sweep.culture(asName(id));
    case 'value':
      return T.sweep.value(asName(id));
  }
}

function keyOf({ kind, id }: SweepAxis): string {
  return `${kind}:${id}`;
}
