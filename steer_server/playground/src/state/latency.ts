// The server's latency over the last minutes, from its `/metrics`.
import { signal } from '@preact/signals';
import { send } from '../api/client';
import { asApiError, type ApiError } from '../api/errors';
import { type Histogram, type Sample, histogram, parseMetrics, quantile, total } from '../pure/prometheus';

export const LOOK_EVERY_MS = 2000;
/** Quantiles are of what was observed in the last half minute. */
const WINDOW_LOOKS = 15;
const MOST_POINTS = 150;

/** What is charted, and the histograms that say it: the first that the server exports is used. */
export const CHARTS = {
  first: ['steer_time_to_first_token_seconds', 'vllm:time_to_first_token_seconds'],
  token: ['steer_time_per_output_token_seconds', 'vllm:request_time_per_output_token_seconds'],
  whole: ['steer_request_duration_seconds', 'vllm:e2e_request_latency_seconds'],
  slots: ['steer_slot_wait_seconds'],
  plan: ['steer_plan_seconds'],
} as const;
export type ChartName = keyof typeof CHARTS;

export const GAUGES = {
  running: 'steer_requests_running',
  waiting: 'steer_requests_waiting',
  resident: 'steer_slots_resident',
  active: 'steer_adapters_active',
} as const;
export type GaugeName = keyof typeof GAUGES;

export interface Look {
  /** Seconds since 1970. */
  at: number;
  quantiles: Record<string, { median: number | null; p95: number | null }>;
  gauges: Partial<Record<GaugeName, number>>;
}

export const looks = signal<Look[]>([]);
export const latencyError = signal<ApiError | null>(null);
/** Charts that no histogram of this server is there for. */
export const missing = signal<ChartName[]>([]);

let scrapes: Sample[][] = [];

export async function look(): Promise<void> {
  try {
    const samples = parseMetrics(await (await send('/metrics')).text());
    const before = scrapes.at(-WINDOW_LOOKS) ?? scrapes[0] ?? [];
    scrapes = [...scrapes.slice(-WINDOW_LOOKS), samples];
    const found: Look = { at: Date.now() / 1000, quantiles: {}, gauges: {} };
    const absent: ChartName[] = [];
    for (const chart of Object.keys(CHARTS) as ChartName[]) {
      const name = CHARTS[chart].find((one) => histogram(samples, one));
      if (!name) absent.push(chart);
      else found.quantiles[chart] = quantilesOf(histogram(before, name), histogram(samples, name)!);
    }
    for (const gauge of Object.keys(GAUGES) as GaugeName[]) {
      const value = total(samples, GAUGES[gauge]);
      if (value !== undefined) found.gauges[gauge] = value;
    }
    missing.value = absent;
    looks.value = [...looks.value, found].slice(-MOST_POINTS);
    latencyError.value = null;
  } catch (error) {
    latencyError.value = asApiError(error);
  }
}

function quantilesOf(before: Histogram | undefined, after: Histogram) {
  return { median: quantile(0.5, before, after) ?? null, p95: quantile(0.95, before, after) ?? null };
}
