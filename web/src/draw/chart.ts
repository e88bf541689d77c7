// Lines over steps or over noise levels, with axes.
import { Canvas, css } from "./stage.ts";

export interface Line {
  x: ArrayLike<number>;
  y: ArrayLike<number>;
  /** Bold lines have the accent colour. */
  bold?: boolean;
  dashed?: boolean;
  title: string;
}

export interface Axis {
  range: [low: number, high: number];
  ticks: number[];
  log?: boolean;
}

const MARGIN = { left: 40, right: 12, top: 30, bottom: 22 };

export class Chart extends Canvas {
  constructor(label: string, changed: () => void, signal: AbortSignal) {
    super({ class: "chart", role: "img", "aria-label": label }, changed, signal);
  }

  draw(title: string, x: Axis, y: Axis, lines: Line[]): void {
    const { context, width, height, theme } = this;
    this.clear();
    const right = width - MARGIN.right;
    const bottom = height - MARGIN.bottom;
    const along = (value: number, { range: [low, high], log }: Axis): number =>
      log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    const column = (value: number): number => MARGIN.left + along(value, x) * (right - MARGIN.left);
    const row = (value: number): number => bottom - along(value, y) * (bottom - MARGIN.top);

    context.font = "12px system-ui, sans-serif";
    context.fillStyle = css(theme.ink, 0.8);
    context.strokeStyle = css(theme.ink, 0.18);
    context.lineWidth = 1;
    context.textAlign = "right";
    context.beginPath();
    for (const tick of y.ticks) {
      context.moveTo(MARGIN.left, row(tick));
      context.lineTo(right, row(tick));
      context.fillText(String(tick), MARGIN.left - 5, row(tick) + 4);
    }
    context.stroke();
    for (const tick of x.ticks) {
      const share = along(tick, x);
      context.textAlign = share > 0.97 ? "right" : share < 0.03 ? "left" : "center"; // within the picture
      context.fillText(tick.toLocaleString("en"), column(tick), height - 6);
    }
    context.textAlign = "left";
    context.fillText(title, 6, 14);

    context.save();
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top - 2, right - MARGIN.left, bottom - MARGIN.top + 4);
    context.clip();
    for (const line of lines) {
      this.#pen(line, 0.75);
      for (let i = 0; i < line.x.length; i++) context.lineTo(column(line.x[i]), row(line.y[i]));
      context.stroke();
    }
    context.restore();
    this.#legend(lines, right);
  }

  /** Titles from right to left, as far as there is room. */
  #legend(lines: Line[], right: number): void {
    const { context } = this;
    let x = right;
    for (const line of lines.toReversed()) {
      const wide = context.measureText(line.title).width;
      this.#pen(line, 0.85);
      context.fillStyle = context.strokeStyle;
      context.fillText(line.title, x - wide, 14);
      context.moveTo(x - wide - 22, 10);
      context.lineTo(x - wide - 5, 10);
      context.stroke();
      x -= wide + 34;
    }
    context.setLineDash([]);
  }

  /** Begins a line as it looks. */
  #pen({ bold, dashed }: Line, opacity: number): void {
    const { context, theme } = this;
    context.strokeStyle = bold ? css(theme.accent) : css(theme.ink, opacity);
    context.lineWidth = bold ? 2.2 : 1.3;
    context.setLineDash(dashed ? [5, 4] : []);
    context.beginPath();
  }
}
