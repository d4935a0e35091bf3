// The conversation: one prompt after another, each answered by both sides, each side with its own history.
import { computed, signal } from '@preact/signals';
import type { Message } from '../api/types';
import type { Setting } from '../pure/setting';
import { type AnswerSignal, fill, isOpen, newAnswer } from './answers';
import { SIDES, type Side, prompt, requestFor, settings } from './settings';

export interface Turn {
  id: number;
  prompt: string;
  answers: Record<Side, AnswerSignal>;
  /** As they were when it was asked. */
  settings: Record<Side, Setting>;
}

export const turns = signal<Turn[]>([]);
export const isAnswering = computed(() =>
  turns.value.some((turn) => SIDES.some((side) => isOpen(turn.answers[side].value))),
);

/** Whether the next prompt goes on from the answers above. Without, the same prompt can be asked again. */
export const goesOn = signal(false);

let abort = new AbortController();

/** The side's history where it goes on, and the prompt as the next message. */
export function messagesFor(side: Side, next: string): Message[] {
  const before = (goesOn.value ? turns.value : []).flatMap((turn): Message[] => {
    const answer = turn.answers[side].value.text;
    // A turn without an answer would be two messages of the user in a row.
    return answer ? [{ role: 'user', content: turn.prompt }, { role: 'assistant', content: answer }] : [];
  });
  return [...before, { role: 'user', content: next }];
}

export function ask(): void {
  const asked = prompt.value.trim();
  if (!asked || isAnswering.value) return;
  abort = new AbortController();
  const answers = {
    A: newAnswer(requestFor('A', messagesFor('A', asked))),
    B: newAnswer(requestFor('B', messagesFor('B', asked))),
  };
  const turn: Turn = {
    id: turns.value.length,
    prompt: asked,
    answers,
    settings: { A: settings.A.value, B: settings.B.value },
  };
  turns.value = [...turns.value, turn];
  if (goesOn.value) prompt.value = '';
  for (const side of SIDES) void fill(answers[side], abort.signal);
}

export function stop(): void {
  abort.abort();
}

export function startAnew(): void {
  stop();
  turns.value = [];
}
