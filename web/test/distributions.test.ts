import assert from "node:assert/strict";
import { test } from "node:test";
import { DISTRIBUTIONS, Mixture, twoGaussians } from "../src/maths/distributions.ts";
import { Mulberry, gridPoints } from "../src/maths/plane.ts";
import { close, values } from "./values.ts";

const given = values.distributions;
const here: Record<string, Mixture> = {
  ...Object.fromEntries(Object.entries(DISTRIBUTIONS).map(([name, { make }]) => [name, make()])),
  mixture: new Mixture(Float64Array.of(0, 1, -4, 2, 3, -6), 0.5, [0.5, 1.5, 3]),
  points: new Mixture(Float64Array.from(given.points), 0),
};
// The package has means or weights of some in single precision, and its circle is no mixture.
const tolerances: Record<string, number> = { gaussian: 1e-5, moons: 1e-5, circle: 2e-3 };

for (const name of Object.keys(here)) {
  test(`scores and densities of ${name} are the package's`, () => {
    const tolerance = tolerances[name] ?? 1e-9;
    for (const { sigma, x, score, logDensity } of given.fields[name]) {
      const at = Float64Array.from(x);
      close(here[name].score(at, sigma), score, tolerance, `score at σ = ${sigma}`);
      close(here[name].logDensity(at, sigma), logDensity, tolerance, `log density at σ = ${sigma}`);
    }
  });
}

test("every distribution of the page is compared with the package's", () => {
  const missing = Object.keys(here).filter((name) => !Object.hasOwn(given.fields, name));
  assert.deepEqual(missing, []);
});

for (const [name, truth] of Object.entries(here)) {
  test(`the picture of ${name} is its density`, () => {
    for (const sigma of [0.1, 0.5, 3]) {
      const { cells, values: drawn } = truth.density(sigma);
      const exact = truth.logDensity(gridPoints(cells), sigma).map(Math.exp);
      close(drawn, exact, 1e-4, `σ = ${sigma}`); // a component is left out 4.5 standard deviations away
    }
  });
}

test("draws have the distribution's moments", () => {
  const n = 20_000;
  const x = twoGaussians().sample(n, new Mulberry(1));
  const left = x.filter((value, i) => i % 2 === 0 && value < 0).length / n;
  assert.ok(Math.abs(left - 0.2) < 4 * Math.sqrt(0.16 / n));
  const radii = DISTRIBUTIONS.circle.make().sample(n, new Mulberry(2));
  let [mean, square] = [0, 0];
  for (let i = 0; i < n; i++) {
    const off = Math.hypot(radii[2 * i], radii[2 * i + 1]) - 5;
    mean += off / n;
    square += off ** 2 / n;
  }
  assert.ok(Math.abs(mean) < (4 * 0.1) / Math.sqrt(n));
  assert.ok(Math.abs(Math.sqrt(square) / 0.1 - 1) < 4 / Math.sqrt(2 * n));
});
