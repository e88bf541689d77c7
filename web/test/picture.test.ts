import assert from "node:assert/strict";
import { test } from "node:test";
import { read } from "../src/digits/task.ts";
import { Picture, REGIONS, moments } from "../src/digits/picture.ts";
import { close } from "./values.ts";

const SHAPE = [3, 5, 4] as const;

test("a picture is the same after it was written into an address", () => {
  const picture = Picture.of(
    SHAPE,
    Float32Array.from({ length: 60 }, (_, i) => i / 50 - 0.1),
  );
  picture.hide("random", 0);
  const text = picture.write();
  assert.deepEqual(Picture.read(SHAPE, text)?.codes, picture.codes);
  assert.equal(Picture.read([1, 5, 4], text), undefined);
  const { known, y } = picture.given;
  close(
    y.filter((_, i) => known[i] === 1),
    Array.from({ length: 60 }, (_, i) => Math.min(1, Math.max(0, i / 50 - 0.1))).filter((_, i) => known[i] === 1),
    0.017, // half of one of 31 levels
  );
  const again = Picture.read(SHAPE, text) as Picture;
  again.hide("nothing", 0); // what was hidden is in the address, too
  close(
    again.given.y,
    Array.from({ length: 60 }, (_, i) => Math.min(1, Math.max(0, i / 50 - 0.1))),
    0.017,
  );
});

test("regions are the package's", () => {
  const hidden = (region: string): string => {
    const picture = new Picture([1, 5, 4]);
    picture.hide(region, 0);
    return picture.given.known.join("");
  };
  assert.equal(hidden("bottom"), "11111111000000000000"); // known_pixels((1, 5, 4), "bottom"), and so on
  assert.equal(hidden("top"), "00000000111111111111");
  assert.equal(hidden("nothing"), "1".repeat(20));
  const large = new Picture([1, 60, 60]);
  large.hide("random", 1);
  const share = large.given.known.reduce((sum, value) => sum + value, 0) / 3600;
  assert.ok(Math.abs(share - 0.25) < 4 * Math.sqrt(0.1875 / 3600), `${share}`);
  assert.equal(Object.keys(REGIONS).length, 4);
});

test("ink, blank and hidden marks are seen in all channels", () => {
  const picture = new Picture([3, 28, 28]);
  const at = (row: number, column: number): number[] =>
    [0, 1, 2].map((c) => picture.given.y[(28 * c + row) * 28 + column]);
  picture.hide("bottom", 0);
  picture.mark("ink", 10.5, 10.5);
  picture.mark("ink", 20.5, 10.5);
  assert.deepEqual(
    [at(10, 10), at(20, 10), at(10, 15)],
    [
      [1, 1, 1],
      [1, 1, 1],
      [0, 0, 0],
    ],
  );
  assert.ok(!picture.hidden(20, 10) && picture.hidden(20, 15));
  picture.mark("hide", 10.5, 10.5);
  assert.ok(picture.hidden(10, 10) && !picture.hidden(10, 14));
  picture.mark("blank", 20.5, 10.5);
  assert.deepEqual(at(20, 10), [0, 0, 0]);
});

test("means and standard deviations are those of the images", () => {
  const { mean, std } = moments(Float32Array.of(1, 0, 2, 0, 3, 6), 3);
  close(mean, [2, 2], 1e-12);
  close(std, [1, Math.sqrt(12)], 1e-12);
});

/** An ONNX file with nothing but metadata. */
function file(key: string, value: string): Uint8Array {
  const bytes = (text: string, field: number): number[] => {
    const content = [...new TextEncoder().encode(text)];
    return [8 * field + 2, (content.length & 127) | 128, content.length >> 7, ...content];
  };
  const pair = [...bytes(key, 1), ...bytes(value, 2)];
  return Uint8Array.from([8, 8, 8 * 14 + 2, (pair.length & 127) | 128, pair.length >> 7, ...pair]);
}

test("what a model says is read, and what is no model for this page is refused", () => {
  const card = { format: 1, recipe: { shape: [1, 28, 28], sampling: {} }, levels: [10, 1], names: ["10", "9"] };
  assert.deepEqual(read(file("ncsn", JSON.stringify(card))), card);
  assert.throws(() => read(file("other", "{}")), /was not written by ncsn export$/);
  assert.throws(
    () => read(file("ncsn", JSON.stringify({ ...card, format: 2 }))),
    /format is 2; this page reads format 1$/,
  );
  assert.throws(() => read(file("ncsn", JSON.stringify({ ...card, recipe: { shape: [2] } }))), /shape is 2; /);
  assert.throws(() => read(new Uint8Array(100).fill(255)), /isn’t an ONNX file$/);
  assert.throws(() => read(file("ncsn", JSON.stringify(card)).subarray(0, 40)), /isn’t an ONNX file$/);
});
