// Canvases at the resolution of the screen and in the colours of the page; a stage shows the square [−VIEW, VIEW]².
import { type Grid, type Points, VIEW, centre } from "../maths/plane.ts";
import { el, figure, short } from "../ui.ts";

const SHARPEST = 2; // device pixels per CSS pixel; more cost much and show little

export type Colour = [red: number, green: number, blue: number];

/** The colours of the style sheet. */
function readTheme(): { paper: Colour; ink: Colour; accent: Colour } {
  const style = getComputedStyle(document.documentElement);
  const painter = document.createElement("canvas").getContext("2d") as CanvasRenderingContext2D;
  const colour = (name: string): Colour => {
    painter.fillStyle = style.getPropertyValue(name); // in any notation; read back, it is #rrggbb
    return [1, 3, 5].map((at) => Number.parseInt(String(painter.fillStyle).slice(at, at + 2), 16)) as Colour;
  };
  return { paper: colour("--paper"), ink: colour("--ink"), accent: colour("--accent") };
}

export function css([red, green, blue]: Colour, opacity = 1): string {
  return `rgb(${red} ${green} ${blue} / ${opacity})`;
}

/** Returns a function that requests a frame. Frames repeat as long as ``draw`` returns true. */
export function frames(draw: () => boolean, signal: AbortSignal): () => void {
  let frame = 0;
  const request = (): void => {
    if (frame === 0 && !signal.aborted) frame = requestAnimationFrame(tick);
  };
  const tick = (): void => {
    frame = 0;
    if (draw()) request();
  };
  signal.addEventListener("abort", () => cancelAnimationFrame(frame));
  return request;
}

export class Canvas {
  readonly element: HTMLCanvasElement;
  readonly context: CanvasRenderingContext2D;
  theme = readTheme();
  /** In CSS pixels. */
  width = 300;
  height = 300;

  /** Calls ``changed`` when the size or the colours change, until ``signal`` aborts. */
  constructor(attributes: Record<string, string>, changed: () => void, signal: AbortSignal) {
    this.element = el("canvas", attributes);
    this.context = context(this.element);
    const observer = new ResizeObserver(() => {
      const { clientWidth, clientHeight } = this.element;
      [this.width, this.height] = [Math.max(1, clientWidth), Math.max(1, clientHeight)];
      const sharpness = Math.min(SHARPEST, devicePixelRatio);
      this.element.width = Math.round(this.width * sharpness);
      this.element.height = Math.round(this.height * sharpness);
      changed();
    });
    observer.observe(this.element);
    signal.addEventListener("abort", () => observer.disconnect());
    const recolour = (): void => {
      this.theme = readTheme();
      changed();
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour, { signal });
  }

  /** Switches to CSS pixels. */
  clear(): void {
    const { element, width, height } = this;
    this.context.setTransform(element.width / width, 0, 0, element.height / height, 0, 0);
    this.context.clearRect(0, 0, width, height);
  }
}

/** Drawing functions for a canvas. */
export function context(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  const found = canvas.getContext("2d");
  if (!found) throw new Error("this browser has no canvas to draw on");
  return found;
}

export class Stage extends Canvas {
  /** Half the side of the visible square. */
  view = VIEW;

  column(x: number): number {
    return ((x / this.view + 1) / 2) * this.width;
  }

  row(y: number): number {
    return ((1 - y / this.view) / 2) * this.width;
  }

  /** The pointer’s position in the plane. */
  place(event: { clientX: number; clientY: number }): [x: number, y: number] {
    const box = this.element.getBoundingClientRect();
    const x = (2 * (event.clientX - box.left)) / box.width - 1;
    const y = 1 - (2 * (event.clientY - box.top)) / box.height;
    return [x * this.view, y * this.view];
  }

  /** Small squares at the points, or at some of them. */
  dots(x: ArrayLike<number>, colour: string, side: number, keep: (i: number) => boolean = () => true): void {
    const { context } = this;
    context.fillStyle = colour;
    const scale = this.width / (2 * this.view);
    const corner = this.width / 2 - side / 2;
    for (let i = 0; i < x.length; i += 2) {
      if (keep(i)) context.fillRect(corner + x[i] * scale, corner - x[i + 1] * scale, side, side);
    }
  }

  /** A line along points. */
  line(x: ArrayLike<number>, colour: string, width: number): void {
    const { context } = this;
    [context.strokeStyle, context.lineWidth, context.lineJoin] = [colour, width, "round"];
    context.beginPath();
    for (let i = 0; i < x.length; i += 2) context.lineTo(this.column(x[i]), this.row(x[i + 1]));
    context.stroke();
  }

  /** An arrow from one point to another. */
  arrow([x, y]: Points, [toX, toY]: Points, colour: string, width: number): void {
    const { context } = this;
    [context.strokeStyle, context.lineWidth] = [colour, width];
    const [column, row] = [this.column(toX), this.row(toY)];
    context.beginPath();
    addArrow(context, column, row, column - this.column(x), row - this.row(y));
    context.stroke();
  }

  /** A circle around a point, perhaps filled. */
  circle([x, y]: Points, radius: number, line: string, fill?: string): void {
    const { context } = this;
    context.beginPath();
    context.arc(this.column(x), this.row(y), radius, 0, 2 * Math.PI);
    if (fill) {
      context.fillStyle = fill;
      context.fill();
    }
    [context.strokeStyle, context.lineWidth] = [line, 2];
    context.stroke();
  }
}

const KEYS: Record<string, number[]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export interface Moves {
  /** Whether a touch here is handled; otherwise it scrolls the page. */
  takes(x: number, y: number): boolean;
  /** The pointer goes down, or moves while it is down. */
  drag(x: number, y: number, first: boolean): void;
  release(): void;
  /** An arrow key, with the distance to move. */
  nudge(dx: number, dy: number): void;
  /** Any other key; returns whether it was handled. */
  key(key: string): boolean;
}

/** Handles pointer, touch and keyboard on a stage. */
export function movable(stage: Stage, moves: Moves): void {
  const canvas = stage.element;
  const attributes = { tabindex: "0", role: "application", "aria-describedby": "keys" };
  for (const [name, value] of Object.entries(attributes)) canvas.setAttribute(name, value);
  let down = false;
  const begin = (event: PointerEvent): void => {
    const [x, y] = stage.place(event);
    // A touch elsewhere scrolls; a tap is followed by a click.
    if (event.button !== 0 || (event.pointerType === "touch" && !moves.takes(x, y))) return;
    down = true;
    canvas.setPointerCapture(event.pointerId);
    moves.drag(x, y, true);
  };
  const end = (): void => {
    if (down) moves.release();
    down = false;
  };
  canvas.addEventListener("pointerdown", begin);
  canvas.addEventListener("pointermove", (event) => {
    if (down) moves.drag(...stage.place(event), false);
  });
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("click", (event) => {
    if ((event as PointerEvent).pointerType !== "touch" || moves.takes(...stage.place(event))) return;
    moves.drag(...stage.place(event), true);
    moves.release();
  });
  const keep = (event: TouchEvent): void => {
    if (event.touches.length === 1 && moves.takes(...stage.place(event.touches[0]))) event.preventDefault();
  };
  canvas.addEventListener("touchstart", keep, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const arrow = KEYS[event.key];
    const step = event.shiftKey ? 1 : 0.2;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow) moves.nudge(step * arrow[0], step * arrow[1]);
    if (arrow || moves.key(event.key)) event.preventDefault();
  });
}

const TICKS = [100, 50, 20, 10, 5]; // of which the largest that fits is written
const SPACING = 30; // CSS pixels between arrows
const MOST = 21; // arrows in a row
const small = new OffscreenCanvas(1, 1); // one pixel for each square
const painter = small.getContext("2d", { willReadFrequently: true }); // in memory: what is painted is computed there

/** Draws values between 0 and 1 at the centres of squares as opacity, interpolated smoothly. */
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
  stage.context.drawImage(small, 0, 0, stage.width, stage.width);
}

/** Draws the square root of a density over its peak, so that the small mode is visible next to the large one. */
export function density(stage: Stage, grid: Grid, colour: Colour, darkest: number): void {
  const peak = grid.values.reduce((a, b) => Math.max(a, b), 0);
  if (peak > 0) heat(stage, grid, colour, (value) => darkest * Math.sqrt(value / peak));
}

/** The number of arrows per row of a stage. */
export function arrowCount(stage: Stage): number {
  return Math.max(9, Math.min(MOST, Math.round(stage.width / SPACING)));
}

const lengthsOf = (scores: Points): Float64Array =>
  Float64Array.from({ length: scores.length / 2 }, (_, i) => Math.hypot(scores[2 * i], scores[2 * i + 1]));

/** Scores at the centres of count × count squares, with length |s|/(|s| + m) to keep all of them visible; m is the median of ``like``. */
export function arrows(stage: Stage, scores: Points, count: number, opacity = 0.75, like = scores): void {
  const { context, theme } = stage;
  const lengths = lengthsOf(scores);
  const median = lengthsOf(like).sort()[lengths.length >> 1];
  const longest = (0.95 * stage.width) / count;
  [context.strokeStyle, context.lineWidth] = [css(theme.ink, opacity), 1.1];
  context.beginPath();
  for (let i = 0; i < lengths.length; i++) {
    if (!(lengths[i] > 0)) continue;
    const length = (longest * lengths[i]) / (lengths[i] + median);
    const dx = (scores[2 * i] / lengths[i]) * length;
    const dy = (-scores[2 * i + 1] / lengths[i]) * length;
    const x = stage.column(centre(i % count, count, stage.view)) + dx / 2;
    const y = stage.row(centre(Math.floor(i / count), count, stage.view)) + dy / 2;
    addArrow(context, x, y, dx, dy);
  }
  context.stroke();
}

/** Adds an arrow that ends at (x, y) to a path, in CSS pixels. */
function addArrow(context: CanvasRenderingContext2D, x: number, y: number, dx: number, dy: number): void {
  const head = Math.min(0.36, 12 / Math.hypot(dx, dy));
  const side = 0.56 * head;
  context.moveTo(x - dx, y - dy);
  context.lineTo(x, y);
  context.moveTo(x - head * dx - side * dy, y - head * dy + side * dx);
  context.lineTo(x, y);
  context.lineTo(x - head * dx + side * dy, y - head * dy - side * dx);
}

/** A stage with a title, a note, further elements, and a frame on top. */
export class Panel extends Stage {
  readonly figure: HTMLElement;
  readonly #note = el("small");

  constructor(title: string, label: string, changed: () => void, signal: AbortSignal, ...more: Node[]) {
    super({ class: "stage", role: "img", "aria-label": label }, changed, signal);
    this.figure = figure([title, " ", this.#note, ...more], this.element);
  }

  /** ``draw`` paints the square [−view, view]². */
  paint(note: string, view: number, draw: () => void): void {
    this.#note.textContent = note;
    this.view = view;
    this.clear();
    draw();
    frame(this);
  }
}

/** A thin frame with three ticks on each axis. */
export function frame(stage: Stage): void {
  const { context, theme, width: size, view } = stage;
  [context.strokeStyle, context.lineWidth] = [css(theme.ink, 0.35), 1];
  context.strokeRect(0.5, 0.5, size - 1, size - 1);
  context.beginPath();
  const most = TICKS.find((tick) => tick < 0.9 * view) ?? 5;
  const ticks = [-most, 0, most];
  for (const value of ticks) {
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
    context.strokeText(text, x, y); // so that it is legible on top of arrows
    context.fillText(text, x, y);
  };
  for (const value of ticks) {
    const text = short(value);
    write(text, stage.column(value), size - 9, "center");
    write(text, 9, stage.row(value) + 4, "left");
  }
}
