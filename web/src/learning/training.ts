// A network that learns the score of points in the plane, and how wrong it is, where, and at which noise level.
import { Adam, Mlp, ScoreModel, denoising, sliced } from "../maths/perceptron.ts";
import { DISTRIBUTIONS } from "../maths/distributions.ts";
import { ladder } from "../maths/langevin.ts";
import { type Distribution, Mulberry, type Points, gridPoints } from "../maths/plane.ts";

export const LEVELS = 20;
export const SIGMAS = ladder(20, 0.1, LEVELS); // those of training_toy.py
const WIDTH = 64;
const DEPTH = 3;
const BATCH = 256;
const RATE = 5e-3;
const DATA = 2000; // draws that say what mean and scale are
const JUDGED = 100; // noised draws on which a level's error is measured
const COARSE = 12; // squares a side, over which it is measured everywhere
const SLICED_SIGMA = 0.1; // by which the network is scaled where there is no noise: one more would be as good

export interface Terms {
  data: string;
  objective: string;
  seed: number;
}

/** E‖ŝ − s‖²/E‖s‖² at each level: where noised data lies, and over the square that is drawn. */
export interface Errors {
  data: number[];
  square: number[];
}

/** What the page says to the worker that trains. */
export type Order =
  | { kind: "begin"; training: number; terms: Terms }
  | { kind: "run"; steps: number }
  | { kind: "pause" }
  | { kind: "view"; level: number; count: number };

export class Training {
  readonly truth: Distribution;
  readonly #noiseless: boolean;
  readonly #random: Mulberry;
  readonly #model: ScoreModel;
  readonly #shown: ScoreModel; // with the average of the weights along the way
  readonly #adam: Adam;
  readonly #judged: { sigma: number; x: Points; exact: Points }[]; // noised draws, and after them the whole square

  constructor({ data, objective, seed }: Terms) {
    this.truth = DISTRIBUTIONS[data].make();
    this.#noiseless = objective === "sliced";
    this.#random = new Mulberry(seed);
    const x = this.truth.sample(DATA, this.#random);
    const mean = (axis: number): number => x.reduce((sum, value, i) => (i % 2 === axis ? sum + value : sum), 0) / DATA;
    const centre: [number, number] = [mean(0), mean(1)];
    const std = Math.sqrt(x.reduce((sum, value, i) => sum + (value - centre[i & 1]) ** 2, 0) / x.length);
    this.#model = new ScoreModel(new Mlp(WIDTH, DEPTH), centre, std);
    this.#model.network.initialise(this.#random);
    this.#shown = new ScoreModel(new Mlp(WIDTH, DEPTH), centre, std);
    this.#adam = new Adam(this.#model.network.parameters);
    this.#judged = this.levels.map((sigma) => {
      const random = new Mulberry(1);
      const noised = this.truth.sample(JUDGED, random).map((value) => value + sigma * random.normal());
      const x = Float64Array.of(...noised, ...gridPoints(COARSE));
      return { sigma, x, exact: this.truth.score(x, sigma) };
    });
  }

  /** The noise levels that are learned: the ladder, or none at all. */
  get levels(): number[] {
    return this.#noiseless ? [0] : [...SIGMAS];
  }

  get step(): number {
    return this.#adam.step;
  }

  /** One step on a fresh batch; returns its loss. */
  learn(): number {
    const x = this.truth.sample(BATCH, this.#random);
    const loss = this.#noiseless ? this.#sliced(x) : this.#denoising(x);
    const { network } = this.#model;
    this.#adam.update(network.parameters, network.gradient, RATE);
    return loss;
  }

  #denoising(x: Points): number {
    const levels = Uint8Array.from({ length: BATCH }, () => Math.floor(LEVELS * this.#random.uniform()));
    const z = x.map(() => this.#random.normal());
    return denoising(this.#model, { x, sigmas: SIGMAS, levels, z });
  }

  #sliced(x: Points): number {
    const directions = x.map(() => (this.#random.uniform() < 0.5 ? -1 : 1));
    return sliced(this.#model, x, SLICED_SIGMA, directions);
  }

  /** The learned score, by the average of the weights. */
  score(x: Points, sigma: number): Points {
    this.#shown.network.parameters.set(this.#adam.average);
    return this.#shown.score(x, sigma || SLICED_SIGMA);
  }

  errors(): Errors {
    const errors: Errors = { data: [], square: [] };
    for (const { sigma, x, exact } of this.#judged) {
      const learned = this.score(x, sigma);
      errors.data.push(relativeError(learned, exact, 0, 2 * JUDGED));
      errors.square.push(relativeError(learned, exact, 2 * JUDGED));
    }
    return errors;
  }
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
