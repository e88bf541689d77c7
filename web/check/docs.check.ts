// The site that `make docs` has built, as it lies on the disk: axe finds nothing, nothing is wider than a phone, and the
// search shows excerpts.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { AxeBuilder } from "@axe-core/playwright";
import { type Browser, chromium } from "playwright-core";
import { NARROW, ROOT, WIDE } from "./browser.ts";

const DOCS = `${ROOT}build/docs`;
const PAGES = [
  "index",
  "glossary",
  "benchmarks",
  "howto/samplers",
  "howto/wrong",
  "reference/commands",
  "howto/image-files",
  "theory/matching",
  "tutorials/circle",
  "tutorials/your-tables",
];
let browser: Browser;

before(async () => {
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
});
after(() => browser.close());

test(`${PAGES.length} pages, light and dark: axe finds nothing`, async () => {
  const context = await browser.newContext({ viewport: WIDE });
  const page = await context.newPage();
  for (const name of PAGES) {
    await page.emulateMedia({ colorScheme: "light" });
    await page.goto(`file://${DOCS}/${name}.html`);
    const results = [await new AxeBuilder({ page }).analyze()];
    await page.emulateMedia({ colorScheme: "dark" });
    results.push(await new AxeBuilder({ page }).withRules("color-contrast").analyze()); // nothing else depends on it
    const violations = results.flatMap((result) => result.violations);
    const found = violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html }) => html)}`);
    assert.deepEqual(found, [], name);
  }
  await context.close();
});

test("no page is wider than a phone", async () => {
  const page = await browser.newPage({ viewport: NARROW });
  for (const name of PAGES) {
    await page.goto(`file://${DOCS}/${name}.html`);
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= NARROW.width, name);
  }
  await page.close();
});

test("the search shows excerpts, also from a disk", async () => {
  const page = await browser.newPage();
  await page.goto(`file://${DOCS}/search.html?q=particles`);
  const excerpt = page.locator("#search-results p.context").first();
  assert.match(await excerpt.innerText(), /particles/i);
  await page.close();
});
