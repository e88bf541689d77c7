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
  use("#scores?data=gaussian&show=density&sigma=0.5&x=-6&y=4", {}, async ({ page }) => {
    const near = ([a, b]: number[], s: Float64Array): boolean => Math.abs(a - s[0]) < 0.01 && Math.abs(b - s[1]) < 0.01;
    assert.ok(near(await reading(page, "score"), exact(-6, 4, 0.5)));
    await slide(page, "Noise level σ", 1);
    await frames(page, 2);
    assert.ok(near(await reading(page, "score"), exact(-6, 4, 20)));
    assert.match(await page.getByText("Noise level σ", { exact: true }).locator("..").innerText(), /20/);
    await slide(page, "Noise level σ", 0.5);
    await frames(page, 2);
    const [large, small, empty] = [
      await pixel(page, 0, 5, 5),
      await pixel(page, 0, -5, -5),
      await pixel(page, 0, -5, 5),
    ];
    assert.ok(large[3] > 1.5 * small[3] && small[3] > 60 && empty[3] < 6, `${large} ${small} ${empty}`);
    const show = page.getByRole("combobox", { name: "Show" });
    for (const [name, low, high] of [
      ["one", 0, 1],
      ["all", 10, 256],
    ] as const) {
      await show.selectOption(name);
      await frames(page, 2);
      const [, , , opacity] = await pixel(page, 0, 0, 0);
      assert.ok(opacity >= low && opacity < high, `${name}: ${opacity}`);
    }
  }));

test("scores: noise is added to a point, as much as σ says, and is other noise each time", () =>
  use("#scores", { reducedMotion: "reduce" }, async ({ page }) => {
    const noise = async (): Promise<number[]> => {
      await frames(page, 2);
      const [x, y] = await reading(page, "place");
      return [x + 3, y + 1.5];
    };
    const first = await noise();
    assert.deepEqual(await reading(page, "mean"), [-3, -1.5]); // the way back leads to the point
    await slide(page, "Noise level σ", Math.log(1 / 0.05) / Math.log(20 / 0.05));
    const half = await noise();
    for (const i of [0, 1]) assert.ok(Math.abs(half[i] - first[i] / 2) < 0.03, `${half} is not half of ${first}`);
    await press(page, "New noise");
    assert.notDeepEqual(await noise(), half);
    await page.waitForFunction(() => /seed=1/.test(location.hash) && !/x=/.test(location.hash));
  }));

test("scores: without points there is nothing to walk to, which is said; and words are explained on tap", () =>
  use("#scores?data=own&points=", {}, async ({ page }) => {
    await press(page, "Run");
    assert.match(await page.locator("#status").innerText(), /Draw a point first/);
    assert.equal(await page.getByRole("button", { name: "Run" }).count(), 1);
    await press(page, "About Noise level σ");
    await page.getByText("standard deviation of the noise").waitFor();
    await page.keyboard.press("Escape");
    await page.getByText("standard deviation of the noise").waitFor({ state: "hidden" });
  }));

test("scores: a particle is dragged, walks, and is paused", () =>
  use("#scores?data=gaussian&sigma=0.66&x=0&y=0", {}, async ({ page }) => {
    await drag(page, [0, 0], [-3, -2]);
    const [x, y] = await reading(page, "place");
    assert.ok(Math.abs(x + 3) < 0.05 && Math.abs(y + 2) < 0.05, `${x} ${y}`);
    await page.mouse.up();
    await frames(page, 20);
    const [steps] = await reading(page, "steps");
    assert.ok(steps >= 10, `${steps} steps`);
    assert.notDeepEqual(await reading(page, "place"), [x, y]);
    await press(page, "Pause");
    await frames(page, 2);
    const held = await reading(page, "place");
    await frames(page, 5);
    assert.deepEqual(await reading(page, "place"), held);
    await page.getByRole("combobox", { name: "Noise in each step" }).selectOption("no");
    await press(page, "Run");
    await frames(page, 220);
    const [atX, atY] = await reading(page, "place");
    assert.ok(Math.abs(atX + 5) < 0.1 && Math.abs(atY + 5) < 0.1, `${atX} ${atY}`); // it has climbed to the mode
  }));

test("scores: where the view narrows, the particle comes along", () =>
  use("#scores?data=gaussian&sigma=8&x=-20&y=15", {}, async ({ page }) => {
    assert.deepEqual(await reading(page, "place"), [-20, 15]);
    await slide(page, "Noise level σ", 0);
    await frames(page, 2);
    assert.deepEqual(await reading(page, "place"), [-8, 8]);
  }));

test("scores: keys move the particle, run and pause it, and say where it is", () =>
  use("#scores?x=0&y=0", {}, async ({ page }) => {
    await page.getByRole("application").focus();
    for (const key of ["ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowLeft"]) await page.keyboard.press(key);
    await frames(page, 2);
    assert.deepEqual(await reading(page, "place"), [-0.6, 0.2]);
    assert.match(await page.locator("#heard").innerText(), /^Particle at \(−0\.6, 0\.2\), score/);
    await page.keyboard.press("Space");
    await frames(page, 3);
    assert.ok((await reading(page, "steps"))[0] > 0);
    await page.keyboard.press("Space");
    assert.equal(await page.getByRole("button", { name: "Run" }).count(), 1);
  }));

test("scores: one's own points are drawn, shared by the address, and removed", () =>
  use("#scores?data=own&sigma=0.5&x=-1&y=4", {}, async ({ page }) => {
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
    await page.waitForFunction(() => location.hash.includes("sigma=0.549"));
    const [score, hash] = [await reading(page, "score"), await page.evaluate(() => location.hash)];
    await use(hash, {}, async ({ page: other }) => {
      await other.getByText("3 of at most 500 points").waitFor();
      assert.deepEqual(await reading(other, "score"), score);
    });
  }));

test("a link that asks for what is not possible is said to, and left out", () =>
  use("#scores?sigma=1e9&data=circle&nonsense=1", {}, async ({ page }) => {
    assert.match(await page.locator("#status").innerText(), /sigma=1e9, nonsense=1/);
    assert.equal(await page.getByRole("combobox", { name: "Data" }).inputValue(), "circle");
  }));

test("annealing: weights are the paper's after as many steps", () =>
  use("#anneal?seconds=3", {}, async ({ page }) => {
    await page.getByText("1500 of 1500, denoised").waitFor({ timeout: 120_000 });
    const [[plain], [annealed]] = [await reading(page, "weight-plain"), await reading(page, "weight-annealed")];
    assert.ok(Math.abs(plain - 0.489) < 4 * Math.sqrt(0.25 / 2000), `Langevin: ${plain}`); // docs/tutorials/mixture.md
    assert.ok(Math.abs(annealed - 0.209) < 4 * Math.sqrt(0.165 / 2000), `annealed: ${annealed}`);
    // Particles of the lower mode are red, those of the upper one are not; and each picture has as many as it says.
    const [red, grey] = [await pixel(page, 1, -5, -5), await pixel(page, 1, 5, 5)];
    assert.ok(red[0] - red[2] > 20 && grey[0] - grey[2] < 5, `${red} ${grey}`);
    assert.equal(await page.getByRole("button", { name: "Run" }).count(), 1);
  }));

test("annealing: the share is compared with the exact one at this σ, and the view holds the particles", () =>
  use("#anneal?seconds=60", {}, async ({ page }) => {
    await page.waitForFunction(
      () => parseInt(document.querySelector('[data-reading="step"]')?.textContent ?? "") >= 60,
    );
    await press(page, "Pause");
    await frames(page, 2);
    const [exact] = await reading(page, "exact-annealed");
    assert.ok(Math.abs(exact - 0.42) < 0.03, `${exact}`); // at σ = 20 the modes are nearly one: 0.2 Φ(a) + 0.8 Φ(−a), a = 0.353
    const [share, error] = await reading(page, "weight-annealed");
    assert.ok(Math.abs(share - exact) < 5 * error, `${share} ± ${error}, not ${exact}`);
    assert.equal((await reading(page, "exact-plain"))[0], 0.2);
  }));

test("annealing: it pauses, goes on by levels, starts over, and is the same by its address", () =>
  use("#anneal?weight=0.3", {}, async ({ page }) => {
    await page.waitForFunction(() => !document.querySelector('[data-reading="step"]')?.textContent?.startsWith("0 "));
    await press(page, "Pause");
    await frames(page, 2);
    const [before] = await reading(page, "step");
    await frames(page, 10);
    assert.equal((await reading(page, "step"))[0], before);
    await slide(page, "Noise levels L", 0.5);
    await press(page, "Start over");
    await press(page, "Pause");
    await page.waitForFunction(() => /seed=1/.test(location.hash) && /levels=/.test(location.hash));
    const hash = await page.evaluate(() => location.hash);
    assert.match(hash, /weight=0.3/);
    const ends: number[][] = [];
    for (let time = 0; time < 2; time++) {
      await use(hash, { reducedMotion: "reduce" }, async ({ page: other }) => {
        for (let level = 0; level < 8; level++) await press(other, "Next level");
        await frames(other, 2);
        assert.equal((await reading(other, "step"))[0], 600);
        const shares = [await reading(other, "weight-plain"), await reading(other, "weight-annealed")];
        ends.push(shares.flat());
      });
    }
    assert.deepEqual(ends[0], ends[1]);
  }));

test("annealing: one may go back, and then sees what was there", () =>
  use("#anneal?seconds=3", {}, async ({ page }) => {
    await page.waitForFunction(
      () => parseInt(document.querySelector('[data-reading="step"]')?.textContent ?? "") >= 300,
    );
    const seen: number[][] = [];
    for (const share of [0.1, 0, 0.1]) {
      await slide(page, "Rewind", share);
      await frames(page, 2);
      seen.push([(await reading(page, "step"))[0], ...(await reading(page, "weight-annealed"))]);
    }
    assert.equal(seen[1][0], 0);
    assert.ok(Math.abs(seen[0][0] - 150) < 10, `${seen[0]}`);
    assert.deepEqual(seen[2], seen[0]);
    await press(page, "Run");
    await page.getByText("1500 of 1500, denoised").waitFor();
  }));

test("learning: the error falls where data lies, and stays elsewhere at the smallest level", () =>
  use("#learning", {}, async ({ page }) => {
    await page.waitForFunction(
      () => Number(document.querySelector('[data-reading="step"]')?.textContent) >= 500,
      undefined,
      { timeout: 180_000 },
    );
    await press(page, "Pause");
    await page.getByRole("button", { name: "Run" }).waitFor();
    const [data, square] = [await reading(page, "data"), await reading(page, "square")];
    assert.ok(data[0] < 20 && square[0] > 2 * data[0], `at the smallest level ${data} % and ${square} %`);
    const uncertain = await pixel(page, 2, 0, 0);
    const [middle, ...circle] = await Promise.all(
      [-1, 0, 1, 2, 3, 4, 5, 6, 7].map((i) => {
        const angle = (Math.PI * i) / 4;
        return pixel(page, 3, i < 0 ? 0 : 5 * Math.cos(angle), i < 0 ? 0 : 5 * Math.sin(angle));
      }),
    );
    const inked = circle.filter(([, , , opacity]) => opacity > 0).length;
    assert.ok(middle[3] === 0 && inked >= 4, `samples are at ${inked} of eight places of the circle`);
    const before = await page.locator('[data-reading="square"]').innerText();
    await slide(page, "Noise level σ", 0.6);
    await page.waitForFunction(
      (before) => document.querySelector('[data-reading="square"]')?.textContent !== before,
      before,
    );
    assert.ok((await reading(page, "square"))[0] < 5);
    assert.ok((await pixel(page, 2, 0, 0))[3] < uncertain[3]);
  }));

test("what to look for is shown by a press, below which the picture is", () =>
  use("#scores", { viewport: { width: 390, height: 844 } }, async ({ page }) => {
    await page.getByRole("link", { name: "A lot of noise" }).click();
    await page.waitForFunction(() => document.activeElement?.classList.contains("pictures"));
    assert.equal(await page.getByRole("slider", { name: "Noise level σ" }).getAttribute("aria-valuetext"), "8");
    const top = await page.evaluate(() => document.querySelector(".pictures")?.getBoundingClientRect().top ?? 1e9);
    assert.ok(Math.abs(top) < 60, `${top}`);
    await slide(page, "Noise level σ", 0);
    await page.waitForFunction(() => location.hash.includes("sigma=0.05"));
    await page.getByRole("link", { name: "A lot of noise" }).click();
    await page.waitForFunction(() => location.hash.includes("sigma=8"));
  }));

test("every link of the page leads to a part, and asks for what it can show", () =>
  use("#anneal?levels=2", {}, async ({ page }) => {
    const hashes = await page.evaluate(() =>
      [...document.querySelectorAll("template")].flatMap(({ content }) =>
        [...content.querySelectorAll("a")].map((link) => link.getAttribute("href") ?? ""),
      ),
    );
    const inside = hashes.filter((hash) => /^#(scores|anneal|learning)/.test(hash));
    assert.ok(inside.length > 12, `${inside}`);
    for (const hash of new Set(inside)) {
      await page.evaluate((hash) => {
        document.querySelector("main")?.replaceChildren();
        location.hash = hash;
      }, hash);
      await page.waitForSelector("main h1");
      assert.equal(await page.locator("#status").textContent(), "", hash);
    }
  }));

test("a part is as it was after a look at another one, and the first thing to reach skips the navigation", () =>
  use("#scores?data=own&sigma=0.5&x=0&y=0", {}, async ({ page }) => {
    await drag(page, [3, 3], [4, 4]);
    await page.mouse.up();
    await page.getByText("27 of at most 500 points").waitFor();
    await page.getByRole("combobox", { name: "Show" }).selectOption("noisy");
    await page.getByRole("link", { name: "Learning", exact: true }).click();
    await page.getByText("Learned score").waitFor();
    await page.getByRole("link", { name: "Scores", exact: true }).click();
    await page.getByText("27 of at most 500 points").waitFor();
    assert.equal(await page.getByRole("combobox", { name: "Show" }).inputValue(), "noisy");
    await page.reload();
    await page.waitForSelector("main h1");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement?.tagName), "H1");
  }));

test("training goes on where it was after a look at another part", () =>
  use("#learning", {}, async ({ page }) => {
    await page.waitForFunction(() => Number(document.querySelector('[data-reading="step"]')?.textContent) >= 5);
    const [before] = await reading(page, "step");
    await page.getByRole("link", { name: "Scores", exact: true }).click();
    await page.getByRole("application").waitFor();
    await page.getByRole("link", { name: "Learning", exact: true }).click();
    await page.waitForFunction(() => Number(document.querySelector('[data-reading="step"]')?.textContent) > 0);
    assert.ok((await reading(page, "step"))[0] >= before);
  }));
