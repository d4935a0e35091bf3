// Packages on their way to the server, one after another, and what became of each.
import { signal } from '@preact/signals';
import { getJson } from '../api/client';
import { type ApiError, asApiError } from '../api/errors';
import type { AdapterVersion, Act } from '../api/types';
import { uploadPackage } from '../api/upload';
import { readAgain } from './adapters';

const LOOK_EVERY_MS = 300;

export type Outcome = { fileName: string } & ({ taken: AdapterVersion } | { error: ApiError });

/** The share of the package's bytes that are sent, from 0 to 1; null when none is on its way. */
export const sent = signal<number | null>(null);
/** What the server has done with the package on its way, or with the last one, oldest first. */
export const steps = signal<Act[]>([]);
/** Of the packages since there last was none on its way. */
export const outcomes = signal<Outcome[]>([]);

const waiting: { file: File; activates: boolean }[] = [];

/** Sends the files after those that are on their way. Never throws: an error is an outcome. */
export async function upload(files: Iterable<File>, activates: boolean): Promise<void> {
  waiting.push(...[...files].map((file) => ({ file, activates })));
  if (sent.value !== null) return;
  outcomes.value = [];
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    sent.value = 0;
    const outcome = await sendOne(next.file, next.activates);
    outcomes.value = [...outcomes.value, outcome];
  }
  sent.value = null;
}

async function sendOne(file: File, activates: boolean): Promise<Outcome> {
  steps.value = [];
  const watching = await watchAudit((acts) => (steps.value = acts));
  try {
    return { fileName: file.name, taken: await uploadPackage(file, activates, (share) => (sent.value = share)) };
  } catch (caught) {
    return { fileName: file.name, error: asApiError(caught) };
  } finally {
    await watching.end();
    await readAgain();
  }
}

/** Shows the acts that the audit gains from now on, oldest first, until `end`. */
async function watchAudit(show: (acts: Act[]) => void) {
  const read = async () => (await getJson<{ data: Act[] }>('/v1/audit?limit=20')).data;
  // A key that may not read it may not upload either, and the upload itself says so.
  const before = await read().catch(() => null);
  let isOver = before === null;
  const last = before?.[0]?.id ?? 0;
  const look = async () => {
    const acts = await read().catch(() => []);
    if (acts.length > 0 && !isOver) show(acts.filter((act) => act.id > last).reverse());
  };
  const watch = async () => {
    while (!isOver) {
      await look();
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  };
  void watch();
  return {
    end: async () => {
      if (!isOver) await look();
      isOver = true;
    },
  };
}
