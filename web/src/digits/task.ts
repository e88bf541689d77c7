// What is ordered of a model: by which sampler, on which noise levels, of which classes; and what is reported.
import { METHODS, ladder, suited } from "../maths/samplers.ts";
import type { Card } from "./card.ts";

export interface Task {
  sampler: string;
  levels: number[];
  steps: number;
  eps: number;
  guidance: number;
  /** A class for each image; −1 for none. */
  labels: number[];
  /** A seed for each image; or all normal numbers in the order in which they are wanted. */
  noise: number[] | Float32Array;
  /** What is known of every image, to be filled in as in the paper. */
  given?: { known: Uint8Array; y: Float32Array };
}

export interface Load {
  kind: "load";
  card: Card;
  device: "webgpu" | "wasm";
  runtime: ArrayBuffer;
  model: ArrayBuffer;
  guide: ArrayBuffer | undefined;
}

/** What the page says to the workers that draw. */
export type Order = Load | { kind: "draw"; ticket: number; task: Task } | { kind: "stop" };

export interface Drawn {
  kind: "state";
  ticket: number;
  sigma: number;
  /** All images in a row, with noise of σ. */
  x: Float32Array;
  /** Of the network, for each image so far. */
  evaluations: number;
  last: boolean;
}

export type Report = { kind: "ready" } | { kind: "failed"; why: string } | Drawn;

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
  const levels = suited(method, sampling.sigma_max, sampling.sigma_min);
  return { levels, guidance: method.guided ? sampling.guidance : 1 };
}

/** The class of each of so many images: each in turn, none in particular, or one for all. */
export function labelsOf(label: string, count: number, classes: number): number[] {
  const fixed = label === "none" ? -1 : Number(label);
  return Array.from({ length: count }, (_, i) => (label === "each" ? i % classes : fixed));
}

/** An order of images of these classes, each with a seed of its own. */
export function taskOf(card: Card, { sampler, levels: count, guidance, seed }: How, labels: number[]): Task {
  const { sampling } = card.recipe;
  const method = METHODS[sampler];
  const own = sampler === sampling.sampler;
  const suiting = (): number[] => ladder(method.ladder, sampling.sigma_max, sampling.sigma_min, count);
  const levels = own && count === card.levels.length ? card.levels : suiting();
  const noise = labels.map((_, i) => (Math.imul(seed, 0x9e3779b1) + Math.imul(i, 0x85ebca6b)) >>> 0);
  const steps = own ? sampling.steps : method.steps;
  return { sampler, levels, steps, eps: sampling.eps, guidance, labels, noise };
}
