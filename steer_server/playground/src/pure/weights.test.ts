import { describe, expect, it } from 'vitest';
import {
  type Triangle,
  type Weights,
  atLeast,
  blended,
  equalShares,
  mostShare,
  sharesOf,
  sum,
  ternaryPoint,
  ternaryShares,
  withShare,
} from './weights';

const FLOORS = { harmless: 0.2, honest: 0.1 };
const IDS = ['helpful', 'harmless', 'honest'];

describe('shares on the simplex', () => {
  it('sum to 1 and keep their floors wherever a slider is moved', () => {
    let shares: Weights = equalShares(IDS, FLOORS);
    for (const [id, to] of [['helpful', 1], ['harmless', 0], ['honest', 0.65], ['harmless', 0.9], ['helpful', 0]] as const) {
      shares = withShare(shares, id, to, FLOORS);
      expect(sum(shares)).toBeCloseTo(1, 2);
      expect(shares.harmless).toBeGreaterThanOrEqual(0.2);
      expect(shares.honest).toBeGreaterThanOrEqual(0.1);
    }
  });

  it('go no further than the floors of the others let them', () => {
    expect(mostShare('helpful', IDS, FLOORS)).toBeCloseTo(0.7);
    expect(withShare(equalShares(IDS, FLOORS), 'helpful', 1, FLOORS)).toEqual({ helpful: 0.7, harmless: 0.2, honest: 0.1 });
  });

  it('keep the proportions of the others', () => {
    const moved = withShare({ a: 0.2, b: 0.2, c: 0.6 }, 'a', 0.6, {});
    expect(moved).toEqual({ a: 0.6, b: 0.1, c: 0.3 });
  });

  it('share what is left equally among axes that had nothing', () => {
    expect(withShare({ a: 1, b: 0, c: 0 }, 'a', 0.5, {})).toEqual({ a: 0.5, b: 0.25, c: 0.25 });
    expect(withShare({ a: 1 }, 'a', 0.3, {})).toEqual({ a: 1 });
  });

  it('are raised to their floors as the server raises them', () => {
    // Policy.floor_values({"helpful": 1, "harmless": 0}) with the floor 0.2
    expect(atLeast({ helpful: 1, harmless: 0 }, { harmless: 0.2 })).toEqual({ helpful: 0.8, harmless: 0.2 });
  });
});

describe('a blend', () => {
  it('keeps the sum of the weights', () => {
    expect(blended({ a: 0.3, b: 0.5 }, { a: 0.75, b: 0.25 }, 1)).toEqual({ a: 0.6, b: 0.2 });
  });

  it('lowers the sum, not the share, where a weight would be too large', () => {
    const weights = blended({ a: 1, b: 1 }, { a: 0.8, b: 0.2 }, 1);
    expect(weights).toEqual({ a: 1, b: 0.25 });
    expect(sharesOf(weights)).toEqual({ a: 0.8, b: 0.2 });
  });

  it('is of equal parts when nothing was chosen yet', () => {
    expect(sharesOf({ a: 0, b: 0 })).toEqual({ a: 0.5, b: 0.5 });
  });
});

describe('the triangle', () => {
  const triangle: Triangle = [{ x: 50, y: 0 }, { x: 0, y: 86.6 }, { x: 100, y: 86.6 }];

  it('has a point for each three shares, and back', () => {
    for (const shares of [[1, 0, 0], [0, 1, 0], [0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3]]) {
      const found = ternaryShares(ternaryPoint(shares, triangle), triangle);
      found.forEach((share, i) => expect(share).toBeCloseTo(shares[i]!));
    }
  });

  it('takes a point outside to the nearest inside', () => {
    expect(ternaryShares({ x: 50, y: -40 }, triangle)).toEqual([1, 0, 0]);
    const [top, left, right] = ternaryShares({ x: 50, y: 120 }, triangle);
    expect(top).toBe(0);
    expect(left).toBeCloseTo(0.5);
    expect(right).toBeCloseTo(0.5);
  });
});
