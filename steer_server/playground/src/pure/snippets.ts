// A request as commands to copy: curl, and Python with the OpenAI client.
import type { ChatRequest } from '../api/types';

const WIDTH = 84;
/** Where the commands read the key from. The key itself is never written into them. */
export const KEY_VARIABLE = 'STEER_KEY';

/** Args: server: the address that `/v1` is below, without a slash at its end. */
export function asCurl(request: ChatRequest, server: string, hasKey: boolean): string {
  const lines = [`curl -s ${server}/v1/chat/completions`, "-H 'Content-Type: application/json'"];
  if (hasKey) lines.push(`-H "Authorization: Bearer $${KEY_VARIABLE}"`);
  lines.push(`-d '${literal(request, JSON_WORDS).replaceAll("'", `'\\''`)}'`);
  return lines.join(' \\\n  ');
}

export function asPython(request: ChatRequest, server: string, hasKey: boolean): string {
  const { steering, ...named } = request;
  const given = Object.entries({ ...named, extra_body: { steering } }).map(
    ([name, value]) => `    ${name}=${literal(value, PYTHON_WORDS, 4, name.length + 2)},`,
  );
  const key = hasKey ? `os.environ["${KEY_VARIABLE}"]` : '"none"';
  return [
    ...(hasKey ? ['import os', ''] : []),
    'from openai import OpenAI',
    '',
    `client = OpenAI(base_url="${server}/v1", api_key=${key})`,
    'answer = client.chat.completions.create(',
    ...given,
    ')',
    'print(answer.choices[0].message.content)',
    'print(answer.steering)',
  ].join('\n');
}

interface Words {
  true: string;
  false: string;
  null: string;
}

const JSON_WORDS: Words = { true: 'true', false: 'false', null: 'null' };
const PYTHON_WORDS: Words = { true: 'True', false: 'False', null: 'None' };

/** The value on one line where it fits, else with a line for each member. */
function literal(value: unknown, words: Words, indent = 0, before = 0): string {
  if (value === null || value === undefined) return words.null;
  if (typeof value === 'boolean') return words[`${value}`];
  if (typeof value !== 'object') return JSON.stringify(value);
  const isList = Array.isArray(value);
  const [open, close] = isList ? '[]' : '{}';
  const members = (inner: number): string[] =>
    isList
      ? value.map((one) => literal(one, words, inner))
      : Object.entries(value)
          .filter(([, one]) => one !== undefined)
          .map(([key, one]) => `${JSON.stringify(key)}: ${literal(one, words, inner, key.length + 4)}`);
  const flat = `${open}${members(-Infinity).join(', ')}${close}`;
  if (indent + before + flat.length <= WIDTH) return flat;
  const inner = indent + 2;
  const lines = members(inner).map((line) => `${' '.repeat(inner)}${line}`);
  return `${open}\n${lines.join(',\n')}\n${' '.repeat(indent)}${close}`;
}
