// Langevin dynamics beside annealed Langevin dynamics: the same start, as many steps, and the weights on the way.
import { twoGaussians } from "../maths/distributions.ts";
import { Chain, annealed, constant, ladder, shares } from "../maths/langevin.ts";
import type { Mixture } from "../maths/mixture.ts";
import { VIEW } from "../maths/plane.ts";
import { Mulberry } from "../maths/random.ts";

export const PARTICLES = 1000;

/** ε of annealed Langevin dynamics is over σ_L²; α is Langevin dynamics' own step size. */
export type Terms = Record<"weight" | "top" | "bottom" | "levels" | "steps" | "eps" | "alpha" | "seed", number>;

export class Race {
  readonly truth: Mixture;
  readonly sigmas: Float64Array;
  readonly total: number;
  readonly plain: Chain;
  readonly annealed: Chain;
  /** Steps that were taken, and the small mode's weights after them. */
  readonly history: { step: number[]; plain: number[]; annealed: number[] } = { step: [], plain: [], annealed: [] };

  constructor(private readonly terms: Terms) {
    const { weight, top, bottom, levels, steps, eps, alpha, seed } = terms;
    this.truth = twoGaussians(weight);
    this.sigmas = ladder(top, bottom, levels);
    this.total = levels * steps;
    const random = new Mulberry(seed);
    const start = Float64Array.from({ length: 2 * PARTICLES }, () => (2 * random.uniform() - 1) * VIEW);
    // Each has random numbers of its own, so that neither depends on what the other does.
    const [one, other] = [random.uniform(), random.uniform()].map((value) => new Mulberry(value * 2 ** 32));
    this.plain = new Chain(this.truth.score, constant(bottom, alpha, this.total), start, one);
    this.annealed = new Chain(this.truth.score, annealed(this.sigmas, eps * bottom ** 2, steps), start, other);
    this.#note();
  }

  get over(): boolean {
    return this.annealed.over;
  }

  /** The level on which the next step is, from 1; the last one when there is none. */
  get level(): number {
    return Math.min(this.terms.levels, Math.floor(this.annealed.step / this.terms.steps) + 1);
  }

  /** What the next step's size α is, annealed. */
  get alpha(): number {
    return this.terms.eps * this.sigmas[this.level - 1] ** 2;
  }

  advance(count: number): void {
    if (this.over || count < 1) return;
    this.plain.advance(count);
    this.annealed.advance(count);
    this.#note();
  }

  /** To the end of the level; from the end of the last one, on to the denoised samples. */
  advanceLevel(): void {
    const { steps } = this.terms;
    this.advance(this.annealed.step === this.total ? 1 : steps - (this.annealed.step % steps));
  }

  #note(): void {
    this.history.step.push(this.annealed.step + (this.over ? 1 : 0));
    for (const name of ["plain", "annealed"] as const) {
      this.history[name].push(shares(this[name].x, this.truth.means)[0]);
    }
  }
}
