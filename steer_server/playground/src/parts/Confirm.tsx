// Asks once more before a version is quarantined or removed, and why.
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Act } from '../state/adapters';
import { T } from '../texts';

interface Props {
  kind: Act;
  /** `name@version` */
  title: string;
  onYes: (detail: string, abort: boolean) => void;
  onNo: () => void;
}

export function Confirm({ kind, title, onYes, onNo }: Props) {
  const [detail, setDetail] = useState('');
  const [abort, setAbort] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => form.current?.querySelector<HTMLElement>('input, button')?.focus(), []);
  const act = T.adapters.act[kind];
  return (
    <form
      ref={form}
      class="confirm"
      aria-label={T.adapters.sure(act, title)}
      onSubmit={(event) => {
        event.preventDefault();
        onYes(detail, abort);
      }}
      onKeyDown={(event) => event.key === 'Escape' && onNo()}
    >
      <p>
        <b>{T.adapters.sure(act, title)}</b> {kind === 'quarantine' ? T.adapters.quarantineAbout : T.adapters.removeAbout}
      </p>
      {kind === 'quarantine' && (
        <>
          <label class="stacked">
            {T.adapters.why}
            <input type="text" maxLength={1000} value={detail} onInput={(event) => setDetail(event.currentTarget.value)} />
          </label>
          <label class="check">
            <input type="checkbox" checked={abort} onChange={(event) => setAbort(event.currentTarget.checked)} />
            {T.adapters.abort}
          </label>
        </>
      )}
      <div class="row">
        <button type="submit" class="danger">
          {act}
        </button>
        <button type="button" onClick={onNo}>
          {T.adapters.cancel}
        </button>
      </div>
    </form>
  );
}
