// Live charts of the server's latency.
import { useEffect } from 'preact/hooks';
import { CHARTS, type ChartName, GAUGES, type GaugeName, LOOK_EVERY_MS, latencyError, look, looks, missing } from '../state/latency';
import { T } from '../texts';
import { Chart } from './Chart';
import { duration } from './format';

export function Latency() {
  useEffect(() => {
    const lookIfSeen = () => void (document.visibilityState === 'visible' && look());
    lookIfSeen();
    const timer = setInterval(lookIfSeen, LOOK_EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  const last = looks.value.at(-1);
  const charts = (Object.keys(CHARTS) as ChartName[]).filter((chart) => !missing.value.includes(chart));
  return (
    <section class="card latency" aria-label={T.latency.heading}>
      <h2>{T.latency.heading}</h2>
      <p class="note">{latencyError.value ? T.latency.none : T.latency.about}</p>
      {latencyError.value && <p class="note">{latencyError.value.message}</p>}
      {last && (
        <dl class="facts">
          {(Object.keys(GAUGES) as GaugeName[]).map((gauge) => (
            <div key={gauge}>
              <dt>{T.latency[gauge]}</dt>
              <dd>{last.gauges[gauge] ?? '–'}</dd>
            </div>
          ))}
        </dl>
      )}
      {last && charts.map((chart) => <LatencyChart key={chart} chart={chart} />)}
      {last && missing.value.length > 0 && (
        <p class="note">{T.latency.missing(missing.value.flatMap((chart) => CHARTS[chart]).join(', '))}</p>
      )}
    </section>
  );
}

function LatencyChart({ chart }: { chart: ChartName }) {
  const seen = looks.value.map((one) => one.quantiles[chart]);
  const latest = seen.findLast((one) => one?.median != null);
  const milliseconds = (seconds: number | null | undefined) => (seconds == null ? null : seconds * 1000);
  return (
    <figure>
      <figcaption>
        <b>{T.latency.charts[chart]}</b>
        <span class="note">
          {latest
            ? `─ ${T.latency.median} ${duration(latest.median! * 1000)}  ╌ ${T.latency.p95} ${duration(latest.p95! * 1000)}`
            : T.latency.quiet}
        </span>
      </figcaption>
      {latest && (
        <Chart
          label={T.latency.charts[chart]}
          xs={looks.value.map((one) => one.at)}
          lines={[
            { label: T.latency.median, values: seen.map((one) => milliseconds(one?.median)) },
            { label: T.latency.p95, values: seen.map((one) => milliseconds(one?.p95)), isDashed: true },
          ]}
          xLabel=""
          height={140}
          isTime
          yShown={duration}
        />
      )}
    </figure>
  );
}
