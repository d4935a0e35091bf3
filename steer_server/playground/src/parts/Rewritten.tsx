// What became of the prompt: the rewrite beside the original, word by word, and why if there was none.
import type { AppliedSteering } from '../api/types';
import { compareWords } from '../pure/diff';
import { T } from '../texts';
import { Compared } from './DiffText';

export function Rewritten({ steering: { rewrite, prompt: sent }, prompt }: { steering: AppliedSteering; prompt: string }) {
  if (!rewrite) return null;
  const isChanged = typeof sent === 'string' && sent !== prompt;
  return (
    <div class="rewritten">
      <h3>{T.applied.rewrite}</h3>
      <p class="note">
        {T.applied.rewriteStatus(rewrite.status)}
        {rewrite.reason && ` ${T.applied.reason(rewrite.reason)}`}
        {rewrite.detail && ` ${rewrite.detail}`}
      </p>
      {isChanged && <Compared difference={compareWords(prompt, sent)} />}
    </div>
  );
}
