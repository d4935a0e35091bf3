import { expect, it } from 'vitest';
import { errorOf } from './errors';

it('is in the server’s words, with the field, the code and when to come back', () => {
  const body = JSON.stringify({ error: { message: 'Busy.', code: 'no_bank_slot', param: 'steering' } });
  expect(errorOf(503, body, '3')).toMatchObject({ message: 'Busy.', code: 'no_bank_slot', param: 'steering', retryAfterSeconds: 3 });
});

it.each(['', '<html>', 'null', '{"detail": "x"}'])('has words of its own for a body such as %j', (body) => {
  expect(errorOf(502, body, null)).toMatchObject({ message: 'The server answered with status 502.', status: 502 });
});

it('takes a date as the time to come back, and nothing else', () => {
  const soon = new Date(Date.now() + 30_000).toUTCString();
  expect(errorOf(503, '', soon).retryAfterSeconds).toBeGreaterThan(25);
  expect(errorOf(503, '', 'Thu, 01 Jan 1970 00:00:00 GMT').retryAfterSeconds).toBe(0);
  expect(errorOf(503, '', 'later').retryAfterSeconds).toBeUndefined();
});
