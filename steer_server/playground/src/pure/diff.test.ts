import { describe, expect, it } from 'vitest';
import { type Piece, changedShare, compareWords } from './diff';

const joined = (pieces: Piece[]) => pieces.map((piece) => piece.text).join('');
const only = (pieces: Piece[]) => pieces.filter((piece) => piece.mark === 'only').map((piece) => piece.text.trim());

describe('compareWords', () => {
  it('marks the words that the other side does not have', () => {
    const { left, right, onlyLeft, onlyRight } = compareWords('the cat sat on a mat', 'the dog sat on the mat');
    expect(only(left)).toEqual(['cat', 'a']);
    expect(only(right)).toEqual(['dog', 'the']);
    expect([onlyLeft, onlyRight]).toEqual([2, 2]);
  });

  it('gives back both texts, blanks and line ends included', () => {
    const a = '  One,\n\ntwo  three\tfour. ';
    const b = 'One,\ntwo three five. ';
    const { left, right } = compareWords(a, b);
    expect(joined(left)).toBe(a);
    expect(joined(right)).toBe(b);
  });

  it('marks nothing when only blanks differ, and everything when nothing is common', () => {
    expect(compareWords('a  b', 'a b').onlyLeft).toBe(0);
    expect(compareWords('a b', 'c d e')).toMatchObject({ onlyLeft: 2, onlyRight: 3 });
    expect(compareWords('', 'a')).toMatchObject({ left: [], onlyLeft: 0, onlyRight: 1 });
  });

  it('finds a longest common subsequence, as trying all of them does', () => {
    let state = 7;
    const random = (n: number) => (state = (state * 48271) % 2147483647) % n;
    for (let round = 0; round < 60; round++) {
      const text = () => Array.from({ length: random(7) }, () => 'abc'[random(3)]);
      const [a, b] = [text(), text()];
      const { onlyLeft } = compareWords(a.join(' '), b.join(' '));
      expect(a.length - onlyLeft).toBe(longest(a, b));
    }
  });

  it('compares only the ends of texts that are too long for more', () => {
    const middle = (letter: string) => Array.from({ length: 2999 }, (_, i) => (i % 2 ? 'z' : letter)).join(' ');
    const { left, right } = compareWords(`start ${middle('x')} end`, `start ${middle('y')} end`);
    expect(left.map((piece) => piece.mark)).toEqual(['same', 'only', 'same']);
    expect(only(right)).toEqual([middle('y')]);
  });
});

/** The length of the longest common subsequence by brute force. */
function longest(a: unknown[], b: unknown[]): number {
  let best = 0;
  for (let mask = 0; mask < 1 << a.length; mask++) {
    const chosen = a.filter((_, i) => mask & (1 << i));
    let at = 0;
    for (const word of b) if (at < chosen.length && word === chosen[at]) at++;
    if (at === chosen.length) best = Math.max(best, at);
  }
  return best;
}

it('the changed share is 0 for equal texts and 1 for texts with nothing in common', () => {
  expect(changedShare('a b', 'a b')).toBe(0);
  expect(changedShare('', '')).toBe(0);
  expect(changedShare('a b', 'c d')).toBe(1);
  expect(changedShare('a b c', 'a b d')).toBeCloseTo(1 / 3);
});
