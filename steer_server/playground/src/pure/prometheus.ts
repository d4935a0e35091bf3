// Prometheus' text format, as far as the charts need it: values, and quantiles of histograms between two scrapes.

export type Labels = Record<string, string>;

export interface Sample {
  name: string;
  labels: Labels;
  value: number;
}

/** The samples of one scrape; comments and lines that are none are left out. */
export function parseMetrics(text: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split('\n')) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/.exec(line);
    if (found) samples.push({ name: found[1]!, labels: labelsOf(found[2] ?? ''), value: numberOf(found[3]!) });
  }
  return samples;
}

/** The sum of a metric over all its labels; undefined when the scrape has none. */
export function total(samples: Sample[], name: string): number | undefined {
  const found = samples.filter((sample) => sample.name === name);
  return found.length > 0 ? found.reduce((before, sample) => before + sample.value, 0) : undefined;
}

/** A histogram's cumulative counts by upper bound, over all its other labels, in rising order. */
export interface Histogram {
  bounds: number[];
  counts: number[];
}

export function histogram(samples: Sample[], name: string): Histogram | undefined {
  const counts = new Map<number, number>();
  for (const { name: found, labels, value } of samples) {
    if (found !== `${name}_bucket` || labels.le === undefined) continue;
    const bound = numberOf(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  if (counts.size === 0) return undefined;
  const bounds = [...counts.keys()].sort((a, b) => a - b);
  return { bounds, counts: bounds.map((bound) => counts.get(bound)!) };
}

/**
 * The quantile of what was observed between two scrapes, as PromQL's histogram_quantile has it: linear within a
 * bucket, and the highest finite bound for what lies above it. Undefined when nothing was observed, or when the
 * server was started anew in between.
 */
export function quantile(share: number, before: Histogram | undefined, after: Histogram): number | undefined {
  const isSame = before !== undefined && before.bounds.length === after.bounds.length;
  const counts = after.counts.map((count, i) => count - (isSame ? before.counts[i]! : 0));
  const all = counts.at(-1) ?? 0;
  if (all <= 0 || counts.some((count) => count < 0)) return undefined;
  const rank = share * all;
  const at = counts.findIndex((count) => count >= rank);
  const bound = after.bounds[at]!;
  const lower = at > 0 ? after.bounds[at - 1]! : 0;
  if (!Number.isFinite(bound)) return lower;
  const below = at > 0 ? counts[at - 1]! : 0;
  const within = counts[at]! - below;
  return within > 0 ? lower + ((bound - lower) * (rank - below)) / within : bound;
}

function labelsOf(text: string): Labels {
  const labels: Labels = {};
  for (const [, name, value] of text.matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
    labels[name!] = value!.replace(/\\(.)/g, (_, letter: string) => (letter === 'n' ? '\n' : letter));
  }
  return labels;
}

function numberOf(text: string): number {
  if (text === '+Inf') return Infinity;
  if (text === '-Inf') return -Infinity;
  return Number(text);
}
