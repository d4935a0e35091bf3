import { describe, expect, it } from 'vitest';
import { histogram, parseMetrics, quantile, total } from './prometheus';

const PAGE = `# HELP x_seconds Something.
# TYPE x_seconds histogram
x_seconds_bucket{le="0.1",method="none"} 2.0
x_seconds_bucket{le="1.0",method="none"} 4.0
x_seconds_bucket{le="+Inf",method="none"} 4.0
x_seconds_bucket{le="0.1",method="adapters"} 1.0
x_seconds_bucket{le="1.0",method="adapters"} 5.0
x_seconds_bucket{le="+Inf",method="adapters"} 6.0
x_seconds_count{method="none"} 4.0
vllm:running{model_name="a\\"b\\\\c"} 3
big 1.5e+06 1700000000
not a metric
`;

describe('Prometheus’ text', () => {
  const samples = parseMetrics(PAGE);

  it('is read with labels, escapes and exponents', () => {
    expect(samples).toContainEqual({ name: 'vllm:running', labels: { model_name: 'a"b\\c' }, value: 3 });
    expect(total(samples, 'big')).toBe(1.5e6);
    expect(total(samples, 'absent')).toBeUndefined();
  });

  it('has histograms summed over their labels', () => {
    expect(histogram(samples, 'x_seconds')).toEqual({ bounds: [0.1, 1, Infinity], counts: [3, 9, 10] });
    expect(histogram(samples, 'y_seconds')).toBeUndefined();
  });
});

describe('a quantile', () => {
  const bounds = [0.1, 1, Infinity];

  it('is of what was observed between two scrapes, linear within a bucket', () => {
    const before = { bounds, counts: [10, 10, 10] };
    expect(quantile(0.5, before, { bounds, counts: [10, 20, 20] })).toBeCloseTo(0.55);
    expect(quantile(0.5, undefined, { bounds, counts: [4, 4, 4] })).toBeCloseTo(0.05);
  });

  it('is the highest finite bound for what lies above it', () => {
    expect(quantile(0.95, undefined, { bounds, counts: [0, 0, 5] })).toBe(1);
  });

  it('is unknown when nothing was observed, or the server was started anew', () => {
    const before = { bounds, counts: [3, 3, 3] };
    expect(quantile(0.5, before, before)).toBeUndefined();
    expect(quantile(0.5, before, { bounds, counts: [1, 1, 1] })).toBeUndefined();
  });
});
