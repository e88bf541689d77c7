// A particle that can be put anywhere, and that walks by Langevin dynamics when it is let go.
import type { Stage } from "../draw/stage.ts";
import { css } from "../draw/theme.ts";
import { langevinStep } from "../maths/langevin.ts";
import type { Points, Score } from "../maths/plane.ts";
import { VIEW } from "../maths/plane.ts";
import type { Random } from "../maths/random.ts";

const LONGEST = 4000; // steps of the path that are remembered

export class Particle {
  readonly x: Points;
  running = false;
  noisy = true;
  steps = 0;
  path: number[] = [];
  readonly #random: Random;
  readonly #scratch = new Float64Array(2);

  constructor(x: number, y: number, random: Random) {
    this.x = Float64Array.of(x, y);
    this.#random = random;
  }

  /** Put it there; the path begins anew. */
  put(x: number, y: number): void {
    this.x[0] = Math.max(-VIEW, Math.min(VIEW, x));
    this.x[1] = Math.max(-VIEW, Math.min(VIEW, y));
    this.steps = 0;
    this.path = [...this.x];
  }

  /** Steps x + (α/2)·s(x, σ) + √α·z with α = σ²/2, or without z. */
  walk(score: Score, sigma: number, count: number): void {
    if (this.path.length === 0) this.path.push(...this.x);
    for (let i = 0; i < count; i++) {
      if (this.noisy) langevinStep(score, this.x, sigma, stepSize(sigma), this.#random, this.#scratch);
      else this.#drift(score, sigma);
      this.steps++;
      this.path.push(...this.x);
    }
    if (this.path.length > 2 * LONGEST) this.path.splice(0, this.path.length - 2 * LONGEST);
  }

  /** The particle, its path, and a line to the ``mean`` of what it can have been without noise. */
  draw(stage: Stage, mean?: Points): void {
    const { context, theme } = stage;
    stage.line(this.path, css(theme.paper, 0.8), 3.5);
    stage.line(this.path, css(theme.ink), 1.5);
    if (mean) {
      stage.line([...this.x, ...mean], css(theme.ink, 0.6), 1);
      context.beginPath();
      context.arc(stage.column(mean[0]), stage.row(mean[1]), 5, 0, 2 * Math.PI);
      context.strokeStyle = css(theme.ink);
      context.lineWidth = 2;
      context.stroke();
    }
    context.beginPath();
    context.arc(stage.column(this.x[0]), stage.row(this.x[1]), 7, 0, 2 * Math.PI);
    context.fillStyle = css(theme.ink);
    context.fill();
    context.strokeStyle = css(theme.paper);
    context.lineWidth = 2;
    context.stroke();
  }

  #drift(score: Score, sigma: number): void {
    score(this.x, sigma, this.#scratch);
    for (let i = 0; i < 2; i++) this.x[i] += (stepSize(sigma) / 2) * this.#scratch[i];
  }
}

/** The step size α = σ²/2, the package's at its smallest level: an eighth of where steps begin to diverge. */
export function stepSize(sigma: number): number {
  return sigma ** 2 / 2;
}
