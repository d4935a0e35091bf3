// What a sweep moves, over what range, and the setting at each of its points.
import type { Catalogue } from '../api/types';
import { type Setting, takesBlend, takesStrength } from './setting';
import { mostShare, rounded, sum, withShare } from './weights';

export const LEAST_POINTS = 5;
export const MOST_POINTS = 11;

/** One slider of a setting. `blend` moves the share of the second of two cultures, their sum kept. */
export interface SweepAxis {
  kind: 'strength' | 'culture' | 'blend' | 'value';
  /** Of the culture or value axis; of the second culture for a blend. */
  id: string;
  least: number;
  most: number;
}

/** Everything that the setting has to move. */
export function sweepAxes(setting: Setting, { policy }: Catalogue): SweepAxis[] {
  const hasBlend = takesBlend(setting);
  const cultures = hasBlend ? Object.keys(setting.cultures) : [];
  const values = hasBlend ? Object.keys(setting.values) : [];
  const axes: SweepAxis[] = [];
  if (cultures.length === 2) axes.push({ kind: 'blend', id: cultures[1]!, least: 0, most: 1 });
  if (hasBlend ? cultures.length + values.length > 0 : takesStrength(setting)) {
    axes.push({ kind: 'strength', id: 'strength', least: 0, most: policy.max_strength });
  }
  for (const id of cultures) {
    axes.push({ kind: 'culture', id, least: Math.max(policy.min_weight, 0), most: policy.max_weight });
  }
  if (values.length > 1) {
    for (const id of values) {
      axes.push({
        kind: 'value',
        id,
        least: policy.value_floors[id] ?? 0,
        most: mostShare(id, values, policy.value_floors),
      });
    }
  }
  return axes;
}

/** `count` values from `from` to `to`, both included, evenly. */
export function pointsBetween(from: number, to: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => rounded(from + ((to - from) * i) / (count - 1)));
}

/** The setting with the axis at `value`. */
export function settingAt(setting: Setting, axis: SweepAxis, value: number, { policy }: Catalogue): Setting {
  switch (axis.kind) {
    case 'strength':
      return { ...setting, strength: value };
    case 'culture': {
      const cultures = { ...setting.cultures, [axis.id]: value };
      const isPlain = Object.values(cultures).every((weight) => weight === 0);
      // The server refuses weights that are all 0; strength 0 is the same plan.
      return isPlain ? { ...setting, cultures: { [axis.id]: 1 }, strength: 0 } : { ...setting, cultures };
    }
    case 'value':
      return { ...setting, values: withShare(setting.values, axis.id, value, policy.value_floors) };
    case 'blend': {
      const total = Math.min(sum(setting.cultures) || 1, policy.max_weight);
      const [first = ''] = Object.keys(setting.cultures);
      return {
        ...setting,
        cultures: { [first]: rounded(total * (1 - value)), [axis.id]: rounded(total * value) },
      };
    }
  }
}
