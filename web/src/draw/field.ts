// A density as colour, a score as arrows, an error as colour.
import { type Grid, type Points, centre } from "../maths/plane.ts";
import { el, figure, short } from "../ui.ts";
import { type Colour, Stage, css } from "./stage.ts";

const TICKS = [-5, 0, 5];
const SPACING = 30; // CSS pixels between arrows
const MOST = 21; // arrows in a row
const small = new OffscreenCanvas(1, 1); // one pixel for each square
const painter = small.getContext("2d", { willReadFrequently: true }); // in memory: what is painted is computed there

/** Draws values between 0 and 1 at the centres of squares, as the opacity of a colour, smoothly between them. */
export function heat(stage: Stage, { cells, values }: Grid, colour: Colour, opacity: (value: number) => number): void {
  const image = new ImageData(cells, cells);
  for (let at = 0; at < values.length; at++) {
    const row = cells - 1 - Math.floor(at / cells); // pictures begin above, the plane below
    image.data.set([...colour, 255 * opacity(values[at])], 4 * (row * cells + (at % cells)));
  }
  small.width = small.height = cells;
  painter?.putImageData(image, 0, 0);
  stage.context.imageSmoothingEnabled = true;
  stage.context.imageSmoothingQuality = "high";
  stage.context.drawImage(small, 0, 0, stage.size, stage.size);
}

/** A density: the square root of its share of the peak, so that the small mode is seen beside the large one. */
export function density(stage: Stage, grid: Grid, colour: Colour, darkest: number): void {
  const peak = grid.values.reduce((a, b) => Math.max(a, b), 0);
  if (peak > 0) heat(stage, grid, colour, (value) => darkest * Math.sqrt(value / peak));
}

/** How many arrows a row has on a stage. */
export function arrowCount(stage: Stage): number {
  return Math.max(9, Math.min(MOST, Math.round(stage.size / SPACING)));
}

/** Scores at the centres of count × count squares: lengths are |s|/(|s| + median), so that all of them are seen. */
export function arrows(stage: Stage, scores: Points, count: number): void {
  const { context, theme } = stage;
  const lengths = Float64Array.from({ length: scores.length / 2 }, (_, i) =>
    Math.hypot(scores[2 * i], scores[2 * i + 1]),
  );
  const median = lengths.slice().sort()[lengths.length >> 1];
  const longest = (0.95 * stage.size) / count;
  [context.strokeStyle, context.lineWidth] = [css(theme.ink, 0.75), 1.1];
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

/** A stage under its title, a note, and more; with a frame over what is painted. */
export class Panel extends Stage {
  readonly figure: HTMLElement;
  readonly #note = el("small");

  constructor(title: string, label: string, changed: () => void, signal: AbortSignal, ...more: Node[]) {
    super({ role: "img", "aria-label": label }, changed, signal);
    this.figure = figure([title, " ", this.#note, ...more], this.element);
  }

  paint(note: string, draw: () => void): void {
    this.#note.textContent = note;
    this.clear();
    draw();
    frame(this);
  }
}

/** A thin frame with ticks at −5, 0 and 5. */
export function frame(stage: Stage): void {
  const { context, theme, size } = stage;
  [context.strokeStyle, context.lineWidth] = [css(theme.ink, 0.35), 1];
  context.strokeRect(0.5, 0.5, size - 1, size - 1);
  context.beginPath();
  for (const value of TICKS) {
    const [x, y] = [stage.column(value), stage.row(value)];
    context.moveTo(x, size);
    context.lineTo(x, size - 6);
    context.moveTo(0, y);
    context.lineTo(6, y);
  }
  context.stroke();
  if (size < 240) return;
  context.font = "11px system-ui, sans-serif";
  [context.fillStyle, context.strokeStyle, context.lineWidth] = [css(theme.ink), css(theme.paper), 3];
  const write = (text: string, x: number, y: number, align: CanvasTextAlign): void => {
    context.textAlign = align;
    context.strokeText(text, x, y); // so that it is read on arrows, too
    context.fillText(text, x, y);
  };
  for (const value of TICKS) {
    const text = short(value);
    write(text, stage.column(value), size - 9, "center");
    write(text, 9, stage.row(value) + 4, "left");
  }
}
