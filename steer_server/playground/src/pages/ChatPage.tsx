// Chat: one prompt, answered under two settings side by side.
import { signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { Controls } from '../parts/Controls';
import { AnswerCard } from '../parts/AnswerCard';
import { Composer } from '../parts/Composer';
import { compareWords } from '../pure/diff';
import { isOpen } from '../state/answers';
import { type Turn, turns } from '../state/conversation';
import { SIDES } from '../state/settings';
import { T } from '../texts';

const marksDifferences = signal(true);

export function ChatPage() {
  const end = useRef<HTMLDivElement>(null);
  const count = turns.value.length;
  useEffect(() => {
    if (count > 0) end.current?.scrollIntoView({ block: 'end' });
  }, [count]);
  return (
    <div class="workbench">
      <Controls sides={SIDES} />
      <section class="main chat" aria-label={T.chat.heading}>
        {count === 0 ? (
          <div class="empty">
            <p>{T.chat.empty}</p>
            <p class="note">{T.chat.emptyMore}</p>
          </div>
        ) : (
          turns.value.map((turn) => <Exchange key={turn.id} turn={turn} />)
        )}
        <div ref={end} />
        <Composer />
      </section>
    </div>
  );
}

function Exchange({ turn }: { turn: Turn }) {
  const a = turn.answers.A.value;
  const b = turn.answers.B.value;
  const isCompared = !isOpen(a) && !isOpen(b) && a.text !== '' && b.text !== '';
  const difference = isCompared ? compareWords(a.text, b.text) : null;
  const marked = marksDifferences.value ? difference : null;
  return (
    <div class="exchange">
      <p class="prompt">{turn.prompt}</p>
      <div class="pair-of-answers">
        <AnswerCard side="A" answer={a} setting={turn.settings.A} prompt={turn.prompt} pieces={marked?.left ?? null} />
        <AnswerCard side="B" answer={b} setting={turn.settings.B} prompt={turn.prompt} pieces={marked?.right ?? null} />
      </div>
      {difference && (
        <div class="row spread differences">
          <p class="note" role="status">
            {difference.onlyLeft + difference.onlyRight === 0
              ? T.chat.equal
              : T.chat.differ(difference.onlyLeft, difference.onlyRight)}
          </p>
          <label class="check">
            <input
              type="checkbox"
              checked={marksDifferences.value}
              onChange={(event) => (marksDifferences.value = event.currentTarget.checked)}
            />
            {T.chat.differences}
          </label>
        </div>
      )}
    </div>
  );
}
