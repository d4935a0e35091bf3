// The API key that was typed in. It lives as long as the tab, and is sent to this server alone.
import { effect, signal } from '@preact/signals';

const STORED = 'steer-playground-key';

export const key = signal(sessionStorage.getItem(STORED) ?? '');

effect(() => {
  if (key.value) sessionStorage.setItem(STORED, key.value);
  else sessionStorage.removeItem(STORED);
});
