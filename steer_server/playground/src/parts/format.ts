// Numbers and names as people read them.

export function asName(id: string): string {
  const words = id.replaceAll('_', ' ').replaceAll('-', ' ');
  return words.replace(/(^|\s)\S/g, (letter) => letter.toUpperCase());
}

export function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

export function decimal(number: number, digits = 2): string {
  return number.toFixed(digits);
}

/** A weight with as many decimals as it has, at least two. */
export function weight(number: number): string {
  const text = decimal(number, 3);
  return text.endsWith('0') ? text.slice(0, -1) : text;
}

/** Two decimals at most, for a title. */
export function brief(number: number): string {
  return String(Math.round(number * 100) / 100);
}

export function bytes(count: number): string {
  return count < 1e6 ? `${Math.max(1, Math.round(count / 1e3))} kB` : `${decimal(count / 1e6, 1)} MB`;
}

export function duration(ms: number): string {
  if (ms === 0) return '0 ms';
  if (ms < 1) return `${decimal(ms)} ms`;
  if (ms < 10) return `${decimal(ms, 1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${decimal(ms / 1000, 1)} s`;
}
