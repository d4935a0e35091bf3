// The two settings that are compared, and what they share: reward heads and generation.
import { computed, signal, type Signal } from '@preact/signals';
import type { Catalogue, ChatRequest, Message } from '../api/types';
import { PLAIN, type Setting, fromSteering, toSteering } from '../pure/setting';
import { equalShares } from '../pure/weights';
import { model } from './catalogue';

export const SIDES = ['A', 'B'] as const;
export type Side = (typeof SIDES)[number];

export const settings: Record<Side, Signal<Setting>> = { A: signal(PLAIN), B: signal(PLAIN) };
export const editing = signal<Side>('B');
/** Reward heads that score both answers, so that they can be compared. */
export const heads = signal<string[]>([]);
export const prompt = signal('');

export interface Generation {
  maxTokens: number;
  temperature: number;
  seed: number | null;
  system: string;
}

export const generation = signal<Generation>({ maxTokens: 96, temperature: 0, seed: null, system: '' });

export const edited = computed(() => settings[editing.value].value);

export function change(part: Partial<Setting>): void {
  const setting = settings[editing.value];
  setting.value = { ...setting.value, ...part };
}

/** What there is to begin with: the plain model beside the first thing that can be steered by. */
export function beginWith({ cultures, values, policy }: Catalogue): void {
  const steered: Setting = { ...PLAIN, method: 'adapters' };
  const [culture] = cultures;
  const [axis] = values;
  if (culture) steered.cultures = { [culture.id]: Math.min(1, policy.max_weight) };
  else if (axis) {
    const ids = values.filter((other) => other.adapter === axis.adapter).map((other) => other.id);
    steered.values = equalShares(ids, policy.value_floors);
  } else return;
  settings.B.value = steered;
}

/** Leaves out what the server no longer has, such as a culture that was quarantined. */
export function keepKnown(known: Catalogue): void {
  const cultures = new Set(known.cultures.map((culture) => culture.id));
  const axes = new Set(known.values.map((axis) => axis.id));
  const only = (weights: Record<string, number>, ids: Set<string>) =>
    Object.fromEntries(Object.entries(weights).filter(([id]) => ids.has(id)));
  for (const side of SIDES) {
    const setting = settings[side].value;
    const values = only(setting.values, axes);
    const isWhole = Object.keys(values).length === Object.keys(setting.values).length;
    settings[side].value = {
      ...setting,
      cultures: only(setting.cultures, cultures),
      values: isWhole ? values : {},
    };
  }
  heads.value = heads.value.filter((head) => known.reward_heads.some((one) => one.id === head));
}

/** Puts a preset into the controls. Its heads are added to those chosen. */
export function loadPreset(steering: Parameters<typeof fromSteering>[0]): void {
  const loaded = fromSteering(steering);
  settings[editing.value].value = loaded.setting;
  heads.value = [...new Set([...heads.value, ...loaded.heads])];
}

/** The request for one side. */
export function requestFor(side: Side, messages: Message[]): ChatRequest {
  return requestWith(settings[side].value, messages);
}

export function requestWith(setting: Setting, messages: Message[]): ChatRequest {
  const { maxTokens, temperature, seed, system } = generation.value;
  const before: Message[] = system.trim() ? [{ role: 'system', content: system }] : [];
  return {
    model: model.value,
    messages: [...before, ...messages],
    max_tokens: maxTokens,
    temperature,
    ...(seed === null ? {} : { seed }),
    steering: toSteering(setting, heads.value),
  };
}
