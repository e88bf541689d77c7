// A sheet of images side by side; one pixel of the canvas is one pixel of an image.
import { type Shape, sizeOf } from "../digits/task.ts";
import { el } from "../ui.ts";
import { context } from "./stage.ts";

const GAP = 2;

/** Real numbers as bytes, as in the package: ⌊256 x⌋, clipped. */
export function quantize(x: ArrayLike<number>): Uint8ClampedArray<ArrayBuffer> {
  return Uint8ClampedArray.from({ length: x.length }, (_, i) => Math.min(255, Math.max(0, Math.floor(256 * x[i]))));
}

/** Reduces the contrast of noisy images until two standard deviations of noise fit between black and white. */
export function visible(x: Float32Array, sigma: number): Uint8ClampedArray<ArrayBuffer> {
  return quantize(x.map((value) => 0.5 + (value - 0.5) / (1 + 4 * sigma)));
}

/** Converts an image from channels first to the layout of a canvas. */
export function imageData(bytes: Uint8ClampedArray, [channels, height, width]: Shape): ImageData {
  const image = new ImageData(width, height);
  const pixels = height * width;
  const second = channels === 3 ? pixels : 0; // where the second channel begins
  for (let i = 0; i < pixels; i++) {
    image.data.set([bytes[i], bytes[second + i], bytes[2 * second + i], 255], 4 * i);
  }
  return image;
}

/** A canvas for images of one shape; ``draw`` shows them in rows of a given length. */
export function sheetOf(label: string, shape: Shape) {
  const element = el("canvas", { class: "sheet", role: "img", "aria-label": label });
  const [, height, width] = shape;
  const size = sizeOf(shape);

  function draw(bytes: Uint8ClampedArray, columns: number): void {
    const count = bytes.length / size;
    const wide = columns * (width + GAP) - GAP;
    const high = Math.ceil(count / columns) * (height + GAP) - GAP;
    if (element.width !== wide) element.width = wide;
    if (element.height !== high) element.height = high;
    for (let i = 0; i < count; i++) {
      const image = imageData(bytes.subarray(i * size, (i + 1) * size), shape);
      const [row, column] = [Math.floor(i / columns), i % columns];
      context(element).putImageData(image, column * (width + GAP), row * (height + GAP));
    }
  }

  return { element, draw };
}
