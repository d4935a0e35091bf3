// Asking a busy server again as soon as it says that it may be asked.
import { ApiError } from './errors';

/** In all, for one request. What takes longer is for a person to ask again. */
export const MOST_WAIT_SECONDS = 120;

/** The server is busy, and is asked again after `seconds`. */
export interface Pause {
  error: ApiError;
  seconds: number;
}

/**
 * What `attempt` gives, tried again after each 429 or 503 that carries Retry-After.
 * Args: onPause: told of every pause, and null when it is over.
 * Throws: ApiError, when it is another one or the wait would be too long; AbortError when `signal` says so.
 */
export async function patiently<T>(
  attempt: () => Promise<T>,
  signal: AbortSignal,
  onPause: (pause: Pause | null) => void,
): Promise<T> {
  for (let waited = 0; ; ) {
    try {
      return await attempt();
    } catch (error) {
      const seconds = secondsToWait(error);
      if (seconds === null || waited + seconds > MOST_WAIT_SECONDS) throw error;
      waited += seconds;
      onPause({ error: error as ApiError, seconds });
      await sleep(seconds, signal).finally(() => onPause(null));
    }
  }
}

function secondsToWait(error: unknown): number | null {
  if (!(error instanceof ApiError) || ![429, 503].includes(error.status)) return null;
  // Proxies send 0 too.
  return error.retryAfterSeconds === undefined ? null : Math.max(1, error.retryAfterSeconds);
}

function sleep(seconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop);
      resolve();
    }, seconds * 1000);
    signal.addEventListener('abort', stop, { once: true });
  });
}
