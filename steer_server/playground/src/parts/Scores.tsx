// The reward heads' scores of an answer, and of the candidates that it was chosen from.
import type { Rewards } from '../api/types';
import { T } from '../texts';
import { Bar } from './Bar';
import { asName, decimal } from './format';

export function Scores({ rewards: { scores, cut, heads, candidates } }: { rewards: Rewards }) {
  if (!scores) return null;
  const [first] = scores;
  return (
    <>
      <h3>{T.applied.rewards}</h3>
      {first ? (
        <ul class="bars">
          {Object.entries(first).map(([head, { raw, calibrated }]) => (
            <Bar
              key={head}
              name={asName(head)}
              value={calibrated}
              shown={decimal(calibrated)}
              title={`${heads?.[head] ?? head}, ${T.applied.raw(decimal(raw, 3))}`}
            />
          ))}
        </ul>
      ) : (
        <p class="note">{T.applied.noScore}</p>
      )}
      {cut?.[0] && <p class="note">{T.applied.cut}</p>}
      {candidates && (
        <>
          <h3>{T.applied.candidates}</h3>
          <ul class="bars">
            {candidates.map(({ aggregate, choice }, i) => (
              <Bar
                key={i}
                name={T.applied.candidate(i + 1) + (choice === 0 ? `, ${T.applied.chosen}` : '')}
                value={aggregate ?? 0}
                shown={aggregate === null ? '–' : decimal(aggregate)}
              />
            ))}
          </ul>
        </>
      )}
    </>
  );
}
