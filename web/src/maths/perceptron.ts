// A multilayer perceptron with hand-written derivatives, made a score, and what it learns by.
import type { Random, Points } from "./plane.ts";

const WAVES = 32;

/**
 * Adds A·B to C (m, n): C[i, j] += Σ_k A(i, k)·B[k, j], where ``a`` says how A's entries lie.
 *
 * Four terms at a time are three times as fast: what is loaded of C once is used four times.
 */
function addProduct(
  c: Float64Array,
  [m, terms, n]: [rows: number, terms: number, columns: number],
  a: { values: Float64Array; byRow: number; byTerm: number },
  b: Float64Array,
): void {
  const { values, byRow, byTerm } = a;
  for (let row = 0; row < m; row++) {
    const to = row * n;
    let k = 0;
    for (; k + 4 <= terms; k += 4) {
      const from = row * byRow + k * byTerm;
      const [a0, a1] = [values[from], values[from + byTerm]];
      const [a2, a3] = [values[from + 2 * byTerm], values[from + 3 * byTerm]];
      const at = k * n;
      for (let j = 0; j < n; j++) {
        const sum = a0 * b[at + j] + a1 * b[at + n + j];
        c[to + j] += sum + a2 * b[at + 2 * n + j] + a3 * b[at + 3 * n + j];
      }
    }
    for (; k < terms; k++) {
      const factor = values[row * byRow + k * byTerm];
      for (let j = 0; j < n; j++) c[to + j] += factor * b[k * n + j];
    }
  }
}

/** A linear layer: weights (outputs, inputs), row by row, then biases, if it has some; and their gradient. */
class Layer {
  private readonly biases: number; // where they begin

  constructor(
    private readonly inputs: number,
    private readonly outputs: number,
    private readonly parameters: Float64Array,
    private readonly gradient: Float64Array,
  ) {
    this.biases = inputs * outputs;
  }

  /** Weights and biases uniform within 1/√inputs, as torch's. */
  initialise(random: Random): void {
    for (let i = 0; i < this.parameters.length; i++) {
      this.parameters[i] = (2 * random.uniform() - 1) / Math.sqrt(this.inputs);
    }
  }

  /** x (n, inputs)·Wᵀ, and b in so many rows. */
  apply(x: Float64Array, biased = x.length / this.inputs): Float64Array {
    const { inputs, outputs } = this;
    const transposed = new Float64Array(this.biases);
    for (let i = 0; i < this.biases; i++) {
      transposed[(i % inputs) * outputs + Math.floor(i / inputs)] = this.parameters[i];
    }
    const n = x.length / inputs;
    const y = new Float64Array(n * outputs);
    const bias = this.parameters.subarray(this.biases);
    for (let row = 0; row < biased; row++) y.set(bias, row * outputs);
    addProduct(y, [n, inputs, outputs], { values: x, byRow: inputs, byTerm: 1 }, transposed);
    return y;
  }

  /** Adds to the gradient dyᵀ·x of the weights, and the sum of dy over rows for the biases; returns dx = dy·W. */
  back(x: Float64Array, dy: Float64Array, biased = dy.length / this.outputs): Float64Array {
    const { inputs, outputs } = this;
    const n = dy.length / outputs;
    addProduct(this.gradient, [outputs, n, inputs], { values: dy, byRow: 1, byTerm: outputs }, x);
    const bias = this.gradient.subarray(this.biases);
    for (let row = 0; row < biased; row++) {
      for (let o = 0; o < bias.length; o++) bias[o] += dy[row * outputs + o];
    }
    const dx = new Float64Array(n * inputs);
    addProduct(dx, [n, outputs, inputs], { values: dy, byRow: outputs, byTerm: 1 }, this.parameters);
    return dx;
  }
}

/** silu(z) = z·sigmoid(z), and its first two derivatives: what a hidden layer and its backward passes need. */
function silu(z: number): [value: number, slope: number, bend: number] {
  const s = 1 / (1 + Math.exp(-z));
  const d = s * (1 - s);
  return [z * s, s + z * d, d * (2 + z * (1 - 2 * s))];
}

/** What a network makes of its input, and the way back: from derivatives in ``y`` to the gradient, and those in the input. */
export interface Pass {
  y: Float64Array;
  backward(dy: Float64Array): Float64Array;
}

/**
 * ``depth`` hidden layers of ``width`` units, each shifted by the embedded noise level c = ¼ ln σ.
 *
 * A batch has few noise levels and many points, so that levels are embedded once and points name theirs by its place.
 */
export class Mlp {
  readonly parameters: Float64Array;
  readonly gradient: Float64Array;
  readonly #embedding: Layer[];
  readonly #hidden: Layer[];
  readonly #shifts: Layer[];
  readonly #output: Layer;

  constructor(
    private readonly width: number,
    depth: number,
  ) {
    const hidden = Array.from({ length: depth }, (_, i) => [i === 0 ? 2 : width, width, 1]);
    const shifts = Array.from({ length: depth }, () => [width, width, 0]); // without biases
    const shapes = [[2 * WAVES, width, 1], [width, width, 1], ...hidden, ...shifts, [width, 2, 1]];
    const sizes = shapes.map(([inputs, outputs, biased]) => (inputs + biased) * outputs);
    const size = sizes.reduce((sum, length) => sum + length, 0);
    this.parameters = new Float64Array(size);
    this.gradient = new Float64Array(size);
    let at = 0;
    const layers = shapes.map(([inputs, outputs], i) => {
      const [from, to] = [at, (at += sizes[i])];
      return new Layer(inputs, outputs, this.parameters.subarray(from, to), this.gradient.subarray(from, to));
    });
    this.#embedding = layers.slice(0, 2);
    this.#hidden = layers.slice(2, 2 + depth);
    this.#shifts = layers.slice(2 + depth, -1);
    this.#output = layers[layers.length - 1];
  }

  /** The last layer is zero, so that the network returns zero. */
  initialise(random: Random): void {
    for (const layer of [...this.#embedding, ...this.#hidden, ...this.#shifts]) layer.initialise(random);
  }

  /**
   * The network's values at ``x`` (n, 2), where point i has noise level c[levels[i]].
   *
   * n more rows are tangents, directions in which the points move: their values are how fast the points' values change.
   */
  forward(x: Float64Array, c: Float64Array, levels: Uint8Array): Pass {
    const { width } = this;
    const n = levels.length;
    const points = n * width; // numbers of a hidden layer before those of the tangents
    const moving = x.length > 2 * n;
    const embedding = this.#embed(c);
    const states: { h: Float64Array; z: Float64Array }[] = [];
    const place = (i: number): number => levels[Math.floor(i / width)] * width + (i % width);
    let h = x;
    for (const [l, layer] of this.#hidden.entries()) {
      const z = layer.apply(h, n);
      const shift = this.#shifts[l].apply(embedding.y);
      states.push({ h, z });
      h = new Float64Array(z.length);
      for (let i = 0; i < points; i++) {
        z[i] += shift[place(i)];
        const [value, slope] = silu(z[i]);
        h[i] = value;
        if (moving) h[points + i] = slope * z[points + i];
      }
    }
    const backward = (dy: Float64Array): Float64Array => {
      this.gradient.fill(0);
      const embedded = new Float64Array(c.length * width);
      let a = this.#output.back(h, dy, n);
      for (let l = states.length - 1; l >= 0; l--) {
        const { h, z } = states[l];
        const shift = new Float64Array(c.length * width);
        for (let i = 0; i < points; i++) {
          const [, slope, bend] = silu(z[i]);
          a[i] *= slope;
          if (moving) {
            a[i] += a[points + i] * bend * z[points + i];
            a[points + i] *= slope;
          }
          shift[place(i)] += a[i];
        }
        this.#shifts[l].back(embedding.y, shift).forEach((value, i) => (embedded[i] += value));
        a = this.#hidden[l].back(h, a, n);
      }
      embedding.backward(embedded);
      return a;
    };
    return { y: this.#output.apply(h, n), backward };
  }

  /** Sines and cosines at frequencies from ⅛ to 8 cycles per unit of c, and two layers. */
  #embed(c: Float64Array): Pass {
    const waves = new Float64Array(2 * WAVES * c.length);
    for (let i = 0; i < c.length; i++) {
      for (let w = 0; w < WAVES; w++) {
        const phase = 2 * Math.PI * 2 ** (-3 + (6 * w) / (WAVES - 1)) * c[i];
        waves[2 * WAVES * i + w] = Math.sin(phase);
        waves[2 * WAVES * i + WAVES + w] = Math.cos(phase);
      }
    }
    const [one, other] = this.#embedding;
    const first = unshifted(one, waves);
    const second = unshifted(other, first.y);
    return { y: second.y, backward: (dy) => first.backward(second.backward(dy)) };
  }
}

/** A hidden layer by itself. */
function unshifted(layer: Layer, x: Float64Array): Pass {
  const z = layer.apply(x);
  const pullBack = (dy: Float64Array): Float64Array => dy.map((value, i) => value * silu(z[i])[1]);
  return { y: z.map((value) => silu(value)[0]), backward: (dy) => layer.back(x, pullBack(dy)) };
}

/** How a network's value F becomes a score: EDM's way, ``Karras`` of ncsn/preconditioning.py. */
export class ScoreModel {
  constructor(
    readonly network: Mlp,
    private readonly mean: [number, number],
    private readonly std: number,
  ) {}

  /** s(x, σ) = −(x − μ)/(σ² + σ_d²) + σ_d/(σ√(σ² + σ_d²))·F((x − μ)/√(σ² + σ_d²), ¼ ln σ). */
  score(x: Points, sigma: number): Points {
    return this.evaluate(x, Float64Array.of(sigma), new Uint8Array(x.length / 2)).y;
  }

  /** The scores of points that have a noise level each, ``sigmas[levels[i]]``; after them ∂s/∂x times the tangents, if any. */
  evaluate(x: Points, sigmas: Float64Array, levels: Uint8Array, tangents: Points = new Float64Array()): Pass {
    const totals = sigmas.map((sigma) => Math.hypot(sigma, this.std)); // √(σ² + σ_d²)
    const factors = sigmas.map((sigma, k) => this.std / (sigma * totals[k]));
    const level = (i: number): number => levels[(i % x.length) >> 1];
    const moved = x.map((value, i) => value - this.mean[i & 1]);
    const shown = Float64Array.of(...moved, ...tangents).map((value, i) => value / totals[level(i)]);
    const logs = sigmas.map((sigma) => Math.log(sigma) / 4);
    const { y, backward } = this.network.forward(shown, logs, levels);
    return {
      y: y.map((value, i) => factors[level(i)] * value - shown[i] / totals[level(i)]),
      backward: (dy) => backward(dy.map((value, i) => value * factors[level(i)])),
    };
  }

  /** By what ½‖σs + z‖² is multiplied to become the squared error of F, per dimension: (σ² + σ_d²)/σ_d². */
  weight(sigma: number): number {
    return 1 + (sigma / this.std) ** 2;
  }
}

/** Examples x, each with a noise level ``sigmas[levels[i]]`` and its noise z ~ N(0, I). */
export interface Noised {
  x: Points;
  sigmas: Float64Array;
  levels: Uint8Array;
  z: Points;
}

/** Denoising score matching, ½‖σ·s(x + σz, σ) + z‖², weighted and averaged; its gradient goes to the network. */
export function denoising(model: ScoreModel, { x, sigmas, levels, z }: Noised): number {
  const n = x.length / 2;
  const noisy = x.map((value, i) => value + sigmas[levels[i >> 1]] * z[i]);
  const { y: s, backward } = model.evaluate(noisy, sigmas, levels);
  let loss = 0;
  const gradient = s.map((value, i) => {
    const sigma = sigmas[levels[i >> 1]];
    const error = sigma * value + z[i];
    const weight = model.weight(sigma) / n;
    loss += (weight * error ** 2) / 2;
    return weight * error * sigma;
  });
  backward(gradient);
  return loss;
}

/**
 * Sliced score matching at the points x themselves, σ²(vᵀ(∂s/∂x)v + ½‖s‖²) with a direction v for each, weighted and
 * averaged; its gradient goes to the network.  Song et al. 2019 (arXiv:1905.07088), equation 8.
 */
export function sliced(model: ScoreModel, x: Points, sigma: number, v: Points): number {
  const n = x.length / 2;
  const { y: s, backward } = model.evaluate(x, Float64Array.of(sigma), new Uint8Array(n), v);
  const weight = (sigma ** 2 * model.weight(sigma)) / n;
  const loss = x.reduce((sum, _, i) => sum + weight * (v[i] * s[x.length + i] + s[i] ** 2 / 2), 0);
  backward(s.map((value, i) => weight * (i < x.length ? value : v[i - x.length])));
  return loss;
}

const BETA1 = 0.9;
const BETA2 = 0.99;

export class Adam {
  step = 0;
  readonly average: Float64Array;
  readonly #first: Float64Array;
  readonly #second: Float64Array;

  constructor(parameters: Float64Array) {
    this.average = parameters.slice();
    this.#first = new Float64Array(parameters.length);
    this.#second = new Float64Array(parameters.length);
  }

  /** Moves the parameters; the average of the last tenth of all steps, or so, moves along. */
  update(parameters: Float64Array, gradient: Float64Array, rate: number): void {
    this.step++;
    const scale1 = 1 - BETA1 ** this.step;
    const scale2 = 1 - BETA2 ** this.step;
    const fresh = 10 / (9 + this.step);
    for (let i = 0; i < parameters.length; i++) {
      const g = gradient[i];
      const m = (this.#first[i] += (1 - BETA1) * (g - this.#first[i]));
      const v = (this.#second[i] += (1 - BETA2) * (g * g - this.#second[i]));
      parameters[i] -= (rate * m) / scale1 / (Math.sqrt(v / scale2) + 1e-8);
      this.average[i] += Math.min(1, fresh) * (parameters[i] - this.average[i]);
    }
  }
}
