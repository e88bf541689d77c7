// Distributions in the plane whose noised score is known exactly: those of ncsn/distributions.py.
import { Distribution, type Grid, type Points, type Random, VIEW, cellsFor, centre } from "./plane.ts";

const NEGLIGIBLE = -30; // a log weight beside the largest one: e⁻³⁰ = 10⁻¹³
const REACH = 4.5; // standard deviations at which a component has no density left that could be seen

/** Σ_k w_k N(μ_k, s²I): noise of level σ makes each component N(μ_k, (s² + σ²)I), and so its score is exact. */
export class Mixture extends Distribution {
  readonly means: Points;
  readonly std: number;
  readonly weights: Float64Array;
  readonly #logWeights: Float64Array;
  readonly #scratch: Float64Array;

  constructor(means: Points, std: number, weights?: number[]) {
    super();
    const count = means.length / 2;
    [this.means, this.std] = [means, std];
    const sum = weights?.reduce((a, b) => a + b, 0) ?? count;
    this.weights = Float64Array.from({ length: count }, (_, k) => (weights ? weights[k] : 1) / sum);
    this.#logWeights = this.weights.map(Math.log);
    this.#scratch = new Float64Array(count);
  }

  sample(n: number, random: Random): Points {
    const x = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      let left = random.uniform();
      let k = 0;
      while (k < this.weights.length - 1 && left >= this.weights[k]) left -= this.weights[k++];
      const [meanX, meanY] = this.means.subarray(2 * k);
      x.set([meanX + this.std * random.normal(), meanY + this.std * random.normal()], 2 * i);
    }
    return x;
  }

  /** The gradient is (E[μ_k | x] − x)/(s² + σ²), where k is drawn from what x says of it. */
  at(x: number, y: number, sigma: number): { log: number; dx: number; dy: number } {
    const variance = this.std ** 2 + sigma ** 2;
    const weights = this.#scratch;
    let peak = -Infinity;
    for (let k = 0; k < weights.length; k++) {
      const dx = x - this.means[2 * k];
      const dy = y - this.means[2 * k + 1];
      weights[k] = this.#logWeights[k] - (dx * dx + dy * dy) / (2 * variance);
      if (weights[k] > peak) peak = weights[k];
    }
    for (let k = 0; k < weights.length; k++) {
      const log = weights[k] - peak;
      weights[k] = log < NEGLIGIBLE ? 0 : Math.exp(log);
    }
    const { total, meanX, meanY } = this.#mean();
    const log = peak + Math.log(total) - Math.log(2 * Math.PI * variance);
    return { log, dx: (meanX - x) / variance, dy: (meanY - y) / variance };
  }

  /** The mean of the means by the weights in the scratch, and the sum of these. */
  #mean(): { total: number; meanX: number; meanY: number } {
    const { means } = this;
    let [total, x, y] = [0, 0, 0];
    for (let k = 0; k < this.#scratch.length; k++) {
      const weight = this.#scratch[k];
      total += weight;
      x += weight * means[2 * k];
      y += weight * means[2 * k + 1];
    }
    return { total, meanX: x / total, meanY: y / total };
  }

  /** p_σ on a grid as fine as it needs: each component is a column times a row, as far as it reaches. */
  density(sigma: number): Grid {
    const variance = this.std ** 2 + sigma ** 2;
    const std = Math.sqrt(variance);
    const cells = cellsFor(std);
    const values = new Float64Array(cells * cells);
    const column = new Float64Array(cells);
    const reach = REACH * std;
    const index = (at: number): number => ((at / VIEW + 1) * cells - 1) / 2;
    const bell = (i: number, mean: number): number => Math.exp(-((centre(i, cells) - mean) ** 2) / (2 * variance));
    const span = (mean: number): [first: number, last: number] => {
      return [Math.max(0, Math.ceil(index(mean - reach))), Math.min(cells - 1, Math.floor(index(mean + reach)))];
    };
    for (let k = 0; k < this.weights.length; k++) {
      const [x, y] = this.means.subarray(2 * k);
      const [left, right] = span(x);
      const [bottom, top] = span(y);
      for (let i = left; i <= right; i++) column[i] = bell(i, x);
      for (let j = bottom; j <= top; j++) {
        const row = (this.weights[k] / (2 * Math.PI * variance)) * bell(j, y);
        for (let i = left; i <= right; i++) values[j * cells + i] += row * column[i];
      }
    }
    return { cells, values };
  }
}

const NODES = 64; // of the midpoint rule, which is exact to rounding where the integrand is periodic or ends in zeros
const RADII = 512; // at which the density of a picture is computed; between them it is interpolated

/**
 * A circle of radius R with a uniform angle and a radius drawn from N(R, s²).
 *
 * p_σ(x) at distance ρ is the mean over θ of N(ρ cos θ; R, T) N(ρ sin θ; 0, σ²) with T = s² + σ², whose integrand is
 * e^(A cos²θ + B cos θ) times a constant, with A = ρ²s²/(2σ²T) and B = ρR/T: as in ncsn/distributions.py.
 */
export class Ring extends Distribution {
  constructor(
    private readonly radius = 5,
    private readonly std = 0.1,
  ) {
    super();
  }

  sample(n: number, random: Random): Points {
    const x = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      const angle = 2 * Math.PI * random.uniform();
      const radius = this.radius + this.std * random.normal();
      x.set([radius * Math.cos(angle), radius * Math.sin(angle)], 2 * i);
    }
    return x;
  }

  at(x: number, y: number, sigma: number): { log: number; dx: number; dy: number } {
    const { log, slope } = this.#integrate(Math.hypot(x, y), sigma ** 2);
    return { log, dx: x * slope, dy: y * slope };
  }

  density(sigma: number): Grid {
    const cells = cellsFor(Math.hypot(this.std, sigma));
    const values = new Float64Array(cells * cells);
    const farthest = VIEW * Math.SQRT2;
    const logs = Array.from({ length: RADII + 2 }, (_, i) => this.#integrate((farthest * i) / RADII, sigma ** 2).log);
    for (let at = 0; at < values.length; at++) {
      const rho = Math.hypot(centre(at % cells, cells), centre(Math.floor(at / cells), cells));
      const place = (rho / farthest) * RADII;
      const i = Math.floor(place);
      values[at] = Math.exp(logs[i] + (place - i) * (logs[i + 1] - logs[i]));
    }
    return { cells, values };
  }

  /** log p_σ at a distance, and by what x is to be multiplied to make the score. */
  #integrate(rho: number, variance: number): { log: number; slope: number } {
    const total = this.std ** 2 + variance;
    const a = (rho ** 2 * this.std ** 2) / (2 * variance * total);
    const b = (rho * this.radius) / total;
    // The integrand's width is 1/√(2A + B): beyond thirteen of them there is nothing left.
    const width = Math.min(13 / Math.sqrt(2 * a + b), Math.PI / 2);
    let [mass, square, odd] = [0, 0, 0];
    for (let i = 0; i < NODES; i++) {
      const half = Math.sin((width * (i + 0.5)) / NODES / 2) ** 2; // sin²(θ/2), near θ = 0; there is as much near θ = π
      const across = -4 * a * half * (1 - half);
      const near = Math.exp(across - 2 * b * half);
      const far = Math.exp(across - 2 * b * (1 - half));
      const sinSquared = 4 * half * (1 - half);
      mass += near + far;
      square += (near + far) * sinSquared;
      odd += (near - far) * (1 - 2 * half) * sinSquared;
    }
    square /= mass;
    odd /= mass;
    const curvature = this.std ** 2 / (variance * total);
    const pull = (this.radius / total) * (curvature * rho * odd + (this.radius / total) * square);
    const peak = -((rho - this.radius) ** 2) / (2 * total) - Math.log(variance * total) / 2 - Math.log(2 * Math.PI);
    const log = peak + Math.log((mass * width) / NODES / Math.PI);
    return { log, slope: pull - curvature * square - 1 / total };
  }
}

/** w·N((−5,−5), I) + (1 − w)·N((5,5), I): Song & Ermon 2019, figures 2 and 3, with their w = 1/5. */
export function twoGaussians(weight = 0.2): Mixture {
  return new Mixture(Float64Array.of(-5, -5, 5, 5), 1, [weight, 1 - weight]);
}

/** Two interleaved half circles of radius 4, drawn as 2 × 128 Gaussians of std 0.25. */
export function twoMoons(): Mixture {
  const means = new Float64Array(512);
  for (let i = 0; i < 128; i++) {
    const t = (Math.PI * i) / 127;
    means.set([4 * Math.cos(t) - 2, 4 * Math.sin(t) - 1], 2 * i);
    means.set([2 - 4 * Math.cos(t), 1 - 4 * Math.sin(t)], 2 * (i + 128));
  }
  return new Mixture(means, 0.25);
}

export const DISTRIBUTIONS: Record<string, { title: string; make: () => Distribution }> = {
  gaussian: { title: "Two Gaussians", make: twoGaussians },
  circle: { title: "Circle", make: () => new Ring() },
  moons: { title: "Moons", make: twoMoons },
};

/** Their titles by their names. */
export const TITLES = Object.fromEntries(Object.entries(DISTRIBUTIONS).map(([name, { title }]) => [name, title]));
