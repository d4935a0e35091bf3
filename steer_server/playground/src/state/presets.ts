// Presets of one's own, kept in this browser.
import { effect, signal } from '@preact/signals';
import type { Steering } from '../api/types';

export interface Preset {
  id: string;
  steering: Steering;
}

const STORED = 'steer-playground-presets';

export const ownPresets = signal<Preset[]>(stored());

effect(() => localStorage.setItem(STORED, JSON.stringify(ownPresets.value)));

/** A preset of the same name is replaced. */
export function savePreset(id: string, steering: Steering): void {
  ownPresets.value = [...ownPresets.value.filter((preset) => preset.id !== id), { id, steering }];
}

export function forgetPreset(id: string): void {
  ownPresets.value = ownPresets.value.filter((preset) => preset.id !== id);
}

function stored(): Preset[] {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(STORED) ?? '[]');
    return Array.isArray(found) ? (found as Preset[]) : [];
  } catch {
    return [];
  }
}
