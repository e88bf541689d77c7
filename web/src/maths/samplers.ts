// Samplers that descend from noise to data: five of the package's, by the same names (src/ncsn/samplers.py).
import { denoised, ladder as geometric, langevinStep, annealed as schedule } from "./langevin.ts";
import { type Points, sum } from "./plane.ts";

/** An asynchronous score: ∇ log p_σ at examples that are stored one after another. */
export type Score = (x: Points, sigma: number) => Promise<Points>;

export interface Descent {
  score: Score;
  x: Points;
  /** Descending. */
  sigmas: readonly number[];
  /** Langevin steps on each level, and their size α on the smallest. */
  steps: number;
  eps: number;
  /** Fresh standard normal noise for all examples. */
  noise: () => Points;
}

/** A state during sampling; σ is 0 once it is denoised. */
export interface Step {
  sigma: number;
  x: Points;
}

type Sampler = (descent: Descent) => AsyncGenerator<Step>;

/** A sampler of one step from each level to the one below it. */
function stepwise(step: (descent: Descent, sigma: number, following: number) => Promise<Points>): Sampler {
  return async function* (descent) {
    const { sigmas } = descent;
    let { x } = descent;
    for (let i = 1; i < sigmas.length; i++) {
      x = await step({ ...descent, x }, sigmas[i - 1], sigmas[i]);
      yield { sigma: sigmas[i], x };
    }
  };
}

/** A sampler whose last state is denoised. */
function ended(way: Sampler): Sampler {
  return async function* (descent) {
    let { x } = descent;
    for await (const step of way(descent)) {
      ({ x } = step);
      yield step;
    }
    const sigma = descent.sigmas[descent.sigmas.length - 1];
    yield { sigma: 0, x: denoised(x, await descent.score(x, sigma), sigma) };
  };
}

/** Annealed Langevin dynamics: Song & Ermon 2019, algorithm 1. */
async function* annealed({ score, x, sigmas, steps, eps, noise }: Descent): AsyncGenerator<Step> {
  let step = 0;
  for (const { sigma, alpha } of schedule(sigmas, eps, steps)) {
    const z = noise(); // before the score, which may draw noise, too
    x = langevinStep(x, await score(x, sigma), alpha, z);
    if (++step % steps === 0) yield { sigma, x };
  }
}

/** The probability flow by Euler's method: Song et al. 2021, equation 13; where the levels rise, fresh noise leads up. */
const euler = stepwise(async ({ score, x, noise }, sigma, following) => {
  if (following > sigma) return sum([1, x], [Math.sqrt(following ** 2 - sigma ** 2), noise()]);
  return sum([1, x], [(sigma - following) * sigma, await score(x, sigma)]);
});

/** The probability flow by Heun's method, by the mean of two slopes: Karras et al. 2022, algorithm 1. */
async function heunStep({ score, x }: Descent, sigma: number, following: number): Promise<Points> {
  const [drop, first] = [sigma - following, await score(x, sigma)];
  const second = await score(sum([1, x], [drop * sigma, first]), following);
  return sum([1, x], [(drop * sigma) / 2, first], [(drop * following) / 2, second]);
}

/**
 * DPM-Solver++(2M), Lu et al. 2022: the probability flow for η = 0, the reverse diffusion for η = 1.
 *
 * The last step extrapolates by `lastExtrapolation` times the last difference at most.
 */
function dpmSolver(eta: 0 | 1, lastExtrapolation = Infinity): Sampler {
  return (start) => {
    let before: { mean: Points; h: number } | undefined;
    const steps = stepwise(async ({ score, x, sigmas, noise }, sigma, following) => {
      const [mean, h] = [denoised(x, await score(x, sigma), sigma), Math.log(sigma / following)];
      const share = -Math.expm1(-(1 + eta) * h);
      const most = following === sigmas.at(-1) ? lastExtrapolation : Infinity;
      const bend = before ? share * Math.min(h / (2 * before.h), most) : 0;
      const terms: [number, Points][] = [
        [1 - share, x],
        [share, mean],
        [bend, mean],
        [-bend, before?.mean ?? mean],
      ];
      if (eta > 0) terms.push([following * Math.sqrt(-Math.expm1(-2 * eta * h)), noise()]);
      before = { mean, h };
      return sum(...terms);
    });
    return steps(start);
  };
}

/** A sampler as a run uses it; ncsn.SAMPLERS has these rows, and more. */
export interface Method {
  title: string;
  follow: Sampler;
  ladder: "geometric" | "karras";
  /** Noise levels by default, between 10 and 0.01. */
  levels: number;
  /** Langevin steps on each of them. */
  steps: number;
  /** Whether a guide helps. */
  guided: boolean;
}

function method(title: string, way: Sampler, kind: Method["ladder"], levels: number, steps = 1, guided = true): Method {
  return { title, follow: ended(way), ladder: kind, levels, steps, guided };
}

export const METHODS: Record<string, Method> = {
  "dpmpp-sde": method("SDE-DPM-Solver++(2M)", dpmSolver(1, 0.25), "karras", 30),
  dpmpp: method("DPM-Solver++(2M)", dpmSolver(0), "karras", 20),
  heun: method("Heun", stepwise(heunStep), "karras", 18),
  euler: method("Euler", euler, "karras", 40),
  annealed: method("Annealed Langevin", annealed, "geometric", 100, 2, false),
};

/** The number of noise levels that keeps steps as fine as the default between 10 and 0.01, but no fewer. */
export function suited({ ladder, levels }: Method, top: number, bottom: number): number {
  const length = (a: number, b: number): number =>
    ladder === "karras" ? a ** (1 / 7) - b ** (1 / 7) : Math.log(a / b);
  return Math.max(levels, Math.round((levels * length(top, bottom)) / length(10, 0.01)));
}

/** Descending noise levels, in equal steps of their logarithm or of σ^(1/7) (Karras et al. 2022, equation 5), in single precision. */
export function ladder(kind: "geometric" | "karras", top: number, bottom: number, levels: number): number[] {
  if (kind === "geometric" || levels === 1) return Array.from(geometric(top, bottom, levels), Math.fround);
  const [first, last] = [top ** (1 / 7), bottom ** (1 / 7)];
  return Array.from({ length: levels }, (_, i) => Math.fround((first + (i / (levels - 1)) * (last - first)) ** 7));
}

/** Moves away from a less accurate score: s + (w − 1)·(s − guide), on noise levels in a range (Ho & Salimans 2022). */
export function guided(score: Score, guide: Score, weight: number, [low, high]: readonly [number, number]): Score {
  return async (x, sigma) => {
    const s = await score(x, sigma);
    if (weight === 1 || sigma < low || sigma > high) return s;
    return sum([weight, s], [1 - weight, await guide(x, sigma)]);
  };
}

/**
 * The paper's inpainting, appendix B.3: ``known`` numbers are replaced by y + σz and follow the score of N(y, σ²), the others the prior's.
 * All examples have the same ``known`` and ``y``, one after the other.
 */
export function replacement(score: Score, known: ArrayLike<unknown>, y: ArrayLike<number>, noise: () => Points): Score {
  const place = (i: number): number => i % known.length;
  return async (x, sigma) => {
    const z = noise();
    const noised = x.map((value, i) => (known[place(i)] ? y[place(i)] + sigma * z[i] : value));
    const s = await score(noised, sigma);
    return s.map((value, i) => (known[place(i)] ? (y[place(i)] - x[i]) / sigma ** 2 : value));
  };
}
