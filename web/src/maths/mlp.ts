// A multilayer perceptron with hand-written derivatives: ncsn/networks/mlp.py, parameter by parameter.
import type { Random } from "./random.ts";

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
