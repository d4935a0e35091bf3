// Loading something again and again: of calls that overlap, the last one decides.
import { type ApiError, asApiError } from './errors';

/** A function that loads and hands over what came, unless it was called again meanwhile. */
export function byLastCall<T>(
  load: () => Promise<T>,
  onFound: (found: T) => void,
  onError: (error: ApiError) => void,
): () => Promise<void> {
  let last = 0;
  return async () => {
    const call = ++last;
    try {
      const found = await load();
      if (call === last) onFound(found);
    } catch (error) {
      if (call === last) onError(asApiError(error));
    }
  };
}
