// Score matching: a network made a score, and two objectives with their gradients.
import { Mlp } from "./mlp.ts";
import type { Points } from "./plane.ts";

/** How a network's value F becomes a score: EDM's way, ``Karras`` of ncsn/preconditioning.py. */
export class ScoreModel {
  readonly network: Mlp;
  readonly mean: [number, number];
  readonly std: number;

  constructor(network: Mlp, mean: [number, number], std: number) {
    this.network = network;
    this.mean = mean;
    this.std = std;
  }

  /** √(σ² + σ_d²), and the factor σ_d/(σ√(σ² + σ_d²)) of F. */
  scales(sigma: number): { total: number; factor: number } {
    const total = Math.hypot(sigma, this.std);
    return { total, factor: this.std / (sigma * total) };
  }

  /** s(x, σ) = −(x − μ)/(σ² + σ_d²) + σ_d/(σ√(σ² + σ_d²))·F((x − μ)/√(σ² + σ_d²), ¼ ln σ). */
  score(x: Points, sigma: number, out: Points): void {
    const sigmas = Float64Array.of(sigma);
    this.evaluate(x, sigmas, new Uint8Array(x.length / 2), out);
  }

  /** The scores of points that have a noise level each, ``sigmas[levels[i]]``; with a tangent, ∂s/∂x times it. */
  evaluate(x: Points, sigmas: Float64Array, levels: Uint8Array, out: Points, tangent?: Points, dout?: Points): void {
    const shown = new Float64Array(x.length);
    const direction = tangent && new Float64Array(x.length);
    const scales = Array.from(sigmas, (sigma) => this.scales(sigma));
    for (let i = 0; i < x.length; i++) {
      const { total } = scales[levels[i >> 1]];
      shown[i] = (x[i] - this.mean[i & 1]) / total;
      if (direction && tangent) direction[i] = tangent[i] / total;
    }
    this.network.forward(shown, sigmas.map((sigma) => Math.log(sigma) / 4), levels, out, direction, dout);
    for (let i = 0; i < x.length; i++) {
      const { total, factor } = scales[levels[i >> 1]];
      out[i] = -shown[i] / total + factor * out[i];
      if (direction && dout) dout[i] = -direction[i] / total + factor * dout[i];
    }
  }

  /** Puts the gradient of a loss into ``network.gradient``, from its derivatives in the scores, which it overwrites. */
  backward(sigmas: Float64Array, levels: Uint8Array, dscore: Points, dtangent?: Points): void {
    const factors = Array.from(sigmas, (sigma) => this.scales(sigma).factor);
    for (let i = 0; i < dscore.length; i++) {
      dscore[i] *= factors[levels[i >> 1]];
      if (dtangent) dtangent[i] *= factors[levels[i >> 1]];
    }
    this.network.backward(dscore, dtangent);
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
  const s = new Float64Array(x.length);
  model.evaluate(noisy, sigmas, levels, s);
  let loss = 0;
  for (let i = 0; i < s.length; i++) {
    const sigma = sigmas[levels[i >> 1]];
    const error = sigma * s[i] + z[i];
    const weight = model.weight(sigma) / n;
    loss += (weight * error ** 2) / 2;
    s[i] = weight * error * sigma;
  }
  model.backward(sigmas, levels, s);
  return loss;
}

/**
 * Sliced score matching at the points x themselves, σ²(vᵀ(∂s/∂x)v + ½‖s‖²) with a direction v for each, weighted and
 * averaged; its gradient goes to the network.  Song et al. 2019 (arXiv:1905.07088), equation 8.
 */
export function sliced(model: ScoreModel, x: Points, sigma: number, v: Points): number {
  const n = x.length / 2;
  const [sigmas, levels] = [Float64Array.of(sigma), new Uint8Array(n)];
  const s = new Float64Array(x.length);
  const ds = new Float64Array(x.length);
  model.evaluate(x, sigmas, levels, s, v, ds);
  const weight = (sigma ** 2 * model.weight(sigma)) / n;
  let loss = 0;
  for (let i = 0; i < s.length; i++) {
    loss += weight * (v[i] * ds[i] + s[i] ** 2 / 2);
    s[i] *= weight;
    ds[i] = weight * v[i];
  }
  model.backward(sigmas, levels, s, ds);
  return loss;
}
