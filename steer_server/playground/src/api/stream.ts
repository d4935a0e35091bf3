// A streamed chat answer: server-sent events read from the response as they come.
import type { AppliedSteering, ChatRequest } from './types';
import { headers, send } from './client';
import { ApiError } from './errors';
import { type Pause, patiently } from './retry';

interface Chunk {
  choices?: { index: number; delta?: { content?: string | null } }[];
  steering?: AppliedSteering;
  error?: { message: string; code?: string; param?: string };
}

/** Pieces of text as they come, and at the end what was applied. Throws: as `patiently`. */
export async function* streamChat(
  request: ChatRequest,
  signal: AbortSignal,
  onPause: (pause: Pause | null) => void,
): AsyncGenerator<{ text?: string; steering?: AppliedSteering }> {
  const post = () =>
    send('/v1/chat/completions', {
      method: 'POST',
      headers: headers({ 'Content-Type': 'application/json' }),
      body: JSON.stringify({ ...request, stream: true }),
      signal,
    });
  const response = await patiently(post, signal, onPause);
  for await (const data of readEvents(response.body!)) {
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error) throw new ApiError(chunk.error.message, response.status, chunk.error.code, chunk.error.param);
    const text = chunk.choices?.find((choice) => choice.index === 0)?.delta?.content;
    if (text) yield { text };
    if (chunk.steering) yield { steering: chunk.steering };
  }
}

/** The data of each event up to `[DONE]`. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + decoder.decode(value, { stream: true })).split(/\r?\n\r?\n/);
      rest = events.pop()!;
      for (const event of events) {
        const data = event
          .split(/\r?\n/)
          .filter((line) => line.startsWith('data:'))
          .map((line) => line.slice(5).trimStart())
          .join('\n');
        if (data === '[DONE]') return;
        if (data) yield data;
      }
    }
  } finally {
    await reader.cancel();
  }
}
