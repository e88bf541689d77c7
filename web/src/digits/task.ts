// What is ordered of a model: by which sampler, on which noise levels, of which classes.
import { METHODS, ladder, suited } from "../maths/samplers.ts";
import type { Card } from "./card.ts";
import type { Task } from "./messages.ts";

export interface How {
  sampler: string;
  levels: number;
  guidance: number;
  seed: number;
}

/** How a model draws by a sampler: as it does by itself, if that is its own, or on as many levels as suit that one. */
export function howBy(card: Card, sampler: string): { levels: number; guidance: number } {
  const { sampling } = card.recipe;
  const method = METHODS[sampler];
  if (sampler === sampling.sampler) return { levels: card.levels.length, guidance: sampling.guidance };
  return { levels: suited(method, sampling.sigma_max, sampling.sigma_min), guidance: method.guided ? sampling.guidance : 1 };
}

/** The class of each of so many images: each in turn, none in particular, or one for all. */
export function labelsOf(label: string, count: number, classes: number): number[] {
  return Array.from({ length: count }, (_, i) => (label === "none" ? -1 : label === "each" ? i % classes : Number(label)));
}

/** An order of images of these classes, each with a seed of its own. */
export function taskOf(card: Card, how: How, labels: number[]): Task {
  const { sampling } = card.recipe;
  const { ladder: kind, steps } = METHODS[how.sampler];
  const own = how.sampler === sampling.sampler;
  const levels = own && how.levels === card.levels.length ? card.levels : ladder(kind, sampling.sigma_max, sampling.sigma_min, how.levels);
  const noise = labels.map((_, i) => (Math.imul(how.seed, 0x9e3779b1) + Math.imul(i, 0x85ebca6b)) >>> 0);
  return { sampler: how.sampler, levels, steps: own ? sampling.steps : steps, eps: sampling.eps, guidance: how.guidance, labels, noise };
}
