// The metadata of an exported model, and the messages to and from the workers.
import { METHODS, ladder, suited } from "../maths/samplers.ts";

export type Shape = readonly [channels: number, height: number, width: number];

/** The number of values in an image. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((product, length) => product * length, 1);

export interface Card {
  format: number;
  recipe: {
    shape: Shape;
    sampling: {
      sigma_max: number;
      sigma_min: number;
      sampler: string;
      steps: number;
      eps: number;
      guidance: number;
      guided_between: [low: number, high: number];
      guide: "smaller" | "unconditional";
    };
  };
  levels: number[];
  /** Of the classes, in their order. */
  names: string[];
}

const NO_FILE = new Error("the model isn’t an ONNX file");
const FORMAT = 1;
const LENGTHS: Record<number, number> = { 0: 0, 1: 8, 5: 4 }; // of protobuf's kinds of fields
const METADATA = 14; // the field's number in ONNX's ModelProto: pairs of key (1) and value (2)

/** Throws if the file isn’t such a model, or isn’t for images. */
export function read(file: Uint8Array): Card {
  const card = JSON.parse(metadata(file).get("ncsn") ?? "null") as Card | null;
  if (!card) throw new Error("the model was not written by ncsn export");
  if (card.format !== FORMAT) throw new Error(`the model’s format is ${card.format}; this page reads format ${FORMAT}`);
  const { shape } = card.recipe;
  if (shape.length !== 3 || ![1, 3].includes(shape[0])) {
    throw new Error(`the model’s shape is ${shape.join(" × ")}; it must be that of grey or RGB images`);
  }
  return card;
}

function metadata(file: Uint8Array): Map<string, string> {
  const text = new TextDecoder();
  const contents = [...fields(file)].filter(([field]) => field === METADATA).map(([, content]) => content);
  const pairs = contents.map((content) => new Map(fields(content)));
  return new Map(pairs.map((pair) => [text.decode(pair.get(1)), text.decode(pair.get(2))]));
}

/** The fields of a protobuf message by number; fields with a length as bytes. */
function* fields(bytes: Uint8Array): Generator<[field: number, content: Uint8Array]> {
  let at = 0;
  const varint = (): number => {
    for (let [value, factor] = [0, 1]; at < bytes.length; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw NO_FILE;
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag & 7;
    const length = kind === 2 ? varint() : (LENGTHS[kind] ?? Infinity);
    if (at + length > bytes.length) throw NO_FILE;
    if (kind === 0) varint();
    if (kind === 2) yield [tag >>> 3, bytes.subarray(at, at + length)];
    at += length;
  }
}

export interface Task {
  sampler: string;
  levels: number[];
  steps: number;
  eps: number;
  guidance: number;
  /** A class for each image; −1 for none. */
  labels: number[];
  /** A seed for each image, or all normal numbers in the order of their use. */
  noise: number[] | Float32Array;
  /** The known pixels of every image, for the paper’s inpainting. */
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

/** Messages from the page to the workers. */
export type Order = Load | { kind: "draw"; ticket: number; task: Task } | { kind: "stop" };

export interface Drawn {
  kind: "state";
  ticket: number;
  sigma: number;
  /** All images, one after another, with noise of σ. */
  x: Float32Array;
  /** Network evaluations per image so far. */
  evaluations: number;
  last: boolean;
}

export type Report = { kind: "ready" } | { kind: "failed"; why: string } | Drawn;

type How = Pick<Task, "sampler" | "guidance"> & { levels: number; seed: number };

/** The settings of a sampler for a model: the model’s own, or the defaults of another sampler. */
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

/** A task for images of these classes, each with its own seed. */
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
