// Mixtures of equal round Gaussians, of which a set of points is the case std = 0.
import { type Grid, type Points, VIEW, cellsFor, centre, gridPoints } from "./plane.ts";
import type { Distribution } from "./distributions.ts";
import type { Random } from "./random.ts";

const NEGLIGIBLE = -30; // a log weight beside the largest one: e⁻³⁰ = 10⁻¹³
const REACH = 4.5; // standard deviations at which a component has no density left that could be seen
const TINY = 1e-200; // sums of products below it have lost digits

/** Σ_k w_k N(μ_k, s²I): noise of level σ makes each component N(μ_k, (s² + σ²)I), and so its score is exact. */
export class Mixture implements Distribution {
  readonly means: Points;
  readonly std: number;
  readonly weights: Float64Array;
  readonly #logWeights: Float64Array;
  readonly #scratch: Float64Array;
  // What `visit` finds: the log of the largest term, the sum over it, and that sum weighted by the means.
  #peak = 0;
  #total = 0;
  #x = 0;
  #y = 0;

  constructor(means: Points, std: number, weights?: ArrayLike<number>) {
    const count = means.length / 2;
    this.means = means;
    this.std = std;
    this.weights = weights === undefined ? new Float64Array(count).fill(1) : Float64Array.from(weights);
    const sum = this.weights.reduce((a, b) => a + b, 0);
    this.weights = this.weights.map((weight) => weight / sum);
    this.#logWeights = this.weights.map(Math.log);
    this.#scratch = new Float64Array(count);
  }

  sample(n: number, random: Random): Points {
    const x = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      let left = random.uniform();
      let k = 0;
      while (k < this.weights.length - 1 && left >= this.weights[k]) left -= this.weights[k++];
      x[2 * i] = this.means[2 * k] + this.std * random.normal();
      x[2 * i + 1] = this.means[2 * k + 1] + this.std * random.normal();
    }
    return x;
  }

  /** The score: (E[μ_k | x] − x)/(s² + σ²), where k is drawn from what x says of it. */
  score(x: Points, sigma: number, out: Points): void {
    const variance = this.std ** 2 + sigma ** 2;
    for (let i = 0; i < x.length; i += 2) {
      this.#visit(x[i], x[i + 1], variance);
      out[i] = (this.#x / this.#total - x[i]) / variance;
      out[i + 1] = (this.#y / this.#total - x[i + 1]) / variance;
    }
  }

  logDensity(x: Points, sigma: number): Float64Array {
    const variance = this.std ** 2 + sigma ** 2;
    const out = new Float64Array(x.length / 2);
    for (let i = 0; i < out.length; i++) {
      this.#visit(x[2 * i], x[2 * i + 1], variance);
      out[i] = this.#peak + Math.log(this.#total) - Math.log(2 * Math.PI * variance);
    }
    return out;
  }

  #visit(x: number, y: number, variance: number): void {
    const logs = this.#scratch;
    const { means } = this;
    let peak = -Infinity;
    for (let k = 0; k < logs.length; k++) {
      const dx = x - means[2 * k];
      const dy = y - means[2 * k + 1];
      const log = this.#logWeights[k] - (dx * dx + dy * dy) / (2 * variance);
      logs[k] = log;
      if (log > peak) peak = log;
    }
    for (let k = 0; k < logs.length; k++) logs[k] = logs[k] - peak < NEGLIGIBLE ? 0 : Math.exp(logs[k] - peak);
    this.#peak = peak;
    this.#sum();
  }

  /** Sums over the components, each with its weight in the scratch. */
  #sum(): void {
    const { means } = this;
    let [total, x, y] = [0, 0, 0];
    for (let k = 0; k < this.#scratch.length; k++) {
      const weight = this.#scratch[k];
      total += weight;
      x += weight * means[2 * k];
      y += weight * means[2 * k + 1];
    }
    [this.#total, this.#x, this.#y] = [total, x, y];
  }

  /**
   * The score at the centres of count × count squares, several times faster than one by one: a weight is a product of
   * what belongs to the column and what belongs to the row.  Where all products vanish, points are visited one by one.
   */
  field(count: number, sigma: number): Points {
    const variance = this.std ** 2 + sigma ** 2;
    const n = this.weights.length;
    const [columns, rows] = [this.#factors(count, 0, variance), this.#factors(count, 1, variance)];
    const out = gridPoints(count);
    for (let at = 0; at < count * count; at++) {
      const [column, row] = [(at % count) * n, Math.floor(at / count) * n];
      for (let k = 0; k < n; k++) this.#scratch[k] = columns[column + k] * rows[row + k];
      this.#sum();
      if (this.#total < TINY) this.#visit(out[2 * at], out[2 * at + 1], variance);
      out[2 * at] = (this.#x / this.#total - out[2 * at]) / variance;
      out[2 * at + 1] = (this.#y / this.#total - out[2 * at + 1]) / variance;
    }
    return out;
  }

  /** e^(−d²/(2v)) for each centre along an axis and each component, but for a factor of each centre; weighted once. */
  #factors(count: number, axis: 0 | 1, variance: number): Float64Array {
    const n = this.weights.length;
    const out = new Float64Array(count * n);
    for (let i = 0; i < count; i++) {
      const at = centre(i, count);
      let least = Infinity;
      for (let k = 0; k < n; k++) least = Math.min(least, (at - this.means[2 * k + axis]) ** 2);
      for (let k = 0; k < n; k++) {
        const factor = Math.exp((least - (at - this.means[2 * k + axis]) ** 2) / (2 * variance));
        out[i * n + k] = axis === 0 ? factor : factor * this.weights[k];
      }
    }
    return out;
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
    for (let k = 0; k < this.weights.length; k++) {
      const x = this.means[2 * k];
      const y = this.means[2 * k + 1];
      const left = Math.max(0, Math.ceil(index(x - reach)));
      const right = Math.min(cells - 1, Math.floor(index(x + reach)));
      const bottom = Math.max(0, Math.ceil(index(y - reach)));
      const top = Math.min(cells - 1, Math.floor(index(y + reach)));
      for (let i = left; i <= right; i++) column[i] = Math.exp(-((centre(i, cells) - x) ** 2) / (2 * variance));
      for (let j = bottom; j <= top; j++) {
        const height = this.weights[k] / (2 * Math.PI * variance);
        const row = height * Math.exp(-((centre(j, cells) - y) ** 2) / (2 * variance));
        for (let i = left, at = j * cells + left; i <= right; i++, at++) values[at] += row * column[i];
      }
    }
    return { cells, values };
  }
}
