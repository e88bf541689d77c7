// A density as colour, a score as arrows, an error as colour.
import { type Grid, type Points, centre } from "../maths/plane.ts";
import type { Stage } from "./stage.ts";
import { type Colour, css } from "./theme.ts";

const SPACING = 30; // CSS pixels between arrows
const MOST = 21; // arrows in a row
const small = new OffscreenCanvas(1, 1); // one pixel for each square
const painter = small.getContext("2d", { willReadFrequently: true }); // in memory: what is painted is computed there

/** Draws values between 0 and 1 at the centres of squares, as the opacity of a colour, smoothly between them. */
export function heat(stage: Stage, { cells, values }: Grid, colour: Colour, opacity: (value: number) => number): void {
  const image = new ImageData(cells, cells);
  for (let row = 0; row < cells; row++) {
    for (let column = 0; column < cells; column++) {
      const at = 4 * ((cells - 1 - row) * cells + column);
      image.data[at] = colour[0];
      image.data[at + 1] = colour[1];
      image.data[at + 2] = colour[2];
      image.data[at + 3] = 255 * opacity(values[row * cells + column]);
    }
  }
  small.width = small.height = cells;
  painter?.putImageData(image, 0, 0);
  stage.context.imageSmoothingEnabled = true;
  stage.context.imageSmoothingQuality = "high";
  stage.context.drawImage(small, 0, 0, stage.size, stage.size);
}

/** A density: the square root of its share of the peak, so that the small mode is seen beside the large one. */
export function density(stage: Stage, grid: Grid): void {
  let peak = 0;
  for (const value of grid.values) if (value > peak) peak = value;
  if (peak > 0) heat(stage, grid, stage.theme.accent, (value) => 0.8 * Math.sqrt(value / peak));
}

/** How many arrows a row has on a stage. */
export function arrowCount(stage: Stage): number {
  return Math.max(9, Math.min(MOST, Math.round(stage.size / SPACING)));
}

/** Scores at the centres of count × count squares: lengths are |s|/(|s| + median), so that all of them are seen. */
export function arrows(stage: Stage, scores: Points, count: number): void {
  const { context, theme } = stage;
  const lengths = new Float64Array(scores.length / 2);
  for (let i = 0; i < lengths.length; i++) lengths[i] = Math.hypot(scores[2 * i], scores[2 * i + 1]);
  const median = lengths.slice().sort()[lengths.length >> 1];
  const longest = (0.95 * stage.size) / count;
  context.strokeStyle = css(theme.ink, 0.75);
  context.lineWidth = 1.1;
  context.beginPath();
  for (let i = 0; i < lengths.length; i++) {
    if (!(lengths[i] > 0)) continue;
    const length = (longest * lengths[i]) / (lengths[i] + median);
    const dx = (scores[2 * i] / lengths[i]) * length;
    const dy = (-scores[2 * i + 1] / lengths[i]) * length;
    const x = stage.column(centre(i % count, count)) + dx / 2;
    const y = stage.row(centre(Math.floor(i / count), count)) + dy / 2;
    context.moveTo(x - dx, y - dy);
    context.lineTo(x, y);
    context.moveTo(x - 0.36 * dx - 0.2 * dy, y - 0.36 * dy + 0.2 * dx);
    context.lineTo(x, y);
    context.lineTo(x - 0.36 * dx + 0.2 * dy, y - 0.36 * dy - 0.2 * dx);
  }
  context.stroke();
}

/** A thin frame with ticks at −5, 0 and 5. */
export function frame(stage: Stage): void {
  const { context, theme, size } = stage;
  context.strokeStyle = css(theme.ink, 0.35);
  context.lineWidth = 1;
  context.strokeRect(0.5, 0.5, size - 1, size - 1);
  context.beginPath();
  for (const value of [-5, 0, 5]) {
    const [x, y] = [stage.column(value), stage.row(value)];
    context.moveTo(x, size);
    context.lineTo(x, size - 6);
    context.moveTo(0, y);
    context.lineTo(6, y);
  }
  context.stroke();
  if (size < 240) return;
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = css(theme.ink);
  context.strokeStyle = css(theme.paper);
  context.lineWidth = 3;
  for (const value of [-5, 0, 5]) {
    const text = String(value).replace("-", "−");
    const write = (x: number, y: number, align: CanvasTextAlign): void => {
      context.textAlign = align;
      context.strokeText(text, x, y); // so that it is read on arrows, too
      context.fillText(text, x, y);
    };
    write(stage.column(value), size - 9, "center");
    write(9, stage.row(value) + 4, "left");
  }
}
