// Writes src/map/countries.json: the outline of every country on a small map, by ISO 3166 alpha-3 code.
// From Natural Earth's boundaries (public domain), in Equal Earth's projection, cut where nobody lives.
import { readFileSync, writeFileSync } from 'node:fs';
import { geoEqualEarth, geoPath } from 'd3-geo';
import isoCountries from 'i18n-iso-countries';
import { feature } from 'topojson-client';
import { presimplify, simplify } from 'topojson-simplify';

const WIDTH = 680;
/** Of the triangle that a point makes with its neighbours, in square degrees. */
const LEAST_DETAIL = 0.3;
/** Of an island, in the picture's units. Smaller ones are left out; a country of nothing else is a dot. */
const LEAST_AREA = 10;
const NORTH_AND_SOUTH = { type: 'MultiPoint', coordinates: [[0, 83.7], [0, -55.5]] };

const atlas = JSON.parse(readFileSync(new URL(import.meta.resolve('world-atlas/countries-50m.json'))));
const projection = geoEqualEarth().rotate([-11, 0]).fitWidth(WIDTH, { type: 'Sphere' });
const path = geoPath(projection);
const [[, top], [, bottom]] = path.bounds(NORTH_AND_SOUTH);
projection.translate([projection.translate()[0], projection.translate()[1] - top]);

/** A closed line through points on a grid, relative to where the last one began; '' for one that is too small. */
function outline(points, [fromX, fromY]) {
  const area = points.reduce((sum, [x, y], i) => {
    const [nextX, nextY] = points[(i + 1) % points.length];
    return sum + x * nextY - nextX * y;
  }, 0);
  if (Math.abs(area) / 2 < LEAST_AREA) return '';
  const [first, ...others] = points.map(([x, y], i) => {
    const [beforeX, beforeY] = i > 0 ? points[i - 1] : [fromX, fromY];
    return `${x - beforeX},${y - beforeY}`;
  });
  return `m${first}l${others.join(' ')}z`.replaceAll(/[ ,]-/g, '-');
}

/** All of a country that is large enough to be seen. */
function outlines(shape) {
  let from = [0, 0];
  let written = '';
  for (const ring of (path(shape) ?? '').split('M').slice(1)) {
    const rounded = ring.replace('Z', '').split('L').map((point) => point.split(',').map(Math.round));
    const points = rounded.filter(([x, y], i) => i === 0 || x !== rounded[i - 1][0] || y !== rounded[i - 1][1]);
    const line = outline(points, from);
    if (line) from = points[0];
    written += line;
  }
  // The first is absolute, so that countries can be joined.
  return written.replace(/^m/, 'M');
}

const exact = feature(atlas, atlas.objects.countries).features;
const simple = simplify(presimplify(atlas), LEAST_DETAIL);
const countries = {};
feature(simple, simple.objects.countries).features.forEach((country, i) => {
  const code = isoCountries.numericToAlpha3(country.id);
  if (!code || code === 'ATA' || countries[code]) return;
  const [x, y] = path.centroid(exact[i]).map(Math.round);
  countries[code] = outlines(country) || `M${x - 3},${y}a3,3 0 1,0 6,0a3,3 0 1,0-6,0z`;
});
const drawn = { width: WIDTH, height: Math.ceil(bottom - top), countries };
writeFileSync(process.argv[2] ?? new URL('src/map/countries.json', import.meta.url), `${JSON.stringify(drawn)}\n`);
