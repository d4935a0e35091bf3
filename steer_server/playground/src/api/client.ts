// Requests to the server that this page came from, with the key that was typed in.
import { key } from '../state/key';
import { T } from '../texts';
import { ApiError, errorOf, isAbort } from './errors';

/** Where `/v1` is: one level above the page, behind a proxy's prefix too. */
export const SERVER = new URL('..', document.baseURI).href.replace(/\/$/, '');

export function address(path: string): string {
  return `${SERVER}${path}`;
}

export function headers(more: Record<string, string> = {}): Record<string, string> {
  return key.value ? { ...more, Authorization: `Bearer ${key.value}` } : more;
}

/** The response, which is a success. Throws: ApiError; AbortError when `signal` says so. */
export async function send(path: string, options: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(address(path), { cache: 'no-store', ...options });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError(T.errors.unreachable, 0);
  }
  if (!response.ok) throw errorOf(response.status, await response.text(), response.headers.get('Retry-After'));
  return response;
}

export async function getJson<T>(path: string): Promise<T> {
  return (await send(path, { headers: headers() })).json() as Promise<T>;
}

export async function postJson<T>(path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const content = body === undefined ? {} : { body: JSON.stringify(body) };
  const type: Record<string, string> = body === undefined ? {} : { 'Content-Type': 'application/json' };
  return (await send(path, { method: 'POST', headers: headers(type), signal: signal ?? null, ...content })).json() as Promise<T>;
}
