// That the server is busy, in its words, and the seconds until it is asked again.
import { useEffect, useState } from 'preact/hooks';
import type { Pause } from '../api/retry';
import { T } from '../texts';

export function Busy({ pause: { error, seconds } }: { pause: Pause }) {
  const [left, setLeft] = useState(seconds);
  useEffect(() => {
    setLeft(seconds);
    const timer = setInterval(() => setLeft((before) => Math.max(0, before - 1)), 1000);
    return () => clearInterval(timer);
  }, [error, seconds]);
  return (
    <div class="busy" role="status">
      <p>{error.message}</p>
      {/* Read out once, and not at every second. */}
      <p class="note" aria-live="off">
        {T.errors.again(left)}
      </p>
    </div>
  );
}
