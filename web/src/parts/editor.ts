// A picture that is drawn on by pointer, finger or keys.
import { imageData } from "../draw/sheet.ts";
import { Stage } from "../draw/stage.ts";
import { css } from "../draw/theme.ts";
import type { Picture } from "../digits/picture.ts";
import { Loop } from "../loop.ts";
import { VIEW } from "../maths/plane.ts";
import { movable } from "./pointer.ts";

const CLOSE = 0.5; // pixels of the picture between marks of one stroke

export class Editor {
  readonly stage: Stage;
  readonly #loop: Loop;
  readonly #small = document.createElement("canvas");
  readonly #mark: (row: number, column: number) => void;
  #picture: Picture;
  #cursor: { row: number; column: number };

  /** ``mark`` is called for each mark of a stroke, ``changed`` when it has ended. */
  constructor(picture: Picture, mark: (row: number, column: number) => void, changed: () => void) {
    [this.#picture, this.#mark] = [picture, mark];
    this.#cursor = { row: Math.floor(picture.shape[1] / 2), column: Math.floor(picture.shape[2] / 2) };
    this.#loop = new Loop(() => this.#draw());
    const label = "The picture; hatched pixels are hidden";
    this.stage = new Stage({ tabindex: "0", role: "application", "aria-label": label, "aria-describedby": "keys" }, () => this.#loop.request());
    this.stage.canvas.addEventListener("focus", () => this.#loop.request());
    this.stage.canvas.addEventListener("blur", () => this.#loop.request());
    let last = { row: 0, column: 0 };
    movable(this.stage, {
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
    this.#picture = picture;
    this.#loop.request();
  }

  stop(): void {
    this.#loop.stop();
    this.stage.stop();
  }

  /** How large a pixel of the picture is on the stage, and where the picture begins. */
  get #frame(): { side: number; left: number; top: number } {
    const [, height, width] = this.#picture.shape;
    const side = this.stage.size / Math.max(height, width);
    return { side, left: (this.stage.size - side * width) / 2, top: (this.stage.size - side * height) / 2 };
  }

  #place(x: number, y: number): { row: number; column: number } {
    const { side, left, top } = this.#frame;
    const [across, down] = [(x / VIEW + 1) / 2, (1 - y / VIEW) / 2].map((share) => share * this.stage.size);
    return { row: (down - top) / side, column: (across - left) / side };
  }

  #move(right: number, down: number): void {
    const [, height, width] = this.#picture.shape;
    const within = (value: number, count: number): number => Math.min(count - 1, Math.max(0, value));
    this.#cursor = { row: within(this.#cursor.row + down, height), column: within(this.#cursor.column + right, width) };
    this.#loop.request();
  }

  #stroke(from: { row: number; column: number }, to: { row: number; column: number }): void {
    const steps = Math.ceil(Math.hypot(to.row - from.row, to.column - from.column) / CLOSE);
    for (let i = 0; i <= steps; i++) {
      const share = steps === 0 ? 1 : i / steps;
      this.#mark(from.row + share * (to.row - from.row), from.column + share * (to.column - from.column));
    }
    this.#loop.request();
  }

  #draw(): boolean {
    const { context, theme, canvas } = this.stage;
    const [, height, width] = this.#picture.shape;
    const { side, left, top } = this.#frame;
    const { y } = this.#picture.given;
    [this.#small.width, this.#small.height] = [width, height];
    this.#small.getContext("2d")?.putImageData(imageData(Uint8ClampedArray.from(y, (value) => 255 * value), this.#picture.shape), 0, 0);
    this.stage.clear();
    context.imageSmoothingEnabled = false;
    context.drawImage(this.#small, left, top, side * width, side * height);
    context.fillStyle = css(theme.paper);
    context.strokeStyle = css(theme.accent, 0.8);
    context.lineWidth = 1;
    context.beginPath();
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        if (!this.#picture.hidden(row, column)) continue;
        const [x, y] = [left + column * side, top + row * side];
        context.fillRect(x, y, side + 0.5, side + 0.5);
        context.moveTo(x, y + side);
        context.lineTo(x + side, y);
      }
    }
    context.stroke();
    if (document.activeElement === canvas) {
      context.lineWidth = 3;
      context.strokeStyle = css(theme.accent);
      context.strokeRect(left + this.#cursor.column * side, top + this.#cursor.row * side, side, side);
    }
    return false;
  }
}
