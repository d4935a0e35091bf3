// A small map: whose values the cultures are, how much each weighs, and a press to add or remove one.
import type { Culture, Weights } from '../api/types';
import { clamp } from '../pure/weights';
import world from '../map/countries.json';
import { T } from '../texts';
import { asName } from './format';

interface Props {
  cultures: Culture[];
  weights: Weights;
  most: number;
  onPick: (id: string) => void;
}

const OUTLINES: Record<string, string> = world.countries;
const IS_DOT = /a/;
const LAND = Object.values(OUTLINES)
  .filter((outline) => !IS_DOT.test(outline))
  .join('');

/** Nothing, when no culture names a country. Hidden from screen readers: the controls beside it do and say the same. */
export function CultureMap({ cultures, weights, most, onPick }: Props) {
  const shown = cultures
    .map((culture) => ({ ...culture, outline: culture.countries.map((code) => OUTLINES[code] ?? '').join('') }))
    .filter(({ outline }) => outline)
    // A country of several cultures shows the one that is chosen.
    .sort((a, b) => Number(a.id in weights) - Number(b.id in weights));
  if (shown.length === 0) return null;
  return (
    <figure class="map" aria-hidden="true">
      <svg viewBox={`0 0 ${world.width} ${world.height}`}>
        <path class="land" d={LAND} />
        {shown.map(({ id, description, outline }) => (
          <path
            key={id}
            class={id in weights ? 'culture chosen' : 'culture'}
            d={outline}
            data-culture={id}
            style={{ '--part': `${clamp(35 + (65 * (weights[id] ?? 0)) / most, 0, 100)}%` }}
            onClick={() => onPick(id)}
          >
            <title>{T.controls.mapped(asName(id), description)}</title>
          </path>
        ))}
      </svg>
      <figcaption class="note">{T.controls.map}</figcaption>
    </figure>
  );
}
