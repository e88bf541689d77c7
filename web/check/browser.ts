// A real browser on the page as `ncsn play` serves it; what goes wrong in it is a failure.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Browser, type BrowserContextOptions, type Page, chromium } from "playwright-core";

// The compiled checks lie in web/build/check.
export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
export const SITE = `${ROOT}site`;
const SHOTS = `${ROOT}build/site-check`;

export const WIDE = { width: 1280, height: 900 };
export const NARROW = { width: 390, height: 844 };

const NO_GRAPHICS = "No available adapters."; // what Chromium says to whoever asks, where there is none

export interface Opened {
  page: Page;
  /** Every address that was asked for. */
  requests: string[];
}

let server: ChildProcess | undefined;
let browser: Browser | undefined;
export let home = "";

/** Start the server and the browser, with more of its switches and another run if need be. */
export async function begin(switches: string[] = [], run: string[] = []): Promise<void> {
  mkdirSync(SHOTS, { recursive: true });
  const child = spawn(process.env.PYTHON ?? "python", ["-m", "ncsn", "play", ...run, "--port", "0"], {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "inherit"],
  });
  server = child;
  home = await new Promise((resolve, reject) => {
    child.stdout.on("data", (said: Buffer) => {
      const found = /http:[^\s#]+/.exec(said.toString());
      if (found) resolve(found[0]);
    });
    child.on("exit", () => reject(new Error("ncsn play has ended")));
  });
  const root_user = process.getuid?.() === 0;
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [...switches, ...(root_user ? ["--no-sandbox"] : [])],
  });
}

export async function end(): Promise<void> {
  await browser?.close();
  server?.removeAllListeners("exit");
  server?.kill("SIGINT");
}

/** Use a page, and then assert that nothing was wrong: no error, no warning, no request elsewhere. */
export async function use(
  hash: string,
  options: BrowserContextOptions,
  work: (opened: Opened) => Promise<void>,
): Promise<void> {
  assert.ok(browser);
  const context = await browser.newContext({ viewport: WIDE, ...options });
  context.setDefaultTimeout(120_000); // for machines with other things to do; no claim
  const page = await context.newPage();
  const wrong: string[] = [];
  const requests: string[] = [];
  page.on(
    "console",
    (message) =>
      ["error", "warning"].includes(message.type()) && message.text() !== NO_GRAPHICS && wrong.push(message.text()),
  );
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("requestfailed", (request) => {
    const reason = request.failure()?.errorText;
    // Leaving a page cancels the requests that are still open, such as that of its icon.
    if (reason !== "net::ERR_ABORTED") wrong.push(`${request.url()}: ${reason}`);
  });
  page.on("request", (request) => requests.push(request.url()));
  await page.goto(home + hash);
  await page.waitForSelector("main h1");
  await work({ page, requests });
  await context.close();
  assert.deepEqual(wrong, []);
  assert.deepEqual(
    requests.filter((url) => !url.startsWith(home)),
    [],
  );
}

/** Until all images are denoised, in the parts that draw some. */
export async function drawn(page: Page): Promise<void> {
  await page.waitForFunction(() => document.querySelector('[data-reading="sigma"]')?.textContent === "0, denoised");
}

/** Numbers that the page shows under a name. */
export async function reading(page: Page, name: string): Promise<number[]> {
  const text = await page.locator(`[data-reading="${name}"]`).innerText();
  return (text.replaceAll("−", "-").match(/-?\d+(\.\d+)?(e[-+]?\d+)?/g) ?? []).map(Number);
}

/** Set a slider, as its user would see it: to the place of its range that is this share of it. */
export async function slide(page: Page, label: string, share: number): Promise<void> {
  await page.getByRole("slider", { name: label }).evaluate((element, share) => {
    const input = element as HTMLInputElement;
    input.value = String(Number(input.min) + share * (Number(input.max) - Number(input.min)));
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }, share);
}

export async function shoot(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: `${SHOTS}/${name}.png`, fullPage: true });
}

/** Red, green, blue and opacity of a canvas at a place of the plane, averaged over a few pixels around it. */
export async function pixel(page: Page, index: number, x: number, y: number): Promise<number[]> {
  return page
    .locator("canvas.stage")
    .nth(index)
    .evaluate(
      (element, [x, y]) => {
        const canvas = element as HTMLCanvasElement;
        const side = 9;
        const [column, row] = [((x / 8 + 1) / 2) * canvas.width, ((1 - y / 8) / 2) * canvas.height];
        const copy = new OffscreenCanvas(side, side).getContext("2d") as OffscreenCanvasRenderingContext2D;
        copy.drawImage(canvas, side / 2 - column, side / 2 - row);
        const image = copy.getImageData(0, 0, side, side).data;
        const sums = [0, 0, 0, 0];
        for (let i = 0; i < image.length; i++) sums[i % 4] += image[i] / side ** 2;
        return sums;
      },
      [x, y],
    );
}
