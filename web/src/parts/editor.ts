// A picture that is drawn on by pointer, finger or keys.
import type { Picture } from "../digits/picture.ts";
import { imageData } from "../draw/sheet.ts";
import { Stage, context, css, frames, movable } from "../draw/stage.ts";

const CLOSE = 0.5; // pixels of the picture between marks of one stroke
const ATTRIBUTES = {
  tabindex: "0",
  role: "application",
  "aria-label": "The picture; hatched pixels are hidden",
  "aria-describedby": "keys",
};

interface Place {
  row: number;
  column: number;
}

export class Editor {
  readonly element: HTMLCanvasElement;
  readonly #stage: Stage;
  readonly #redraw: () => void;
  readonly #small = document.createElement("canvas");
  #cursor: Place;

  /** ``mark`` is called for each mark of a stroke, ``changed`` when it has ended. */
  constructor(
    private picture: Picture,
    private readonly mark: (row: number, column: number) => void,
    changed: () => void,
    signal: AbortSignal,
  ) {
    const [, height, width] = picture.shape;
    this.#cursor = { row: Math.floor(height / 2), column: Math.floor(width / 2) };
    this.#redraw = frames(() => this.#draw(), signal);
    this.#stage = new Stage(ATTRIBUTES, this.#redraw, signal);
    this.element = this.#stage.element;
    for (const event of ["focus", "blur"]) this.element.addEventListener(event, this.#redraw);
    let last = this.#cursor;
    movable(this.#stage, {
      takes: () => true,
      drag: (x, y, first) => {
        const to = this.#place(x, y);
        this.#stroke(first ? to : last, to);
        last = to;
      },
      release: changed,
      nudge: (dx, dy) => this.#move(Math.round(5 * dx), Math.round(-5 * dy)),
      key: (key) => {
        if (key !== " ") return false;
        const at = { row: this.#cursor.row + 0.5, column: this.#cursor.column + 0.5 };
        this.#stroke(at, at);
        changed();
        return true;
      },
    });
  }

  show(picture: Picture): void {
    this.picture = picture;
    this.#redraw();
  }

  /** How large a pixel of the picture is on the stage, and where the picture begins. */
  get #frame(): { side: number; left: number; top: number } {
    const [, height, width] = this.picture.shape;
    const { size } = this.#stage;
    const side = size / Math.max(height, width);
    return { side, left: (size - side * width) / 2, top: (size - side * height) / 2 };
  }

  #place(x: number, y: number): Place {
    const { side, left, top } = this.#frame;
    return { row: (this.#stage.row(y) - top) / side, column: (this.#stage.column(x) - left) / side };
  }

  #move(right: number, down: number): void {
    const [, height, width] = this.picture.shape;
    const within = (value: number, count: number): number => Math.min(count - 1, Math.max(0, value));
    this.#cursor = { row: within(this.#cursor.row + down, height), column: within(this.#cursor.column + right, width) };
    this.#redraw();
  }

  #stroke(from: Place, to: Place): void {
    const steps = Math.ceil(Math.hypot(to.row - from.row, to.column - from.column) / CLOSE);
    for (let i = 0; i <= steps; i++) {
      const share = steps === 0 ? 1 : i / steps;
      this.mark(from.row + share * (to.row - from.row), from.column + share * (to.column - from.column));
    }
    this.#redraw();
  }

  #draw(): boolean {
    const { context: pen, theme, element } = this.#stage;
    const [, height, width] = this.picture.shape;
    const { side, left, top } = this.#frame;
    [this.#small.width, this.#small.height] = [width, height];
    const bytes = Uint8ClampedArray.from(this.picture.given.y, (value) => 255 * value);
    context(this.#small).putImageData(imageData(bytes, this.picture.shape), 0, 0);
    this.#stage.clear();
    pen.imageSmoothingEnabled = false;
    pen.drawImage(this.#small, left, top, side * width, side * height);
    [pen.fillStyle, pen.strokeStyle, pen.lineWidth] = [css(theme.paper), css(theme.accent, 0.8), 1];
    pen.beginPath();
    for (let at = 0; at < height * width; at++) {
      const [row, column] = [Math.floor(at / width), at % width];
      if (!this.picture.hidden(row, column)) continue;
      const [x, y] = [left + column * side, top + row * side];
      pen.fillRect(x, y, side + 0.5, side + 0.5);
      pen.moveTo(x, y + side);
      pen.lineTo(x + side, y);
    }
    pen.stroke();
    if (document.activeElement === element) {
      [pen.lineWidth, pen.strokeStyle] = [3, css(theme.accent)];
      pen.strokeRect(left + this.#cursor.column * side, top + this.#cursor.row * side, side, side);
    }
    return false;
  }
}
