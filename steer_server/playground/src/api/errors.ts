// The server's errors as they are, and those of a request that it never answered.
import { T } from '../texts';

/** An answer that is none, in the server's words. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code?: string,
    readonly param?: string,
    readonly reason?: string,
    /** When it may be asked again. */
    readonly retryAfterSeconds?: number,
  ) {
    super(message);
  }
}

/** The error in a body, which is in OpenAI's shape when the server itself wrote it. */
export function errorOf(status: number, body: string, retryAfter: string | null): ApiError {
  const { message, code, param, reason } = readError(body);
  return new ApiError(message ?? T.errors.status(status), status, code, param, reason, secondsOf(retryAfter));
}

function readError(body: string): Record<string, string | undefined> {
  try {
    const { error } = JSON.parse(body) as { error?: Record<string, string> | string };
    return typeof error === 'string' ? { message: error } : (error ?? {});
  } catch {
    return {};
  }
}

/** A Retry-After is seconds, or a date from a proxy. */
function secondsOf(retryAfter: string | null): number | undefined {
  if (retryAfter === null) return undefined;
  const seconds = /^\d+$/.test(retryAfter) ? Number(retryAfter) : Math.ceil((Date.parse(retryAfter) - Date.now()) / 1000);
  return Number.isNaN(seconds) ? undefined : Math.max(0, seconds);
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === 'AbortError';
}

export function asApiError(error: unknown): ApiError {
  return error instanceof ApiError ? error : new ApiError(String(error), 0);
}
