// A ring, whose noised score is an integral over one angle.
import { Distribution, type Grid, type Points, VIEW, cellsFor, centre } from "./plane.ts";
import type { Random } from "./random.ts";

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
      x[2 * i] = radius * Math.cos(angle);
      x[2 * i + 1] = radius * Math.sin(angle);
    }
    return x;
  }

  at(x: number, y: number, sigma: number): { log: number; dx: number; dy: number } {
    const { log, slope } = this.#along(Math.hypot(x, y), sigma);
    return { log, dx: x * slope, dy: y * slope };
  }

  density(sigma: number): Grid {
    const cells = cellsFor(Math.hypot(this.std, sigma));
    const values = new Float64Array(cells * cells);
    const farthest = VIEW * Math.SQRT2;
    const logs = Array.from({ length: RADII + 2 }, (_, i) => this.#along((farthest * i) / RADII, sigma).log);
    for (let at = 0; at < values.length; at++) {
      const rho = Math.hypot(centre(at % cells, cells), centre(Math.floor(at / cells), cells));
      const place = (rho / farthest) * RADII;
      const i = Math.floor(place);
      values[at] = Math.exp(logs[i] + (place - i) * (logs[i + 1] - logs[i]));
    }
    return { cells, values };
  }

  /** log p_σ at a distance, and by what x is to be multiplied to make the score. */
  #along(rho: number, sigma: number): { log: number; slope: number } {
    return sigma === 0 ? this.#clean(rho) : this.#integrate(rho, sigma ** 2);
  }

  /** Without noise the density is N(ρ; R, s²)/(2πρ): its score has a −1/ρ, the stretch of the circumference. */
  #clean(rho: number): { log: number; slope: number } {
    const off = rho - this.radius;
    const log = -(off ** 2) / (2 * this.std ** 2) - Math.log((2 * Math.PI) ** 1.5 * this.std * rho);
    return { log, slope: (-off / this.std ** 2 - 1 / rho) / rho };
  }

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
