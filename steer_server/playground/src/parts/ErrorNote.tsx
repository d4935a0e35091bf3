// An error in the server's words, with the field that it names.
import type { ApiError } from '../api/errors';
import { T } from '../texts';

export function ErrorNote({ error, onRetry }: { error: ApiError; onRetry?: () => void }) {
  return (
    <div class="error" role="alert">
      <p>{error.message}</p>
      {(error.param || error.code) && (
        <p class="where">
          {error.code && <code>{error.code}</code>}
          {error.param && <> {T.errors.at(error.param)}</>}
        </p>
      )}
      {onRetry && (
        <button type="button" onClick={onRetry}>
          {T.errors.tryAgain}
        </button>
      )}
    </div>
  );
}
