// What the controls hold, as the `steering` object of a request and back.
import type { Catalogue, Steering, Weights } from '../api/types';
import { rounded } from './weights';

/** One side's controls. A choice that the method does not use is kept for when it is used again. */
export interface Setting {
  method: string;
  /** Of the chosen cultures. */
  cultures: Weights;
  /** Shares over the axes of one adapter, which sum to 1; empty when values are not steered. */
  values: Weights;
  strength: number;
  /** By method, then by option. */
  options: Record<string, Record<string, number | string>>;
  /** How much each reward head counts for best_of_n; a head that is not named counts 1. */
  headWeights: Weights;
}

export const PLAIN: Setting = {
  method: 'none',
  cultures: {},
  values: {},
  strength: 1,
  options: {},
  headWeights: {},
};

/** Something that a method takes in `options`. */
export type Option =
  | { kind: 'number'; key: string; start: number; least: number; step: number; most: (known: Catalogue) => number }
  | { kind: 'choice'; key: string; of: (known: Catalogue) => string[] }
  | { kind: 'text'; key: string };

const METHOD_OPTIONS: Record<string, Option[]> = {
  best_of_n: [{ kind: 'number', key: 'n', start: 4, least: 1, step: 1, most: ({ policy }) => policy.max_candidates }],
  align_pro: [{ kind: 'choice', key: 'prompter', of: ({ prompters = [] }) => prompters.map(({ id }) => id) }],
  diffpo: [
    { kind: 'number', key: 'loops', start: 6, least: 1, step: 1, most: ({ policy }) => policy.max_loops ?? 12 },
    { kind: 'number', key: 'candidates', start: 4, least: 1, step: 1, most: ({ policy }) => policy.max_candidates },
    { kind: 'choice', key: 'variant', of: () => ['spans', 'conflicts'] },
    { kind: 'text', key: 'statement' },
    { kind: 'text', key: 'draft' },
    { kind: 'number', key: 'guidance', start: 1, least: 0.1, step: 0.1, most: ({ policy }) => policy.max_strength },
  ],
};

/** What the method takes in `options` now: guidance scales adapters, which a value statement is in place of. */
export function optionsFor(setting: Setting): Option[] {
  const all = METHOD_OPTIONS[setting.method] ?? [];
  return hasStatement(setting) ? all.filter(({ key }) => key !== 'guidance') : all;
}

/** Whether it takes cultures and values. */
export function takesBlend(setting: Setting): boolean {
  return setting.method !== 'none' && setting.method !== 'align_pro' && !hasStatement(setting);
}

/** Whether there are adapters that strength scales. */
export function takesStrength(setting: Setting): boolean {
  return takesBlend(setting) || setting.method === 'align_pro';
}

/** Whether a request with this setting names anything to steer by. */
export function steersBySomething(setting: Setting): boolean {
  if (!takesBlend(setting) || setting.method === 'best_of_n') return true;
  return isAnyUsed(setting.cultures) || isAnyUsed(setting.values);
}

/** The request's `steering`; what is the server's default is left out. */
export function toSteering(setting: Setting, heads: string[]): Steering {
  const steering: Steering = {};
  if (setting.method !== 'adapters') steering.method = setting.method;
  if (takesBlend(setting)) {
    if (isAnyUsed(setting.cultures)) steering.cultures = mapped(setting.cultures, rounded);
    if (isAnyUsed(setting.values)) steering.values = mapped(setting.values, rounded);
  }
  if (takesStrength(setting) && setting.strength !== 1) steering.strength = rounded(setting.strength);
  if (heads.length > 0) steering.reward_heads = heads;
  const options = optionsOf(setting, heads);
  if (Object.keys(options).length > 0) steering.options = options;
  return steering;
}

/** The controls that a preset or a pasted `steering` stands for, and the heads that it names. */
export function fromSteering(steering: Steering): { setting: Setting; heads: string[] } {
  const method = steering.method ?? 'adapters';
  const { weights = {}, ...others } = (steering.options ?? {}) as { weights?: Weights };
  const setting: Setting = {
    method,
    cultures: { ...steering.cultures },
    values: normalised(steering.values ?? {}),
    strength: steering.strength ?? 1,
    options: Object.keys(others).length > 0 ? { [method]: others } : {},
    headWeights: weights,
  };
  return { setting, heads: [...(steering.reward_heads ?? [])] };
}

function optionsOf(setting: Setting, heads: string[]): Record<string, unknown> {
  const chosen = setting.options[setting.method] ?? {};
  const options: Record<string, unknown> = {};
  for (const option of optionsFor(setting)) {
    const value = chosen[option.key] ?? (option.kind === 'number' ? option.start : '');
    if (String(value).trim() !== '') options[option.key] = value;
  }
  const differ = heads.some((head) => (setting.headWeights[head] ?? 1) !== 1);
  if (setting.method === 'best_of_n' && heads.length > 1 && differ) {
    options.weights = Object.fromEntries(heads.map((head) => [head, setting.headWeights[head] ?? 1]));
  }
  return options;
}

function hasStatement({ method, options }: Setting): boolean {
  return String(options[method]?.statement ?? '').trim() !== '';
}

function isAnyUsed(weights: Weights): boolean {
  return Object.values(weights).some((weight) => weight !== 0);
}

function mapped(weights: Weights, change: (weight: number) => number): Weights {
  return Object.fromEntries(Object.entries(weights).map(([id, weight]) => [id, change(weight)]));
}

function normalised(weights: Weights): Weights {
  const total = Object.values(weights).reduce((before, weight) => before + weight, 0);
  return total > 0 ? mapped(weights, (weight) => rounded(weight / total)) : {};
}
