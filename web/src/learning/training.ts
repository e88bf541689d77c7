// A network that learns the score of points in the plane, and its error by position and noise level.
import { adam, denoising, mlp, scoreModel } from "../maths/perceptron.ts";
import { DISTRIBUTIONS } from "../maths/distributions.ts";
import { ladder } from "../maths/langevin.ts";
import { type Grid, Mulberry, type Points, gridPoints, sum } from "../maths/plane.ts";

export const LEVELS = 20;
export const SIGMAS = ladder(20, 0.1, LEVELS); // those of training_toy.py
const WIDTH = 64;
const DEPTH = 3;
const BATCH = 256;
const RATE = 5e-3;
const DATA = 2000; // draws that say what mean and scale are
const JUDGED = 100; // noised draws on which a level's error is measured
const SAMPLED = 250; // points that follow what was learned
const CELLS = 40; // a side, where the picture of the error is coarse
const COARSE = 12; // squares a side, over which it is measured everywhere

export interface Terms {
  data: string;
  seed: number;
}

/** E‖ŝ − s‖²/E‖s‖² at each level, on noisy data and over the visible square. */
export interface Errors {
  data: number[];
  square: number[];
}

/** Messages from the page to the training worker. */
export type Order =
  | { kind: "begin"; training: number; terms: Terms }
  | { kind: "run"; steps: number }
  | { kind: "pause" }
  | { kind: "view"; level: number; count: number };

export type Training = ReturnType<typeof trainingOf>;

/** A new training. */
export function trainingOf({ data, seed }: Terms) {
  const truth = DISTRIBUTIONS[data].make();
  const random = new Mulberry(seed);
  const draws = truth.sample(DATA, random);
  const mean = (axis: number): number =>
    draws.reduce((sum, value, i) => (i % 2 === axis ? sum + value : sum), 0) / DATA;
  const centre: [number, number] = [mean(0), mean(1)];
  const std = Math.sqrt(draws.reduce((sum, value, i) => sum + (value - centre[i & 1]) ** 2, 0) / draws.length);
  const network = mlp(WIDTH, DEPTH);
  network.initialise(random);
  const model = scoreModel(network, centre, std);
  const shown = scoreModel(mlp(WIDTH, DEPTH), centre, std); // with the average of the weights along the way
  const optimizer = adam(network.parameters);
  const judged = Array.from(SIGMAS, (sigma) => {
    const random = new Mulberry(1);
    const noised = truth.sample(JUDGED, random).map((value) => value + sigma * random.normal());
    const x = Float64Array.of(...noised, ...gridPoints(COARSE));
    return { sigma, x, exact: truth.score(x, sigma) };
  });

  /** One step on a fresh batch. */
  function learn(): void {
    const x = truth.sample(BATCH, random);
    const levels = Uint8Array.from({ length: BATCH }, () => Math.floor(LEVELS * random.uniform()));
    const z = x.map(() => random.normal());
    denoising(model, x, SIGMAS, levels, z);
    optimizer.update(network.gradient, RATE);
  }

  /** The learned score, with averaged weights. */
  function score(x: Points, sigma: number): Points {
    shown.network.parameters.set(optimizer.average);
    return shown.score(x, sigma);
  }

  function errors(): Errors {
    const found: Errors = { data: [], square: [] };
    for (const { sigma, x, exact } of judged) {
      const learned = score(x, sigma);
      found.data.push(relativeError(learned, exact, 0, 2 * JUDGED));
      found.square.push(relativeError(learned, exact, 2 * JUDGED));
    }
    return found;
  }

  /** Samples by Euler’s method with the learned score, always from the same noise. */
  function sample(): Points {
    const random = new Mulberry(3);
    const start = Float64Array.from({ length: 2 * SAMPLED }, (_, i) => centre[i & 1] + SIGMAS[0] * random.normal());
    return SIGMAS.reduce<Points>((x, sigma, i) => {
      const drop = sigma - (SIGMAS[i + 1] ?? 0);
      return sum([1, x], [drop * sigma, score(x, sigma)]);
    }, start);
  }

  /** The error over the square: on fine cells where there is data, on coarse ones elsewhere. */
  function errorMap(sigma: number): Grid {
    const { cells, values: density } = truth.density(sigma); // on cells as fine as the data needs
    const peak = density.reduce((a, b) => Math.max(a, b), 0);
    const fine = Array.from(density.keys()).filter((at) => density[at] > peak / 10);
    const places = gridPoints(cells);
    const x = Float64Array.of(...gridPoints(CELLS), ...fine.flatMap((at) => [places[2 * at], places[2 * at + 1]]));
    const [exact, learned] = [truth.score(x, sigma), score(x, sigma)];
    const error = (i: number): number => relativeError(learned, exact, 2 * i, 2 * i + 2);
    const coarse = (i: number): number => Math.floor(((i + 0.5) / cells) * CELLS);
    const values = density.map((_, at) => error(coarse(Math.floor(at / cells)) * CELLS + coarse(at % cells)));
    fine.forEach((at, i) => (values[at] = error(CELLS ** 2 + i)));
    return { cells, values };
  }

  /** The numbers of a step that don’t depend on the visible level. */
  function measured() {
    if (measures.step !== optimizer.step) measures = { step: optimizer.step, errors: errors(), sample: sample() };
    return measures;
  }

  let measures = { step: 0, errors: errors(), sample: sample() };
  return { truth, optimizer, learn, score, errorMap, measured };
}

/** ‖ŝ − s‖²/‖s‖² over a range of the numbers. */
export function relativeError(learned: Points, exact: Points, from: number, to = exact.length): number {
  let [off, whole] = [0, 0];
  for (let i = from; i < to; i++) {
    off += (learned[i] - exact[i]) ** 2;
    whole += exact[i] ** 2;
  }
  return off / whole;
}
