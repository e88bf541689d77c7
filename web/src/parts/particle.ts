// A particle that can be put anywhere, and that walks by Langevin dynamics when it is let go.
import { type Stage, css } from "../draw/stage.ts";
import { langevinStep } from "../maths/langevin.ts";
import { type Points, type Score, within } from "../maths/plane.ts";
import type { Random } from "../maths/random.ts";

const LONGEST = 4000; // steps of the path that are remembered

export class Particle {
  readonly x: Points;
  running = false;
  noisy = true;
  steps = 0;
  #path: number[];

  constructor(
    x: number,
    y: number,
    private readonly random: Random,
  ) {
    this.x = Float64Array.of(x, y);
    this.#path = [x, y];
  }

  /** Put it there; the path begins anew. */
  put(x: number, y: number): void {
    this.x.set([within(x), within(y)]);
    this.steps = 0;
    this.#path = [...this.x];
  }

  /** Steps x + (α/2)·s(x, σ) + √α·z with α = σ²/2, or without z. */
  walk(score: Score, sigma: number, count: number): void {
    for (let i = 0; i < count; i++) {
      langevinStep(score, this.x, sigma, stepSize(sigma), this.noisy ? this.random : undefined);
      this.#path.push(...this.x);
    }
    this.steps += count;
    this.#path = this.#path.slice(-2 * LONGEST);
  }

  /** The particle, its path, and a line to the ``mean`` of what it can have been without noise. */
  draw(stage: Stage, mean: Points | undefined): void {
    const { theme } = stage;
    stage.line(this.#path, css(theme.paper, 0.8), 3.5);
    stage.line(this.#path, css(theme.ink), 1.5);
    if (mean) {
      stage.line([...this.x, ...mean], css(theme.ink, 0.6), 1);
      stage.circle(mean, 5, css(theme.ink));
    }
    stage.circle(this.x, 7, css(theme.paper), css(theme.ink));
  }
}

/** The step size α = σ²/2, the package's at its smallest level: an eighth of where steps begin to diverge. */
export function stepSize(sigma: number): number {
  return sigma ** 2 / 2;
}
