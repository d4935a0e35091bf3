import { describe, expect, it } from 'vitest';
import type { Catalogue } from '../api/types';
import { PLAIN, type Setting, fromSteering, steersBySomething, toSteering } from './setting';
import { pointsBetween, settingAt, sweepAxes } from './sweep';

const steered: Setting = { ...PLAIN, method: 'adapters', cultures: { amber: 0.6, blue: 0.4 } };
const known = {
  policy: { min_weight: 0, max_weight: 1, max_strength: 1.5, max_adapters: 6, max_candidates: 16, value_floors: { harmless: 0.2 } },
} as unknown as Catalogue;

describe('the request’s steering', () => {
  it('leaves out what is the server’s default', () => {
    expect(toSteering(steered, [])).toEqual({ cultures: { amber: 0.6, blue: 0.4 } });
  });

  it('of the plain model has no cultures, whatever was chosen before', () => {
    expect(toSteering({ ...steered, method: 'none', strength: 0.5 }, ['warm'])).toEqual({
      method: 'none',
      reward_heads: ['warm'],
    });
  });

  it('has a method’s options, and weights of heads only where they differ', () => {
    const best: Setting = { ...steered, method: 'best_of_n', options: { best_of_n: { n: 8 } } };
    expect(toSteering(best, ['x', 'y']).options).toEqual({ n: 8 });
    expect(toSteering({ ...best, headWeights: { x: 0.3 } }, ['x', 'y']).options).toEqual({ n: 8, weights: { x: 0.3, y: 1 } });
    const rewritten = toSteering({ ...steered, method: 'align_pro', options: { align_pro: { prompter: 'gentle' } } }, []);
    expect(rewritten).toEqual({ method: 'align_pro', options: { prompter: 'gentle' } });
  });

  it('survives the way there and back', () => {
    const steering = {
      method: 'diffpo',
      cultures: { amber: 1 },
      values: { helpful: 0.5, harmless: 0.5 },
      strength: 0.7,
      reward_heads: ['warm'],
      options: { loops: 3, candidates: 4, guidance: 1 },
    };
    const { setting, heads } = fromSteering(steering);
    expect(toSteering(setting, heads)).toEqual(steering);
  });

  it('normalises a preset’s values, as the server does', () => {
    expect(fromSteering({ values: { helpful: 3, harmless: 1 } }).setting.values).toEqual({ helpful: 0.75, harmless: 0.25 });
  });

  it('is empty until something is chosen', () => {
    expect(steersBySomething({ ...PLAIN, method: 'adapters', cultures: { amber: 0 } })).toBe(false);
    expect(steersBySomething({ ...PLAIN, method: 'diffpo', options: { diffpo: { statement: 'Be kind.' } } })).toBe(true);
    expect(steersBySomething(PLAIN)).toBe(true);
  });

  it('with a value statement has neither adapters nor what scales them', () => {
    const stated = { ...steered, method: 'diffpo', options: { diffpo: { statement: 'Be kind.', guidance: 1.5 } } };
    expect(toSteering(stated, [])).toEqual({
      method: 'diffpo',
      options: { loops: 6, candidates: 4, statement: 'Be kind.' },
    });
    expect(sweepAxes(stated, known)).toEqual([]);
    const blank = { ...stated, options: { diffpo: { statement: ' ' } } };
    expect(toSteering(blank, []).cultures).toEqual(steered.cultures);
  });
});

describe('a sweep', () => {
  it('can move what the setting has', () => {
    const names = (setting: Setting) => sweepAxes(setting, known).map(({ kind, id }) => `${kind}:${id}`);
    expect(names(steered)).toEqual(['blend:blue', 'strength:strength', 'culture:amber', 'culture:blue']);
    expect(names({ ...PLAIN, method: 'adapters', values: { helpful: 0.5, harmless: 0.5 } })).toEqual([
      'strength:strength', 'value:helpful', 'value:harmless',
    ]);
    expect(names(PLAIN)).toEqual([]);
    expect(names({ ...steered, method: 'align_pro' })).toEqual(['strength:strength']);
  });

  it('stays within the policy’s floors', () => {
    const axes = sweepAxes({ ...PLAIN, method: 'adapters', values: { helpful: 0.5, harmless: 0.5 } }, known);
    expect(axes.map(({ least, most }) => [least, most])).toEqual([[0, 1.5], [0, 0.8], [0.2, 1]]);
  });

  it('has evenly spaced points with both ends', () => {
    expect(pointsBetween(0, 1, 5)).toEqual([0, 0.25, 0.5, 0.75, 1]);
    expect(pointsBetween(0.2, 0.9, 8).at(-1)).toBe(0.9);
  });

  it('moves its one slider and nothing else', () => {
    const at = (kind: 'blend' | 'strength' | 'culture' | 'value', id: string, value: number, setting = steered) =>
      settingAt(setting, { kind, id, least: 0, most: 1 }, value, known);
    expect(at('strength', 'strength', 0.3)).toEqual({ ...steered, strength: 0.3 });
    expect(at('culture', 'amber', 0.1).cultures).toEqual({ amber: 0.1, blue: 0.4 });
    expect(at('blend', 'blue', 0.9).cultures).toEqual({ amber: 0.1, blue: 0.9 });
    const values = { ...PLAIN, method: 'adapters', values: { helpful: 0.5, harmless: 0.5 } };
    expect(at('value', 'helpful', 0.7, values).values).toEqual({ helpful: 0.7, harmless: 0.3 });
  });

  it('reaches the plain model at weight 0, which the server takes as strength 0', () => {
    const alone = { ...PLAIN, method: 'adapters', cultures: { amber: 0.8 } };
    const [, axis] = sweepAxes(alone, known);
    expect(toSteering(settingAt(alone, axis!, 0, known), [])).toEqual({ cultures: { amber: 1 }, strength: 0 });
  });
});
