// WebGPU, by the program that plays a graphics processor in Chromium: what it draws is what the processor draws.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import { begin, drawn, end, use } from "./browser.ts";

before(() => begin(["--enable-unsafe-webgpu"]));
after(end);

/** Bytes of the image that is shown, and who has drawn it. */
async function shown(page: Page): Promise<{ image: number[]; by: string }> {
  const image = await page.getByRole("img", { name: "The images at this noise level" }).evaluate((element) => {
    const copy = new OffscreenCanvas(28, 28).getContext("2d") as OffscreenCanvasRenderingContext2D;
    copy.drawImage(element as HTMLCanvasElement, 0, 0);
    return Array.from(copy.getImageData(0, 0, 28, 28).data);
  });
  return { image, by: await page.locator('[data-reading="by"]').innerText() };
}

test("WebGPU draws the same digit as WebAssembly, and is not taken for one where a program plays it", async () => {
  const found: { image: number[]; by: string }[] = [];
  for (const device of ["webgpu", "auto"]) {
    await use(`#digits?count=1&levels=3&device=${device}`, {}, async ({ page }) => {
      await drawn(page);
      assert.equal(await page.locator(".pictures .group").count(), 0);
      found.push(await shown(page));
    });
  }
  const [gpu, processor] = found;
  assert.equal(gpu.by, "WebGPU");
  assert.match(processor.by, /^WebAssembly/);
  const near = gpu.image.filter((value, i) => Math.abs(value - processor.image[i]) <= 2).length / gpu.image.length;
  console.log(`${(100 * near).toFixed(2)} % of the numbers are within 2 levels`);
  assert.ok(near >= 0.999, `${near}`);
});
