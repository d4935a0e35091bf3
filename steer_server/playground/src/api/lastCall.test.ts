import { expect, it, vi } from 'vitest';
import { byLastCall } from './lastCall';

it('hands over what the last call finds, whichever answer comes first', async () => {
  const answers: ((value: string) => void)[] = [];
  const found = vi.fn();
  const load = byLastCall(() => new Promise<string>((resolve) => answers.push(resolve)), found, vi.fn());
  const calls = [load(), load()];
  answers[1]!('new');
  answers[0]!('old');
  await Promise.all(calls);
  expect(found.mock.calls).toEqual([['new']]);
});

it('hands over an error of the last call alone', async () => {
  const failed = vi.fn();
  const load = byLastCall(() => Promise.reject(new Error('no')), vi.fn(), failed);
  await Promise.all([load(), load()]);
  expect(failed).toHaveBeenCalledTimes(1);
});
