// A multilayer perceptron with hand-written derivatives: ncsn/networks/mlp.py, parameter by parameter.
import { type Layer, addBiasGradient, addWeightGradient, apply, pullBack, silu } from "./linear.ts";
import type { Random } from "./random.ts";

const WAVES = 32;

/** What a hidden layer was given and made of it, with derivatives along a direction in which x moves. */
interface Hidden {
  z: Float64Array;
  dz: Float64Array;
  h: Float64Array;
  dh: Float64Array;
}

/**
 * ``depth`` hidden layers of ``width`` units, each shifted by the embedded noise level c = ¼ ln σ.
 *
 * A batch has few noise levels and many points, so that levels are embedded once and points name theirs by its place.
 */
export class Mlp {
  readonly width: number;
  readonly depth: number;
  readonly parameters: Float64Array;
  readonly gradient: Float64Array;
  readonly #embedding: [Layer, Layer];
  readonly #hidden: Layer[] = [];
  readonly #shifts: Layer[] = [];
  readonly #output: Layer;
  #n = -1;
  #k = -1;
  #levels: Uint8Array = new Uint8Array();
  #input: Float64Array = new Float64Array();
  #tangent: Float64Array | undefined;
  #waves: Float64Array = new Float64Array();
  #first: Float64Array = new Float64Array(); // of the embedding: before and after silu, then the second layer's
  #firstH: Float64Array = new Float64Array();
  #second: Float64Array = new Float64Array();
  #embedded: Float64Array = new Float64Array();
  #shift: Float64Array = new Float64Array();
  #states: Hidden[] = [];
  #buffers: Float64Array[] = [];

  constructor(width: number, depth: number) {
    this.width = width;
    this.depth = depth;
    let size = 0;
    const layer = (inputs: number, outputs: number, biased = true): Layer => {
      const weight = size;
      const bias = biased ? weight + inputs * outputs : -1;
      size = weight + inputs * outputs + (biased ? outputs : 0);
      return { inputs, outputs, weight, bias };
    };
    this.#embedding = [layer(2 * WAVES, width), layer(width, width)];
    for (let i = 0; i < depth; i++) this.#hidden.push(layer(i === 0 ? 2 : width, width));
    for (let i = 0; i < depth; i++) this.#shifts.push(layer(width, width, false));
    this.#output = layer(width, 2);
    this.parameters = new Float64Array(size);
    this.gradient = new Float64Array(size);
  }

  /** Weights uniform within 1/√inputs, as torch's; the last layer is zero, so that the network returns zero. */
  initialise(random: Random): void {
    for (const { inputs, outputs, weight, bias } of [...this.#embedding, ...this.#hidden, ...this.#shifts]) {
      const end = weight + inputs * outputs + (bias < 0 ? 0 : outputs);
      for (let i = weight; i < end; i++) this.parameters[i] = (2 * random.uniform() - 1) / Math.sqrt(inputs);
    }
  }

  /**
   * The network's values (n, 2) at ``x`` (n, 2), written to ``y``, where point i has noise level c[levels[i]].
   *
   * With a ``tangent`` (n, 2), a direction in which each point moves, how fast its value changes goes to ``dy``.
   */
  forward(x: Float64Array, c: Float64Array, levels: Uint8Array, y: Float64Array, tangent?: Float64Array, dy?: Float64Array): void {
    const n = x.length / 2;
    this.#allocate(n, c.length);
    this.#levels = levels;
    this.#input = x;
    this.#tangent = tangent;
    this.#embed(c);
    let [h, dh] = [x, tangent];
    for (let l = 0; l < this.depth; l++) {
      const state = this.#states[l];
      apply(this.parameters, this.#hidden[l], h, n, state.z);
      if (dh) apply(this.parameters, this.#hidden[l], dh, n, state.dz, false);
      apply(this.parameters, this.#shifts[l], this.#embedded, c.length, this.#shift);
      for (let i = 0, at = 0; i < n; i++) {
        for (let j = levels[i] * this.width, end = j + this.width; j < end; j++, at++) {
          const z = (state.z[at] += this.#shift[j]);
          const [value, slope] = silu(z);
          state.h[at] = value;
          if (dh) state.dh[at] = slope * state.dz[at];
        }
      }
      [h, dh] = [state.h, dh && state.dh];
    }
    apply(this.parameters, this.#output, h, n, y);
    if (dh && dy) apply(this.parameters, this.#output, dh, n, dy, false);
  }

  /** The gradient, for the last ``forward``, of a loss whose derivatives in its ``y`` and ``dy`` are given. */
  backward(y: Float64Array, dy?: Float64Array): void {
    const [n, k, { parameters: p, gradient: g }] = [this.#n, this.#k, this];
    const [a, da, next, dnext, shift, embedded] = this.#buffers;
    g.fill(0);
    embedded.fill(0);
    const inner = this.#states[this.depth - 1];
    addWeightGradient(g, this.#output, inner.h, n, y);
    addBiasGradient(g, this.#output, n, y);
    pullBack(p, this.#output, n, y, a);
    if (dy) {
      addWeightGradient(g, this.#output, inner.dh, n, dy);
      pullBack(p, this.#output, n, dy, da);
    }
    for (let l = this.depth - 1; l >= 0; l--) {
      this.#throughSilu(this.#states[l], a, dy && da);
      shift.fill(0);
      for (let i = 0, at = 0; i < n; i++) {
        for (let j = this.#levels[i] * this.width, end = j + this.width; j < end; j++, at++) shift[j] += a[at];
      }
      addWeightGradient(g, this.#shifts[l], this.#embedded, k, shift);
      pullBack(p, this.#shifts[l], k, shift, this.#shift);
      for (let i = 0; i < k * this.width; i++) embedded[i] += this.#shift[i];
      addWeightGradient(g, this.#hidden[l], l > 0 ? this.#states[l - 1].h : this.#input, n, a);
      addBiasGradient(g, this.#hidden[l], n, a);
      const tangent = l > 0 ? this.#states[l - 1].dh : this.#tangent;
      if (dy && tangent) addWeightGradient(g, this.#hidden[l], tangent, n, da);
      if (l === 0) break;
      pullBack(p, this.#hidden[l], n, a, next);
      a.set(next);
      if (dy) {
        pullBack(p, this.#hidden[l], n, da, dnext);
        da.set(dnext);
      }
    }
    this.#embedBackward(embedded);
  }

  /** Turns derivatives in h and dh into those in z and dz, in place. */
  #throughSilu({ z, dz }: Hidden, a: Float64Array, da?: Float64Array): void {
    for (let i = 0; i < this.#n * this.width; i++) {
      const [, slope, bend] = silu(z[i]);
      a[i] *= slope;
      if (da) {
        a[i] += da[i] * bend * dz[i];
        da[i] *= slope;
      }
    }
  }

  /** Sines and cosines at frequencies from ⅛ to 8 cycles per unit of c, and two layers. */
  #embed(c: Float64Array): void {
    for (let i = 0; i < c.length; i++) {
      for (let w = 0; w < WAVES; w++) {
        const phase = 2 * Math.PI * 2 ** (-3 + (6 * w) / (WAVES - 1)) * c[i];
        this.#waves[2 * WAVES * i + w] = Math.sin(phase);
        this.#waves[2 * WAVES * i + WAVES + w] = Math.cos(phase);
      }
    }
    apply(this.parameters, this.#embedding[0], this.#waves, c.length, this.#first);
    for (let i = 0; i < this.#first.length; i++) this.#firstH[i] = silu(this.#first[i])[0];
    apply(this.parameters, this.#embedding[1], this.#firstH, c.length, this.#second);
    for (let i = 0; i < this.#second.length; i++) this.#embedded[i] = silu(this.#second[i])[0];
  }

  #embedBackward(e: Float64Array): void {
    const k = this.#k;
    for (let i = 0; i < k * this.width; i++) e[i] *= silu(this.#second[i])[1];
    addWeightGradient(this.gradient, this.#embedding[1], this.#firstH, k, e);
    addBiasGradient(this.gradient, this.#embedding[1], k, e);
    pullBack(this.parameters, this.#embedding[1], k, e, this.#shift);
    for (let i = 0; i < k * this.width; i++) this.#shift[i] *= silu(this.#first[i])[1];
    addWeightGradient(this.gradient, this.#embedding[0], this.#waves, k, this.#shift);
    addBiasGradient(this.gradient, this.#embedding[0], k, this.#shift);
  }

  #allocate(n: number, k: number): void {
    if (n === this.#n && k === this.#k) return;
    [this.#n, this.#k] = [n, k];
    const { width } = this;
    const make = (count: number): Float64Array => new Float64Array(count * width);
    this.#waves = new Float64Array(2 * WAVES * k);
    [this.#first, this.#firstH, this.#second, this.#embedded, this.#shift] = [make(k), make(k), make(k), make(k), make(k)];
    this.#states = Array.from({ length: this.depth }, () => ({ z: make(n), dz: make(n), h: make(n), dh: make(n) }));
    this.#buffers = [make(n), make(n), make(n), make(n), make(k), make(k)];
  }
}
