// A line chart by uPlot, in the page's colours, as wide as its place.
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { theme } from '../state/theme';

export interface Line {
  label: string;
  values: (number | null)[];
  isDashed?: boolean;
}

interface Props {
  /** Said instead of the picture. */
  label: string;
  xs: number[];
  lines: Line[];
  xLabel: string;
  height: number;
  /** Times on the horizontal axis, in seconds since 1970. */
  isTime?: boolean;
  yRange?: [number, number];
  yShown: (value: number) => string;
  onDrawn?: (chart: uPlot) => void;
}

const NUM_COLOURS = 8;
const system = matchMedia('(prefers-color-scheme: dark)');

export function Chart(props: Props) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const drawn = useRef(props);
  drawn.current = props;
  const labels = props.lines.map((line) => line.label).join('\n');
  const shownTheme = theme.value;

  useEffect(() => {
    const element = place.current!;
    const make = () => {
      chart.current?.destroy();
      chart.current = new uPlot(optionsFor(drawn.current, element), dataOf(drawn.current), element);
      drawn.current.onDrawn?.(chart.current);
    };
    make();
    const resized = new ResizeObserver(() =>
      chart.current?.setSize({ width: element.clientWidth, height: drawn.current.height }),
    );
    resized.observe(element);
    system.addEventListener('change', make);
    return () => {
      system.removeEventListener('change', make);
      resized.disconnect();
      chart.current?.destroy();
      chart.current = null;
    };
  }, [labels, shownTheme, props.xLabel]);

  useEffect(() => chart.current?.setData(dataOf(props)));

  return <div class="chart" role="img" aria-label={props.label} ref={place} />;
}

function dataOf({ xs, lines }: Props): uPlot.AlignedData {
  return [xs, ...lines.map((line) => line.values)];
}

function optionsFor(props: Props, element: HTMLElement): uPlot.Options {
  const { isTime = false, yShown, yRange } = props;
  const ink = colour(element, '--muted');
  const grid = { stroke: colour(element, '--line'), width: 1 };
  const font = `12px ${getComputedStyle(element).fontFamily}`;
  const axis = { stroke: ink, font, labelFont: font, grid, ticks: grid };
  return {
    width: element.clientWidth,
    height: props.height,
    cursor: { y: false, drag: { x: false, y: false } },
    legend: { show: !isTime, live: false },
    padding: [null, 20, null, null],
    scales: {
      x: isTime ? { time: true, range: atLeastAMinute } : { time: false },
      y: { range: yRange ?? fromZero },
    },
    axes: [
      { ...axis, ...(isTime ? { values: clockTimes, space: 90 } : { label: props.xLabel, labelSize: 20 }) },
      { ...axis, size: 64, values: (_, ticks) => ticks.map(yShown) },
    ],
    series: [
      { label: props.xLabel },
      ...props.lines.map((line, i): uPlot.Series => {
        const stroke = colour(element, line.isDashed ? '--muted' : `--line-${(i % NUM_COLOURS) + 1}`);
        return {
          label: line.label,
          stroke,
          width: 2,
          ...(line.isDashed ? { dash: [5, 4] } : {}),
          // Also in time: after a quiet while, one look alone would be no line.
          points: { show: true, size: isTime ? 3 : 6, stroke, fill: stroke },
        };
      }),
    ],
  };
}

function fromZero(_: uPlot, __: number, most: number): [number, number] {
  return [0, (most || 1) * 1.1];
}

/** The newest on the right, however little there is to its left. */
function atLeastAMinute(_: uPlot, from: number, to: number): [number, number] {
  return [Math.min(from, to - 60), to];
}

function clockTimes(_: uPlot, seconds: number[]): string[] {
  return seconds.map((at) => new Date(at * 1000).toLocaleTimeString([], { hourCycle: 'h23' }));
}

/** A colour of the style sheet as the canvas needs it: canvases know neither variables nor light-dark(). */
function colour(element: HTMLElement, name: string): string {
  const probe = document.createElement('span');
  probe.style.color = `var(${name})`;
  element.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
