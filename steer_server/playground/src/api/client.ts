// Requests to the server that this page came from, with the key that was typed in, and its errors as they are.
import { key } from '../state/key';
import { T } from '../texts';

/** Where `/v1` is: one level above the page, behind a proxy's prefix too. */
export const SERVER = new URL('..', document.baseURI).href.replace(/\/$/, '');

/** An answer that is none, in the server's words. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code?: string,
    readonly param?: string,
    readonly reason?: string,
  ) {
    super(message);
  }
}

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
  if (!response.ok) throw errorOf(response.status, await response.text());
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

/** The error in a body, which is in OpenAI's shape when the server itself wrote it. */
export function errorOf(status: number, body: string): ApiError {
  try {
    const { error } = JSON.parse(body) as { error: Record<string, string> | string };
    if (typeof error === 'string') return new ApiError(error, status);
    return new ApiError(error.message ?? T.errors.status(status), status, error.code, error.param, error.reason);
  } catch {
    return new ApiError(T.errors.status(status), status);
  }
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === 'AbortError';
}

export function asApiError(error: unknown): ApiError {
  return error instanceof ApiError ? error : new ApiError(String(error), 0);
}
