// What the page and the workers that draw say to each other.
import type { Card } from "./card.ts";

export type Device = "webgpu" | "wasm";

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

export type Order =
  | { kind: "load"; card: Card; device: Device; runtime: ArrayBuffer; model: ArrayBuffer; guide: ArrayBuffer | undefined }
  | { kind: "draw"; ticket: number; task: Task }
  | { kind: "stop" };

export type Report =
  | { kind: "ready" }
  | { kind: "failed"; why: string }
  | {
      kind: "state";
      ticket: number;
      sigma: number;
      /** All images in a row, with noise of σ. */
      x: Float32Array;
      /** Of the network, for each image so far. */
      evaluations: number;
      last: boolean;
    };
