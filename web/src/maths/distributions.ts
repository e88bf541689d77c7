// Distributions in the plane whose noised score is known exactly: those of ncsn/distributions.py.
import { Mixture } from "./mixture.ts";
import type { Distribution } from "./plane.ts";
import { Ring } from "./ring.ts";

/** w·N((−5,−5), I) + (1 − w)·N((5,5), I): Song & Ermon 2019, figures 2 and 3, with their w = 1/5. */
export function twoGaussians(weight = 0.2): Mixture {
  return new Mixture(Float64Array.of(-5, -5, 5, 5), 1, [weight, 1 - weight]);
}

/** Two interleaved half circles of radius 4, drawn as 2 × 128 Gaussians of std 0.25. */
export function twoMoons(): Mixture {
  const means = new Float64Array(512);
  for (let i = 0; i < 128; i++) {
    const t = (Math.PI * i) / 127;
    means.set([4 * Math.cos(t) - 2, 4 * Math.sin(t) - 1], 2 * i);
    means.set([2 - 4 * Math.cos(t), 1 - 4 * Math.sin(t)], 2 * (i + 128));
  }
  return new Mixture(means, 0.25);
}

/** A spiral of one and a half turns, drawn as 384 Gaussians of std 0.2 at equal distances along it. */
export function swissRoll(): Mixture {
  const [first, last, count] = [1.5 * Math.PI, 4.5 * Math.PI, 20_000];
  const angle = (i: number): number => first + ((last - first) * i) / (count - 1);
  const lengths = new Float64Array(count - 1); // of the spiral, by trapezoids
  for (let i = 0; i < count - 1; i++) {
    const step = ((angle(i + 1) - angle(i)) * (Math.hypot(1, angle(i)) + Math.hypot(1, angle(i + 1)))) / 2;
    lengths[i] = step + (i > 0 ? lengths[i - 1] : 0);
  }
  const means = new Float64Array(768);
  for (let i = 0, at = 0; i < 384; i++) {
    while (at < count - 2 && lengths[at] < (lengths[count - 2] * i) / 383) at++;
    const t = angle(at);
    means.set([0.45 * t * Math.cos(t), 0.45 * t * Math.sin(t)], 2 * i);
  }
  return new Mixture(means, 0.2);
}

export const DISTRIBUTIONS: Record<string, { title: string; make: () => Distribution }> = {
  gaussian: { title: "Two Gaussians", make: twoGaussians },
  circle: { title: "Circle", make: () => new Ring() },
  moons: { title: "Moons", make: twoMoons },
  "swiss-roll": { title: "Swiss roll", make: swissRoll },
};

/** Their titles by their names. */
export const TITLES = Object.fromEntries(Object.entries(DISTRIBUTIONS).map(([name, { title }]) => [name, title]));
