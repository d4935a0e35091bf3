// Which page is shown, by the part of the address behind the hash.
import { signal } from '@preact/signals';

export const PAGES = ['chat', 'sweep', 'adapters'] as const;
export type Page = (typeof PAGES)[number];

function current(): Page {
  const name = location.hash.replace(/^#\//, '');
  return PAGES.find((page) => page === name) ?? 'chat';
}

export const page = signal<Page>(current());
window.addEventListener('hashchange', () => {
  page.value = current();
});
