// The answers along a sweep, with their scores; words that the answer before did not have are marked.
import { compareWords } from '../pure/diff';
import { isOpen } from '../state/answers';
import { type Sweep, type SweepPoint, scoresOf } from '../state/sweep';
import { T } from '../texts';
import { Bar } from './Bar';
import { Busy } from './Busy';
import { DiffText } from './DiffText';
import { asName, decimal, weight } from './format';

export function SweepTable({ found }: { found: Sweep }) {
  return (
    <section class="card" aria-label={T.sweep.answers}>
      <h2>{T.sweep.answers}</h2>
      <ol class="points">
        {found.points.map((point, i) => (
          <Row key={point.value} point={point} before={found.points[i - 1]} />
        ))}
      </ol>
    </section>
  );
}

function Row({ point, before }: { point: SweepPoint; before: SweepPoint | undefined }) {
  const answer = point.answer.value;
  const previous = before?.answer.value;
  const isCompared = previous?.status === 'done' && answer.status === 'done';
  return (
    <li>
      <b class="at">{weight(point.value)}</b>
      <div>
        <p class="answer-text" aria-busy={isOpen(answer)}>
          {isCompared ? <DiffText pieces={compareWords(previous.text, answer.text).right} side="B" /> : answer.text}
          {isOpen(answer) && !answer.text && <span class="note">…</span>}
        </p>
        {answer.pause && <Busy pause={answer.pause} />}
        {answer.error && <p class="error">{answer.error.message}</p>}
        {answer.status === 'stopped' && <p class="note">{T.chat.stopped}</p>}
      </div>
      <ul class="bars">
        {Object.entries(scoresOf(answer)).map(([head, score]) => (
          <Bar key={head} name={asName(head)} value={score} shown={decimal(score)} />
        ))}
      </ul>
    </li>
  );
}
