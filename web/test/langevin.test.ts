import assert from "node:assert/strict";
import { test } from "node:test";
import { Mixture, twoGaussians } from "../src/maths/distributions.ts";
import { annealed, constant, denoised, exactShare, ladder, langevin, lowerShare } from "../src/maths/langevin.ts";
import { Mulberry, type Points } from "../src/maths/plane.ts";
import { Listed, close, values } from "./values.ts";

const given = values.dynamics;
const truth = twoGaussians();
const { score } = truth;
const start = Float64Array.from(given.start);
const sigmas = Float64Array.from(given.sigmas);

test("the ladder is the package's, but for single precision", () => {
  close(ladder(20, 0.1, 20), given.ladder, 1e-6);
  assert.deepEqual([...ladder(20, 0.1, 1)], [0.1]);
});

test("annealed Langevin dynamics with the package's noise takes the package's way", () => {
  const schedule = annealed(sigmas, given.eps, given.perLevel);
  const states = Array.from(langevin(score, schedule, start, new Listed(given.z)), (x) => x.slice());
  assert.equal(states.length, 13);
  close(states[11], given.annealed, 1e-9);
  close(states[12], given.denoised, 1e-9);
  assert.deepEqual([lowerShare(states[12]), 1 - lowerShare(states[12])], given.weights);
});

test("Langevin dynamics at one level does too", () => {
  const states = Array.from(langevin(score, constant(0.1, 0.1, 12), start, new Listed(given.z)), (x) => x.slice());
  close(states[11], given.langevin, 1e-9);
});

test("denoising is Tweedie's formula", () => {
  close(denoised(start, score(start, 2), 2), given.tweedie, 1e-9);
});

test("Langevin dynamics has the variance that its step size makes stationary", () => {
  // s²/(1 − α/(4s²)), for a Gaussian of std s: docstring of annealed_langevin.
  const gaussian = new Mixture(Float64Array.of(0, 0), 1);
  const states = langevin(gaussian.score, constant(0, 0.8, 61), new Float64Array(20_000), new Mulberry(5));
  let x: Points = new Float64Array();
  for (let i = 0; i < 60; i++) x = states.next().value;
  const variance = x.reduce((sum, value) => sum + value ** 2, 0) / 20_000;
  assert.ok(Math.abs(variance / 1.25 - 1) < 4 * Math.sqrt(2 / 20_000), `${variance}`);
});

test("annealing recovers the weights that Langevin dynamics never finds", () => {
  const random = new Mulberry(6);
  const n = 600;
  const from: Points = Float64Array.from({ length: 2 * n }, () => 16 * random.uniform() - 8);
  const levels = ladder(20, 0.1, 20);
  const found = [annealed(levels, 0.005, 75), constant(0.1, 0.1, 1500)].map((schedule) => {
    const end = [...langevin(score, schedule, from, random)].at(-1) as Points;
    return lowerShare(end);
  });
  const [down, flat] = found;
  assert.ok(Math.abs(down - 0.209) < 4 * Math.sqrt(0.17 / n), `annealed: ${down}`); // docs/tutorials/mixture.md
  assert.ok(Math.abs(flat - 0.489) < 4 * Math.sqrt(0.25 / n), `Langevin: ${flat}`);
});

test("the exact share of a mode is that of noisy draws, and without noise its weight", () => {
  const n = 40_000;
  const { means, std } = twoGaussians(0.3);
  const random = new Mulberry(7);
  for (const sigma of [0.5, 4, 20]) {
    const x = twoGaussians(0.3).sample(n, random);
    const noisy = x.map((value) => value + sigma * random.normal());
    const expected = exactShare(means, std, 0.3, sigma);
    const error = Math.sqrt((expected * (1 - expected)) / n);
    assert.ok(Math.abs(lowerShare(noisy) - expected) < 4 * error, `σ = ${sigma}: ${expected}`);
  }
  close([exactShare(means, std, 0.3, 0)], [0.3], 1e-6);
  close([exactShare(means, std, 0.3, 1e6)], [0.5], 1e-5);
});

test("random numbers are those of their seed, uniform and normal", () => {
  const [a, b, c] = [new Mulberry(7), new Mulberry(7), new Mulberry(8)];
  const n = 100_000;
  const draws = Float64Array.from({ length: n }, () => a.normal());
  assert.deepEqual(
    Array.from(draws.slice(0, 9)),
    Array.from({ length: 9 }, () => b.normal()),
  );
  assert.notEqual(draws[0], c.normal());
  const moment = (power: number): number => draws.reduce((sum, value) => sum + value ** power, 0) / n;
  assert.ok(Math.abs(moment(1)) < 4 / Math.sqrt(n));
  assert.ok(Math.abs(moment(2) - 1) < 4 * Math.sqrt(2 / n));
  assert.ok(Math.abs(moment(4) - 3) < 4 * Math.sqrt(96 / n));
  const uniform = Float64Array.from({ length: n }, () => c.uniform());
  assert.ok(uniform.every((value) => value >= 0 && value < 1));
  assert.ok(Math.abs(uniform.reduce((x, y) => x + y, 0) / n - 0.5) < 4 * Math.sqrt(1 / 12 / n));
});
