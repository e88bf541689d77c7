// Each part does what it promises, and is seen to.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import { twoGaussians } from "../src/maths/distributions.ts";
import { begin, end, pixel, reading, slide, use } from "./browser.ts";

before(() => begin());
after(end);

const exact = (x: number, y: number, sigma: number): Float64Array => twoGaussians().score(Float64Array.of(x, y), sigma);
const press = (page: Page, name: string): Promise<void> => page.getByRole("button", { name, exact: true }).click();
const frames = (page: Page, count: number): Promise<void> =>
  page.evaluate(async (count) => {
    for (let i = 0; i < count; i++) await new Promise(requestAnimationFrame);
  }, count);

async function drag(page: Page, from: [number, number], to: [number, number]): Promise<void> {
  const box = await page.getByRole("application").boundingBox();
  assert.ok(box);
  const at = ([x, y]: [number, number]): [number, number] => [
    box.x + ((x / 8 + 1) / 2) * box.width,
    box.y + ((1 - y / 8) / 2) * box.height,
  ];
  await page.mouse.move(...at(from));
  await page.mouse.down();
  await page.mouse.move(...at([(from[0] + to[0]) / 2, (from[1] + to[1]) / 2]));
  await page.mouse.move(...at(to));
}

test("scores: numbers and colours are those of the distribution, and follow σ", () =>
  use("#scores?sigma=0.5&x=-6&y=4", {}, async ({ page }) => {
    const near = ([a, b]: number[], s: Float64Array): boolean => Math.abs(a - s[0]) < 0.01 && Math.abs(b - s[1]) < 0.01;
    assert.ok(near(await reading(page, "score"), exact(-6, 4, 0.5)));
    await slide(page, "Noise level σ", 1);
    await frames(page, 2);
    assert.ok(near(await reading(page, "score"), exact(-6, 4, 20)));
    assert.match(await page.getByText("Noise level σ").locator("..").innerText(), /20/);
    await slide(page, "Noise level σ", 0.5);
    for (const name of ["Arrows", "Noised draws"]) await page.getByRole("checkbox", { name: name }).uncheck();
    await frames(page, 2);
    const [large, small, empty] = [
      await pixel(page, 0, 5, 5),
      await pixel(page, 0, -5, -5),
      await pixel(page, 0, -5, 5),
    ];
    assert.ok(large[3] > 1.5 * small[3] && small[3] > 60 && empty[3] < 6, `${large} ${small} ${empty}`);
    await page.getByRole("checkbox", { name: "Density" }).uncheck();
    await frames(page, 2);
    assert.ok((await pixel(page, 0, 0, 0))[3] < 1);
    await page.getByRole("checkbox", { name: "Arrows" }).check();
    await frames(page, 2);
    assert.ok((await pixel(page, 0, 0, 0))[3] > 10);
  }));

test("scores: a particle is dragged, walks, and is held", () =>
  use("#scores?x=0&y=0", {}, async ({ page }) => {
    await drag(page, [0, 0], [-3, -2]);
    const [x, y] = await reading(page, "place");
    assert.ok(Math.abs(x + 3) < 0.05 && Math.abs(y + 2) < 0.05, `${x} ${y}`);
    await page.mouse.up();
    await frames(page, 20);
    const [steps] = await reading(page, "steps");
    assert.ok(steps >= 40, `${steps} steps`);
    assert.notDeepEqual(await reading(page, "place"), [x, y]);
    await press(page, "Hold");
    await frames(page, 2);
    const held = await reading(page, "place");
    await frames(page, 5);
    assert.deepEqual(await reading(page, "place"), held);
    await page.getByRole("checkbox", { name: "Noise on the way" }).uncheck();
    await press(page, "Let go");
    await frames(page, 150);
    const [atX, atY] = await reading(page, "place");
    assert.ok(Math.abs(atX + 5) < 0.1 && Math.abs(atY + 5) < 0.1, `${atX} ${atY}`); // it has climbed to the mode
  }));

test("scores: keys move the particle and let it go", () =>
  use("#scores?x=0&y=0", {}, async ({ page }) => {
    await page.getByRole("application").focus();
    for (const key of ["ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowLeft"]) await page.keyboard.press(key);
    await frames(page, 2);
    assert.deepEqual(await reading(page, "place"), [-0.6, 0.2]);
    await page.keyboard.press("Space");
    await frames(page, 3);
    assert.ok((await reading(page, "steps"))[0] > 0);
    await page.keyboard.press("Space");
    assert.equal(await page.getByRole("button", { name: "Let go" }).count(), 1);
  }));

test("scores: one's own points are drawn, shared by the address, and removed", () =>
  use("#scores?data=own", {}, async ({ page }) => {
    await press(page, "Remove all points");
    await page.getByText("0 of at most 500 points").waitFor();
    await drag(page, [3, 3], [4, 4]);
    await page.mouse.up();
    await page.getByText("3 of at most 500 points").waitFor();
    await page.getByRole("application").focus();
    await page.keyboard.press("Enter");
    await page.getByText("4 of at most 500 points").waitFor();
    await page.keyboard.press("Backspace");
    await slide(page, "Noise level σ", 0.4);
    await page.waitForFunction(() => location.hash.includes("sigma="));
    const [score, hash] = [await reading(page, "score"), await page.evaluate(() => location.hash)];
    await use(hash, {}, async ({ page: other }) => {
      await other.getByText("3 of at most 500 points").waitFor();
      assert.deepEqual(await reading(other, "score"), score);
    });
  }));

test("an address that makes no sense is said, and left out", () =>
  use("#scores?sigma=1e9&data=circle&nonsense=1", {}, async ({ page }) => {
    assert.match(await page.locator("#status").innerText(), /sigma=1e9, nonsense=1/);
    assert.equal(await page.getByRole("combobox", { name: "Distribution" }).inputValue(), "circle");
  }));

test("annealing: weights are the paper's after as many steps", () =>
  use("#anneal?seconds=3", {}, async ({ page }) => {
    await page.getByText("1500 of 1500, denoised").waitFor({ timeout: 120_000 });
    const [[plain], [annealed]] = [await reading(page, "weight-plain"), await reading(page, "weight-annealed")];
    assert.ok(Math.abs(plain - 0.489) < 4 * Math.sqrt(0.25 / 1000), `Langevin: ${plain}`); // docs/paper.md
    assert.ok(Math.abs(annealed - 0.209) < 4 * Math.sqrt(0.165 / 1000), `annealed: ${annealed}`);
    // Particles of the lower mode are red, those of the upper one are not; and each picture has as many as it says.
    const [red, grey] = [await pixel(page, 1, -5, -5), await pixel(page, 1, 5, 5)];
    assert.ok(red[0] - red[2] > 20 && grey[0] - grey[2] < 5, `${red} ${grey}`);
    assert.equal(await page.getByRole("button", { name: "Play" }).count(), 1);
  }));

test("annealing: it pauses, steps, begins anew, and is the same by its address", () =>
  use("#anneal?weight=0.3", {}, async ({ page }) => {
    await page.waitForFunction(() => !document.querySelector('[data-reading="step"]')?.textContent?.startsWith("0 "));
    await press(page, "Pause");
    await frames(page, 2);
    const [before] = await reading(page, "step");
    await frames(page, 10);
    assert.equal((await reading(page, "step"))[0], before);
    await press(page, "One step");
    await frames(page, 2);
    assert.equal((await reading(page, "step"))[0], before + 1);
    await press(page, "Reset");
    await frames(page, 2);
    assert.equal((await reading(page, "step"))[0], 0);
    for (let level = 0; level < 8; level++) await press(page, "One level");
    await frames(page, 2);
    assert.deepEqual((await reading(page, "step"))[0], 600);
    await slide(page, "Levels L", 0.5);
    await page.waitForFunction(() => location.hash.includes("levels="));
    const hash = await page.evaluate(() => location.hash);
    for (let level = 0; level < 8; level++) await press(page, "One level");
    await frames(page, 2);
    const weights = [
      await reading(page, "weight-plain"),
      await reading(page, "weight-annealed"),
      await reading(page, "step"),
    ];
    await use(hash, {}, async ({ page: other }) => {
      await press(other, "Pause");
      await press(other, "Reset");
      for (let level = 0; level < 8; level++) await press(other, "One level");
      await frames(other, 2);
      assert.deepEqual(
        [await reading(other, "weight-plain"), await reading(other, "weight-annealed"), await reading(other, "step")],
        weights,
      );
      assert.match(hash, /weight=0.3/);
    });
  }));

test("learning: the error falls where data lies, and stays elsewhere at the smallest level", () =>
  use("#learning", {}, async ({ page }) => {
    await page.waitForFunction(
      () => Number(document.querySelector('[data-reading="step"]')?.textContent) >= 500,
      undefined,
      { timeout: 180_000 },
    );
    await press(page, "Pause");
    await page.getByRole("button", { name: "Train on" }).waitFor();
    const [data, square] = [await reading(page, "data"), await reading(page, "square")];
    assert.ok(data[0] < 20 && square[0] > 2 * data[0], `at the smallest level ${data} % and ${square} %`);
    const uncertain = await pixel(page, 2, 0, 0);
    const before = await page.locator('[data-reading="square"]').innerText();
    await slide(page, "Noise level σ", 0.6);
    await page.waitForFunction(
      (before) => document.querySelector('[data-reading="square"]')?.textContent !== before,
      before,
    );
    assert.ok((await reading(page, "square"))[0] < 5);
    assert.ok((await pixel(page, 2, 0, 0))[3] < uncertain[3]);
  }));
