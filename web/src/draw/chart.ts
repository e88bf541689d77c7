// Lines over steps or over noise levels, with axes.
import { el } from "../ui.ts";
import { type Theme, css, readTheme, whenThemeChanges } from "./theme.ts";

export interface Line {
  x: ArrayLike<number>;
  y: ArrayLike<number>;
  /** Bold lines have the accent colour. */
  bold?: boolean;
  dashed?: boolean;
  title: string;
}

export interface Axes {
  x: [low: number, high: number];
  y: [low: number, high: number];
  logX?: boolean;
  logY?: boolean;
  ticksX: number[];
  ticksY: number[];
  title: string;
}

const MARGIN = { left: 40, right: 12, top: 30, bottom: 22 };

export class Chart {
  readonly canvas: HTMLCanvasElement;
  #theme: Theme = readTheme();
  #width = 300;
  #height = 160;
  readonly #observer: ResizeObserver;
  readonly #unwatch: () => void;

  constructor(label: string, changed: () => void) {
    this.canvas = el("canvas", { class: "chart", role: "img", "aria-label": label });
    this.#observer = new ResizeObserver(() => {
      [this.#width, this.#height] = [Math.max(1, this.canvas.clientWidth), Math.max(1, this.canvas.clientHeight)];
      const sharpness = Math.min(2, devicePixelRatio);
      this.canvas.width = Math.round(this.#width * sharpness);
      this.canvas.height = Math.round(this.#height * sharpness);
      changed();
    });
    this.#observer.observe(this.canvas);
    this.#unwatch = whenThemeChanges(() => {
      this.#theme = readTheme();
      changed();
    });
  }

  draw(axes: Axes, lines: Line[]): void {
    const context = this.canvas.getContext("2d");
    if (!context) return;
    const [width, height, theme] = [this.#width, this.#height, this.#theme];
    context.setTransform(this.canvas.width / width, 0, 0, this.canvas.height / height, 0, 0);
    context.clearRect(0, 0, width, height);
    const right = width - MARGIN.right;
    const bottom = height - MARGIN.bottom;
    const along = (value: number, [low, high]: [number, number], log?: boolean): number =>
      log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    const column = (x: number): number => MARGIN.left + along(x, axes.x, axes.logX) * (right - MARGIN.left);
    const row = (y: number): number => bottom - along(y, axes.y, axes.logY) * (bottom - MARGIN.top);

    context.font = "12px system-ui, sans-serif";
    context.fillStyle = css(theme.ink, 0.8);
    context.strokeStyle = css(theme.ink, 0.18);
    context.lineWidth = 1;
    context.textAlign = "right";
    context.beginPath();
    for (const y of axes.ticksY) {
      context.moveTo(MARGIN.left, row(y));
      context.lineTo(right, row(y));
      context.fillText(String(y), MARGIN.left - 5, row(y) + 4);
    }
    context.stroke();
    for (const x of axes.ticksX) {
      const share = along(x, axes.x, axes.logX);
      context.textAlign = share > 0.97 ? "right" : share < 0.03 ? "left" : "center"; // within the picture
      context.fillText(x.toLocaleString("en"), column(x), height - 6);
    }
    context.textAlign = "left";
    context.fillText(axes.title, 6, 14);

    context.save();
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top - 2, right - MARGIN.left, bottom - MARGIN.top + 4);
    context.clip();
    for (const line of lines) {
      context.strokeStyle = line.bold ? css(theme.accent) : css(theme.ink, 0.75);
      context.lineWidth = line.bold ? 2.2 : 1.3;
      context.setLineDash(line.dashed ? [5, 4] : []);
      context.beginPath();
      for (let i = 0; i < line.x.length; i++) context.lineTo(column(line.x[i]), row(line.y[i]));
      context.stroke();
    }
    context.restore();
    this.#legend(context, lines, right);
  }

  /** Titles from right to left, as far as there is room. */
  #legend(context: CanvasRenderingContext2D, lines: Line[], right: number): void {
    let x = right;
    for (const line of lines.toReversed()) {
      const wide = context.measureText(line.title).width;
      context.fillStyle = line.bold ? css(this.#theme.accent) : css(this.#theme.ink, 0.85);
      context.fillText(line.title, x - wide, 14);
      context.strokeStyle = context.fillStyle;
      context.lineWidth = line.bold ? 2.2 : 1.3;
      context.setLineDash(line.dashed ? [5, 4] : []);
      context.beginPath();
      context.moveTo(x - wide - 22, 10);
      context.lineTo(x - wide - 5, 10);
      context.stroke();
      x -= wide + 34;
    }
    context.setLineDash([]);
  }

  stop(): void {
    this.#observer.disconnect();
    this.#unwatch();
  }
}
