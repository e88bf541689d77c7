// A canvas that shows the square [−VIEW, VIEW]², as sharp as the screen is.
import { type Points, VIEW } from "../maths/plane.ts";
import { el } from "../ui.ts";
import { type Theme, readTheme, whenThemeChanges } from "./theme.ts";

const SHARPEST = 2; // device pixels per CSS pixel; more cost much and show little

export class Stage {
  readonly canvas: HTMLCanvasElement;
  readonly context: CanvasRenderingContext2D;
  theme: Theme = readTheme();
  /** The side of the square in CSS pixels. */
  size = 300;
  readonly #observer: ResizeObserver;
  readonly #unwatch: () => void;

  /** ``changed`` is called when it has another size or other colours, and so must be drawn. */
  constructor(attributes: Record<string, string>, changed: () => void) {
    this.canvas = el("canvas", { class: "stage", ...attributes });
    const context = this.canvas.getContext("2d");
    if (!context) throw new Error("this browser has no canvas to draw on");
    this.context = context;
    this.#observer = new ResizeObserver(() => {
      this.size = Math.max(1, this.canvas.clientWidth);
      const sharpness = Math.min(SHARPEST, devicePixelRatio);
      this.canvas.width = this.canvas.height = Math.round(this.size * sharpness);
      changed();
    });
    this.#observer.observe(this.canvas);
    this.#unwatch = whenThemeChanges(() => {
      this.theme = readTheme();
      changed();
    });
  }

  /** From now on what is drawn is in CSS pixels. */
  clear(): void {
    const scale = this.canvas.width / this.size;
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.context.clearRect(0, 0, this.size, this.size);
  }

  column(x: number): number {
    return ((x / VIEW + 1) / 2) * this.size;
  }

  row(y: number): number {
    return ((1 - y / VIEW) / 2) * this.size;
  }

  /** Where in the plane the pointer is. */
  place(event: { clientX: number; clientY: number }): [x: number, y: number] {
    const box = this.canvas.getBoundingClientRect();
    const x = (2 * (event.clientX - box.left)) / box.width - 1;
    const y = 1 - (2 * (event.clientY - box.top)) / box.height;
    return [x * VIEW, y * VIEW];
  }

  /** Small squares at points, those ``from`` to ``to`` or all of them. */
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
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.lineJoin = "round";
    context.beginPath();
    for (let i = 0; i < x.length; i += 2) context.lineTo(this.column(x[i]), this.row(x[i + 1]));
    context.stroke();
  }

  stop(): void {
    this.#observer.disconnect();
    this.#unwatch();
  }
}
