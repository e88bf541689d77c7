// A multilayer perceptron with hand-written derivatives, its preconditioning, its loss and its optimizer.
import type { Random, Points } from "./plane.ts";

const WAVES = 32;

/**
 * Adds A·B to C (m, n): C[i, j] += Σ_k A(i, k)·B[k, j], where ``a`` says how A's entries lie.
 *
 * Four terms at a time are three times as fast, since each value of C is loaded once for all four.
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

type Layer = ReturnType<typeof layerOf>;

/** A linear layer: weights (outputs, inputs), row by row, then biases if there are any, and their gradient. */
function layerOf(inputs: number, outputs: number, parameters: Float64Array, gradient: Float64Array) {
  const weights = inputs * outputs;
  const [bias, biasGradient] = [parameters.subarray(weights), gradient.subarray(weights)];

  /** Weights and biases uniform within 1/√inputs, as torch's. */
  function initialise(random: Random): void {
    for (let i = 0; i < parameters.length; i++) parameters[i] = (2 * random.uniform() - 1) / Math.sqrt(inputs);
  }

  /** x (n, inputs)·Wᵀ + b. */
  function apply(x: Float64Array): Float64Array {
    const n = x.length / inputs;
    const transposed = new Float64Array(weights);
    for (let i = 0; i < weights; i++) transposed[(i % inputs) * outputs + Math.floor(i / inputs)] = parameters[i];
    const y = new Float64Array(n * outputs);
    for (let row = 0; row < n; row++) y.set(bias, row * outputs);
    addProduct(y, [n, inputs, outputs], { values: x, byRow: inputs, byTerm: 1 }, transposed);
    return y;
  }

  /** Adds to the gradient dyᵀ·x of the weights, and the sum of dy over rows for the biases; returns dx = dy·W. */
  function back(x: Float64Array, dy: Float64Array): Float64Array {
    const n = dy.length / outputs;
    addProduct(gradient, [outputs, n, inputs], { values: dy, byRow: 1, byTerm: outputs }, x);
    for (let row = 0; row < n; row++) {
      for (let o = 0; o < bias.length; o++) biasGradient[o] += dy[row * outputs + o];
    }
    const dx = new Float64Array(n * inputs);
    addProduct(dx, [n, outputs, inputs], { values: dy, byRow: outputs, byTerm: 1 }, parameters);
    return dx;
  }

  return { initialise, apply, back };
}

/** silu(z) = z·sigmoid(z), and its derivative. */
function silu(z: number): [value: number, slope: number] {
  const s = 1 / (1 + Math.exp(-z));
  return [z * s, s + z * s * (1 - s)];
}

/** A function and its backward pass from derivatives in ``y`` to those in the input; layers accumulate their gradients. */
export interface Pass {
  y: Float64Array;
  backward(dy: Float64Array): Float64Array;
}

/** silu of each number. */
function activate(z: Float64Array): Pass {
  return { y: z.map((value) => silu(value)[0]), backward: (dy) => dy.map((value, i) => value * silu(z[i])[1]) };
}

/** Sines and cosines at frequencies from ⅛ to 8 cycles per unit of c. */
function wavesOf(c: Float64Array): Float64Array {
  const waves = new Float64Array(2 * WAVES * c.length);
  for (let i = 0; i < c.length; i++) {
    for (let w = 0; w < WAVES; w++) {
      const phase = 2 * Math.PI * 2 ** (-3 + (6 * w) / (WAVES - 1)) * c[i];
      waves[2 * WAVES * i + w] = Math.sin(phase);
      waves[2 * WAVES * i + WAVES + w] = Math.cos(phase);
    }
  }
  return waves;
}

export type Mlp = ReturnType<typeof mlp>;

/**
 * ``depth`` hidden layers of ``width`` units, each shifted by the embedded noise level c = ¼ ln σ.
 *
 * A batch has few noise levels and many points, so each level is embedded once, and points refer to it by index.
 */
export function mlp(width: number, depth: number) {
  const inner = Array.from({ length: depth }, (_, i) => [i === 0 ? 2 : width, width, 1]);
  const unbiased = Array.from({ length: depth }, () => [width, width, 0]);
  const shapes = [[2 * WAVES, width, 1], [width, width, 1], ...inner, ...unbiased, [width, 2, 1]];
  const sizes = shapes.map(([inputs, outputs, biased]) => (inputs + biased) * outputs);
  const size = sizes.reduce((sum, length) => sum + length, 0);
  const [parameters, gradient] = [new Float64Array(size), new Float64Array(size)];
  let at = 0;
  const layers = shapes.map(([inputs, outputs], i) => {
    const [from, to] = [at, (at += sizes[i])];
    return layerOf(inputs, outputs, parameters.subarray(from, to), gradient.subarray(from, to));
  });
  const [hidden, shifts, [output]] = [layers.slice(2, 2 + depth), layers.slice(2 + depth, -1), layers.slice(-1)];

  /** The last layer is zero, so that the network returns zero. */
  function initialise(random: Random): void {
    for (const layer of layers.slice(0, -1)) layer.initialise(random);
  }

  /** The network's values at ``x`` (n, 2), where point i has noise level c[levels[i]]. */
  function forward(x: Float64Array, c: Float64Array, levels: Uint8Array): Pass {
    const n = levels.length;
    const place = (i: number): number => levels[Math.floor(i / width)] * width + (i % width);
    const embedding: { layer: Layer; input: Float64Array; pass: Pass }[] = [];
    let embedded = wavesOf(c);
    for (const layer of layers.slice(0, 2)) {
      const pass = activate(layer.apply(embedded));
      embedding.push({ layer, input: embedded, pass });
      embedded = pass.y;
    }
    const states: { input: Float64Array; pass: Pass }[] = [];
    let h = x;
    for (let l = 0; l < depth; l++) {
      const [z, shift] = [hidden[l].apply(h), shifts[l].apply(embedded)];
      for (let i = 0; i < n * width; i++) z[i] += shift[place(i)];
      const pass = activate(z);
      states.push({ input: h, pass });
      h = pass.y;
    }
    const backward = (dy: Float64Array): Float64Array => {
      gradient.fill(0);
      let e: Float64Array = new Float64Array(c.length * width);
      let a = output.back(h, dy);
      for (let l = depth - 1; l >= 0; l--) {
        const { input, pass } = states[l];
        const [dz, shift] = [pass.backward(a), new Float64Array(e.length)];
        for (let i = 0; i < n * width; i++) shift[place(i)] += dz[i];
        shifts[l].back(embedded, shift).forEach((value, i) => (e[i] += value));
        a = hidden[l].back(input, dz);
      }
      for (const { layer, input, pass } of embedding.toReversed()) e = layer.back(input, pass.backward(e));
      return a;
    };
    return { y: output.apply(h), backward };
  }

  return { parameters, gradient, initialise, forward };
}

export type ScoreModel = ReturnType<typeof scoreModel>;

/** EDM’s preconditioning, which turns the output F of a network into a score, as in ncsn/score.py. */
export function scoreModel(network: Mlp, mean: [number, number], std: number) {
  /** s(x, σ) = −(x − μ)/(σ² + σ_d²) + σ_d/(σ√(σ² + σ_d²))·F((x − μ)/√(σ² + σ_d²), ¼ ln σ). */
  function score(x: Points, sigma: number): Points {
    return evaluate(x, Float64Array.of(sigma), new Uint8Array(x.length / 2)).y;
  }

  /** The scores of points that have a noise level each, ``sigmas[levels[i]]``. */
  function evaluate(x: Points, sigmas: Float64Array, levels: Uint8Array): Pass {
    const totals = sigmas.map((sigma) => Math.hypot(sigma, std)); // √(σ² + σ_d²)
    const factors = sigmas.map((sigma, k) => std / (sigma * totals[k]));
    const level = (i: number): number => levels[i >> 1];
    const shown = x.map((value, i) => (value - mean[i & 1]) / totals[level(i)]);
    const logs = sigmas.map((sigma) => Math.log(sigma) / 4);
    const { y, backward } = network.forward(shown, logs, levels);
    return {
      y: y.map((value, i) => factors[level(i)] * value - shown[i] / totals[level(i)]),
      backward: (dy) => backward(dy.map((value, i) => value * factors[level(i)])),
    };
  }

  /** The factor that turns ½‖σs + z‖² into the squared error of F, per dimension: (σ² + σ_d²)/σ_d². */
  function weight(sigma: number): number {
    return 1 + (sigma / std) ** 2;
  }

  return { network, score, evaluate, weight };
}

/** Denoising score matching, ½‖σ·s(x + σz, σ) + z‖² where point i has σ = sigmas[levels[i]], weighted and averaged; its gradient goes to the network. */
export function denoising(model: ScoreModel, x: Points, sigmas: Float64Array, levels: Uint8Array, z: Points): number {
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

const BETA1 = 0.9;
const BETA2 = 0.99;

/** Adam (Kingma & Ba 2015, algorithm 1), and an average of the weights along the way. */
export function adam(parameters: Float64Array) {
  const [first, second] = [new Float64Array(parameters.length), new Float64Array(parameters.length)];
  const state = { step: 0, average: parameters.slice(), update };

  /** Updates the parameters and their average over roughly the last tenth of all steps. */
  function update(gradient: Float64Array, rate: number): void {
    state.step++;
    const scale1 = 1 - BETA1 ** state.step;
    const scale2 = 1 - BETA2 ** state.step;
    const fresh = Math.min(1, 10 / (9 + state.step));
    for (let i = 0; i < parameters.length; i++) {
      const g = gradient[i];
      const m = (first[i] += (1 - BETA1) * (g - first[i]));
      const v = (second[i] += (1 - BETA2) * (g * g - second[i]));
      parameters[i] -= (rate * m) / scale1 / (Math.sqrt(v / scale2) + 1e-8);
      state.average[i] += fresh * (parameters[i] - state.average[i]);
    }
  }

  return state;
}
