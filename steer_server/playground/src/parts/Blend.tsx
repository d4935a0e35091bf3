// The picker of a blend: a two-ended slider for two cultures, a triangle for three.
import { useRef } from 'preact/hooks';
import { type Point, type Triangle, type Weights, blended, clamp, sharesOf, ternaryPoint, ternaryShares } from '../pure/weights';
import { T } from '../texts';
import { asName, percent } from './format';

interface Props {
  weights: Weights;
  most: number;
  onInput: (weights: Weights) => void;
}

export function Blend(props: Props) {
  const count = Object.keys(props.weights).length;
  if (count === 2) return <TwoEnds {...props} />;
  return count === 3 ? <Ternary {...props} /> : null;
}

function TwoEnds({ weights, most, onInput }: Props) {
  const [first = '', second = ''] = Object.keys(weights);
  const share = sharesOf(weights)[second]!;
  const said = spoken({ [first]: 1 - share, [second]: share });
  return (
    <div class="two-ends">
      <div class="ends" aria-hidden="true">
        <span>
          {asName(first)} <b>{percent(1 - share)}</b>
        </span>
        <span>
          <b>{percent(share)}</b> {asName(second)}
        </span>
      </div>
      <input
        type="range"
        min={0}
        max={1}
        step={0.01}
        value={share}
        aria-label={T.controls.blendOf([asName(first), asName(second)])}
        aria-valuetext={said}
        style={{ '--part': `${share * 100}%` }}
        onInput={(event) => {
          const to = event.currentTarget.valueAsNumber;
          onInput(blended(weights, { [first]: 1 - to, [second]: to }, most));
        }}
      />
    </div>
  );
}

const WIDTH = 260;
const HEIGHT = 206;
const MARGIN = 26;
const TRIANGLE: Triangle = [
  { x: WIDTH / 2, y: MARGIN - 6 },
  { x: MARGIN, y: HEIGHT - MARGIN },
  { x: WIDTH - MARGIN, y: HEIGHT - MARGIN },
];
const CENTRE: Point = { x: WIDTH / 2, y: (TRIANGLE[0].y + 2 * TRIANGLE[1].y) / 3 };
/** By an arrow key: shares gained by the top, left and right corner. */
const MOVES: Record<string, readonly [number, number, number]> = {
  ArrowUp: [0.02, -0.01, -0.01],
  ArrowDown: [-0.02, 0.01, 0.01],
  ArrowLeft: [0, 0.02, -0.02],
  ArrowRight: [0, -0.02, 0.02],
};

function Ternary({ weights, most, onInput }: Props) {
  const picture = useRef<SVGSVGElement>(null);
  const ids = Object.keys(weights);
  const shares = sharesOf(weights);
  const numbers = ids.map((id) => shares[id]!);
  const point = ternaryPoint(numbers, TRIANGLE);
  const pick = (at: Point) => {
    const [a, b, c] = ternaryShares(at, TRIANGLE);
    onInput(blended(weights, { [ids[0]!]: a, [ids[1]!]: b, [ids[2]!]: c }, most));
  };
  const follow = (event: PointerEvent) => {
    const box = picture.current!.getBoundingClientRect();
    const scale = WIDTH / box.width;
    pick({ x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const moved = numbers.map((share, i) => clamp(share + move[i]!, 0, 1));
    const total = moved.reduce((before, share) => before + share, 0);
    pick(ternaryPoint(moved.map((share) => share / total), TRIANGLE));
  };
  return (
    <svg
      ref={picture}
      class="ternary"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      onPointerDown={(event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        follow(event);
      }}
      onPointerMove={(event) => event.buttons > 0 && follow(event)}
    >
      <path class="area" d={`M${TRIANGLE.map(({ x, y }) => `${x} ${y}`).join('L')}Z`} />
      {TRIANGLE.map((corner) => (
        <line class="guide" x1={CENTRE.x} y1={CENTRE.y} x2={corner.x} y2={corner.y} />
      ))}
      {TRIANGLE.map((corner) => (
        <line class="pull" x1={point.x} y1={point.y} x2={corner.x} y2={corner.y} />
      ))}
      <CornerName at={{ x: WIDTH / 2, y: TRIANGLE[0].y - 7 }} anchor="middle" id={ids[0]!} share={numbers[0]!} />
      <CornerName at={{ x: 4, y: HEIGHT - 6 }} anchor="start" id={ids[1]!} share={numbers[1]!} />
      <CornerName at={{ x: WIDTH - 4, y: HEIGHT - 6 }} anchor="end" id={ids[2]!} share={numbers[2]!} />
      <circle
        class="point"
        cx={point.x}
        cy={point.y}
        r={9}
        tabindex={0}
        role="slider"
        aria-label={`${T.controls.blendOf(ids.map(asName))}. ${T.controls.blendHelp}`}
        aria-valuemin={0}
        aria-valuemax={1}
        aria-valuenow={numbers[0]}
        aria-valuetext={spoken(shares)}
        onKeyDown={onKeyDown}
      />
    </svg>
  );
}

function CornerName({ at, anchor, id, share }: { at: Point; anchor: 'start' | 'middle' | 'end'; id: string; share: number }) {
  return (
    <text class="corner" x={at.x} y={at.y} text-anchor={anchor} aria-hidden="true">
      {asName(id)} {percent(share)}
    </text>
  );
}

function spoken(shares: Weights): string {
  return Object.entries(shares)
    .map(([id, share]) => T.controls.share(asName(id), percent(share)))
    .join(', ');
}
