import { describe, expect, it } from 'vitest';
import type { ChatRequest } from '../api/types';
import { asCurl, asPython } from './snippets';

const request: ChatRequest = {
  model: 'fake',
  messages: [{ role: 'user', content: "What's “right”? It’s $HOME `x` \\ \n end" }],
  max_tokens: 8,
  temperature: 0,
  steering: { cultures: { amber: 0.6 } },
};

// That both commands send exactly this request is tested by running them: tests/playground/test_snippets.py.
describe('curl', () => {
  it('holds the request as JSON in single quotes', () => {
    const found = /-d '([\s\S]*)'$/.exec(asCurl(request, 'http://h', false));
    expect(JSON.parse(found![1]!.replaceAll(`'\\''`, "'"))).toEqual(request);
  });

  it('names the key’s variable, and never the key', () => {
    expect(asCurl(request, 'http://h', true)).toContain('-H "Authorization: Bearer $STEER_KEY"');
    expect(asCurl(request, 'http://h', false)).not.toContain('Authorization');
    expect(asPython(request, 'http://h', true)).toContain('api_key=os.environ["STEER_KEY"]');
  });
});

describe('Python', () => {
  it('puts steering where the OpenAI client takes it', () => {
    expect(asPython(request, 'http://h', false)).toContain('extra_body={"steering": {"cultures": {"amber": 0.6}}},');
  });

  it('writes long values over several lines', () => {
    const long = { ...request, steering: { reward_heads: Array.from({ length: 12 }, (_, i) => `head-number-${i}`) } };
    const lines = asPython(long, 'http://h', false).split('\n');
    expect(Math.max(...lines.filter((line) => !line.includes('messages')).map((line) => line.length))).toBeLessThan(100);
  });
});
