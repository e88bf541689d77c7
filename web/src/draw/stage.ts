// Canvases as sharp as the screen is, in the colours of the page; the square [−VIEW, VIEW]² on one, to be moved on.
import { type Points, VIEW } from "../maths/plane.ts";
import { el } from "../ui.ts";

const SHARPEST = 2; // device pixels per CSS pixel; more cost much and show little

export type Colour = [red: number, green: number, blue: number];

/** The colours that the style sheet gives. */
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

/** Returns how to ask for a frame, which is drawn once; and again, as long as ``draw`` returns true. */
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

  /** ``changed`` is called when it has another size or other colours, and so must be drawn; until ``signal`` ends it. */
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

  /** From now on what is drawn is in CSS pixels. */
  clear(): void {
    const { element, width, height } = this;
    this.context.setTransform(element.width / width, 0, 0, element.height / height, 0, 0);
    this.context.clearRect(0, 0, width, height);
  }
}

/** What draws on a canvas. */
export function context(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  const found = canvas.getContext("2d");
  if (!found) throw new Error("this browser has no canvas to draw on");
  return found;
}

export class Stage extends Canvas {
  constructor(attributes: Record<string, string>, changed: () => void, signal: AbortSignal) {
    super({ class: "stage", ...attributes }, changed, signal);
  }

  /** The side of the square in CSS pixels. */
  get size(): number {
    return this.width;
  }

  column(x: number): number {
    return ((x / VIEW + 1) / 2) * this.size;
  }

  row(y: number): number {
    return ((1 - y / VIEW) / 2) * this.size;
  }

  /** Where in the plane the pointer is. */
  place(event: { clientX: number; clientY: number }): [x: number, y: number] {
    const box = this.element.getBoundingClientRect();
    const x = (2 * (event.clientX - box.left)) / box.width - 1;
    const y = 1 - (2 * (event.clientY - box.top)) / box.height;
    return [x * VIEW, y * VIEW];
  }

  /** Small squares at points, or at those to be kept. */
  dots(x: Points, colour: string, side: number, keep: (i: number) => boolean = () => true): void {
    const { context } = this;
    context.fillStyle = colour;
    const scale = this.size / (2 * VIEW);
    const corner = this.size / 2 - side / 2;
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
  /** Whether a finger that touches here has work to do; else it scrolls the page. */
  takes(x: number, y: number): boolean;
  /** The pointer is down, or moves while it is. */
  drag(x: number, y: number, first: boolean): void;
  release(): void;
  /** An arrow key, by so much. */
  nudge(dx: number, dy: number): void;
  /** Any other key; returns whether it had a meaning. */
  key(key: string): boolean;
}

/** Lets a stage be moved on, by pointer, finger or keys. */
export function movable(stage: Stage, moves: Moves): void {
  const canvas = stage.element;
  let down = false;
  const begin = (event: PointerEvent): void => {
    const [x, y] = stage.place(event);
    // A finger elsewhere scrolls; where it only taps, a click follows.
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
  canvas.addEventListener(
    "touchstart",
    (event) => {
      if (event.touches.length === 1 && moves.takes(...stage.place(event.touches[0]))) event.preventDefault();
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const arrow = KEYS[event.key];
    const step = event.shiftKey ? 1 : 0.2;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow) moves.nudge(step * arrow[0], step * arrow[1]);
    if (arrow || moves.key(event.key)) event.preventDefault();
  });
}
