// What the server says that it applied to an answer: adapters, values, rewrite, denoising, scores and times.
import type { AppliedSteering, Plan } from '../api/types';
import { T } from '../texts';
import { Bar } from './Bar';
import { Denoised } from './Denoised';
import { Rewritten } from './Rewritten';
import { Scores } from './Scores';
import { asName, duration, weight } from './format';

interface Props {
  steering: AppliedSteering;
  /** What was asked, and what was answered. */
  prompt: string;
  text: string;
  firstTextMs: number | null;
}

export function Applied({ steering, prompt, text, firstTextMs }: Props) {
  return (
    <div class="applied">
      <h2>{T.applied.heading}</h2>
      <AppliedAdapters plan={steering} none={T.applied.none} />
      <Rewritten steering={steering} prompt={prompt} />
      {steering.denoising && <Denoised denoising={steering.denoising} text={text} />}
      {steering.rewards && <Scores rewards={steering.rewards} />}
      <p class="times">
        <span title={steering.plan}>
          {T.applied.plan} <code>{steering.plan.slice(0, 8)}</code>
        </span>
        {firstTextMs !== null && (
          <span>
            {T.applied.firstText} {duration(firstTextMs)}
          </span>
        )}
        {Object.entries(steering.timings_ms ?? {})
          .filter(([, ms]) => ms > 0)
          .map(([name, ms]) => (
            <span key={name}>
              {T.applied.timing(name)} {duration(ms)}
            </span>
          ))}
      </p>
    </div>
  );
}

/** Adapters with their versions and weights, and the preference vector. Args: none: said when there are none. */
export function AppliedAdapters({ plan, none }: { plan: Plan; none: string }) {
  const values = Object.entries(plan.values);
  const most = Math.max(1, ...plan.applied.map((one) => Math.abs(one.weight)));
  return (
    <>
      {plan.applied.length === 0 && <p class="note">{none}</p>}
      <ul class="bars">
        {plan.applied.map((one) => (
          <Bar key={one.adapter} name={one.adapter} value={one.weight} most={most} shown={weight(one.weight)} />
        ))}
      </ul>
      {values.length > 0 && (
        <>
          <h3>{T.applied.values}</h3>
          <ul class="bars">
            {values.map(([axis, share]) => (
              <Bar key={axis} name={asName(axis)} value={share} shown={weight(share)} />
            ))}
          </ul>
        </>
      )}
    </>
  );
}
