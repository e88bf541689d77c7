import assert from "node:assert/strict";
import { test } from "node:test";
import { Mixture, twoGaussians } from "../src/maths/distributions.ts";
import { METHODS, type Score, guided, ladder, replacement, suited } from "../src/maths/samplers.ts";
import type { Points } from "../src/maths/plane.ts";
import { Listed, close, values } from "./values.ts";

const given = values.samplers;
const start = Float64Array.from(given.start);

function scoreOf(truth: Mixture): Score {
  return async (x, sigma) => truth.score(x, sigma);
}

/** Where a sampler ends, and through which noise levels it goes. */
async function followed(name: string, score: (noise: () => Points) => Score): Promise<{ x: Points; levels: number[] }> {
  const random = new Listed(given.z);
  const noise = (): Points => Float64Array.from(start, () => random.normal());
  const sigmas: number[] = given.ladders[METHODS[name].ladder];
  const levels: number[] = [];
  let x: Points = start;
  for await (const step of METHODS[name].follow({ score: score(noise), x, sigmas, steps: 2, eps: 0.005, noise })) {
    ({ x } = step);
    levels.push(step.sigma);
  }
  return { x, levels };
}

for (const name of Object.keys(METHODS)) {
  test(`${name} with the package's noise ends where the package does`, async () => {
    const { x, levels } = await followed(name, () => scoreOf(twoGaussians()));
    close(x, given.ends[name], 1e-9);
    const sigmas: number[] = given.ladders[METHODS[name].ladder];
    assert.deepEqual(levels, name === "annealed" ? [...sigmas, 0] : [...sigmas.slice(1), 0]);
  });
}

test("where the levels rise, euler goes up by the package's noise", async () => {
  const random = new Listed(given.z);
  const noise = (): Points => Float64Array.from(start, () => random.normal());
  let x: Points = start;
  const how = { score: scoreOf(twoGaussians()), x, sigmas: given.restarted.levels, steps: 1, eps: 0.005, noise };
  for await (const step of METHODS.euler.follow(how)) ({ x } = step);
  close(x, given.restarted.end, 1e-9);
});

test("every sampler of the page has the package's defaults", () => {
  for (const [name, method] of Object.entries(METHODS)) {
    assert.deepEqual(
      [suited(method, 10, 0.01), suited(method, 33, 0.01), method.levels, method.steps],
      given.suited[name],
    );
  }
});

test("noise levels are the package's", () => {
  for (const kind of ["geometric", "karras"] as const) close(ladder(kind, 20, 0.1, 6), given.ladders[kind], 1e-7);
  assert.deepEqual(ladder("karras", 20, 0.1, 1), [Math.fround(0.1)]);
});

test("what is not known is filled in as by the package", async () => {
  const y = Float64Array.from(start, (_, i) => (i % 2 === 0 ? -5 : 0));
  const known = Uint8Array.from(start, (_, i) => 1 - (i % 2));
  const { x } = await followed("annealed", (noise) => replacement(scoreOf(twoGaussians()), known, y, noise));
  close(x, given.filled, 1e-9);
});

test("a guide is moved away from as by the package, on the noise levels between", async () => {
  const wide = new Mixture(Float64Array.of(0, 0), 3);
  for (const [sigma, expected] of Object.entries<number[]>(given.guided)) {
    close(
      await guided(scoreOf(twoGaussians()), scoreOf(wide), 1.5, [0.5, 2])(start, Number(sigma)),
      expected,
      1e-9,
      `σ = ${sigma}`,
    );
  }
});
