// Langevin dynamics at one noise level, and annealed down a ladder of them.
import { type Points, type Random, type Score, sum } from "./plane.ts";

/** One step from x, whose score is s, with noise z: x + (α/2)·s + √α·z; Song & Ermon 2019, algorithm 1. */
export const langevinStep = (x: Points, s: Points, alpha: number, z: Points): Points =>
  sum([1, x], [alpha / 2, s], [Math.sqrt(alpha), z]);

/** The mean of the clean data given the noisy x, whose score is s: x + σ²·s, Tweedie's formula. */
export const denoised = (x: Points, s: Points, sigma: number): Points => sum([1, x], [sigma ** 2, s]);

/** Noise levels in geometric progression, from the largest to the smallest; a single level is the smallest. */
export function ladder(largest: number, smallest: number, levels: number): Float64Array {
  if (levels === 1) return Float64Array.of(smallest);
  return Float64Array.from({ length: levels }, (_, i) => largest * (smallest / largest) ** (i / (levels - 1)));
}

/** The noise level and the step size α of each step. */
export type Schedule = { sigma: number; alpha: number }[];

export function constant(sigma: number, alpha: number, steps: number): Schedule {
  return Array.from({ length: steps }, () => ({ sigma, alpha }));
}

/** ``perLevel`` steps on each level, with α_i = ε·σ_i²/σ_L²: Song & Ermon 2019, algorithm 1. */
export function annealed(sigmas: ArrayLike<number>, eps: number, perLevel: number): Schedule {
  const last = sigmas[sigmas.length - 1];
  return Array.from(sigmas).flatMap((sigma) => constant(sigma, (eps * sigma ** 2) / last ** 2, perLevel));
}

/** Yields the points after each step of a schedule, and finally denoised. */
export function* langevin(score: Score, schedule: Schedule, start: Points, random: Random): Generator<Points> {
  let x = start;
  for (const { sigma, alpha } of schedule) {
    x = langevinStep(
      x,
      score(x, sigma),
      alpha,
      x.map(() => random.normal()),
    );
    yield x;
  }
  const { sigma } = schedule[schedule.length - 1];
  yield denoised(x, score(x, sigma), sigma);
}

/** Whether the point whose x is at ``i`` is closer to (−5, −5) than to (5, 5). */
export const isLower = (x: Points, i: number): boolean => x[i] + x[i + 1] < 0;

/** The fraction of points that are closer to it. */
export const lowerShare = (x: Points): number =>
  (2 * x.reduce((count, _, i) => count + Number(i % 2 === 0 && isLower(x, i)), 0)) / x.length;

/** The standard normal distribution function, to 10⁻⁷: Abramowitz & Stegun 1964, 26.2.17. */
function normalBelow(z: number): number {
  if (z < 0) return 1 - normalBelow(-z);
  const t = 1 / (1 + 0.2316419 * z);
  const series = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return 1 - (series * Math.exp(-(z ** 2) / 2)) / Math.sqrt(2 * Math.PI);
}

/** The fraction of a mixture of two equally wide Gaussians, with noise of σ, that is closer to the first mean; ``weight`` is that of the first. */
export function exactShare([x, y, toX, toY]: Points, std: number, weight: number, sigma: number): number {
  const inside = normalBelow(Math.hypot(toX - x, toY - y) / 2 / Math.hypot(std, sigma));
  return weight * inside + (1 - weight) * (1 - inside);
}
