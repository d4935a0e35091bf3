// One number as a bar with its name.
import { clamp } from '../pure/weights';

interface Props {
  name: string;
  value: number;
  /** What the whole width stands for. */
  most?: number;
  shown: string;
  title?: string;
}

export function Bar({ name, value, most = 1, shown, title }: Props) {
  const share = most > 0 ? clamp(Math.abs(value) / most, 0, 1) : 0;
  return (
    <li class="bar" title={title ?? name}>
      <span class="bar-name">{name}</span>
      <span class="bar-track">
        <span class={value < 0 ? 'bar-fill against' : 'bar-fill'} style={{ width: `${share * 100}%` }} />
      </span>
      <span class="bar-value">{shown}</span>
    </li>
  );
}
