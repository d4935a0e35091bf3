// What became of a draft: how many loops, how much of it changed, what the guard let pass, and the words themselves.
import type { ComponentChildren } from 'preact';
import type { Denoising } from '../api/types';
import { compareWords } from '../pure/diff';
import { T } from '../texts';
import { Compared } from './DiffText';
import { decimal, percent } from './format';

export function Denoised({ denoising, text }: { denoising: Denoising; text: string }) {
  const { outcome, reason, loops, changed_share, candidates, draft_scores, answer_scores, draft } = denoising;
  return (
    <div class="denoised">
      <h3>{T.applied.denoising}</h3>
      <p class="note">
        {T.applied.outcome(outcome)}
        {reason && ` ${T.applied.reason(reason)}`}
      </p>
      <dl class="facts">
        <Fact name={T.applied.loops}>{loops}</Fact>
        <Fact name={T.applied.changed}>{percent(changed_share)}</Fact>
        {candidates && <Fact name={T.applied.guard}>{counted(candidates)}</Fact>}
        {draft_scores && answer_scores && (
          <>
            <Fact name={T.applied.likelihood}>
              {decimal(draft_scores.log_likelihood)} → {decimal(answer_scores.log_likelihood)}
            </Fact>
            <Fact name={T.applied.logRatio}>
              {decimal(draft_scores.log_ratio)} → {decimal(answer_scores.log_ratio)}
            </Fact>
          </>
        )}
      </dl>
      {draft !== text && (
        <details>
          <summary>{T.applied.draft}</summary>
          <Compared difference={compareWords(draft, text)} />
        </details>
      )}
    </div>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function counted(verdicts: Record<string, number>): string {
  return Object.entries(verdicts)
    .map(([verdict, count]) => `${T.applied.verdict(verdict)} ${count}`)
    .join(', ');
}
