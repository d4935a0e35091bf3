// Weights that sliders and pickers move: shares on the simplex with floors, and blends of two or three.

export type Weights = Record<string, number>;

/** Weights are sent in steps of 0.001, which is the server's own resolution. */
export function rounded(weight: number): number {
  return Math.round(weight * 1000) / 1000 + 0;
}

export function clamp(value: number, least: number, most: number): number {
  return Math.min(Math.max(value, least), most);
}

export function sum(weights: Weights): number {
  return Object.values(weights).reduce((total, weight) => total + weight, 0);
}

/** Equal shares, raised to the floors. */
export function equalShares(ids: string[], floors: Weights): Weights {
  const shares = atLeast(Object.fromEntries(ids.map((id) => [id, 1 / ids.length])), floors);
  return Object.fromEntries(ids.map((id) => [id, rounded(shares[id]!)]));
}

/** The largest share that an axis can have when every other is at its floor. */
export function mostShare(id: string, ids: string[], floors: Weights): number {
  return 1 - ids.filter((other) => other !== id).reduce((total, other) => total + (floors[other] ?? 0), 0);
}

/**
 * The shares with `id` at `share`: the others keep their proportions, none falls below its floor, and the sum
 * is 1.
 */
export function withShare(shares: Weights, id: string, share: number, floors: Weights): Weights {
  const ids = Object.keys(shares);
  const wanted = clamp(share, floors[id] ?? 0, mostShare(id, ids, floors));
  const others = ids.filter((other) => other !== id);
  if (others.length === 0) return { [id]: 1 };
  const before = others.reduce((total, other) => total + shares[other]!, 0);
  const room = 1 - wanted;
  const scaled = others.map((other) => [
    other,
    before > 0 ? shares[other]! / before : 1 / others.length,
  ] as const);
  const floorsInRoom = Object.fromEntries(others.map((other) => [other, room > 0 ? (floors[other] ?? 0) / room : 0]));
  const rest = atLeast(Object.fromEntries(scaled), floorsInRoom);
  return Object.fromEntries(ids.map((one) => [one, rounded(one === id ? wanted : rest[one]! * room)]));
}

/** The shares, which sum to 1, with every one at its floor or above; those above are scaled down together. */
export function atLeast(shares: Weights, floors: Weights): Weights {
  const pinned = new Set<string>();
  for (;;) {
    const free = Object.keys(shares).filter((id) => !pinned.has(id));
    const room = 1 - [...pinned].reduce((total, id) => total + (floors[id] ?? 0), 0);
    const total = free.reduce((before, id) => before + shares[id]!, 0);
    const scaled = Object.fromEntries(
      free.map((id) => [id, total > 0 ? (shares[id]! * room) / total : room / free.length]),
    );
    const below = free.filter((id) => scaled[id]! < (floors[id] ?? 0) - 1e-9);
    if (below.length === 0) {
      return Object.fromEntries(Object.keys(shares).map((id) => [id, scaled[id] ?? floors[id] ?? 0]));
    }
    below.forEach((id) => pinned.add(id));
  }
}

/** Weights with the shares of a blend and the sum that they have now, none above `most`. */
export function blended(weights: Weights, shares: Weights, most: number): Weights {
  const ids = Object.keys(shares);
  const total = sum(weights) || 1;
  // The total is lowered, not one weight cut off, so that the shares stay what was picked.
  const fits = Math.min(total, ...ids.map((id) => (shares[id]! > 0 ? most / shares[id]! : Infinity)));
  return Object.fromEntries(ids.map((id) => [id, rounded(shares[id]! * fits)]));
}

/** Each weight's part of the sum; equal parts when all are 0. Weights below 0 have none. */
export function sharesOf(weights: Weights): Weights {
  const ids = Object.keys(weights);
  const total = ids.reduce((before, id) => before + Math.max(weights[id]!, 0), 0);
  return Object.fromEntries(ids.map((id) => [id, total > 0 ? Math.max(weights[id]!, 0) / total : 1 / ids.length]));
}

export interface Point {
  x: number;
  y: number;
}

export type Triangle = readonly [Point, Point, Point];

/** The point of a triangle that lies between its corners as the three shares say. */
export function ternaryPoint(shares: readonly number[], [a, b, c]: Triangle): Point {
  const [p = 0, q = 0, r = 0] = shares;
  return { x: p * a.x + q * b.x + r * c.x, y: p * a.y + q * b.y + r * c.y };
}

/** The three shares of a point; one outside the triangle is moved to the nearest point inside. */
export function ternaryShares(point: Point, [a, b, c]: Triangle): [number, number, number] {
  const area = (b.y - c.y) * (a.x - c.x) + (c.x - b.x) * (a.y - c.y);
  const p = ((b.y - c.y) * (point.x - c.x) + (c.x - b.x) * (point.y - c.y)) / area;
  const q = ((c.y - a.y) * (point.x - c.x) + (a.x - c.x) * (point.y - c.y)) / area;
  return onSimplex([p, q, 1 - p - q]);
}

/** The nearest point of the simplex to three numbers that sum to 1 (in a regular triangle, also to the eye). */
function onSimplex(numbers: [number, number, number]): [number, number, number] {
  const sorted = [...numbers].sort((x, y) => y - x);
  let excess = 0;
  let before = 0;
  sorted.forEach((number, i) => {
    before += number;
    const candidate = (before - 1) / (i + 1);
    if (number - candidate > 0) excess = candidate;
  });
  return numbers.map((number) => Math.max(number - excess, 0)) as [number, number, number];
}
