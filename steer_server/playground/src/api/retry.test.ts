import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { ApiError } from './errors';
import { MOST_WAIT_SECONDS, patiently } from './retry';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const busy = (status: number, seconds?: number) => new ApiError('Busy.', status, 'busy', undefined, undefined, seconds);

/** Fails with each error in turn, then gives 'done'. */
function failing(...errors: Error[]) {
  return vi.fn(async () => {
    const error = errors.shift();
    if (error) throw error;
    return 'done';
  });
}

it('asks again after as long as the server says, and tells of every pause', async () => {
  const attempt = failing(busy(429, 2), busy(503, 0));
  const pauses = vi.fn();
  const found = patiently(attempt, new AbortController().signal, pauses);
  await vi.advanceTimersByTimeAsync(1999);
  expect(attempt).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(attempt).toHaveBeenCalledTimes(2);
  await vi.advanceTimersByTimeAsync(1000);
  expect(await found).toBe('done');
  expect(pauses.mock.calls.map(([pause]) => pause && pause.seconds)).toEqual([2, null, 1, null]);
});

it.each([busy(503), busy(409, 1), busy(429, MOST_WAIT_SECONDS + 1), new Error('other')])('does not wait for %o', async (error) => {
  const attempt = failing(error);
  await expect(patiently(attempt, new AbortController().signal, vi.fn())).rejects.toBe(error);
  expect(attempt).toHaveBeenCalledTimes(1);
});

it('gives up after waiting long enough in all', async () => {
  const attempt = failing(...Array.from({ length: 9 }, () => busy(429, 50)));
  const found = expect(patiently(attempt, new AbortController().signal, vi.fn())).rejects.toThrow('Busy.');
  await vi.advanceTimersByTimeAsync(500_000);
  await found;
  expect(attempt).toHaveBeenCalledTimes(3);
});

it('stops when it is told to, in the middle of a pause', async () => {
  const attempt = failing(busy(429, 60));
  const abort = new AbortController();
  const pauses = vi.fn();
  const found = expect(patiently(attempt, abort.signal, pauses)).rejects.toMatchObject({ name: 'AbortError' });
  await vi.advanceTimersByTimeAsync(10);
  abort.abort();
  await found;
  await vi.advanceTimersByTimeAsync(100_000);
  expect(attempt).toHaveBeenCalledTimes(1);
  expect(pauses).toHaveBeenLastCalledWith(null);
});
