// A table as CSV (RFC 4180).

export type Cell = string | number | null | undefined;

export function asCsv(rows: Cell[][]): string {
  return rows.map((row) => row.map(written).join(',') + '\r\n').join('');
}

function written(cell: Cell): string {
  if (cell === null || cell === undefined) return '';
  if (typeof cell === 'number') return String(cell);
  // Spreadsheets run a text that begins so as a formula, and the model's answers are not to be trusted.
  const safe = /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
