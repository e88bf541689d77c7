// The model in the page draws what the package draws, quickly, and is seen to.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import type { JSHandle, Page } from "playwright-core";
import { type Card, read } from "../src/digits/task.ts";
import { DIGITS } from "../src/parts/own.ts";
import { NARROW, type Opened, ROOT, SITE, begin, drawn, end, home, reading, slide, use } from "./browser.ts";

const VALUES = `${ROOT}build/site-check/digits`;
const LEVELS = 2; // by which a pixel may be off
const SHARE = 0.999; // of the pixels that may not be

before(async () => {
  execFileSync(process.env.PYTHON ?? "python", ["web/check/digits.py", VALUES], { cwd: ROOT, stdio: "inherit" });
  await begin();
});
after(end);

/** The pixels of the canvas of images, of one image after the other. */
async function images(page: Page, label: string, count: number, columns: number): Promise<number[][]> {
  return page.getByRole("img", { name: label }).evaluate(
    (element, [count, columns]) => {
      const { width, height } = element as HTMLCanvasElement;
      const copy = new OffscreenCanvas(width, height).getContext("2d") as OffscreenCanvasRenderingContext2D;
      copy.drawImage(element as HTMLCanvasElement, 0, 0);
      const { data } = copy.getImageData(0, 0, width, height);
      return Array.from({ length: count }, (_, i) => {
        const corner = Math.floor(i / columns) * 30 * width + (i % columns) * 30;
        return Array.from(
          { length: 784 },
          (_, pixel) => data[4 * (corner + Math.floor(pixel / 28) * width + (pixel % 28))],
        );
      });
    },
    [count, columns] as const,
  );
}

/** The page's own worker, in this browser, with the model loaded. */
async function workerOf({ page, requests }: Opened, card: Card): Promise<JSHandle<Worker>> {
  const address = (pattern: RegExp): string =>
    requests.find((url) => pattern.test(url)) ?? assert.fail(`${pattern} was not asked for`);
  const places = { worker: address(/worker-[^/]*\.js$/), runtime: address(/\.wasm$/), model: address(/model\.onnx$/) };
  const guide = requests.find((url) => url.endsWith("model.guide.onnx"));
  return page.evaluateHandle(
    async ({ card, worker, runtime, model, guide }) => {
      const bytes = async (url: string): Promise<ArrayBuffer> => (await fetch(url)).arrayBuffer();
      const drawing = new Worker(worker, { type: "module" });
      const order = {
        kind: "load",
        card,
        device: "wasm",
        runtime: await bytes(runtime),
        model: await bytes(model),
        guide: guide && (await bytes(guide)),
      };
      await new Promise((resolve, reject) => {
        drawing.onmessage = ({ data }) => (data.kind === "ready" ? resolve(undefined) : reject(new Error(data.why)));
        drawing.postMessage(order);
      });
      return drawing;
    },
    { card, ...places, guide },
  );
}

/** What it draws of a task and its noise. */
async function byWorker(worker: JSHandle<Worker>, name: string): Promise<Buffer> {
  const task = JSON.parse(readFileSync(`${VALUES}/${name}.json`, "utf8"));
  const noise = readFileSync(`${VALUES}/${name}.noise`).toString("base64");
  const found = await worker.evaluate(
    (drawing, { task, noise }) =>
      new Promise<number[]>((resolve, reject) => {
        drawing.onmessage = ({ data }) => {
          if (data.kind === "failed") reject(new Error(data.why));
          else if (data.last)
            resolve(Array.from(data.x as Float32Array, (value) => Math.min(255, Math.max(0, Math.floor(256 * value)))));
        };
        const normal = new Float32Array(Uint8Array.from(atob(noise), (letter) => letter.charCodeAt(0)).buffer);
        const given = task.given && { known: Uint8Array.from(task.given.known), y: Float32Array.from(task.given.y) };
        drawing.postMessage({ kind: "draw", ticket: 1, task: { ...task, noise: normal, given } });
      }),
    { task, noise },
  );
  return Buffer.from(found);
}

/** What the page draws of a task is what the package draws. */
async function same(worker: JSHandle<Worker>, name: string): Promise<void> {
  const [page, ours] = [await byWorker(worker, name), readFileSync(`${VALUES}/${name}.digits`)];
  assert.equal(page.length, ours.length);
  const off = Array.from(page, (value, i) => Math.abs(value - ours[i]));
  const share = off.filter((levels) => levels <= LEVELS).length / off.length;
  console.log(
    `${name}: ${(100 * share).toFixed(2)} % of ${off.length} pixels are within ${LEVELS} levels, the farthest is ${Math.max(...off)} off`,
  );
  assert.ok(share >= SHARE, `${name}: ${share}`);
  assert.ok(mean([...ours]) > 20); // and they are no blank pages
}

test("given the same noise, page and package draw the same digits", () =>
  use("#digits?device=wasm&count=1", {}, async (opened) => {
    await drawn(opened.page);
    const worker = await workerOf(opened, read(readFileSync(`${SITE}/model.onnx`)));
    for (const name of ["default", "no class", "guided", "annealed", "filled"]) await same(worker, name);
  }));

const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
const corner = (image: number[]): number =>
  mean([0, 1, 28, 29, 26, 27, 754, 755, 756, 757, 782, 783].map((at) => image[at]));
const off = (a: number[], b: number[]): number => mean(a.map((value, i) => Math.abs(value - b[i])));

test("digits: noise becomes digits, as the controls say, and the same by the address", () =>
  use("#digits?seed=3", {}, async ({ page }) => {
    await drawn(page);
    assert.equal((await reading(page, "evaluations"))[0], 15); // 12 noise levels, of which guidance acts on three
    const first = await images(page, "The images at this noise level", 10, 5);
    for (const image of first)
      assert.ok(corner(image) < 8 && mean(image) > 15 && mean(image) < 70, `${corner(image)} ${mean(image)}`);
    const way = await images(page, "The first image, from noise", 12, 12);
    assert.ok(corner(way[0]) > 90 && corner(way[11]) < 8, `${way.map(corner)}`); // grey noise, and the black of a digit
    assert.deepEqual(way[11], first[0]);
    await slide(page, "Rewind", 0);
    assert.equal((await reading(page, "sigma"))[0], 6.63);
    assert.ok(corner((await images(page, "The images at this noise level", 1, 5))[0]) > 90);

    await page.getByRole("combobox", { name: "Sampler" }).selectOption("annealed");
    assert.match(await page.getByText("Guidance weight w", { exact: true }).locator("..").innerText(), /1, off/);
    await slide(page, "Noise levels", 0.25); // 6 of them
    await page.getByRole("combobox", { name: "Class" }).selectOption("7");
    await page.waitForFunction(() => location.hash.includes("levels=") && location.hash.includes("label=7"));
    await again(page, "New images");
    assert.equal((await reading(page, "evaluations"))[0], 13);
    const [sevens, hash] = [
      await images(page, "The images at this noise level", 10, 5),
      await page.evaluate(() => location.hash),
    ];
    await use(hash, {}, async ({ page: other }) => {
      await drawn(other);
      assert.deepEqual(await images(other, "The images at this noise level", 10, 5), sevens);
      await again(other, "New images");
      assert.ok(off((await images(other, "The images at this noise level", 1, 5))[0], sevens[0]) > 5);
    });
  }));

/** Press a button, and wait until what it orders is drawn: from then on nothing is, until it is. */
async function again(page: Page, button: string): Promise<void> {
  await page.getByRole("button", { name: button, exact: true }).evaluate((element) => (element as HTMLElement).click());
  await drawn(page);
}

test("digits: loading fills one bar once, and without a class nothing guides, which is said", () =>
  use("", {}, async ({ page }) => {
    await page.evaluate(() => {
      const seen: number[] = [];
      Object.assign(window, { seen });
      new MutationObserver(() => {
        const bar = document.querySelector<HTMLProgressElement>('progress[aria-label="Loading"]');
        if (bar?.hasAttribute("value")) seen.push(bar.value);
      }).observe(document.body, { subtree: true, attributes: true, childList: true, characterData: true });
    });
    await page.getByRole("link", { name: "Digits", exact: true }).click();
    await drawn(page);
    const seen = await page.evaluate(() => (window as unknown as { seen: number[] }).seen);
    assert.ok(seen.length > 0 && seen.every((share, i) => share >= (seen[i - 1] ?? 0)), `${seen}`);
    const guidance = page.getByRole("slider", { name: "Guidance weight w" });
    assert.equal(await guidance.getAttribute("aria-valuetext"), "1.25");
    await page.getByRole("combobox", { name: "Class" }).selectOption("none");
    assert.match((await guidance.getAttribute("aria-valuetext")) ?? "", /^none/);
  }));

test("digits: one is drawn in under a second where a million exponentials take 5 ms, on one thread", () =>
  use("#digits?count=1&device=wasm", {}, async ({ page }) => {
    await drawn(page);
    assert.match(await page.locator('[data-reading="by"]').innerText(), /^WebAssembly/); // one image is one worker's
    const [times, loops]: number[][] = [[], []];
    for (let i = 0; i < 5; i++) {
      await again(page, "New images");
      times.push((await reading(page, "seconds"))[1]);
      loops.push(
        await page.evaluate(() => {
          const begun = performance.now();
          let sum = 0;
          for (let k = 0; k < 1e6; k++) sum += Math.exp(-k * 1e-6);
          return sum > 0 ? performance.now() - begun : 0;
        }),
      );
    }
    const [time, loop] = [times, loops].map((list) => list.sort((a, b) => a - b)[2]);
    console.log(`a digit: ${time} ms; a million exponentials: ${loop.toFixed(1)} ms`);
    assert.ok(time < 200 * loop);
  }));

test("digits: where motion is not wanted, only the end is shown", () =>
  use("#digits", { reducedMotion: "reduce" }, async ({ page }) => {
    await page.waitForSelector('[data-reading="sigma"]');
    const seen = await page.evaluate(
      () =>
        new Promise<string[]>((resolve) => {
          const said: string[] = [];
          const cell = document.querySelector('[data-reading="sigma"]') as HTMLElement;
          const look = (): void => {
            said.push(cell.textContent ?? "");
            if (cell.textContent === "0, denoised") resolve(said);
          };
          new MutationObserver(look).observe(cell, { childList: true });
          look();
        }),
    );
    assert.deepEqual(
      seen.filter((text) => !["not yet", "0, denoised"].includes(text)),
      [],
    );
  }));

test("where there is no WebGPU, that is said, and digits are drawn all the same", () =>
  use("#digits?device=webgpu&count=1", {}, async ({ page }) => {
    await drawn(page);
    assert.match(
      await page.locator(".pictures .group").innerText(),
      /^WebGPU cannot be used: .+ Computed by WebAssembly instead\.$/,
    );
    assert.match(await page.locator('[data-reading="by"]').innerText(), /^WebAssembly/);
  }));

/** The nine answers, and what is known of the picture by the address. */
const answers = (page: Page): Promise<number[][]> => images(page, "Nine answers", 9, 3);
const hidden = (text: string, row: number, column: number): boolean =>
  (DIGITS.indexOf(text[row * 28 + column]) & 1) === 1;
const above = (image: number[]): number[] => image.slice(0, 14 * 28);
const below = (image: number[]): number[] => image.slice(14 * 28);

test("fill in: answers agree on what is known, and differ elsewhere", () =>
  use("#fill?levels=10&seed=4", {}, async ({ page }) => {
    await drawn(page);
    assert.equal((await reading(page, "evaluations"))[0], 21);
    const found = await answers(page);
    for (const image of found.slice(1)) {
      assert.ok(off(above(image), above(found[0])) < 0.1, `${off(above(image), above(found[0]))}`);
      assert.ok(off(below(image), below(found[0])) > 3, `${off(below(image), below(found[0]))}`);
    }
    const [average] = await images(page, "Their mean", 1, 1);
    const grey = average.map((_, i) => i).filter((i) => found.every((image) => image[i] > 0 && image[i] < 255)); // none is clipped
    assert.ok(grey.length > 20, `${grey.length}`);
    for (const i of grey) assert.ok(Math.abs(average[i] - mean(found.map((image) => image[i]))) < 1.5);
    const [spread] = await images(page, "Their standard deviation", 1, 1);
    assert.ok(mean(above(spread)) < 0.1 && Math.max(...below(spread)) === 255, `${mean(above(spread))}`);
  }));

test("fill in: a picture is erased and drawn on by pointer and keys, and shared by its address", () =>
  use("#fill?levels=10", { viewport: NARROW, hasTouch: true }, async ({ page }) => {
    await drawn(page);
    const picture = (): Promise<string> =>
      page.evaluate(() => new URLSearchParams(location.hash.split("?")[1]).get("picture") ?? "");
    const changed = (before: string): Promise<unknown> =>
      page.waitForFunction(
        (before) => (new URLSearchParams(location.hash.split("?")[1]).get("picture") ?? "") !== before,
        before,
      );
    assert.equal(await picture(), "");
    // A finger scrolls until a tool is chosen; the tools are above the picture.
    const tool = page.getByRole("combobox", { name: "The pointer" });
    assert.equal(await tool.inputValue(), "look");
    const tall = (await page.getByRole("application").boundingBox())?.y ?? 0;
    assert.ok(((await tool.boundingBox())?.y ?? 1e9) < tall);
    await page.getByRole("application").tap();
    await page.waitForTimeout(300);
    assert.equal(await picture(), "");
    await tool.selectOption("hide");
    await page.getByRole("application").focus();
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Shift+ArrowUp");
    await page.keyboard.press("Space");
    await changed("");
    const erased = await picture();
    assert.equal(erased.length, 784);
    assert.ok(hidden(erased, 8, 14));

    await page.getByRole("button", { name: "Blank page" }).click();
    await changed(erased);
    assert.equal(await page.getByRole("combobox", { name: "The pointer" }).inputValue(), "ink");
    await page.getByRole("application").scrollIntoViewIfNeeded();
    const box = await page.getByRole("application").boundingBox();
    assert.ok(box);
    const at = (row: number, column: number): [number, number] => [
      box.x + (column / 28) * box.width,
      box.y + (row / 28) * box.height,
    ];
    await page.mouse.move(...at(4.5, 14.5));
    await page.mouse.down();
    await page.mouse.move(...at(12.5, 14.5), { steps: 4 });
    await page.mouse.up();
    await changed("");
    const stroke = await picture();
    assert.deepEqual(
      [4, 8, 12].map((row) => stroke[row * 28 + 14]),
      ["-", "-", "-"],
    ); // white
    assert.ok(stroke[0] === "A" && hidden(stroke, 27, 0)); // black above, hidden below
    await page.getByRole("button", { name: "Undo" }).click();
    await changed(stroke);
    assert.equal((await picture())[4 * 28 + 14], "A");
    await page.getByRole("application").focus();
    await page.mouse.move(...at(4.5, 14.5));
    await page.mouse.down();
    await page.mouse.move(...at(12.5, 14.5), { steps: 4 });
    await page.mouse.up();
    await drawn(page);
    const found = await answers(page);
    for (const image of found) assert.ok(image[8 * 28 + 14] > 250 && image[8 * 28 + 4] < 3);
    const hash = await page.evaluate(() => location.hash);
    await use(hash, {}, async ({ page: other }) => {
      await drawn(other);
      assert.deepEqual(await answers(other), found);
      await other.getByRole("link", { name: "Scores", exact: true }).click();
      await other.getByRole("slider", { name: "Noise level σ" }).waitFor();
      await other.getByRole("link", { name: "Fill in", exact: true }).click();
      await drawn(other);
      assert.deepEqual(await answers(other), found); // a look at another part has changed nothing
      await other.getByRole("combobox", { name: "Hide" }).selectOption("nothing");
      await other.getByText("Hide a part of the picture first").waitFor();
    });
  }));

test("digits: an address that names a sampler alone brings the noise levels that suit it", () =>
  use("#digits?sampler=annealed&count=1", {}, async ({ page }) => {
    await drawn(page);
    assert.equal((await reading(page, "evaluations"))[0], 201); // 100 levels of two steps, and the last one
    const [image] = await images(page, "The images at this noise level", 1, 3);
    assert.ok(corner(image) < 8 && mean(image) > 15, `${corner(image)} ${mean(image)}`);
  }));

test("fill in: nothing throws the first digit away, and answering again answers anew", () =>
  use("#fill?levels=10&seed=4", {}, async ({ page }) => {
    await page.getByRole("application").waitFor(); // the digit is hardly there yet
    await slide(page, "Noise levels", 0.1);
    await page.getByRole("application").focus();
    await page.keyboard.press("Shift+ArrowDown"); // into what is hidden, should the digit be there by now
    await page.keyboard.press("Space");
    await drawn(page);
    assert.equal(await page.getByRole("progressbar").evaluate((bar) => (bar as HTMLProgressElement).value), 1);
    const first = await answers(page);
    assert.ok(mean(above(first[0])) > 5, `${mean(above(first[0]))}`); // no black page
    await again(page, "New answers");
    const other = await answers(page);
    assert.ok(off(above(other[0]), above(first[0])) < 0.1, `${off(above(other[0]), above(first[0]))}`);
    assert.ok(off(below(other[0]), below(first[0])) > 3, `${off(below(other[0]), below(first[0]))}`);
  }));

test("a run of one's own, in colour and with a smaller network for a guide, is what the package draws of it", async () => {
  await end();
  await begin([], [`${VALUES}/colour`]);
  await use("#digits?device=wasm", {}, async (opened) => {
    await drawn(opened.page);
    assert.match(
      await opened.page.locator('[data-reading="model"]').innerText(),
      /^0.0\d+ MB, colour, 10 × 14, 3 classes, σ from 5 to 0.02$/,
    );
    assert.equal(await opened.page.getByText("Ask for sevens").count(), 0); // which it does not know
    const model = await (await fetch(`${home}model.onnx`)).arrayBuffer();
    await same(await workerOf(opened, read(new Uint8Array(model))), "colour");
  });
  await use("#fill?levels=10", {}, ({ page }) => drawn(page));
});

test("a file that is no model is said to be none", async () => {
  await use("", {}, async ({ page }) => {
    await page.route("**/model.onnx", (route) => route.fulfill({ body: "{}" }));
    await page.goto(`${home}#digits`);
    assert.equal(await page.getByRole("alert").innerText(), "The model cannot be shown: the model isn’t an ONNX file.");
  });
});

test("a browser without SIMD is told that it is too old", async () => {
  await use("", {}, async ({ page }) => {
    await page.evaluate(() => Object.assign(WebAssembly, { validate: () => false }));
    await page.getByRole("link", { name: "Digits", exact: true }).click();
    assert.match(await page.getByRole("alert").innerText(), /^The model cannot be shown: this browser is too old/);
  });
});
