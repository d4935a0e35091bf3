// The page's head: its name, its pages, the key and the colours.
import { useRef, useState } from 'preact/hooks';
import { key } from '../state/key';
import { PAGES, page } from '../state/route';
import { nextTheme, theme } from '../state/theme';
import { T } from '../texts';

const THEME_SIGNS = { system: '◐', light: '○', dark: '●' } as const;

export function Header() {
  return (
    <header class="top">
      <a class="skip" href="#main" onClick={skip}>
        {T.skip}
      </a>
      <h1>{T.title}</h1>
      <nav>
        {PAGES.map((one) => (
          <a href={`#/${one}`} aria-current={page.value === one ? 'page' : undefined}>
            {T.pages[one]}
          </a>
        ))}
      </nav>
      <div class="row tools">
        <KeyButton />
        <button type="button" class="quiet icon" aria-label={T.theme[theme.value]} title={T.theme[theme.value]} onClick={nextTheme}>
          {THEME_SIGNS[theme.value]}
        </button>
      </div>
    </header>
  );
}

/** A link to `#main` would be taken for a page. */
function skip(event: Event) {
  event.preventDefault();
  document.getElementById('main')?.focus();
}

function KeyButton() {
  const [isOpen, setOpen] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  const use = (event: Event) => {
    event.preventDefault();
    key.value = field.current!.value.trim();
    setOpen(false);
  };
  return (
    <div class="key" onKeyDown={(event) => event.key === 'Escape' && setOpen(false)}>
      <button type="button" class="quiet" aria-expanded={isOpen} aria-controls="key-form" onClick={() => setOpen(!isOpen)}>
        {key.value ? T.key.given : T.key.button}
      </button>
      {isOpen && (
        <form id="key-form" class="popover" onSubmit={use}>
          <label class="stacked">
            {T.key.label}
            <input type="password" autocomplete="off" ref={field} defaultValue={key.value} autofocus />
          </label>
          <p class="note">{T.key.about}</p>
          <div class="row">
            <button type="submit" class="primary">
              {T.key.use}
            </button>
            <button
              type="button"
              onClick={() => {
                key.value = '';
                setOpen(false);
              }}
            >
              {T.key.forget}
            </button>
          </div>
        </form>
      )}
    </div>
  );
}
