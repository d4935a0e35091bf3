import { expect, it, vi } from 'vitest';

vi.stubGlobal('document', { baseURI: 'http://h/playground/' });
vi.stubGlobal('sessionStorage', { getItem: () => null, removeItem: () => undefined });
const { readEvents } = await import('./stream');

function bodyOf(...parts: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      parts.forEach((part) => controller.enqueue(part));
      controller.close();
    },
  });
}

it('finds the events however the bytes are cut, and stops at the end', async () => {
  const bytes = new TextEncoder().encode('data: {"a": "é"}\n\n: comment\n\ndata: two\r\n\r\ndata: [DONE]\n\ndata: never\n\n');
  for (let cut = 1; cut < bytes.length; cut++) {
    const found: string[] = [];
    for await (const event of readEvents(bodyOf(bytes.slice(0, cut), bytes.slice(cut)))) found.push(event);
    expect(found).toEqual(['{"a": "é"}', 'two']);
  }
});
