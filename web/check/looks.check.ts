// Wide and narrow, dark and light, without motion, for everybody; small, and quick.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { gzipSync } from "node:zlib";
import { AxeBuilder } from "@axe-core/playwright";
import { NARROW, SITE, WIDE, begin, drawn, end, home, pixel, reading, shoot, use } from "./browser.ts";
import { encode } from "../src/parts/own.ts";
import { Mulberry } from "../src/maths/plane.ts";

before(() => begin());
after(end);

const KILOBYTES = 200;
const looks = [
  { name: "wide", viewport: WIDE, colorScheme: "light" },
  { name: "narrow", viewport: { width: 320, height: 720 }, colorScheme: "dark", hasTouch: true },
] as const;
const shown: Record<string, string> = {
  first: "",
  scores: "#scores?data=gaussian&show=all&x=-1&y=3",
  own: "#scores?data=own&show=all&sigma=0.5",
  anneal: "#anneal?seconds=3",
  learning: "#learning",
  digits: "#digits",
  fill: "#fill?levels=10",
};
const waits: Record<string, number> = { first: 1500, scores: 300, own: 300, anneal: 3500, learning: 3500 }; // else until it is drawn

for (const { name, ...look } of looks) {
  for (const [part, hash] of Object.entries(shown)) {
    test(`${part}, ${name}: nothing is wider than the screen, and axe finds nothing`, () =>
      use(hash, look, async ({ page }) => {
        if (part in waits) await page.waitForTimeout(waits[part]);
        else await drawn(page);
        const wide = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        assert.ok(wide[0] <= wide[1], `${wide}`);
        const { violations } = await new AxeBuilder({ page }).analyze();
        assert.deepEqual(
          violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html)}`),
          [],
        );
        await shoot(page, `${part}-${name}`);
      }));
  }
}

test("where colours are forced, the part that is shown is marked, and pictures have these colours", () =>
  use("#anneal", { forcedColors: "active", colorScheme: "dark", reducedMotion: "reduce" }, async ({ page }) => {
    const [marked, other] = await page.evaluate(() =>
      ["page", "false"].map((current) => {
        const link = document.querySelector(`nav a[aria-current="${current}"]`);
        return link ? getComputedStyle(link).outlineStyle : "missing";
      }),
    );
    assert.deepEqual([marked, other], ["solid", "none"]);
    const [red, green, blue] = await pixel(page, 0, 5, 5);
    assert.ok(red > 60 && Math.abs(red - blue) < 40 && Math.abs(red - green) < 40, `${red} ${green} ${blue}`);
  }));

test("where motion is not wanted, nothing moves by itself, and a way is drawn at once", async () => {
  await use("#anneal", { reducedMotion: "reduce" }, async ({ page }) => {
    await page.waitForTimeout(500);
    assert.equal((await reading(page, "step"))[0], 0);
  });
  await use("#learning", { reducedMotion: "reduce" }, async ({ page }) => {
    await page.getByRole("button", { name: "Run", exact: true }).waitFor();
    assert.equal((await reading(page, "step"))[0], 0);
  });
  await use("#scores", { reducedMotion: "reduce" }, async ({ page }) => {
    await page.getByRole("button", { name: "Run" }).click();
    await page.waitForFunction(() => document.querySelector('[data-reading="steps"]')?.textContent?.startsWith("400 "));
  });
});

test("on a phone a finger scrolls the page, moves the particle, and taps it elsewhere", () =>
  use("#scores?x=0&y=0", { viewport: NARROW, hasTouch: true, isMobile: true }, async ({ page }) => {
    const box = await page.getByRole("application").boundingBox();
    assert.ok(box);
    await page.touchscreen.tap(box.x + box.width * 0.75, box.y + box.height * 0.25);
    await page.waitForFunction(() => !document.querySelector('[data-reading="steps"]')?.textContent?.startsWith("0 "));
  }));

test("the first view is small, and soon there", () =>
  use("", {}, async ({ page, requests }) => {
    const [ready, calibration] = await page.evaluate(() => {
      const now = performance.now(); // since the address was entered; the particle can be moved
      let sum = 0;
      for (let k = 0; k < 1e6; k++) sum += Math.exp(-k * 1e-6);
      return [now, sum > 0 ? performance.now() - now : 0];
    });
    const sizes = requests.map(
      (url) => gzipSync(readFileSync(`${SITE}/${new URL(url).pathname.slice(1) || "index.html"}`)).length,
    );
    const sum = sizes.reduce((a, b) => a + b, 0);
    console.log(
      `first view: ${requests.length} files, ${(sum / 1000).toFixed(1)} kB compressed, there after at most ` +
        `${ready.toFixed(0)} ms; a million exponentials: ${calibration.toFixed(1)} ms`,
    );
    assert.ok(sum <= KILOBYTES * 1000);
    assert.ok(ready < 200 * calibration); // a second, where a million exponentials take 5 ms
    assert.ok(requests.every((url) => url.startsWith(home) && !/worker|wasm|onnx/.test(url)));
  }));

test("frames of 500 points come at once, beside what the machine can do", () => {
  const random = new Mulberry(3);
  const points = encode(Array.from({ length: 1000 }, () => 14 * random.uniform() - 7));
  return use(`#scores?data=own&show=all&x=0&y=0&points=${points}`, {}, async ({ page }) => {
    await page.getByText("500 of at most 500 points").waitFor();
    const { frame, interval, calibration } = await page.evaluate(async () => {
      const input = document.querySelector("input[type=range]") as HTMLInputElement;
      const median = (times: number[]): number => times.sort((a, b) => a - b)[times.length >> 1];
      const frame = (): Promise<number> =>
        new Promise((resolve) => requestAnimationFrame(() => resolve(performance.now())));
      const [frames, loops]: number[][] = [[], []];
      for (let i = 0; i < 60; i++) {
        await new Promise(requestAnimationFrame);
        const begun = performance.now();
        let sum = 0;
        for (let k = 0; k < 1e6; k++) sum += Math.exp(-k * 1e-6);
        if (sum > 0) loops.push(performance.now() - begun);
        // The page draws between these two, which are asked for before and after it asks for its frame.
        const before = frame();
        input.value = String((i * 37) % 400);
        input.dispatchEvent(new Event("input", { bubbles: true }));
        const after = frame();
        frames.push((await after) - (await before));
      }
      const intervals: number[] = [];
      for (let i = 0, last = await frame(); i < 60; i++) {
        input.value = String((i * 7) % 400);
        input.dispatchEvent(new Event("input", { bubbles: true }));
        const now = await frame();
        intervals.push(now - last);
        last = now;
      }
      return { frame: median(frames), interval: median(intervals), calibration: median(loops) };
    });
    console.log(
      `500 points at a new σ: ${frame.toFixed(1)} ms a frame, one every ${interval.toFixed(1)} ms; ` +
        `a million exponentials: ${calibration.toFixed(1)} ms`,
    );
    assert.ok(frame < 4 * calibration);
  });
});
