// Lines over steps or over noise levels, with axes.
import { el, figure } from "../ui.ts";
import { Canvas, css } from "./stage.ts";

/** The title and look of a line. */
export interface Style {
  /** Bold lines have the accent colour. */
  bold?: boolean;
  dashed?: boolean;
  title: string;
}

export interface Line {
  x: ArrayLike<number>;
  y: ArrayLike<number>;
}

export interface Axis {
  range: [low: number, high: number];
  ticks: number[];
  log?: boolean;
}

const MARGIN = { left: 40, right: 12, top: 10, bottom: 22 };

export class Chart extends Canvas {
  /** Under its title and legend. */
  readonly figure: HTMLElement;

  constructor(
    title: string,
    readonly styles: Style[],
    changed: () => void,
    signal: AbortSignal,
  ) {
    super({ class: "chart", role: "img", "aria-label": title }, changed, signal);
    const keys = styles.map(({ title, bold, dashed }) => {
      return el("span", { class: bold ? "bold" : "" }, `${dashed ? "┄" : "━"} ${title}`);
    });
    this.figure = figure([title, el("small", { class: "legend" }, ...keys)], this.element);
  }

  /** One line per style. */
  draw(x: Axis, y: Axis, lines: Line[]): void {
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

    context.save();
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top - 2, right - MARGIN.left, bottom - MARGIN.top + 4);
    context.clip();
    lines.forEach((line, number) => {
      const { bold, dashed } = this.styles[number];
      context.strokeStyle = bold ? css(theme.accent) : css(theme.ink, 0.75);
      context.lineWidth = bold ? 2.2 : 1.3;
      context.setLineDash(dashed ? [5, 4] : []);
      context.beginPath();
      for (let i = 0; i < line.x.length; i++) context.lineTo(column(line.x[i]), row(line.y[i]));
      context.stroke();
    });
    context.restore();
  }
}
