// Sweep: one prompt, one slider from end to end; answers and scores along it.
import type uPlot from 'uplot';
import { useRef } from 'preact/hooks';
import { Chart, type Line } from '../parts/Chart';
import { Controls } from '../parts/Controls';
import { SweepForm, axisTitle } from '../parts/SweepForm';
import { SweepTable } from '../parts/SweepTable';
import { asName, decimal, weight } from '../parts/format';
import { savePng, saveText } from '../parts/save';
import { type Cell, asCsv } from '../pure/csv';
import { isOpen } from '../state/answers';
import { heads } from '../state/settings';
import { type Sweep, changedFromFirst, scoresOf, sweep } from '../state/sweep';
import { T } from '../texts';

export function SweepPage() {
  return (
    <div class="workbench">
      <Controls sides={['B']} />
      <section class="main sweep" aria-label={T.sweep.heading}>
        <SweepForm />
        {sweep.value && <Results found={sweep.value} />}
      </section>
    </div>
  );
}

function Results({ found }: { found: Sweep }) {
  const chart = useRef<uPlot | null>(null);
  const lines = linesOf(found);
  const done = found.points.filter(({ answer }) => !isOpen(answer.value)).length;
  const fileName = `sweep-${found.axis.kind}-${found.axis.id}`;
  const savePicture = () => {
    const drawn = chart.current!;
    const legend = drawn.series.slice(1).map(({ label, stroke }) => ({
      label: String(label),
      colour: typeof stroke === 'function' ? String(stroke(drawn, 1)) : String(stroke),
    }));
    savePng(`${fileName}.png`, drawn.ctx.canvas, found.prompt, legend);
  };
  return (
    <>
      <section class="card">
        <div class="row spread">
          <h2>{T.sweep.plot}</h2>
          <p class="note" role="status">
            {T.sweep.progress(done, found.points.length)}
          </p>
        </div>
        <Chart
          label={T.sweep.plot}
          xs={found.points.map((point) => point.value)}
          lines={lines}
          xLabel={axisTitle(found.axis, found.first)}
          height={300}
          yRange={[0, 1]}
          yShown={(value) => decimal(value)}
          onDrawn={(drawn) => (chart.current = drawn)}
        />
        <p class="note">
          {T.sweep.changed}: {T.sweep.changedAbout}.{heads.value.length === 0 && ` ${T.sweep.noHeads}`}
        </p>
        <div class="row">
          <button type="button" onClick={() => saveText(`${fileName}.csv`, 'text/csv', asCsv(rowsOf(found)))}>
            {T.sweep.csv}
          </button>
          <button type="button" onClick={savePicture}>
            {T.sweep.png}
          </button>
        </div>
      </section>
      <SweepTable found={found} />
    </>
  );
}

/** A line for each head that scored, and one for how much the words change. */
function linesOf(found: Sweep): Line[] {
  const scores = found.points.map(({ answer }) => scoresOf(answer.value));
  const scored = [...new Set(scores.flatMap((one) => Object.keys(one)))];
  return [
    ...scored.map((head) => ({ label: asName(head), values: scores.map((one) => one[head] ?? null) })),
    { label: T.sweep.changed, values: changedFromFirst(found), isDashed: true },
  ];
}

function rowsOf(found: Sweep): Cell[][] {
  const scores = found.points.map(({ answer }) => scoresOf(answer.value));
  const scored = [...new Set(scores.flatMap((one) => Object.keys(one)))];
  const changed = changedFromFirst(found);
  const head = [found.axis.id, 'answer', ...scored, 'changed_words', 'plan', 'error'];
  return [
    head,
    ...found.points.map(({ value, answer: { value: answer } }, i): Cell[] => [
      Number(weight(value)),
      answer.text,
      ...scored.map((one) => scores[i]![one] ?? null),
      changed[i],
      answer.steering?.plan,
      answer.error?.message,
    ]),
  ];
}
