// The request for the controls as they are, to copy: curl or Python.
import { useState } from 'preact/hooks';
import { SERVER } from '../api/client';
import { asCurl, asPython } from '../pure/snippets';
import { messagesFor } from '../state/conversation';
import { key } from '../state/key';
import { editing, prompt, requestFor } from '../state/settings';
import { T } from '../texts';

const LANGUAGES = { curl: asCurl, python: asPython } as const;
type Language = keyof typeof LANGUAGES;

export function Code() {
  const [language, setLanguage] = useState<Language>('curl');
  const [isCopied, setCopied] = useState(false);
  const asked = prompt.value.trim() || T.code.prompt;
  const request = requestFor(editing.value, messagesFor(editing.value, asked));
  const text = LANGUAGES[language](request, SERVER, key.value !== '');
  const copy = async () => {
    await copyText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <details class="fold">
      <summary>{T.code.heading}</summary>
      <div class="row spread">
        <div class="choices" role="group" aria-label={T.code.which}>
          {(Object.keys(LANGUAGES) as Language[]).map((one) => (
            <button
              type="button"
              class={one === language ? 'choice chosen' : 'choice'}
              aria-pressed={one === language}
              onClick={() => setLanguage(one)}
            >
              {T.code[one]}
            </button>
          ))}
        </div>
        <button type="button" onClick={copy}>
          {isCopied ? T.code.copied : T.code.copy}
        </button>
        <span class="visually-hidden" role="status">
          {isCopied && T.code.copied}
        </span>
      </div>
      {/* Scrolls sideways, so it must be reachable by keyboard. */}
      <pre tabIndex={0} data-testid="code">
        {text}
      </pre>
    </details>
  );
}

/** Browsers have a clipboard only on https and on this machine; elsewhere the old way still works. */
async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement('textarea');
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}
