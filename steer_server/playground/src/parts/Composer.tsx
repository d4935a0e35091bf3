// Where the prompt is written and sent.
import { ask, goesOn, isAnswering, startAnew, stop, turns } from '../state/conversation';
import { catalogue } from '../state/catalogue';
import { prompt } from '../state/settings';
import { T } from '../texts';

export function Composer() {
  const send = (event: Event) => {
    event.preventDefault();
    ask();
  };
  return (
    <form class="composer" onSubmit={send}>
      <label class="visually-hidden" for="prompt">
        {T.chat.prompt}
      </label>
      <textarea
        id="prompt"
        rows={2}
        placeholder={T.chat.placeholder}
        value={prompt.value}
        onInput={(event) => (prompt.value = event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) send(event);
        }}
      />
      <div class="row">
        <span class="note hint">{T.chat.hint}</span>
        {turns.value.length > 0 && (
          <>
            <label class="check">
              <input
                type="checkbox"
                checked={goesOn.value}
                onChange={(event) => (goesOn.value = event.currentTarget.checked)}
              />
              {T.chat.goOn}
            </label>
            <button type="button" class="quiet" onClick={startAnew}>
              {T.chat.anew}
            </button>
          </>
        )}
        {/* Keys keep them apart: one element that turned into the other while it is clicked would send the form. */}
        {isAnswering.value ? (
          <button key="stop" type="button" onClick={stop}>
            {T.chat.stop}
          </button>
        ) : (
          <button key="ask" type="submit" class="primary" disabled={!prompt.value.trim() || !catalogue.value}>
            {T.chat.ask}
          </button>
        )}
      </div>
    </form>
  );
}
