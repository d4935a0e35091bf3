// Word differences between two texts, by their longest common subsequence.

export type Mark = 'same' | 'only';

/** A run of text that both sides have, or that this side alone has. */
export interface Piece {
  text: string;
  mark: Mark;
}

/** The two texts in pieces: joined, the pieces of a side are that side's text. */
export interface Difference {
  left: Piece[];
  right: Piece[];
  /** Words that are not in the common subsequence, of each side. */
  onlyLeft: number;
  onlyRight: number;
}

/** The table has one cell for each pair of words; of longer texts only the equal ends are found. */
const MAX_CELLS = 4_000_000;

export function compareWords(left: string, right: string): Difference {
  const a = words(left);
  const b = words(right);
  const start = commonStart(a, b);
  const end = commonEnd(a, b, start);
  const [keepA, keepB] = commonSubsequence(
    a.slice(start, a.length - end).map(bare),
    b.slice(start, b.length - end).map(bare),
  );
  const marks = (all: string[], keep: boolean[]): Mark[] =>
    all.map((_, i) => (i < start || i >= all.length - end || keep[i - start] ? 'same' : 'only'));
  const marksA = marks(a, keepA);
  const marksB = marks(b, keepB);
  return {
    left: pieces(a, marksA),
    right: pieces(b, marksB),
    onlyLeft: marksA.filter((mark) => mark === 'only').length,
    onlyRight: marksB.filter((mark) => mark === 'only').length,
  };
}

/** Share of the words of both texts that the other does not have: 0 equal, 1 nothing in common. */
export function changedShare(left: string, right: string): number {
  const total = words(left).length + words(right).length;
  if (total === 0) return 0;
  const { onlyLeft, onlyRight } = compareWords(left, right);
  return (onlyLeft + onlyRight) / total;
}

/** A word with the blanks behind it, so that joining gives back the text. */
function words(text: string): string[] {
  return text.match(/^\s+|\S+\s*/g) ?? [];
}

const bare = (word: string) => word.trim();

function commonStart(a: string[], b: string[]): number {
  let i = 0;
  while (i < a.length && i < b.length && bare(a[i]!) === bare(b[i]!)) i++;
  return i;
}

function commonEnd(a: string[], b: string[], start: number): number {
  let i = 0;
  while (i < Math.min(a.length, b.length) - start && bare(a.at(-1 - i)!) === bare(b.at(-1 - i)!)) i++;
  return i;
}

function commonSubsequence(a: string[], b: string[]): [boolean[], boolean[]] {
  const keepA = a.map(() => false);
  const keepB = b.map(() => false);
  if (a.length * b.length > MAX_CELLS) return [keepA, keepB];
  // length[i][j]: of the longest common subsequence of a[i..] and b[j..]
  const width = b.length + 1;
  const length = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const at = i * width + j;
      length[at] =
        a[i] === b[j] ? length[at + width + 1]! + 1 : Math.max(length[at + width]!, length[at + 1]!);
    }
  }
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const at = i * width + j;
    if (a[i] === b[j]) {
      keepA[i++] = true;
      keepB[j++] = true;
    } else if (length[at + width]! >= length[at + 1]!) i++;
    else j++;
  }
  return [keepA, keepB];
}

function pieces(all: string[], marks: Mark[]): Piece[] {
  const joined: Piece[] = [];
  all.forEach((text, i) => {
    const last = joined.at(-1);
    if (last && last.mark === marks[i]) last.text += text;
    else joined.push({ text, mark: marks[i]! });
  });
  return joined;
}
