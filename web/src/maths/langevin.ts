// Langevin dynamics at one noise level, and annealed down a ladder of them.
import type { Points, Score } from "./plane.ts";
import type { Random } from "./random.ts";

/** One step in place, x + (α/2)·s(x, σ) + √α·z: Song & Ermon 2019, algorithm 1. */
export function langevinStep(
  score: Score,
  x: Points,
  sigma: number,
  alpha: number,
  random: Random,
  scratch: Points = new Float64Array(x.length),
): void {
  score(x, sigma, scratch);
  const noise = Math.sqrt(alpha);
  for (let i = 0; i < x.length; i++) x[i] += (alpha / 2) * scratch[i] + noise * random.normal();
}

/** The mean of the clean data given the noisy x, in place: x + σ²·s(x, σ), Tweedie's formula. */
export function denoise(score: Score, x: Points, sigma: number, scratch: Points = new Float64Array(x.length)): void {
  score(x, sigma, scratch);
  for (let i = 0; i < x.length; i++) x[i] += sigma ** 2 * scratch[i];
}

/** A geometric ladder of noise levels from the largest to the smallest; of one level, the smallest. */
export function ladder(largest: number, smallest: number, levels: number): Float64Array {
  if (levels === 1) return Float64Array.of(smallest);
  return Float64Array.from({ length: levels }, (_, i) => largest * (smallest / largest) ** (i / (levels - 1)));
}

/** The noise level and the step size α of each step. */
export interface Schedule {
  steps: number;
  at(step: number): { sigma: number; alpha: number };
}

export function constant(sigma: number, alpha: number, steps: number): Schedule {
  return { steps, at: () => ({ sigma, alpha }) };
}

/** ``perLevel`` steps on each level, with α_i = ε·σ_i²/σ_L²: Song & Ermon 2019, algorithm 1. */
export function annealed(sigmas: Float64Array, eps: number, perLevel: number): Schedule {
  const last = sigmas[sigmas.length - 1];
  const at = (step: number): { sigma: number; alpha: number } => {
    const sigma = sigmas[Math.min(sigmas.length - 1, Math.floor(step / perLevel))];
    return { sigma, alpha: (eps * sigma ** 2) / last ** 2 };
  };
  return { steps: sigmas.length * perLevel, at };
}

/** Particles on their way along a schedule; after its last step they are denoised, once. */
export class Chain {
  readonly x: Points;
  step = 0;
  denoised = false;
  readonly #score: Score;
  readonly #schedule: Schedule;
  readonly #random: Random;
  readonly #scratch: Points;

  constructor(score: Score, schedule: Schedule, start: Points, random: Random) {
    this.x = start.slice();
    this.#score = score;
    this.#schedule = schedule;
    this.#random = random;
    this.#scratch = new Float64Array(start.length);
  }

  get sigma(): number {
    return this.denoised ? 0 : this.#schedule.at(this.step).sigma;
  }

  /** Take up to ``count`` steps, and the last one that denoises. */
  advance(count: number): void {
    for (let i = 0; i < count && !this.denoised; i++) {
      const { sigma, alpha } = this.#schedule.at(Math.min(this.step, this.#schedule.steps - 1));
      if (this.step < this.#schedule.steps) {
        langevinStep(this.#score, this.x, sigma, alpha, this.#random, this.#scratch);
        this.step++;
      } else {
        denoise(this.#score, this.x, sigma, this.#scratch);
        this.denoised = true;
      }
    }
  }
}

/** For each component of a mixture, the share of points that is nearest to its mean. */
export function shares(x: Points, means: Points): number[] {
  const counts = new Array<number>(means.length / 2).fill(0);
  for (let i = 0; i < x.length; i += 2) {
    let nearest = 0;
    let least = Infinity;
    for (let k = 0; k < counts.length; k++) {
      const distance = (x[i] - means[2 * k]) ** 2 + (x[i + 1] - means[2 * k + 1]) ** 2;
      if (distance < least) [nearest, least] = [k, distance];
    }
    counts[nearest]++;
  }
  return counts.map((count) => (2 * count) / x.length);
}
