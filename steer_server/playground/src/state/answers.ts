// One streamed answer, from its request to what was applied.
import { type Signal, signal } from '@preact/signals';
import { type ApiError, asApiError, isAbort } from '../api/errors';
import type { Pause } from '../api/retry';
import { streamChat } from '../api/stream';
import type { AppliedSteering, ChatRequest } from '../api/types';

export interface Answer {
  status: 'waiting' | 'streaming' | 'done' | 'stopped' | 'failed';
  text: string;
  request: ChatRequest;
  steering: AppliedSteering | null;
  error: ApiError | null;
  /** While the server is busy. */
  pause: Pause | null;
  /** Measured here, from the request that was taken to the first piece of text. */
  firstTextMs: number | null;
}

export type AnswerSignal = Signal<Answer>;

export function newAnswer(request: ChatRequest): AnswerSignal {
  return signal<Answer>({
    status: 'waiting',
    text: '',
    request,
    steering: null,
    error: null,
    pause: null,
    firstTextMs: null,
  });
}

/** Fills the answer. Never throws: an error is the answer's. */
export async function fill(answer: AnswerSignal, abort: AbortSignal): Promise<void> {
  let started = performance.now();
  const update = (part: Partial<Answer>) => (answer.value = { ...answer.value, ...part });
  const onPause = (pause: Pause | null) => {
    started = performance.now();
    update({ pause });
  };
  try {
    for await (const { text, steering } of streamChat(answer.value.request, abort, onPause)) {
      if (text) {
        const firstTextMs = answer.value.firstTextMs ?? performance.now() - started;
        update({ status: 'streaming', text: answer.value.text + text, firstTextMs });
      }
      if (steering) update({ steering });
    }
    update({ status: 'done' });
  } catch (error) {
    if (isAbort(error)) update({ status: 'stopped' });
    else update({ status: 'failed', error: asApiError(error) });
  }
}

export function isOpen(answer: Answer): boolean {
  return answer.status === 'waiting' || answer.status === 'streaming';
}
