// A sweep: the same prompt at every point of one slider.
import { computed, signal } from '@preact/signals';
import type { Catalogue } from '../api/types';
import { changedShare } from '../pure/diff';
import type { Setting } from '../pure/setting';
import { type SweepAxis, pointsBetween, settingAt } from '../pure/sweep';
import { type Answer, type AnswerSignal, fill, isOpen, newAnswer } from './answers';
import { requestWith } from './settings';

/** The server batches requests; more at once would only wait there. */
const MOST_AT_ONCE = 4;

export interface SweepPoint {
  value: number;
  answer: AnswerSignal;
}

export interface Sweep {
  prompt: string;
  axis: SweepAxis;
  /** The first of the setting's cultures: where a blend begins. */
  first: string;
  points: SweepPoint[];
}

export const sweep = signal<Sweep | null>(null);
export const isSweeping = computed(() => sweep.value?.points.some(({ answer }) => isOpen(answer.value)) ?? false);

let abort = new AbortController();

export interface SweepPlan {
  prompt: string;
  setting: Setting;
  axis: SweepAxis;
  from: number;
  to: number;
  count: number;
  first: string;
}

export async function runSweep(plan: SweepPlan, catalogue: Catalogue): Promise<void> {
  abort.abort();
  abort = new AbortController();
  const { signal: aborted } = abort;
  const points = pointsBetween(plan.from, plan.to, plan.count).map((value): SweepPoint => {
    const setting = settingAt(plan.setting, plan.axis, value, catalogue);
    return { value, answer: newAnswer(requestWith(setting, [{ role: 'user', content: plan.prompt }])) };
  });
  sweep.value = { prompt: plan.prompt, axis: plan.axis, first: plan.first, points };
  const waiting = [...points];
  const work = async () => {
    for (let point = waiting.shift(); point; point = waiting.shift()) await fill(point.answer, aborted);
  };
  await Promise.all(Array.from({ length: MOST_AT_ONCE }, work));
}

export function stopSweep(): void {
  abort.abort();
}

/** A point's calibrated scores by head; empty until it is answered. */
export function scoresOf(answer: Answer): Record<string, number> {
  const [scores] = answer.steering?.rewards?.scores ?? [];
  return Object.fromEntries(Object.entries(scores ?? {}).map(([head, { calibrated }]) => [head, calibrated]));
}

/** Each point's share of words that differ from the first point's answer; null until both are there. */
export function changedFromFirst({ points }: Sweep): (number | null)[] {
  const [first] = points;
  return points.map(({ answer }) =>
    first?.answer.value.status === 'done' && answer.value.status === 'done'
      ? changedShare(first.answer.value.text, answer.value.text)
      : null,
  );
}
