// All controls of one setting, made from what the server says that it has.
import { useState } from 'preact/hooks';
import { takesBlend, takesStrength } from '../pure/setting';
import { catalogue, catalogueError, loadCatalogue, model, models } from '../state/catalogue';
import { SIDES, type Side, edited, editing, settings } from '../state/settings';
import { T } from '../texts';
import { Code } from './Code';
import { Cultures } from './Cultures';
import { ErrorNote } from './ErrorNote';
import { Generation } from './Generation';
import { Heads } from './Heads';
import { Method, Strength } from './Method';
import { PlanPreview } from './PlanPreview';
import { Presets } from './Presets';
import { Values } from './Values';
import { settingTitle } from './settingTitle';

/** Args: sides: which settings there are to adjust here. */
export function Controls({ sides }: { sides: readonly Side[] }) {
  // On a phone the controls are folded away, and their button says what they are set to.
  const [isShown, setShown] = useState(false);
  if (!sides.includes(editing.value)) editing.value = sides[0]!;
  return (
    <aside class="controls" aria-label={T.controls.heading}>
      <button
        type="button"
        class="controls-toggle"
        aria-expanded={isShown}
        aria-controls="controls"
        onClick={() => setShown(!isShown)}
      >
        <span>{T.controls.show}</span>
        <span class="summary">{settingTitle(edited.value)}</span>
      </button>
      <div id="controls" class={isShown ? 'controls-body shown' : 'controls-body'}>
        {sides.length > 1 && <SideTabs />}
        {catalogueError.value && <ErrorNote error={catalogueError.value} onRetry={() => void loadCatalogue()} />}
        {catalogue.value && <Parts />}
      </div>
    </aside>
  );
}

function SideTabs() {
  return (
    <div class="sides" role="group" aria-label={T.controls.which}>
      {SIDES.map((side) => (
        <button
          type="button"
          class={`side-${side.toLowerCase()}`}
          aria-pressed={editing.value === side}
          onClick={() => (editing.value = side)}
        >
          <b aria-hidden="true">{side}</b>
          <span class="visually-hidden">{T.side(side)}: </span>
          <span class="summary">{settingTitle(settings[side].value)}</span>
        </button>
      ))}
    </div>
  );
}

function Parts() {
  const known = catalogue.value!;
  return (
    <>
      {models.value.length > 1 && (
        <label class="line">
          {T.model}
          <select value={model.value} onChange={(event) => (model.value = event.currentTarget.value)}>
            {models.value.map((id) => (
              <option>{id}</option>
            ))}
          </select>
        </label>
      )}
      <Method catalogue={known} />
      {takesBlend(edited.value) && (
        <>
          <Cultures catalogue={known} />
          <Values catalogue={known} />
        </>
      )}
      {takesStrength(edited.value) && <Strength catalogue={known} />}
      <Heads catalogue={known} />
      <PlanPreview />
      <div class="folds">
        <Presets catalogue={known} />
        <Generation />
        <Code />
      </div>
    </>
  );
}
