// One line that says what a setting is.
import { type Setting, takesBlend } from '../pure/setting';
import { T } from '../texts';
import { asName, brief } from './format';

export function settingTitle(setting: Setting): string {
  const { method, cultures, values, strength } = setting;
  if (method === 'none') return T.plain;
  const chosen = takesBlend(setting) ? { ...cultures, ...values } : {};
  const weights = Object.entries(chosen).filter(([, one]) => one !== 0);
  const parts = weights.map(([id, one]) => `${asName(id)} ${brief(one)}`);
  if (parts.length === 0) parts.push(T.nothingChosen);
  if (strength !== 1 && weights.length > 0) parts.push(`× ${brief(strength)}`);
  const blend = parts.join(' + ').replace(' + ×', ' ×');
  if (method === 'adapters') return blend;
  return weights.length > 0 ? `${T.controls.methodName(method)}: ${blend}` : T.controls.methodName(method);
}
