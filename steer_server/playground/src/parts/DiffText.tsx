// Texts with the words marked that the other text does not have.
import type { Difference, Piece } from '../pure/diff';

export function DiffText({ pieces, side }: { pieces: Piece[]; side: 'A' | 'B' }) {
  return (
    <>
      {pieces.map(({ text, mark }) => {
        if (mark === 'same') return text;
        const words = text.trimEnd();
        return (
          <>
            <mark class={`only-${side.toLowerCase()}`}>{words}</mark>
            {text.slice(words.length)}
          </>
        );
      })}
    </>
  );
}

/** What was, above what became of it. */
export function Compared({ difference }: { difference: Difference }) {
  return (
    <div class="compared">
      <p>
        <DiffText pieces={difference.left} side="A" />
      </p>
      <p>
        <DiffText pieces={difference.right} side="B" />
      </p>
    </div>
  );
}
