// A picture that can be drawn on by pointer, touch or keyboard.
import type { Picture } from "../digits/picture.ts";
import { imageData } from "../draw/sheet.ts";
import { Stage, context, css, frames, movable } from "../draw/stage.ts";
import { tell } from "../ui.ts";

const CLOSE = 0.5; // pixels of the picture between marks of one stroke

interface Strokes {
  /** Whether the pointer draws; otherwise touch scrolls. */
  takes: () => boolean;
  /** A stroke begins. */
  begin: () => void;
  /** A mark of the stroke, in pixels. */
  mark: (row: number, column: number) => void;
  /** The stroke has ended. */
  changed: () => void;
}

/** ``show`` shows another picture. */
export function editorOf(picture: Picture, { takes, begin, mark, changed }: Strokes, signal: AbortSignal) {
  const [, height, width] = picture.shape;
  const small = document.createElement("canvas");
  [small.width, small.height] = [width, height];
  let cursor = [Math.floor(height / 2), Math.floor(width / 2)];
  let last = cursor;
  const redraw = frames(draw, signal);
  const stage = new Stage(
    { class: "stage pen", "aria-label": "The picture; hatched areas are hidden" },
    redraw,
    signal,
  );
  const { element, context: pen } = stage;
  for (const event of ["focus", "blur"]) element.addEventListener(event, redraw);

  movable(stage, {
    takes,
    drag: (x, y, first) => {
      if (!takes()) return;
      if (first) begin();
      const { side, left, top } = frame();
      const to = [(stage.row(y) - top) / side, (stage.column(x) - left) / side];
      stroke(first ? to : last, to);
      last = to;
    },
    release: () => (takes() ? changed() : undefined),
    nudge: (dx, dy) => {
      const within = (value: number, count: number): number => Math.min(count - 1, Math.max(0, value));
      const [row, column] = cursor;
      cursor = [within(row + Math.round(-5 * dy), height), within(column + Math.round(5 * dx), width)];
      tell(`Row ${cursor[0] + 1}, column ${cursor[1] + 1}${picture.hidden(cursor[0], cursor[1]) ? ", hidden" : ""}`);
      redraw();
    },
    key: (key) => {
      if (key !== " " || !takes()) return false;
      begin();
      const at = cursor.map((place) => place + 0.5);
      stroke(at, at);
      changed();
      return true;
    },
  });

  /** The size of a picture’s pixel on the stage, and the origin of the picture. */
  function frame(): { side: number; left: number; top: number } {
    const side = stage.width / Math.max(height, width);
    return { side, left: (stage.width - side * width) / 2, top: (stage.width - side * height) / 2 };
  }

  function stroke([row, column]: number[], [toRow, toColumn]: number[]): void {
    const steps = Math.ceil(Math.hypot(toRow - row, toColumn - column) / CLOSE);
    for (let i = 0; i <= steps; i++) {
      const share = steps === 0 ? 1 : i / steps;
      mark(row + share * (toRow - row), column + share * (toColumn - column));
    }
    redraw();
  }

  function draw(): boolean {
    const { theme } = stage;
    const { side, left, top } = frame();
    const bytes = Uint8ClampedArray.from(picture.given.y, (value) => 255 * value);
    context(small).putImageData(imageData(bytes, picture.shape), 0, 0);
    stage.clear();
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, left, top, side * width, side * height);
    [pen.fillStyle, pen.strokeStyle, pen.lineWidth] = [css(theme.accent, 0.35), css(theme.accent), 1]; // not like ink
    pen.beginPath();
    for (let at = 0; at < height * width; at++) {
      const [row, column] = [Math.floor(at / width), at % width];
      if (!picture.hidden(row, column)) continue;
      const [x, y] = [left + column * side, top + row * side];
      pen.fillRect(x, y, side, side);
      pen.moveTo(x, y + side);
      pen.lineTo(x + side, y);
    }
    pen.stroke();
    if (document.activeElement === element) {
      [pen.lineWidth, pen.strokeStyle] = [3, css(theme.accent)];
      pen.strokeRect(left + cursor[1] * side, top + cursor[0] * side, side, side);
    }
    return false;
  }

  function show(other: Picture): void {
    picture = other;
    redraw();
  }

  return { element, show };
}
