// One side's answer: its setting, the text as it comes, and what was applied.
import type { Piece } from '../pure/diff';
import type { Setting } from '../pure/setting';
import { type Answer, isOpen } from '../state/answers';
import { type Side, editing } from '../state/settings';
import { T } from '../texts';
import { Applied } from './Applied';
import { Busy } from './Busy';
import { DiffText } from './DiffText';
import { ErrorNote } from './ErrorNote';
import { settingTitle } from './settingTitle';

interface Props {
  side: Side;
  answer: Answer;
  setting: Setting;
  prompt: string;
  /** The text in pieces, when differences are marked. */
  pieces: Piece[] | null;
}

export function AnswerCard({ side, answer, setting, prompt, pieces }: Props) {
  const { status, text, error, pause, steering } = answer;
  return (
    <article class={`answer side-${side.toLowerCase()}`} aria-label={T.chat.answer(side)}>
      <header>
        <b class="badge" aria-hidden="true">
          {side}
        </b>
        <span class="answer-title">{settingTitle(setting)}</span>
        <button type="button" class="quiet" aria-label={T.chat.edit(side)} aria-pressed={editing.value === side} onClick={() => (editing.value = side)}>
          ✎
        </button>
      </header>
      <div class="said">
        {/* Read out when it is complete: `aria-busy` holds it back until then. */}
        <div class="answer-text" aria-live="polite" aria-busy={isOpen(answer)} data-status={status}>
          {pieces ? <DiffText pieces={pieces} side={side} /> : text}
          {status === 'streaming' && <span class="caret" aria-hidden="true" />}
          {status === 'waiting' && !pause && <span class="note">{T.chat.waiting}</span>}
          {status === 'done' && !text && <span class="note">{T.chat.noText}</span>}
        </div>
        {status === 'stopped' && <p class="note">{T.chat.stopped}</p>}
        {pause && <Busy pause={pause} />}
        {error && <ErrorNote error={error} />}
      </div>
      <footer>
        {steering && <Applied steering={steering} prompt={prompt} text={text} firstTextMs={answer.firstTextMs} />}
        {status === 'done' && !steering && <p class="note">{T.applied.unsteered}</p>}
      </footer>
    </article>
  );
}
