// Saving what the page made as a file.

export function saveText(name: string, type: string, text: string): void {
  saveBlob(name, new Blob([text], { type }));
}

/** The chart's canvas on the page's background, with a title and its legend, which uPlot does not draw. */
export function savePng(name: string, chart: HTMLCanvasElement, title: string, legend: { label: string; colour: string }[]): void {
  const scale = devicePixelRatio;
  const above = 40 * scale;
  const below = 34 * scale;
  const canvas = document.createElement('canvas');
  canvas.width = chart.width;
  canvas.height = chart.height + above + below;
  const context = canvas.getContext('2d')!;
  const style = getComputedStyle(document.body);
  context.fillStyle = style.backgroundColor;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = style.color;
  context.font = `600 ${15 * scale}px ${style.fontFamily}`;
  context.fillText(title, 14 * scale, 26 * scale, canvas.width - 28 * scale);
  context.drawImage(chart, 0, above);
  context.font = `${12 * scale}px ${style.fontFamily}`;
  let x = 14 * scale;
  const y = above + chart.height + 20 * scale;
  for (const { label, colour } of legend) {
    context.fillStyle = colour;
    context.fillRect(x, y - 7 * scale, 14 * scale, 3 * scale);
    context.fillStyle = style.color;
    context.fillText(label, x + 20 * scale, y);
    x += 40 * scale + context.measureText(label).width;
  }
  canvas.toBlob((blob) => blob && saveBlob(name, blob), 'image/png');
}

function saveBlob(name: string, blob: Blob): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
