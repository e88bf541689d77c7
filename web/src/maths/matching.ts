// Score matching: a network made a score, and two objectives with their gradients.
import type { Mlp, Pass } from "./mlp.ts";
import type { Points } from "./plane.ts";

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
